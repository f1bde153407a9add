"""The align encoder: Synchformer's visual branch (arXiv 2401.16423), frames at 25 fps -> sync tokens.

    tokens = bind(Synchformer, cfg, params)(frames)        # u8 [b f H W 3] -> [b s width], s = 8 per segment

A video is cut into segments of 16 frames that start every 8 frames; a segment becomes 8 tokens, one for every two
frames. Inside a segment runs a ViT with divided space-time attention (Motionformer, arXiv 2106.05392); at its end
one encoder layer sums up each time step. Everything is a matrix product: no 3-D convolution.

Names and layouts follow the public weights: every kernel is the transposed torch weight, the rows of `qkv` and
`in_proj` are (3, head, e), the tubelet kernel's rows are (frame, y, x, colour).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Real

from kfjax.encoders import stem
from kfjax.encoders.configs import SynchformerConfig
from kfjax.encoders.stem import fold
from kfjax.nn.layers import attention, in_turn, linear
from kfjax.nn.module import AnyArray, scan_blocks, stack

cls_init = nnx.initializers.normal(0.02)


def _norm(cfg: SynchformerConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(cfg.width, epsilon=cfg.eps, use_fast_variance=False, rngs=rngs)


class PatchStem(nnx.Module):
    """Tubelets of 2 frames × 16 × 16 pixels, each mapped by one matrix: Synchformer's Conv3d."""

    def __init__(self, cfg: SynchformerConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.proj = linear(cfg.tubelet * cfg.patch**2 * 3, cfg.width, rngs)

    def __call__(self, frames: Real[AnyArray, "b f H W 3"]) -> Float[Array, "b f/2 l h"]:
        cfg = self.cfg
        x = fold(frames, cfg.patch)  # bytes are cheaper to move than floats
        x = x.reshape(len(x), -1, cfg.tubelet, cfg.cells, x.shape[-1]).swapaxes(2, 3)
        x = x.reshape(*x.shape[:3], -1)
        return self.proj(stem.signed(x, self.proj.kernel.dtype))


class VideoStem(stem.ConvStem):
    """Motion made visible early, then the convolutional stem.

    A pixel of a tubelet is its mean and the two latest frame differences, so that a bounce, a change of velocity,
    is linear in the input; from raw frames alone a small model learns no synchrony.
    """

    def __init__(self, cfg: SynchformerConfig, *, rngs: nnx.Rngs):
        super().__init__(9, cfg.stem_widths, cfg.patch, cfg.width, rngs=rngs)
        self.cfg = cfg

    def __call__(self, frames: Real[AnyArray, "b f H W 3"]) -> Float[Array, "b f/2 l h"]:
        x = fold(frames, 4)  # bytes are cheaper to move than floats
        x = stem.signed(x.reshape(x.shape[0], -1, 2, *x.shape[2:]), self.proj.kernel.dtype)
        first, second = x[:, :, 0], x[:, :, 1]
        before = jnp.concatenate([first[:, :1], second[:, :-1]], axis=1)
        gain, still = self.cfg.motion_gain, self.cfg.picture_gain * (first + second) / 2
        return super().__call__(jnp.concatenate([still, gain * (second - first), gain * (first - before)], axis=-1))


class DividedAttention(nnx.Module):
    """Attention along one axis: tokens see their group (same place or same time) and CLS; CLS sees every token."""

    def __init__(self, cfg: SynchformerConfig, axis: Literal["time", "space"], *, rngs: nnx.Rngs):
        self.cfg, self.axis = cfg, axis
        self.qkv = linear(cfg.width, 3 * cfg.width, rngs)
        self.proj = linear(cfg.width, cfg.width, rngs)

    def __call__(self, x: Float[Array, "g n h"]) -> Float[Array, "g n h"]:
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(*x.shape[:2], 3, self.cfg.heads, -1), 2, 0)
        cls = attention(q[:, :1], k, v)
        rest = attention(self._group(q[:, 1:]), self._with_cls(k), self._with_cls(v))
        y = jnp.concatenate([cls, self._ungroup(rest, len(x))], axis=1)
        return self.proj(y.reshape(x.shape))

    def _group(self, x: Float[Array, "g n k e"]) -> Float[Array, "groups members k e"]:
        x = x.reshape(len(x), self.cfg.steps, self.cfg.cells, *x.shape[2:])
        if self.axis == "time":
            x = x.swapaxes(1, 2)
        return x.reshape(-1, *x.shape[2:])

    def _with_cls(self, x: Float[Array, "g n k e"]) -> Float[Array, "groups members k e"]:
        grouped = self._group(x[:, 1:])
        cls = jnp.repeat(x[:, :1], len(grouped) // len(x), axis=0)
        return jnp.concatenate([cls, grouped], axis=1)

    def _ungroup(self, x: Float[Array, "groups members k e"], segments: int) -> Float[Array, "g n k e"]:
        y = x.reshape(segments, -1, *x.shape[1:])
        if self.axis == "time":
            y = y.swapaxes(1, 2)
        return y.reshape(segments, -1, *x.shape[2:])


class MLP(nnx.Module):
    """Two linear layers with the exact (erf) GELU between."""

    def __init__(self, cfg: SynchformerConfig, *, rngs: nnx.Rngs):
        self.fc1 = linear(cfg.width, cfg.mlp_ratio * cfg.width, rngs)
        self.fc2 = linear(cfg.mlp_ratio * cfg.width, cfg.width, rngs)

    def __call__(self, x: Float[Array, "*b h"]) -> Float[Array, "*b h"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Block(nnx.Module):
    """Pre-norm block: attention along time, attention in space, MLP."""

    def __init__(self, cfg: SynchformerConfig, *, rngs: nnx.Rngs):
        self.norm1, self.norm2, self.norm3 = _norm(cfg, rngs), _norm(cfg, rngs), _norm(cfg, rngs)
        self.timeattn = DividedAttention(cfg, "time", rngs=rngs)
        self.attn = DividedAttention(cfg, "space", rngs=rngs)
        self.mlp = MLP(cfg, rngs=rngs)

    def __call__(self, x: Float[Array, "g n h"]) -> Float[Array, "g n h"]:
        x = x + self.timeattn(self.norm3(x))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SelfAttention(nnx.Module):
    """The aggregation's attention, of which only the first token's output is needed."""

    def __init__(self, cfg: SynchformerConfig, *, rngs: nnx.Rngs):
        self.heads = cfg.heads
        self.in_proj = linear(cfg.width, 3 * cfg.width, rngs)
        self.out_proj = linear(cfg.width, cfg.width, rngs)

    def __call__(self, x: Float[Array, "g n h"]) -> Float[Array, "g h"]:
        q, k, v = jnp.moveaxis(self.in_proj(x).reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        return self.out_proj(attention(q[:, :1], k, v).reshape(len(x), -1))


class Aggregation(nnx.Module):
    """One pre-norm encoder layer over the tokens of a time step and its own CLS, which is the result."""

    def __init__(self, cfg: SynchformerConfig, *, rngs: nnx.Rngs):
        self.cls_token = nnx.Param(cls_init(rngs.params(), (cfg.width,)))
        self.self_attn = SelfAttention(cfg, rngs=rngs)
        self.linear1 = linear(cfg.width, cfg.mlp_ratio * cfg.width, rngs)
        self.linear2 = linear(cfg.mlp_ratio * cfg.width, cfg.width, rngs)
        self.norm1, self.norm2 = _norm(cfg, rngs), _norm(cfg, rngs)

    def __call__(self, x: Float[Array, "g l h"]) -> Float[Array, "g h"]:
        cls = jnp.broadcast_to(self.cls_token[...], (len(x), x.shape[-1]))
        x = jnp.concatenate([cls[:, None], x], axis=1)
        y = cls + self.self_attn(self.norm1(x))
        return y + self.linear2(jax.nn.gelu(self.linear1(self.norm2(y)), approximate=False))


class Synchformer(nnx.Module):
    """Frames -> sync tokens.

    Args:
      frames: `[b f size size 3]`, RGB at 25 fps, uint8 0..255 or float 0..1.
    Returns:
      `[b s width]`, 8 tokens per segment, segment after segment; (f - 16) // 8 + 1 segments. Not normalised.
      `rates.sync_token_seconds` gives their times. Frames after the last whole segment are not read.
    Raises:
      ValueError: fewer frames than one segment, or frames of another size.
    """

    def __init__(self, cfg: SynchformerConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.patch_embed = (VideoStem if cfg.stem == "conv" else PatchStem)(cfg, rngs=rngs)
        position_init = nnx.initializers.normal(cfg.position_std)
        self.cls_token = nnx.Param(cls_init(rngs.params(), (cfg.width,)))
        self.pos_embed = nnx.Param(position_init(rngs.params(), (1 + cfg.cells, cfg.width)))
        self.temp_embed = nnx.Param(position_init(rngs.params(), (cfg.steps, cfg.width)))
        self.blocks = stack(lambda rngs: Block(cfg, rngs=rngs), cfg.depth, rngs)
        self.norm = _norm(cfg, rngs)
        self.spatial_attn_agg = Aggregation(cfg, rngs=rngs)

    def __call__(self, frames: Real[AnyArray, "..."]) -> Float[Array, "b s h"]:
        x = in_turn(self._see, self.embed(frames), self.cfg.segments_at_once)
        return x.reshape(len(frames), -1, self.cfg.width)

    def _see(self, x: Float[Array, "g n h"]) -> Float[Array, "g steps h"]:
        cfg = self.cfg
        x = scan_blocks(self.blocks, x, lambda block, x: block(x))
        x = self.norm(x[:, 1:]).reshape(-1, cfg.cells, cfg.width)  # one row per time step of a segment
        return self.spatial_attn_agg(x).reshape(-1, cfg.steps, cfg.width)

    def embed(self, frames: Real[AnyArray, "..."]) -> Float[Array, "g n h"]:
        """CLS and the tokens of every segment, with their positions in space and time."""
        cfg = self.cfg
        x = self._segments(self.patch_embed(frames[:, : self._used_frames(frames.shape)]))
        positions = self.pos_embed[...]
        x = x + positions[None, None, 1:] + self.temp_embed[...][None, :, None]
        x = x.reshape(len(x), -1, cfg.width)
        cls = jnp.broadcast_to(self.cls_token[...] + positions[0], (len(x), 1, cfg.width))
        return jnp.concatenate([cls, x], axis=1)

    def _used_frames(self, shape: tuple[int, ...]) -> int:
        cfg = self.cfg
        if len(shape) != 5 or shape[1] < cfg.frames or shape[2:] != (cfg.size, cfg.size, 3):
            raise ValueError(
                f"Synchformer: got frames {list(shape)}, expected [batch, at least {cfg.frames}, {cfg.size}, "
                f"{cfg.size}, 3]; resize the frames, or hold the last one of a short video"
            )
        return shape[1] - (shape[1] - cfg.frames) % cfg.segment_step

    def _segments(self, x: Float[Array, "b T l h"]) -> Float[Array, "g steps l h"]:
        """Cut into overlapping segments; slices of chunks, because a gather is slow to differentiate."""
        cfg = self.cfg
        chunks = x.reshape(len(x), -1, cfg.segment_step // cfg.tubelet, *x.shape[2:])
        per_segment = cfg.frames // cfg.segment_step
        count = chunks.shape[1] - per_segment + 1
        x = jnp.concatenate([chunks[:, i : i + count] for i in range(per_segment)], axis=2)
        return x.reshape(-1, *x.shape[2:])
