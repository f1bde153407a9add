"""Blocks of the multimodal diffusion transformer (Kling-Foley §3, after MMAudio's public network).

A *stream* is one modality's tokens with its own weights. Joint blocks let the audio, clip and text streams attend to
one another; single blocks are an audio stream alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kfjax.nn.layers import MLP, ConvMLP, RMSNorm, attention, conv, linear, modulate, rotate
from kfjax.xla.sharding import pin

Tokens = Float[Array, "b _n h"]  # of several lengths in one signature


class Stream(nnx.Module):
    """adaLN-modulated attention and feed-forward of one modality.

    kernel 3 (audio, clip): convolutions after attention and in the feed-forward; kernel 1 (text, and with
    `cfg.block_kernel` 1 all streams): dense layers.
    `keys_only`: the stream serves keys and values in the last joint block and is not updated itself.
    """

    def __init__(self, cfg, kernel: int, *, rngs: nnx.Rngs, keys_only: bool = False):
        width, hidden = cfg.width, cfg.hidden
        self.heads = cfg.heads
        self.qkv = linear(width, 3 * width, rngs)
        self.q_norm = RMSNorm(width // cfg.heads, eps=cfg.rms_eps)
        self.k_norm = RMSNorm(width // cfg.heads, eps=cfg.rms_eps)
        self.modulation = linear(width, (2 if keys_only else 6) * width, rngs, zero=True)
        if keys_only:
            return
        if kernel == 1:
            self.out, self.mlp = linear(width, width, rngs), MLP(width, hidden, width, rngs=rngs)
        else:
            self.out = conv(width, width, kernel, rngs)
            self.mlp = ConvMLP(width, hidden, kernel, rngs=rngs)

    def before(self, x: Tokens, condition: Tokens, table: Array | None) -> tuple[tuple, tuple]:
        """(q, k, v) of the modulated tokens, and what `after` needs. `condition` has gone through silu already."""
        shift, scale, *rest = jnp.split(self.modulation(condition), self.modulation.out_features // x.shape[-1], -1)
        q, k, v = jnp.split(self.qkv(modulate(x, shift, scale)), 3, -1)
        heads = (*x.shape[:2], self.heads, -1)
        q, k, v = self.q_norm(q.reshape(heads)), self.k_norm(k.reshape(heads)), v.reshape(heads)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        return (_whole(q), _whole(k), _whole(v)), tuple(rest)

    def after(self, x: Tokens, attended: Float[Array, "b n k e"], rest: tuple) -> Tokens:
        """Residual update by the attention's result, then by the feed-forward."""
        gate_attention, shift, scale, gate_mlp = rest
        x = pin(x, "b n h") + self.out(pin(attended.reshape(x.shape), "b n h")) * gate_attention
        return pin(x + self.mlp(modulate(x, shift, scale)) * gate_mlp, "b n h")


def _whole(x: Float[Array, "b n k e"]) -> Float[Array, "b n k e"]:
    """Not split along "context": attention, a few percent of the work, is done by every device of a group."""
    return pin(x, "b _ k e")


class SingleBlock(nnx.Module):
    """The audio stream alone."""

    def __init__(self, cfg, *, rngs: nnx.Rngs):
        self.audio = Stream(cfg, cfg.block_kernel, rngs=rngs)

    def __call__(self, x: Tokens, condition: Tokens, table: Array | None) -> Tokens:
        qkv, rest = self.audio.before(x, condition, table)
        return self.audio.after(x, _whole(attention(*qkv)), rest)


class JointBlock(nnx.Module):
    """One attention over [audio, clip, text]; the audio stream has a condition per token, the others a global one."""

    def __init__(self, cfg, *, rngs: nnx.Rngs, last: bool = False):
        self.last = last
        self.audio = Stream(cfg, cfg.block_kernel, rngs=rngs)
        self.clip = Stream(cfg, cfg.block_kernel, rngs=rngs, keys_only=last)
        self.text = Stream(cfg, 1, rngs=rngs, keys_only=last)

    def __call__(
        self,
        streams: tuple[Tokens, Tokens, Tokens],
        extended: Tokens,
        pooled: Tokens,
        tables: tuple[Array | None, Array | None],
    ) -> tuple[Tokens, Tokens, Tokens]:
        x, clip, text = streams
        audio_qkv, audio_rest = self.audio.before(x, extended, tables[0])
        clip_qkv, clip_rest = self.clip.before(clip, pooled, tables[1])
        text_qkv, text_rest = self.text.before(text, pooled, None)
        q, k, v = (_whole(jnp.concatenate(parts, 1)) for parts in zip(audio_qkv, clip_qkv, text_qkv, strict=True))
        if self.last:  # only the audio stream goes on: nobody asks for the other queries
            q = audio_qkv[0]
        attended = _whole(attention(q, k, v))
        n, v_end = x.shape[1], x.shape[1] + clip.shape[1]
        x = self.audio.after(x, attended[:, :n], audio_rest)
        if self.last:
            return x, clip, text
        clip = self.clip.after(clip, attended[:, n:v_end], clip_rest)
        return x, clip, self.text.after(text, attended[:, v_end:], text_rest)


class FinalLayer(nnx.Module):
    """adaLN and a zero-initialised convolution of kernel 7 to the latent channels."""

    def __init__(self, cfg, *, rngs: nnx.Rngs):
        self.modulation = linear(cfg.width, 2 * cfg.width, rngs, zero=True)
        self.conv = conv(cfg.width, cfg.latent_dim, 7, rngs, zero=True)

    def __call__(self, x: Tokens, condition: Tokens) -> Float[Array, "b n d"]:
        shift, scale = jnp.split(self.modulation(jax.nn.silu(condition)), 2, -1)
        return self.conv(modulate(x, shift, scale))
