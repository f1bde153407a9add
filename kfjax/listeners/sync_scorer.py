"""The whole Synchformer (arXiv 2401.16423): how far sound and picture are apart in time.

    logits = bind(SyncScorer, cfg, params)(frames, wave)    # 4.8 s of both -> [b 21]
    seconds = offset_seconds(logits)                       # [b], -2.0 .. 2.0 in steps of 0.2

Both halves give tokens of 0.64-s segments; a small transformer reads the tokens of 14 segments of both and names the
offset. Longer clips are judged in windows: `bind(...)` also offers the halves (`visual`, `audio`), whose tokens are
computed once, and `compare` for each window. The public benchmark (github.com/hkchengrex/av-benchmark,
`av_bench/evaluate.py`) takes the first and the last 14 segments and averages the absolute offsets of both: DeSync.

Sizes and order follow github.com/v-iashin/Synchformer, `model/sync_model.py` and `configs/sync.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from kfjax.encoders.synchformer import Synchformer, SynchformerConfig
from kfjax.listeners.ast import Block, SpectrogramTransformer, SpectrogramTransformerConfig
from kfjax.nn.layers import linear
from kfjax.nn.module import scan_blocks, stack

token_init = nnx.initializers.normal(0.02)


@dataclass(frozen=True)
class SyncScorerConfig:
    """Sizes; the defaults are the public model's.

    Raises:
      ValueError: a width that the heads do not divide.
    """

    visual: SynchformerConfig = field(default_factory=SynchformerConfig)
    audio: SpectrogramTransformerConfig = field(default_factory=SpectrogramTransformerConfig)
    width: int = 768
    depth: int = 3
    heads: int = 8
    mlp_ratio: int = 4
    eps: float = 1e-5
    segments: int = 14  # of both, in one comparison
    classes: int = 21  # offsets told apart

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(
                f"sync judge: got width={self.width} and heads={self.heads}, expected a multiple; change one of them"
            )

    @property
    def visual_tokens(self) -> int:
        """Tokens of the picture in one comparison."""
        return self.segments * self.visual.steps

    @property
    def audio_tokens(self) -> int:
        """Tokens of the sound in one comparison."""
        return self.segments * self.audio.steps


class OffsetTransformer(nnx.Module):
    """One token for the answer, the picture's tokens, one token between, the sound's tokens -> logits."""

    def __init__(self, cfg: SyncScorerConfig, *, rngs: nnx.Rngs):
        norm = lambda: nnx.LayerNorm(cfg.width, epsilon=cfg.eps, use_fast_variance=False, rngs=rngs)
        self.visual_norm, self.audio_norm, self.norm = norm(), norm(), norm()
        self.offset_token = nnx.Param(token_init(rngs.params(), (cfg.width,)))
        self.modality_token = nnx.Param(token_init(rngs.params(), (cfg.width,)))
        tokens = 2 + cfg.visual_tokens + cfg.audio_tokens
        self.pos_embed = nnx.Param(token_init(rngs.params(), (tokens, cfg.width)))
        self.blocks = stack(
            lambda rngs: Block(cfg.width, cfg.heads, cfg.mlp_ratio, cfg.eps, rngs=rngs), cfg.depth, rngs
        )
        self.head = linear(cfg.width, cfg.classes, rngs)

    def __call__(self, visual: Float[Array, "b s h"], audio: Float[Array, "b a h"]) -> Float[Array, "b classes"]:
        first, between = (
            jnp.broadcast_to(token[...], (len(visual), 1, visual.shape[-1]))
            for token in (self.offset_token, self.modality_token)
        )
        x = jnp.concatenate([first, self.visual_norm(visual), between, self.audio_norm(audio)], axis=1)
        x = scan_blocks(self.blocks, x + self.pos_embed[...][None], lambda block, x: block(x))
        return self.head(self.norm(x[:, 0]))


class SyncScorer(nnx.Module):
    """Frames and wave of one window -> logits over the offsets (see `offset_seconds`).

    Args:
      frames: `[b f size size 3]`, RGB at 25 fps, uint8 0..255 or float 0..1; 120 frames make 14 segments.
      wave: `[b t]`, mono at 16 kHz, full scale 1; 76800 samples make 14 segments.
    Returns:
      `[b classes]`, unnormalised log-probabilities, from the sound that comes latest to the one that comes earliest.
    Raises:
      ValueError: either makes another number of segments than `cfg.segments`.
    """

    def __init__(self, cfg: SyncScorerConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.visual = Synchformer(cfg.visual, rngs=rngs)
        self.audio = SpectrogramTransformer(cfg.audio, rngs=rngs)
        self.visual_proj = linear(cfg.visual.width, cfg.width, rngs)
        self.audio_proj = linear(cfg.audio.width, cfg.width, rngs)
        self.transformer = OffsetTransformer(cfg, rngs=rngs)

    def __call__(self, frames: UInt8[Array, "b f size size 3"], wave: Float[Array, "b t"]) -> Float[Array, "b classes"]:
        return self.compare(self.visual(frames), self.audio(wave))

    def compare(self, visual: Float[Array, "b s h"], audio: Float[Array, "b a h"]) -> Float[Array, "b classes"]:
        """Logits of `cfg.segments` segments' tokens, as `visual` and `audio` give them.

        Raises:
          ValueError: another number of tokens; positions were learnt for this one only.
        """
        cfg = self.cfg
        got, expected = (visual.shape[1], audio.shape[1]), (cfg.visual_tokens, cfg.audio_tokens)
        if got != expected:
            raise ValueError(
                f"sync judge: got {got[0]} tokens of the picture and {got[1]} of the sound, expected {expected[0]} "
                f"and {expected[1]} ({cfg.segments} segments); cut a longer clip into windows, a shorter one cannot be "
                "judged"
            )
        return self.transformer(self.visual_proj(visual), self.audio_proj(audio))


def offset_seconds(logits: Float[Array, "b classes"], max_seconds: float = 2.0) -> Float[Array, " b"]:
    """The likeliest offset: how much earlier than its picture the sound comes, in seconds; negative when it is late.

    The classes are spread evenly from -max_seconds to max_seconds.
    """
    grid = np.linspace(-max_seconds, max_seconds, logits.shape[-1], dtype=np.float32)
    return jnp.asarray(grid)[jnp.argmax(logits, axis=-1)]
