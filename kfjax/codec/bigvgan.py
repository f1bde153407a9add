"""BigVGAN: log-mel [b f bands] -> mono waveform [b t], t = f · hop (Lee et al., arXiv 2206.04658).

Transposed convolutions raise the rate step by step; after each, residual blocks of three kernel sizes run side by
side and are averaged. Every activation is a Snake between an x2 up- and an x2 down-sampling, so that the harmonics
it makes do not alias. Attribute names and order of layers are those of the public weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from kfjax.codec.configs import BigVGANConfig
from kfjax.nn.module import AnyArray

#: Low-pass of both resamplings: 12-tap windowed sinc, cutoff 0.25 and half width 0.3 cycles a sample, Kaiser window
#: of 51 dB, sum 1. Written out, because the public files hold these very bits and arithmetic would miss some.
_HALF = (0.0020289647, 0.009389466, -0.025543459, -0.057657383, 0.12857258, 0.4432098)
FILTER = np.array(_HALF + _HALF[::-1], np.float32)
#: The x2 upsampling as two filters over x[q-3] .. x[q+3]: of the even sample 2q and of the odd one 2q + 1.
_EVEN, _ODD = 2 * np.append(FILTER[::-2], np.float32(0)), 2 * np.append(np.float32(0), FILTER[-2::-2])


class BigVGAN(nnx.Module):
    """The generator.

    Parameters keep weight norm's length `g` and direction `v` apart, as the files do. The kernels are made of them
    once a call, that is once for a whole waveform: one pass over the parameters beside some 10⁴ over them.
    """

    def __init__(self, cfg: BigVGANConfig, *, rngs: nnx.Rngs):
        widths = [cfg.width // 2**i for i in range(len(cfg.rates) + 1)]
        self.conv_pre = Conv(cfg.bands, widths[0], 7, rngs=rngs)
        self.ups = nnx.List(
            [Up(i, o, rate, rngs=rngs) for (i, o), rate in zip(pairwise(widths), cfg.rates, strict=True)]
        )
        self.resblocks = nnx.List(
            [AMPBlock(w, kernel, cfg.dilations, rngs=rngs) for w in widths[1:] for kernel in cfg.block_kernels]
        )
        self.activation_post = AntiAliasedSnake(widths[-1])
        self.conv_post = Conv(widths[-1], 1, 7, rngs=rngs, bias=cfg.output_bias)
        self.output = cfg.output

    def __call__(self, log_mel: Float[Array, "b f bands"]) -> Float[Array, "b t"]:
        """Waveform in [-1, 1] of `hop` samples a frame, from the natural logarithm of the mel magnitudes."""
        x = self.conv_pre(log_mel)
        beside = len(self.resblocks) // len(self.ups)
        for i, up in enumerate(self.ups):
            x = up(x)
            x = reduce(add, [block(x) for block in self.resblocks[i * beside : (i + 1) * beside]]) / beside
        x = self.conv_post(self.activation_post(x))[..., 0]
        return jnp.tanh(x) if self.output == "tanh" else jnp.clip(x, -1, 1)


class WeightNorm(nnx.Module):
    """A kernel as length `g` and direction `v`, with the bias beside it; the layers below are two ways to use them.

    The axis that each have their own length is the last: outputs of a convolution, inputs of a transposed one.
    """

    def __init__(self, shape: tuple[int, int, int], outputs: int, *, rngs: nnx.Rngs, bias: bool = True):
        self.v = nnx.Param(jax.random.normal(rngs.params(), shape) / math.sqrt(shape[0] * shape[1]))
        self.g = nnx.Param(_length(self.v[...]))
        if bias:
            self.bias = nnx.Param(jnp.zeros((outputs,)))

    def kernel(self) -> Float[Array, "taps i o"]:
        v = self.v[...]
        return v * (self.g[...] / _length(v))

    def shift(self, x: Float[Array, "b n o"]) -> Float[Array, "b n o"]:
        return x + self.bias[...][None, None] if hasattr(self, "bias") else x


def _length(v: Float[AnyArray, "taps i o"]) -> Float[Array, "1 1 o"]:
    return jnp.sqrt(jnp.sum(jnp.square(v), (0, 1), keepdims=True))


class Conv(WeightNorm):
    """1-D convolution of odd kernel, 'same' zero padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, rngs: nnx.Rngs, bias: bool = True, dilation: int = 1):
        super().__init__((kernel, inputs, outputs), outputs, rngs=rngs, bias=bias)
        self.dilation = dilation

    def __call__(self, x: Float[Array, "b n i"]) -> Float[Array, "b n o"]:
        kernel = self.kernel()
        reach = self.dilation * (kernel.shape[0] // 2)
        layout = ("NWC", "WIO", "NWC")
        # The library's convolution runs at the processor's peak; sums of matrix products reach half of it.
        return self.shift(
            jax.lax.conv_general_dilated(
                x, kernel, (1,), [(reach, reach)], rhs_dilation=(self.dilation,), dimension_numbers=layout
            )
        )


class Up(WeightNorm):
    """Transposed convolution, stride `rate`, kernel 2 · rate, cropped by rate / 2 at both ends: n -> n · rate."""

    def __init__(self, inputs: int, outputs: int, rate: int, *, rngs: nnx.Rngs):
        super().__init__((2 * rate, outputs, inputs), outputs, rngs=rngs)
        self.rate = rate

    def __call__(self, x: Float[Array, "b n i"]) -> Float[Array, "b m o"]:
        b, n, _ = x.shape
        # Each frame gives two stretches of `rate` samples, and the second falls on the next frame's first.
        # One product for all, where a convolution over inserted zeros would do `rate` times the work.
        kernel = self.kernel()
        y = (x @ kernel.reshape(-1, kernel.shape[-1]).T).reshape(b, n, 2, self.rate, -1)
        nothing = jnp.zeros_like(y[:, :1, 0])
        y = jnp.concatenate([y[:, :, 0], nothing], 1) + jnp.concatenate([nothing, y[:, :, 1]], 1)
        y = y.reshape(b, (n + 1) * self.rate, -1)
        return self.shift(y[:, self.rate // 2 : self.rate // 2 + n * self.rate])


class AMPBlock(nnx.Module):
    """For each dilation in turn: x + conv(act(dilated conv(act(x))))."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...], *, rngs: nnx.Rngs):
        self.convs1 = nnx.List([Conv(width, width, kernel, rngs=rngs, dilation=d) for d in dilations])
        self.convs2 = nnx.List([Conv(width, width, kernel, rngs=rngs) for _ in dilations])
        self.activations = nnx.List([AntiAliasedSnake(width) for _ in range(2 * len(dilations))])

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        for i, (conv1, conv2) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            act1, act2 = self.activations[2 * i], self.activations[2 * i + 1]
            x = x + conv2(act2(conv1(act1(x))))
        return x


class AntiAliasedSnake(nnx.Module):
    """x + sin²(eᵅ x) / eᵝ per channel, at twice the rate; inside in float32.

    Upsampling: ends held, zeros inserted, `FILTER` twice as strong. Downsampling: ends held, `FILTER`, every other.
    Neither ever sees the samples between zeros: even and odd outputs of the first are short filters of the input, and
    the second adds up filtered even and odd samples.
    """

    def __init__(self, width: int):
        self.alpha = nnx.Param(jnp.zeros((width,)))
        self.beta = nnx.Param(jnp.zeros((width,)))

    def __call__(self, x: Float[Array, "b n h"]) -> Float[Array, "b n h"]:
        n = x.shape[1]
        frequency = jnp.exp(self.alpha[...].astype(jnp.float32))[None, None]
        strength = 1 / (jnp.exp(self.beta[...].astype(jnp.float32)) + 1e-9)[None, None]

        def phase(held: Float[Array, "b m h"], taps: np.ndarray) -> Float[Array, "b m-6 h"]:
            y = sum(tap * held[:, i : i + held.shape[1] - 6] for i, tap in enumerate(taps) if tap)
            return (y + strength * sin_squared(frequency * y)).astype(x.dtype)

        def samples(held: Float[Array, "b m h"]) -> tuple[Float[Array, "b m-6 h"], Float[Array, "b m-6 h"]]:
            """Even and odd ones, for three places more at both ends: the very first and the very last sample."""
            first, last = phase(held[:, 3:10], _EVEN), phase(held[:, n + 2 : n + 9], _ODD)
            hold = lambda y: y.at[:, :3].set(first).at[:, -3:].set(last)
            return hold(phase(held, _EVEN)), hold(phase(held, _ODD))

        even, odd = _stored(samples, jnp.pad(x, ((0, 0), (6, 6), (0, 0)), mode="edge"))
        pairs = [FILTER[2 * i + 1] * even[:, i + 1 : i + 1 + n] + FILTER[2 * i] * odd[:, i : i + n] for i in range(6)]
        return reduce(add, pairs).astype(x.dtype)


def _stored(make: Callable[[Array], tuple[Array, ...]], x: Array) -> tuple[Array, ...]:
    """make(x), computed once and written to memory, where XLA would rather compute it again for each of its uses.

    A barrier says so, but XLA:CPU drops barriers before it fuses. There a branch does it, whose condition is always
    true and behind a barrier for as long as branches are simplified away.
    """

    def branch(x):
        nothing = lambda x: jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), jax.eval_shape(make, x))
        return jax.lax.cond(jax.lax.optimization_barrier(jnp.array(True)), make, nothing, x)

    return jax.lax.platform_dependent(x, cpu=branch, default=lambda x: jax.lax.optimization_barrier(make(x)))


#: sin² r = Σ (-1)ᵏ⁺¹ 2²ᵏ⁻¹ / (2k)! r²ᵏ; eight terms leave 1e-7 at π / 2.
_SERIES = [(-1) ** (k + 1) * 2 ** (2 * k - 1) / math.factorial(2 * k) for k in range(1, 9)]


def sin_squared(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """sin² x by its period π and its series: every step vectorises, where a library's sine may be twenty times slower.

    The error is that of a sine whose argument is rounded once more.
    """
    r = jnp.square(x - math.pi * jnp.round(x / math.pi))
    y = _SERIES[-1]
    for coefficient in _SERIES[-2::-1]:
        y = y * r + coefficient
    return y * r
