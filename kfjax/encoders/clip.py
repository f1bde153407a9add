"""The CLIP encoders (arXiv 2103.00020): one vector per frame, and the text tower's hidden states.

    vectors = bind(CLIPVision, cfg, params)(frames)        # u8 [b v H W 3] -> [b v out_dim]
    hidden = bind(CLIPText, cfg, params)(ids)              # i32 [b l] -> [b l width]

Names and layouts follow open_clip: every kernel is the transposed torch weight, the rows of `in_proj` are
(3, head, e), the patch kernel's rows are (y, x, colour), `proj` is stored as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Real

from kfjax.encoders import stem
from kfjax.encoders.configs import Activation, CLIPTextConfig, CLIPVisionConfig
from kfjax.nn.layers import attention, in_turn, linear
from kfjax.nn.module import AnyArray, scan_blocks, stack

#: Mean and standard deviation of CLIP's training pixels, RGB in 0..1.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

position_init = nnx.initializers.normal(0.02)


def _activation(name: Activation) -> Callable[[Array], Array]:
    if name == "quick_gelu":
        return lambda x: x * jax.nn.sigmoid(1.702 * x)
    return lambda x: jax.nn.gelu(x, approximate=False)


def _norm(width: int, eps: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=eps, use_fast_variance=False, rngs=rngs)


def unit(x: Float[AnyArray, "*b h"]) -> Float[Array, "*b h"]:
    """x scaled to length 1; zero stays zero."""
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt(jnp.maximum(jnp.sum(y * y, -1, keepdims=True), 1e-24))).astype(x.dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, cfg: CLIPVisionConfig | CLIPTextConfig, *, rngs: nnx.Rngs):
        self.heads = cfg.heads
        self.in_proj = linear(cfg.width, 3 * cfg.width, rngs)
        self.out_proj = linear(cfg.width, cfg.width, rngs)

    def __call__(self, x: Float[Array, "b n h"], mask: Bool[Array, "1 1 n n"] | None) -> Float[Array, "b n h"]:
        q, k, v = jnp.moveaxis(self.in_proj(x).reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        return self.out_proj(attention(q, k, v, mask=mask).reshape(x.shape))


class MLP(nnx.Module):
    def __init__(self, cfg: CLIPVisionConfig | CLIPTextConfig, *, rngs: nnx.Rngs):
        self.c_fc = linear(cfg.width, cfg.mlp_width, rngs)
        self.c_proj = linear(cfg.mlp_width, cfg.width, rngs)
        self.activation = _activation(cfg.activation)

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        return self.c_proj(self.activation(self.c_fc(x)))


class Block(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, cfg: CLIPVisionConfig | CLIPTextConfig, *, rngs: nnx.Rngs):
        self.ln_1, self.ln_2 = _norm(cfg.width, cfg.eps, rngs), _norm(cfg.width, cfg.eps, rngs)
        self.attn = SelfAttention(cfg, rngs=rngs)
        self.mlp = MLP(cfg, rngs=rngs)

    def __call__(self, x: Float[Array, "b n h"], mask: Bool[Array, "1 1 n n"] | None = None) -> Float[Array, "b n h"]:
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class CLIPVision(nnx.Module):
    """Frames -> one pooled, projected vector each.

    Args:
      frames: `[b v size size 3]`, RGB, uint8 0..255 or float 0..1.
    Returns:
      `[b v out_dim]`, of length 1 where `cfg.normalize`.
    Raises:
      ValueError: frames of another size.
    """

    def __init__(self, cfg: CLIPVisionConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        if cfg.stem == "conv":
            self.stem = stem.ConvStem(3, cfg.stem_widths, cfg.patch, cfg.width, rngs=rngs)
        else:
            self.conv1 = linear(cfg.patch**2 * 3, cfg.width, rngs, bias=False)
        positions = nnx.initializers.normal(cfg.position_std)
        self.class_embedding = nnx.Param(position_init(rngs.params(), (cfg.width,)))
        self.positional_embedding = nnx.Param(positions(rngs.params(), (1 + cfg.cells, cfg.width)))
        self.ln_pre, self.ln_post = _norm(cfg.width, cfg.eps, rngs), _norm(cfg.width, cfg.eps, rngs)
        self.blocks = stack(lambda rngs: Block(cfg, rngs=rngs), cfg.depth, rngs)
        self.proj = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (cfg.width, cfg.out_dim)))

    def __call__(self, frames: Real[AnyArray, "b v size size 3"]) -> Float[Array, "b v out_dim"]:
        y = in_turn(self._see, frames.reshape(-1, *frames.shape[2:]), self.cfg.frames_at_once)
        return y.reshape(*frames.shape[:2], -1)

    def _see(self, frames: Real[AnyArray, "n size size 3"]) -> Float[Array, "n out_dim"]:
        x = scan_blocks(self.blocks, self.embed(frames), lambda block, x: block(x))
        y = self.ln_post(x[:, 0]) @ self.proj[...]
        return unit(y) if self.cfg.normalize else y

    def embed(self, frames: Real[AnyArray, "n size size 3"]) -> Float[Array, "n l h"]:
        """Class token and patches with their positions, after the first norm."""
        cfg = self.cfg
        if frames.shape[1:] != (cfg.size, cfg.size, 3):
            raise ValueError(
                f"CLIP: got frames of {list(frames.shape[1:])}, expected [{cfg.size}, {cfg.size}, 3]; resize the frames"
            )
        x = self._patches(frames)
        first = jnp.broadcast_to(self.class_embedding[...], (len(x), 1, cfg.width))
        return self.ln_pre(jnp.concatenate([first, x], axis=1) + self.positional_embedding[...][None])

    def _patches(self, frames: Real[AnyArray, "n size size 3"]) -> Float[Array, "n l h"]:
        cfg = self.cfg
        dtype, side = self.proj[...].dtype, cfg.size // cfg.patch
        if cfg.stem == "conv":
            return self.stem(stem.signed(stem.fold(frames, 4), dtype))
        used = frames[:, : side * cfg.patch, : side * cfg.patch]
        x = used.reshape(-1, side, cfg.patch, side, cfg.patch, 3).swapaxes(2, 3)
        x = x.astype(dtype) / 255 if x.dtype == jnp.uint8 else x.astype(dtype)
        x = x.reshape(-1, cfg.cells, cfg.patch**2 * 3)
        mean, std = (jnp.tile(jnp.asarray(v, dtype), (1, 1, cfg.patch**2)) for v in (PIXEL_MEAN, PIXEL_STD))
        return self.conv1((x - mean) / std)


class CLIPText(nnx.Module):
    """Token ids -> every hidden state after the last norm, without the text projection.

    The mask is causal only: positions after the end token are features too, as MMAudio uses them.

    Args:
      ids: `[b length]` with begin, end and padding already in place.
    Returns:
      `[b length width]`, each of length 1 where `cfg.normalize`.
    Raises:
      ValueError: more tokens than positions.
    """

    def __init__(self, cfg: CLIPTextConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.token_embedding = nnx.Embed(cfg.vocab, cfg.width, embedding_init=position_init, rngs=rngs)
        self.positional_embedding = nnx.Param(nnx.initializers.normal(0.01)(rngs.params(), (cfg.length, cfg.width)))
        self.blocks = stack(lambda rngs: Block(cfg, rngs=rngs), cfg.depth, rngs)
        self.ln_final = _norm(cfg.width, cfg.eps, rngs)

    def __call__(self, ids: Int[AnyArray, "b l"]) -> Float[Array, "b l h"]:
        length = ids.shape[1]
        if length > self.cfg.length:
            raise ValueError(f"CLIP: got {length} tokens, expected at most {self.cfg.length}; truncate the text")
        # Rows of the table as it is: calling the layer would bring them to the precision that it was made in.
        x = self.token_embedding.embedding[...][ids] + self.positional_embedding[...][None, :length]
        causal = jnp.tril(jnp.ones((1, 1, length, length), bool))
        x = self.ln_final(scan_blocks(self.blocks, x, lambda block, x: block(x, causal)))
        return unit(x) if self.cfg.normalize else x
