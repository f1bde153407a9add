"""ImageBind's towers for pictures and for sound (arXiv 2305.05665): vectors that are near where both belong together.

    vectors = bind(ImageBindVision, cfg.vision, params["vision"])(pairs)       # u8 [b c 2 H W 3] -> [b out_dim]
    vectors = bind(ImageBindAudio, cfg.audio, params["audio"])(spectrograms)   # f32 [b c bands frames] -> [b out_dim]

c are the clips that stand for one film or sound; their vectors are averaged. IB-score is the mean cosine of the two.
Sizes and order are those published in github.com/facebookresearch/ImageBind, `imagebind/models`; what goes in is made
by `kfjax.listeners.fbank` and `kfjax.evals.networks.embedders`. Towers for text, depth, heat and motion are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from kfjax.encoders.clip import PIXEL_MEAN, PIXEL_STD, position_init, unit
from kfjax.nn.layers import attention, in_turn, linear
from kfjax.nn.module import scan_blocks, stack

#: No similarity is scaled further up than this.
MAX_SCALE = 100.0


@dataclass(frozen=True)
class TowerConfig:
    """Sizes that both towers have.

    Raises:
      ValueError: heads that do not divide the width.
    """

    width: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    out_dim: int = 1024
    eps: float = 1e-6
    clips_at_once: int = 0  # clips that share memory; 0 = all

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(
                f"ImageBind: got width={self.width} and heads={self.heads}, expected a multiple; change one of them"
            )


@dataclass(frozen=True)
class ImageBindVisionConfig(TowerConfig):
    """Sizes of the picture tower; the defaults are imagebind_huge's, a ViT-H/14 on pairs of frames.

    Raises:
      ValueError: heads that do not divide the width, or a size that is not whole patches.
    """

    width: int = 1280
    depth: int = 32
    heads: int = 16
    size: int = 224  # height and width of a frame, pixels
    patch: int = 14
    frames: int = 2  # of a clip

    def __post_init__(self):
        super().__post_init__()
        if self.size % self.patch:
            raise ValueError(
                f"ImageBind: got size={self.size} and patch={self.patch}, expected a multiple; change one of them"
            )

    @property
    def cells(self) -> int:
        """Patches of a clip."""
        return (self.size // self.patch) ** 2


@dataclass(frozen=True)
class ImageBindAudioConfig(TowerConfig):
    """Sizes of the sound tower; the defaults are imagebind_huge's, a ViT-B on log-mels of two seconds.

    Raises:
      ValueError: heads that do not divide the width, or a patch larger than the log-mel.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    bands: int = 128
    frames: int = 204  # of a clip's log-mel, padded or cut to this
    patch: int = 16  # bands and frames a patch covers
    patch_step: int = 10  # from one patch to the next along both axes
    patch_eps: float = 1e-5  # of the norm after the patches
    log_mean: float = -4.268  # of AudioSet's log-mels
    log_std: float = 9.138  # twice their deviation

    def __post_init__(self):
        super().__post_init__()
        if self.patch > min(self.bands, self.frames):
            raise ValueError(
                f"ImageBind: got patch={self.patch} for {self.bands} bands and {self.frames} frames, expected a patch "
                "no larger than either; make it smaller"
            )

    @property
    def cells(self) -> int:
        """Patches of a clip."""
        return _steps(self.bands, self) * _steps(self.frames, self)


@dataclass(frozen=True)
class ImageBindConfig:
    """Sizes of the two towers of one file."""

    vision: ImageBindVisionConfig = field(default_factory=ImageBindVisionConfig)
    audio: ImageBindAudioConfig = field(default_factory=ImageBindAudioConfig)


def _steps(length: int, cfg: ImageBindAudioConfig) -> int:
    return (length - cfg.patch) // cfg.patch_step + 1


def _norm(width: int, eps: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=eps, use_fast_variance=False, rngs=rngs)


class Attention(nnx.Module):
    """Self-attention; with `extra`, every token also sees one key and value that are the same for all inputs."""

    def __init__(self, cfg: TowerConfig, extra: bool, *, rngs: nnx.Rngs):
        self.heads, self.extra = cfg.heads, extra
        self.in_proj = linear(cfg.width, 3 * cfg.width, rngs)
        self.out_proj = linear(cfg.width, cfg.width, rngs)
        if extra:
            self.bias_k = nnx.Param(position_init(rngs.params(), (cfg.width,)))
            self.bias_v = nnx.Param(position_init(rngs.params(), (cfg.width,)))

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        q, k, v = jnp.split(self.in_proj(x), 3, axis=-1)
        if self.extra:
            again = lambda row: jnp.broadcast_to(row[...], (len(x), 1, x.shape[-1]))
            k, v = (jnp.concatenate(pair, axis=1) for pair in ((k, again(self.bias_k)), (v, again(self.bias_v))))
        q, k, v = (y.reshape(*y.shape[:2], self.heads, -1) for y in (q, k, v))
        return self.out_proj(attention(q, k, v).reshape(x.shape))


class Block(nnx.Module):
    """Pre-norm transformer block with the exact (erf) GELU."""

    def __init__(self, cfg: TowerConfig, extra: bool, *, rngs: nnx.Rngs):
        self.norm_1, self.norm_2 = _norm(cfg.width, cfg.eps, rngs), _norm(cfg.width, cfg.eps, rngs)
        self.attn = Attention(cfg, extra, rngs=rngs)
        self.fc1 = linear(cfg.width, cfg.mlp_ratio * cfg.width, rngs)
        self.fc2 = linear(cfg.mlp_ratio * cfg.width, cfg.width, rngs)

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        x = x + self.attn(self.norm_1(x))
        return x + self.fc2(jax.nn.gelu(self.fc1(self.norm_2(x)), approximate=False))


class Trunk(nnx.Module):
    """Patches -> class token and positions, blocks, projection of the class token: a vector of length 1 a clip."""

    def __init__(self, cfg: ImageBindVisionConfig | ImageBindAudioConfig, extra: bool, *, rngs: nnx.Rngs):
        self.cls_token = nnx.Param(position_init(rngs.params(), (cfg.width,)))
        self.pos_embed = nnx.Param(position_init(rngs.params(), (1 + cfg.cells, cfg.width)))
        self.blocks = stack(lambda rngs: Block(cfg, extra, rngs=rngs), cfg.depth, rngs)
        self.norm = _norm(cfg.width, cfg.eps, rngs)
        self.proj = linear(cfg.width, cfg.out_dim, rngs, bias=False)

    def positioned(self, patches: Float[Array, "n l h"]) -> Float[Array, "n 1+l h"]:
        first = jnp.broadcast_to(self.cls_token[...], (len(patches), 1, patches.shape[-1]))
        return jnp.concatenate([first, patches], axis=1) + self.pos_embed[...][None]

    def __call__(self, x: Float[Array, "n 1+l h"]) -> Float[Array, "n out_dim"]:
        x = scan_blocks(self.blocks, x, lambda block, x: block(x))
        return unit(self.proj(self.norm(x[:, 0])))


class ImageBindVision(nnx.Module):
    """Clips of two frames -> one vector.

    Args:
      clips: `[b c 2 size size 3]`, RGB, uint8 0..255 or float 0..1; c clips of one film.
    Returns:
      `[b out_dim]`, the mean of the clips' vectors of length 1.
    Raises:
      ValueError: clips of another shape.
    """

    def __init__(self, cfg: ImageBindVisionConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.patch_embed = linear(cfg.frames * cfg.patch**2 * 3, cfg.width, rngs, bias=False)
        self.norm_pre = _norm(cfg.width, cfg.eps, rngs)
        self.trunk = Trunk(cfg, False, rngs=rngs)

    def __call__(self, clips: UInt8[Array, "b c 2 size size 3"]) -> Float[Array, "b out_dim"]:
        cfg = self.cfg
        expected = (cfg.frames, cfg.size, cfg.size, 3)
        if clips.ndim != 6 or clips.shape[2:] != expected:
            raise ValueError(
                f"ImageBind: got pictures {list(clips.shape)}, expected [batch, clips, {', '.join(map(str, expected))}]"
                "; resize the frames and put them in pairs"
            )
        y = in_turn(self._see, clips.reshape(-1, *expected), cfg.clips_at_once)
        return y.reshape(*clips.shape[:2], -1).mean(axis=1)

    def _see(self, clips: UInt8[Array, "n 2 size size 3"]) -> Float[Array, "n out_dim"]:
        return self.trunk(self.norm_pre(self.trunk.positioned(self.patch_embed(self._patches(clips)))))

    def _patches(self, clips: UInt8[Array, "n 2 size size 3"]) -> Float[Array, "n l p"]:
        """Pixels of each patch through both frames, normalised as CLIP's, ordered (frame, y, x, colour)."""
        cfg, side = self.cfg, self.cfg.size // self.cfg.patch
        x = clips.reshape(len(clips), cfg.frames, side, cfg.patch, side, cfg.patch, 3)
        x = x.transpose(0, 2, 4, 1, 3, 5, 6).reshape(len(clips), cfg.cells, -1, 3)  # bytes are cheaper to move
        dtype = self.patch_embed.kernel.dtype
        x = x.astype(dtype) / 255 if x.dtype == jnp.uint8 else x.astype(dtype)
        mean, std = (jnp.asarray(v, dtype)[None, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
        return ((x - mean) / std).reshape(len(clips), cfg.cells, -1)


class ImageBindAudio(nnx.Module):
    """Log-mels of clips -> one vector.

    Args:
      spectrograms: `[b c bands frames]`, natural logarithms as `kfjax.listeners.fbank` gives them, not normalised.
    Returns:
      `[b out_dim]`, the mean of the clips' vectors, each of the length that the file's scale says (20).
    Raises:
      ValueError: log-mels of another shape.
    """

    def __init__(self, cfg: ImageBindAudioConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        side, step = (cfg.patch, cfg.patch), (cfg.patch_step, cfg.patch_step)
        self.patch_embed = nnx.Conv(1, cfg.width, side, strides=step, padding="VALID", use_bias=False, rngs=rngs)
        self.patch_norm = _norm(cfg.width, cfg.patch_eps, rngs)
        self.trunk = Trunk(cfg, True, rngs=rngs)
        self.log_scale = nnx.Param(jnp.log(jnp.asarray(20.0)))

    def __call__(self, spectrograms: Float[Array, "b c bands frames"]) -> Float[Array, "b out_dim"]:
        cfg = self.cfg
        if spectrograms.ndim != 4 or spectrograms.shape[2:] != (cfg.bands, cfg.frames):
            raise ValueError(
                f"ImageBind: got log-mels {list(spectrograms.shape)}, expected [batch, clips, {cfg.bands}, "
                f"{cfg.frames}]; cut or pad them"
            )
        y = in_turn(self._hear, spectrograms.reshape(-1, cfg.bands, cfg.frames), cfg.clips_at_once)
        return y.reshape(*spectrograms.shape[:2], -1).mean(axis=1)

    def _hear(self, spectrograms: Float[Array, "n bands frames"]) -> Float[Array, "n out_dim"]:
        cfg = self.cfg
        x = ((spectrograms - cfg.log_mean) / cfg.log_std).astype(self.patch_embed.kernel.dtype)
        x = self.patch_embed(x[..., None]).reshape(len(x), cfg.cells, cfg.width)
        scale = jnp.minimum(jnp.exp(self.log_scale[...]), MAX_SCALE)
        return self.trunk(self.trunk.positioned(self.patch_norm(x))) * scale
