"""The hearing half of Synchformer: an audio spectrogram transformer (AST, arXiv 2104.01778) on short segments.

    tokens = bind(SpectrogramTransformer, cfg, params)(wave)     # f32 [b t] at 16 kHz -> [b a width], 6 per segment

A wave is cut into segments of 0.64 s that start every 0.32 s, as the picture is (`synchformer.py`). The log-mel of a
segment is covered by overlapping patches; after a plain ViT, one encoder layer sums up the frequencies of each time
step. Sizes, spectrogram and layer order are those of Synchformer (arXiv 2401.16423) as published in
github.com/v-iashin/Synchformer: `model/modules/feat_extractors/audio`, `dataset/transforms.py`, `configs/sync.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kfjax import dsp
from kfjax.encoders.synchformer import Aggregation, SynchformerConfig
from kfjax.nn.layers import attention, linear
from kfjax.nn.module import scan_blocks, stack

token_init = nnx.initializers.normal(0.02)


@dataclass(frozen=True)
class SpectrogramTransformerConfig:
    """Sizes. The defaults are the public ViT-B/16 on 128 mel bands.

    Raises:
      ValueError: heads that do not divide the width, an odd window, or a patch larger than the spectrogram.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    eps: float = 1e-12  # of the ViT's norms; the last layer's is the picture half's
    patch: int = 16  # mel bands and frames a patch covers
    patch_step: int = 10  # from one patch to the next along both axes
    sample_rate_hz: int = 16000
    segment_samples: int = 10240
    segment_step: int = 5120  # samples from one segment to the next
    n_fft: int = 1024
    window: int = 400  # samples under the Hann window, in the middle of n_fft
    hop: int = 160
    bands: int = 128
    frames: int = 66  # of a segment's spectrogram, padded or cut to this
    log_mean: float = -4.2677393  # of AudioSet's log-mels
    log_std: float = 4.5689974

    def __post_init__(self):
        if self.width % self.heads or self.window % 2:
            raise ValueError(
                f"spectrogram transformer: got width={self.width}, heads={self.heads} and window={self.window}, "
                "expected heads that divide the width and an even window; change them"
            )
        if self.patch > min(self.bands, self.frames):
            raise ValueError(
                f"spectrogram transformer: got patch={self.patch} for {self.bands} bands and {self.frames} frames, "
                "expected a patch no larger than either; make it smaller"
            )

    @property
    def rows(self) -> int:
        """Patches along frequency."""
        return (self.bands - self.patch) // self.patch_step + 1

    @property
    def steps(self) -> int:
        """Patches along time, and so tokens, of a segment."""
        return (self.frames - self.patch) // self.patch_step + 1


def cut_segments(wave: Float[Array, "b t"], cfg: SpectrogramTransformerConfig) -> Float[Array, "b segments n"]:
    """Overlapping segments of `segment_samples`; samples after the last whole one are left out.

    Raises:
      ValueError: the wave is shorter than one segment.
    """
    size = cfg.segment_samples
    if wave.ndim != 2 or wave.shape[1] < size:
        raise ValueError(
            f"spectrogram transformer: got a wave {list(wave.shape)}, expected [batch, at least {size} samples at "
            f"{cfg.sample_rate_hz} Hz]; mix to mono, resample, or pad a short sound with silence"
        )
    return dsp.frames(wave, size, cfg.segment_step)


def normalized_log_mel(
    segments: Float[Array, "g n"], cfg: SpectrogramTransformerConfig
) -> Float[Array, "g frames bands"]:
    """What the transformer sees: (log(mel power + 1e-6) - mean) / (2 std), each segment by itself, in float32.

    Frame i is centred on sample i * hop; a segment's ends are reflected. The mel filters are HTK's, of height 1.
    """
    half = cfg.window // 2  # what the window does not cover of n_fft is zero, and a delay does not change the power
    padded = jnp.pad(segments.astype(jnp.float32), ((0, 0), (half, half)), mode="reflect")
    power = dsp.power(dsp.spectrum(padded, cfg.n_fft, cfg.hop, dsp.hann(cfg.window)))
    filters = dsp.mel_filters(cfg.bands, cfg.n_fft, cfg.sample_rate_hz, scale="htk", unit="height")
    log = jnp.log(power @ filters + 1e-6)[:, : cfg.frames]
    # The weights were trained with zeros appended to the logarithm: a loud last frame, not a silent one.
    log = jnp.pad(log, ((0, 0), (0, cfg.frames - log.shape[1]), (0, 0)))
    return (log - cfg.log_mean) / (2 * cfg.log_std)


class Block(nnx.Module):
    """Pre-norm transformer block with a matrix each for queries, keys and values; exact (erf) GELU."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, eps: float, *, rngs: nnx.Rngs):
        self.heads = heads
        self.norm1 = nnx.LayerNorm(width, epsilon=eps, use_fast_variance=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=eps, use_fast_variance=False, rngs=rngs)
        self.query, self.key, self.value, self.out = (linear(width, width, rngs) for _ in range(4))
        self.fc1 = linear(width, mlp_ratio * width, rngs)
        self.fc2 = linear(mlp_ratio * width, width, rngs)

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        y = self.norm1(x)
        q, k, v = (project(y).reshape(*x.shape[:2], self.heads, -1) for project in (self.query, self.key, self.value))
        x = x + self.out(attention(q, k, v).reshape(x.shape))
        return x + self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))


class SpectrogramTransformer(nnx.Module):
    """Sound -> audio sync tokens.

    Args:
      wave: `[b t]`, mono at `cfg.sample_rate_hz`, full scale 1.
    Returns:
      `[b a width]`, `cfg.steps` tokens per segment, segment after segment; (t - 10240) // 5120 + 1 segments. Not
      normalised.
    Raises:
      ValueError: a wave shorter than one segment.
    """

    def __init__(self, cfg: SpectrogramTransformerConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        side, step = (cfg.patch, cfg.patch), (cfg.patch_step, cfg.patch_step)
        self.patch_embed = nnx.Conv(1, cfg.width, side, strides=step, padding="VALID", rngs=rngs)
        self.cls_token = nnx.Param(token_init(rngs.params(), (cfg.width,)))
        self.distillation_token = nnx.Param(token_init(rngs.params(), (cfg.width,)))
        self.pos_embed = nnx.Param(token_init(rngs.params(), (2 + cfg.rows * cfg.steps, cfg.width)))
        self.blocks = stack(
            lambda rngs: Block(cfg.width, cfg.heads, cfg.mlp_ratio, cfg.eps, rngs=rngs), cfg.depth, rngs
        )
        self.norm = nnx.LayerNorm(cfg.width, epsilon=cfg.eps, use_fast_variance=False, rngs=rngs)
        # The layer that sums up a time step is the picture half's, at this width.
        last = SynchformerConfig(width=cfg.width, heads=cfg.heads, mlp_ratio=cfg.mlp_ratio)
        self.freq_attn_agg = Aggregation(last, rngs=rngs)

    def __call__(self, wave: Float[Array, "b t"]) -> Float[Array, "b a h"]:
        cfg = self.cfg
        segments = cut_segments(wave, cfg)
        x = self.hidden(normalized_log_mel(segments.reshape(-1, segments.shape[-1]), cfg))[:, 2:]
        x = x.reshape(len(x), cfg.rows, cfg.steps, cfg.width).swapaxes(1, 2)
        x = self.freq_attn_agg(x.reshape(-1, cfg.rows, cfg.width))  # one row per time step of a segment
        return x.reshape(len(wave), -1, cfg.width)

    def hidden(self, spectrogram: Float[Array, "g frames bands"]) -> Float[Array, "g 2+n h"]:
        """Class token, distillation token and patches (frequency-major), after the last norm."""
        dtype = self.cls_token[...].dtype
        x = self.patch_embed(spectrogram.astype(dtype).swapaxes(1, 2)[..., None])  # [g rows steps h]
        first = jnp.stack([self.cls_token[...], self.distillation_token[...]])
        first = jnp.broadcast_to(first, (len(x), *first.shape))
        x = jnp.concatenate([first, x.reshape(len(x), -1, x.shape[-1])], axis=1) + self.pos_embed[...][None]
        return self.norm(scan_blocks(self.blocks, x, lambda block, x: block(x)))
