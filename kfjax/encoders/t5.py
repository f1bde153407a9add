"""The text encoder: T5's encoder (arXiv 1910.10683, v1.0 checkpoints), token ids -> one vector per token.

    hidden = bind(T5Encoder, cfg, params)(ids, mask)       # i32 [b l], bool [b l] -> [b l width]

The matrices q, k, v, o, wi, wo are those of the public checkpoints, transposed; `relative_bias` is the first
layer's table of relative positions, which all layers share.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from kfjax.encoders.configs import T5Config
from kfjax.nn.layers import RMSNorm, attention
from kfjax.nn.module import AnyArray, scan_blocks, stack


def relative_buckets(length: int, buckets: int, max_distance: int) -> Int[np.ndarray, "l l"]:
    """Bucket of (key - query) for every pair of positions.

    Half of the buckets for each direction; in each, one per distance for the first half and logarithmic widths
    up to `max_distance` for the rest.
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # float32 as in the public code: in float64 a distance on a border may fall into the other bucket
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(max_distance / exact)
    )
    far = np.minimum(exact + (ratio * (half - exact)).astype(np.int32), half - 1)
    return np.where(distance < exact, distance, far) + half * (offset > 0)


def _dense(inputs: int, outputs: int, std: float, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=nnx.initializers.normal(std), rngs=rngs)


class SelfAttention(nnx.Module):
    """Attention without the 1/√e scale: T5 keeps it in the query's initialisation."""

    def __init__(self, cfg: T5Config, *, rngs: nnx.Rngs):
        inner = cfg.heads * cfg.head_dim
        self.heads = cfg.heads
        self.q = _dense(cfg.width, inner, (cfg.width * cfg.head_dim) ** -0.5, rngs)
        self.k = _dense(cfg.width, inner, cfg.width**-0.5, rngs)
        self.v = _dense(cfg.width, inner, cfg.width**-0.5, rngs)
        self.o = _dense(inner, cfg.width, inner**-0.5, rngs)

    def __call__(self, x: Float[Array, "b l h"], bias: Float[Array, "b k l l"]) -> Float[Array, "b l h"]:
        q, k, v = (layer(x).reshape(*x.shape[:2], self.heads, -1) for layer in (self.q, self.k, self.v))
        return self.o(attention(q, k, v, bias=bias, scale=1.0).reshape(*x.shape[:2], -1))


class FeedForward(nnx.Module):
    def __init__(self, cfg: T5Config, *, rngs: nnx.Rngs):
        self.wi = _dense(cfg.width, cfg.hidden, cfg.width**-0.5, rngs)
        self.wo = _dense(cfg.hidden, cfg.width, cfg.hidden**-0.5, rngs)

    def __call__(self, x: Float[Array, "b l h"]) -> Float[Array, "b l h"]:
        return self.wo(jax.nn.relu(self.wi(x)))


class Block(nnx.Module):
    """Pre-norm block: self-attention, feed-forward."""

    def __init__(self, cfg: T5Config, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = RMSNorm(cfg.width, eps=cfg.eps), RMSNorm(cfg.width, eps=cfg.eps)
        self.attention = SelfAttention(cfg, rngs=rngs)
        self.feed_forward = FeedForward(cfg, rngs=rngs)

    def __call__(self, x: Float[Array, "b l h"], bias: Float[Array, "b k l l"]) -> Float[Array, "b l h"]:
        x = x + self.attention(self.norm1(x), bias)
        return x + self.feed_forward(self.norm2(x))


class T5Encoder(nnx.Module):
    """Token ids -> hidden states after the final norm.

    Args:
      ids: `[b l]`, padded to any fixed length.
      mask: `[b l]`, True where there is a token. An empty text (no True at all) gives finite values that carry no
        text; whoever reads them masks them.
    Returns:
      `[b l width]`. Positions behind the mask are not zeroed.
    """

    def __init__(self, cfg: T5Config, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.embed = nnx.Embed(cfg.vocab, cfg.width, embedding_init=nnx.initializers.normal(1.0), rngs=rngs)
        table = nnx.initializers.normal(cfg.width**-0.5)(rngs.params(), (cfg.buckets, cfg.heads))
        self.relative_bias = nnx.Param(table)
        self.blocks = stack(lambda rngs: Block(cfg, rngs=rngs), cfg.depth, rngs)
        self.norm = RMSNorm(cfg.width, eps=cfg.eps)

    def __call__(self, ids: Int[AnyArray, "b l"], mask: Bool[AnyArray, "b l"]) -> Float[Array, "b l h"]:
        bias = self.attention_bias(mask)
        # Rows of the table as it is: calling the layer would bring them to the precision that it was made in.
        x = scan_blocks(self.blocks, self.embed.embedding[...][ids], lambda block, x: block(x, bias))
        return self.cfg.gain * self.norm(x)

    def attention_bias(self, mask: Bool[AnyArray, "b l"]) -> Float[Array, "b k l l"]:
        """Relative positions and the mask in one added term.

        A hidden key gets -1e9 rather than -inf: a row without any key stays finite, forward and backward.
        """
        buckets = relative_buckets(mask.shape[1], self.cfg.buckets, self.cfg.max_distance)
        positions = jnp.moveaxis(self.relative_bias[...][buckets], -1, 0)[None]
        return jnp.where(mask[:, None, None, :], positions, jnp.asarray(-1e9, positions.dtype))
