"""Mel-VAE: log-mel [b f m] <-> latents [b n d] at half the frame rate, n = f / 2.

Two networks behind one interface: `plain`, the paper's stack of 1-D convolutions, and `edm2`, the
magnitude-preserving one of the public MMAudio weights. Both see mels standardised per band and hand out
latents normalised per channel; the four statistics live with the weights and no optimiser may touch them.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kfjax.codec.configs import VAEConfig
from kfjax.nn import layers
from kfjax.nn.layers import attention, layer_norm, linear
from kfjax.nn.module import AnyArray, scan_blocks, stack
from kfjax.structs import Posterior

#: What a level does to the frame rate.
Rate = Literal["", "down", "up"]
#: Parameters that are measured, not learnt.
STATISTICS = ("mel_mean", "mel_std", "latent_mean", "latent_std")


class MelVAE(nnx.Module):
    """The autoencoder: `encode` and `decode` for everyone, `posterior` and `decode_raw` for its training."""

    def __init__(self, cfg: VAEConfig, *, rngs: nnx.Rngs):
        encoder, decoder = {"plain": (Encoder, Decoder), "edm2": (MPEncoder, MPDecoder)}[cfg.variant]
        self.encoder = encoder(cfg, rngs=rngs)
        self.decoder = decoder(cfg, rngs=rngs)
        self.mel_mean = nnx.Param(jnp.zeros((cfg.bands,)))
        self.mel_std = nnx.Param(jnp.ones((cfg.bands,)))
        self.latent_mean = nnx.Param(jnp.zeros((cfg.latent_dim,)))
        self.latent_std = nnx.Param(jnp.ones((cfg.latent_dim,)))

    def encode(self, mel: Float[AnyArray, "b f m"]) -> Posterior:
        """Posterior over normalised latents [b f/2 d]. Raises ValueError for an odd number of frames."""
        raw = self.posterior(mel)
        mean, std = _channels(self.latent_mean), _channels(self.latent_std)
        return Posterior((raw.mean - mean) / std, raw.std / std)

    def decode(self, latent: Float[Array, "b n d"]) -> Float[Array, "b 2*n m"]:
        """Normalised latents to log-mel with twice as many frames."""
        return self.decode_raw(latent * _channels(self.latent_std) + _channels(self.latent_mean))

    def posterior(self, mel: Float[AnyArray, "b f m"]) -> Posterior:
        """Posterior over the network's own latents, whose prior is the standard normal (the KL's space)."""
        if mel.shape[1] % 2:
            raise ValueError(f"mel: got {mel.shape[1]} frames, expected an even number; repeat the last one")
        moments = self.encoder((mel - _channels(self.mel_mean)) / _channels(self.mel_std))
        mean, log_variance = jnp.split(moments, 2, -1)
        return Posterior(mean, jnp.exp(jnp.clip(log_variance, -30.0, 20.0) / 2))

    def decode_raw(self, latent: Float[Array, "b n d"]) -> Float[Array, "b 2*n m"]:
        """The network's own latents to log-mel."""
        return self.decoder(latent) * _channels(self.mel_std) + _channels(self.mel_mean)


def _channels(vector: nnx.Param) -> Float[AnyArray, "1 1 c"]:
    return vector[...][None, None]


def convolve(x: Float[AnyArray, "b n i"], kernel: Float[AnyArray, "taps i o"]) -> Float[Array, "b n o"]:
    """`layers.convolve` as one matrix product of all taps, on every platform.

    Inside a scan on a CPU the gradient of XLA's own convolution takes 30 times as long (2.8 s against 0.08 s
    for ten layers of width 192); elsewhere it is no faster.
    """
    return layers.convolve(x, kernel, how="unfolded")


# ---- plain


class Conv(nnx.Module):
    """1-D convolution with bias; `zero=True` starts at zero."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, rngs: nnx.Rngs, zero: bool = False):
        draw = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (kernel, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros((outputs,)))

    def __call__(self, x: Float[Array, "b n i"]) -> Float[Array, "b n o"]:
        return convolve(x, self.kernel[...]) + self.bias[...][None, None]


class Block(nnx.Module):
    """x + conv(silu(conv(norm x))), the identity at first.

    The norm is per frame, so that what one frame becomes depends on its neighbourhood and not on the length; it
    has no scale and shift of its own, for the convolution behind it has both.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv1 = Conv(width, width, 3, rngs=rngs)
        self.conv2 = Conv(width, width, 3, rngs=rngs, zero=True)

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        return x + self.conv2(jax.nn.silu(self.conv1(layer_norm(x))))


def _blocks(width: int, depth: int, rngs: nnx.Rngs) -> nnx.Module:
    return stack(lambda r: Block(width, rngs=r), depth, rngs)


def _run(blocks: nnx.Module, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
    return scan_blocks(blocks, x, lambda block, carry: block(carry))


class Encoder(nnx.Module):
    """Standardised mel [b f m] -> moments [b f/2 2d] (mean, log-variance)."""

    def __init__(self, cfg: VAEConfig, *, rngs: nnx.Rngs):
        self.conv_in = Conv(cfg.bands, cfg.width, 3, rngs=rngs)
        self.fine = _blocks(cfg.width, cfg.mel_blocks, rngs)
        self.down = linear(2 * cfg.width, cfg.width, rngs)  # a convolution of kernel 2 and stride 2
        self.coarse = _blocks(cfg.width, cfg.latent_blocks, rngs)
        self.out = linear(cfg.width, 2 * cfg.latent_dim, rngs)

    def __call__(self, x: Float[Array, "b f m"]) -> Float[Array, "b n e"]:
        x = _run(self.fine, self.conv_in(x))
        x = self.down(x.reshape(x.shape[0], x.shape[1] // 2, -1))
        return self.out(layer_norm(_run(self.coarse, x)))


class Decoder(nnx.Module):
    """Latents [b n d] -> standardised mel [b 2n m]: the encoder's mirror."""

    def __init__(self, cfg: VAEConfig, *, rngs: nnx.Rngs):
        self.inp = linear(cfg.latent_dim, cfg.width, rngs)
        self.coarse = _blocks(cfg.width, cfg.latent_blocks, rngs)
        self.up = linear(cfg.width, 2 * cfg.width, rngs)  # a transposed convolution of kernel 2 and stride 2
        self.fine = _blocks(cfg.width, cfg.mel_blocks, rngs)
        self.conv_out = Conv(cfg.width, cfg.bands, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b f m"]:
        x = self.up(_run(self.coarse, self.inp(x)))
        x = _run(self.fine, x.reshape(x.shape[0], x.shape[1] * 2, -1))
        return self.conv_out(layer_norm(x))


# ---- edm2: attribute names are those of the public weights


class MPConv(nnx.Module):
    """Magnitude-preserving convolution without bias: the kernel is normalised at every use (EDM2, eq. 47 and 66).

    kernel / ((rms over taps and inputs + 1e-4) · √(taps · inputs)), so unit-variance inputs give unit variance.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (kernel, inputs, outputs)))

    def __call__(self, x: Float[AnyArray, "b n i"]) -> Float[Array, "b n o"]:
        kernel = self.kernel[...]
        rms = jnp.sqrt(jnp.mean(jnp.square(kernel), (0, 1)))
        fan_in = kernel.shape[0] * kernel.shape[1]
        # The output is divided, which is the same and far smaller than the kernel.
        return convolve(x, kernel) / ((rms + 1e-4) * jnp.sqrt(fan_in).astype(kernel.dtype))[None, None]


def mp_silu(x: Float[Array, "*b h"]) -> Float[Array, "*b h"]:
    """SiLU that keeps unit variance."""
    return jax.nn.silu(x) / 0.596


def mp_sum(x: Float[Array, "*b h"], y: Float[Array, "*b h"]) -> Float[Array, "*b h"]:
    """0.7 x + 0.3 y, rescaled to unit variance."""
    return (0.7 * x + 0.3 * y) / (0.7**2 + 0.3**2) ** 0.5


def pixel_norm(x: Float[Array, "*b h"]) -> Float[Array, "*b h"]:
    """x / (rms over channels + 1e-4)."""
    return x / (jnp.sqrt(jnp.mean(jnp.square(x), -1, keepdims=True)) + 1e-4)


class MPBlock(nnx.Module):
    """Residual block of two convolutions; the output is clipped to ±256."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv1 = MPConv(inputs, outputs, 3, rngs=rngs)
        self.conv2 = MPConv(outputs, outputs, 3, rngs=rngs)
        if inputs != outputs:
            self.nin_shortcut = MPConv(inputs, outputs, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "b n i"]) -> Float[Array, "b n o"]:
        x = pixel_norm(x)
        y = self.conv2(mp_silu(self.conv1(mp_silu(x))))
        x = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return jnp.clip(mp_sum(x, y), -256, 256)


class MPAttention(nnx.Module):
    """Attention over time with one head of full width, whose rows of qkv are (channel, 3)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.qkv = MPConv(width, 3 * width, 1, rngs=rngs)
        self.proj_out = MPConv(width, width, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        qkv = self.qkv(x).reshape(*x.shape, 3)
        q, k, v = (pixel_norm(qkv[..., i])[:, :, None] for i in range(3))
        return mp_sum(x, self.proj_out(attention(q, k, v)[:, :, 0]))


class MPMiddle(nnx.Module):
    """Block, attention, block."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.block_1 = MPBlock(width, width, rngs=rngs)
        self.attn_1 = MPAttention(width, rngs=rngs)
        self.block_2 = MPBlock(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        return self.block_2(self.attn_1(self.block_1(x)))


class MPDown(nnx.Module):
    """Halve the rate: a mean of pairs between two pointwise maps."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv1 = MPConv(width, width, 1, rngs=rngs)
        self.conv2 = MPConv(width, width, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n//2 h"]:
        x = self.conv1(x)
        return self.conv2(x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2]).mean(2))


class MPUp(nnx.Module):
    """Double the rate: every frame twice, then a convolution."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = MPConv(width, width, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b 2*n h"]:
        return self.conv(jnp.repeat(x, 2, axis=1))


class MPLevel(nnx.Module):
    """Blocks of one width and, where it changes, the rate."""

    def __init__(self, inputs: int, outputs: int, depth: int, rate: Rate, *, rngs: nnx.Rngs):
        self.block = nnx.List([MPBlock(inputs if i == 0 else outputs, outputs, rngs=rngs) for i in range(depth)])
        if rate == "down":
            self.downsample = MPDown(outputs, rngs=rngs)
        if rate == "up":
            self.upsample = MPUp(outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "b n i"]) -> Float[Array, "b f o"]:
        for block in self.block:
            x = block(x)
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        return self.upsample(x) if hasattr(self, "upsample") else x


class MPEncoder(nnx.Module):
    """Standardised mel [b f m] -> moments [b f/2 2d]; the rate changes after the first level."""

    def __init__(self, cfg: VAEConfig, *, rngs: nnx.Rngs):
        w = cfg.width
        self.conv_in = MPConv(cfg.bands, w, 3, rngs=rngs)
        sizes: list[tuple[int, int, Rate]] = [(w, w, "down"), (w, 2 * w, ""), (2 * w, 4 * w, "")]
        self.down = nnx.List([MPLevel(i, o, 2, rate, rngs=rngs) for i, o, rate in sizes])
        self.mid = MPMiddle(4 * w, rngs=rngs)
        self.conv_out = MPConv(4 * w, 2 * cfg.latent_dim, 3, rngs=rngs)
        self.learnable_gain = nnx.Param(jnp.zeros(()))

    def __call__(self, x: Float[Array, "b f m"]) -> Float[Array, "b n e"]:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(mp_silu(self.mid(x))) * (self.learnable_gain[...] + 1)


class MPDecoder(nnx.Module):
    """Latents [b n d] -> standardised mel [b 2n m]; the levels run from the last to the first."""

    def __init__(self, cfg: VAEConfig, *, rngs: nnx.Rngs):
        w = cfg.width
        self.conv_in = MPConv(cfg.latent_dim, 4 * w, 3, rngs=rngs)
        self.mid = MPMiddle(4 * w, rngs=rngs)
        sizes: list[tuple[int, int, Rate]] = [(2 * w, w, ""), (4 * w, 2 * w, "up"), (4 * w, 4 * w, "")]
        self.up = nnx.List([MPLevel(i, o, 3, rate, rngs=rngs) for i, o, rate in sizes])
        self.conv_out = MPConv(w, cfg.bands, 3, rngs=rngs)
        self.learnable_gain = nnx.Param(jnp.zeros(()))

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b f m"]:
        x = self.mid(self.conv_in(x))
        for level in reversed(list(self.up)):
            x = level(x)
        return self.conv_out(mp_silu(x)) * (self.learnable_gain[...] + 1)
