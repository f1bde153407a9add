"""Discriminators of waveforms: by period (every p-th sample) and by resolution (magnitudes of a spectrum).

Multi-period: HiFi-GAN (Kong et al., arXiv 2010.05646, section 2.3). Multi-resolution: BigVGAN (Lee et al., arXiv
2206.04658, section 3), after UnivNet (arXiv 2106.07889). Sizes, strides and slopes are those of the public
implementations; a discriminator's output is what each of its layers says, the map of scores last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from kfjax import dsp
from kfjax.codec.bigvgan import WeightNorm
from kfjax.nn.module import AnyArray

#: What the layers of one discriminator say of a batch of waves, the scores last.
Layers = list[Float[Array, "..."]]
_SLOPE = 0.1


@dataclass(frozen=True)
class WaveDiscriminatorConfig:
    """The default is BigVGAN's: 41.4 M parameters, nearly all in the periods.

    Attributes:
      periods: one discriminator each; primes overlap least.
      resolutions: (n_fft, hop, window) of one discriminator each, in samples.
      width: channels of the first layer; 32 times as many in a period's last, the same throughout a resolution's.

    Raises:
      ValueError: no discriminator, a period below 2, a window longer than its n_fft.
    """

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    resolutions: tuple[tuple[int, int, int], ...] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
    width: int = 32

    def __post_init__(self):
        if not self.periods + self.resolutions:
            raise ValueError("wave discriminators: got no period and no resolution, expected some; name one")
        if any(period < 2 for period in self.periods):
            raise ValueError(f"periods: got {self.periods}, expected 2 or more each; leave the smaller ones out")
        for n_fft, hop, window in self.resolutions:
            if not 0 < hop <= window <= n_fft:
                raise ValueError(
                    f"resolutions: got n_fft {n_fft}, hop {hop}, window {window}; expected 0 < hop <= window <= n_fft"
                )


class WaveDiscriminators(nnx.Module):
    """All discriminators: a wave [b t] -> what each says, the periods first."""

    def __init__(self, cfg: WaveDiscriminatorConfig, *, rngs: nnx.Rngs):
        self.periods = nnx.List([PeriodDiscriminator(period, cfg.width, rngs=rngs) for period in cfg.periods])
        self.resolutions = nnx.List(
            [ResolutionDiscriminator(*resolution, cfg.width, rngs=rngs) for resolution in cfg.resolutions]
        )

    def __call__(self, wave: Float[AnyArray, "b t"]) -> list[Layers]:
        return [discriminator(wave) for discriminator in (*self.periods, *self.resolutions)]


class PeriodDiscriminator(nnx.Module):
    """Sees samples k, k + period, k + 2 period … as a sequence, for every k < period with the same weights."""

    def __init__(self, period: int, width: int, *, rngs: nnx.Rngs):
        self.period = period
        widths = [1, width, 4 * width, 16 * width, 32 * width, 32 * width]
        strides = (3, 3, 3, 3, 1)
        self.layers = nnx.List(
            [Conv(i, o, (5,), (s,), rngs=rngs) for (i, o), s in zip(pairwise(widths), strides, strict=True)]
        )
        self.out = Conv(widths[-1], 1, (3,), (1,), rngs=rngs)

    def __call__(self, wave: Float[AnyArray, "b t"]) -> Layers:
        """Maps [b · period, n, c]; n is t / period rounded up (the wave's end is reflected), then thirds of it."""
        wave = jnp.pad(wave, ((0, 0), (0, -wave.shape[1] % self.period)), mode="reflect")
        sequences = wave.reshape(len(wave), -1, self.period).transpose(0, 2, 1)
        return _said(sequences.reshape(-1, sequences.shape[-1], 1), self.layers, self.out)


class ResolutionDiscriminator(nnx.Module):
    """Sees the magnitudes of a short-time spectrum as a picture [b frame bin 1]."""

    def __init__(self, n_fft: int, hop: int, window: int, width: int, *, rngs: nnx.Rngs):
        self.grid = n_fft, hop, window
        shapes = [((9, 3), (1, 1)), ((9, 3), (2, 1)), ((9, 3), (2, 1)), ((9, 3), (2, 1)), ((3, 3), (1, 1))]
        inputs = [1] + [width] * (len(shapes) - 1)
        self.layers = nnx.List([Conv(i, width, *shape, rngs=rngs) for i, shape in zip(inputs, shapes, strict=True)])
        self.out = Conv(width, 1, (3, 3), (1, 1), rngs=rngs)

    def __call__(self, wave: Float[AnyArray, "b t"]) -> Layers:
        """Maps [b, frames, n_fft / 2 + 1, c]; frames are halved three times."""
        return _said(magnitudes(wave, *self.grid)[..., None], self.layers, self.out)


def magnitudes(wave: Float[AnyArray, "b t"], n_fft: int, hop: int, window: int) -> Float[Array, "b f k"]:
    """|spectrum| of t // hop frames of `window` samples each, none of them weighted; n_fft // 2 + 1 bins.

    The wave is reflected so that frame i is centred on the middle of samples [i · hop, (i + 1) · hop). No hop has to
    divide anything, unlike in `dsp.stft`.

    Raises:
      ValueError: a wave shorter than its reflection needs.
    """
    reach = (n_fft - hop) // 2
    if wave.shape[1] <= reach or wave.shape[1] < hop:
        raise ValueError(
            f"wave: got {wave.shape[1]} samples, expected more than {max(reach, hop)} for n_fft {n_fft}, hop {hop}; "
            "train on longer crops"
        )
    before = reach - (n_fft - window) // 2
    padded = jnp.pad(wave, ((0, 0), (before, window - hop - before)), mode="reflect")
    # Zeros behind the frame instead of around it: only the phase differs.
    return dsp.magnitude(dsp.spectrum(padded, n_fft, hop, np.ones(window, np.float32)))


class Conv(WeightNorm):
    """Weight-normed convolution over one or two axes, 'same' zero padding before the stride."""

    def __init__(self, inputs: int, outputs: int, taps: tuple[int, ...], strides: tuple[int, ...], *, rngs: nnx.Rngs):
        super().__init__((math.prod(taps), inputs, outputs), outputs, rngs=rngs)
        self.taps, self.strides = taps, strides

    def __call__(self, x: Float[Array, "b *n i"]) -> Float[Array, "b *m o"]:
        kernel = self.kernel()
        axes = ("NHWC", "HWIO", "NHWC") if len(self.taps) == 2 else ("NWC", "WIO", "NWC")
        x = jax.lax.conv_general_dilated(
            x,
            kernel.reshape(*self.taps, *kernel.shape[1:]),
            self.strides,
            [(tap // 2, tap // 2) for tap in self.taps],
            dimension_numbers=axes,
        )
        return x + self.bias[...].reshape((1,) * (x.ndim - 1) + (-1,))


def _said(x: Array, layers: Sequence[Conv], out: Conv) -> Layers:
    said = []
    for layer in layers:
        x = jax.nn.leaky_relu(layer(x), _SLOPE)
        said.append(x)
    return [*said, out(x)]
