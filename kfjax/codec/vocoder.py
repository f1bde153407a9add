"""Log-mel to waveform: a light vocoder with an inverse-STFT head, fast on a CPU.

Backbone after Vocos (Siuzdak, arXiv 2306.00814): ConvNeXt blocks at the frame rate. Vocos also lets the net predict
phase, which takes an adversary and weeks to learn. Here the net says how loud every bin is, at three resolutions of
time and frequency, and the phases are computed:

1. start: phase moves along time and frequency as the slopes of the log-magnitude say (phase-gradient integration,
   Pruša, Balazs, Søndergaard 2017), every bin following its louder neighbours;
2. rounds: the wave is brought to the magnitudes of each resolution in turn (Griffin and Lim 1984);
3. end: the wave's own bands are scaled until its mel is the input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, reduce
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Complex, Float

from kfjax import dsp
from kfjax.codec.configs import RATIOS, VocoderConfig
from kfjax.codec.pieces import Overlap
from kfjax.dsp import istft, stft
from kfjax.nn import layers, module

#: A Hann window of n samples is nearest to the Gaussian exp(-pi t² / (0.25645 n²)), where phase gradients are exact.
_HANN_AS_GAUSSIAN = 0.25645


class Block(nnx.Module):
    """ConvNeXt block in one dimension: depthwise k7, LayerNorm, GELU MLP, layer scale, residual."""

    def __init__(self, cfg: VocoderConfig, *, rngs: nnx.Rngs):
        self.mix = nnx.Conv(cfg.width, cfg.width, (7,), feature_group_count=cfg.width, padding="SAME", rngs=rngs)
        self.up = layers.linear(cfg.width, cfg.hidden, rngs)
        self.down = layers.linear(cfg.hidden, cfg.width, rngs)
        self.scale = nnx.Param(jnp.full((cfg.width,), 1.0 / cfg.depth, jnp.float32))

    def __call__(self, x: Float[Array, "b f h"]) -> Float[Array, "b f h"]:
        y = self.up(layers.layer_norm(_depthwise(x, self.mix)))
        return x + self.scale[...][None, None] * self.down(jax.nn.gelu(y))


class Vocoder(nnx.Module):
    """log_mel [b f m] -> wave [b f * hop]. Deterministic: equal mels make equal waves."""

    def __init__(self, cfg: VocoderConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self._bands = (cfg.bands, cfg.n_fft, cfg.sample_rate_hz)
        self.embed = layers.conv(cfg.bands, cfg.width, 7, rngs)
        self.blocks = module.stack(lambda r: Block(cfg, rngs=r), cfg.depth, rngs)
        self.heads = nnx.List(
            [layers.linear(cfg.width, r * (cfg.n_fft // r // 2 + 1), rngs, zero=True) for r in RATIOS]
        )

    def __call__(self, log_mel: Float[Array, "b f m"], overlap: Overlap | None = None) -> Float[Array, "b t"]:
        """The waveform of a natural-log mel, as `mel.log_mel` makes it; silent where all bands are at the floor.

        Args:
          overlap: of a mono piece [b t]; what is known stays, and the phases behind it go on from it.
        """
        return self.waveform(self.magnitudes(log_mel), log_mel.astype(jnp.float32), overlap)

    def magnitudes(self, log_mel: Float[Array, "b f m"]) -> tuple[Float[Array, "b _f _k"], ...]:
        """STFT magnitudes on each of `cfg.grids`, float32: r frames of n_fft / r / 2 + 1 bins for every mel frame.

        The net's part is a factor on what the mel itself says, which is right in level for any sound at any gain.
        """
        cfg = self.cfg
        x = self.embed((0.25 * log_mel + 1.5).astype(self.embed.kernel[...].dtype))
        x = layers.layer_norm(module.scan_blocks(self.blocks, x, lambda block, x: block(x)))
        log_mel = log_mel.astype(jnp.float32)
        factors = [
            jnp.exp(head(x).astype(jnp.float32)).reshape(len(x), r * x.shape[1], -1)
            for r, head in zip(RATIOS, self.heads, strict=True)
        ]
        coarse = self._match(self._smooth(log_mel) * factors[0], log_mel)
        finer = [_finer(coarse, r, cfg.n_fft) * factor for r, factor in zip(RATIOS[1:], factors[1:], strict=True)]
        return coarse, *finer

    def waveform(
        self,
        magnitudes: tuple[Float[Array, "b _f _k"], ...],
        log_mel: Float[Array, "b f m"],
        overlap: Overlap | None = None,
    ) -> Float[Array, "b t"]:
        """A wave of f * hop samples with these magnitudes and this mel, as nearly as there is one; see `__call__`."""
        cfg = self.cfg
        hold = (lambda wave: wave) if overlap is None else (lambda wave: jnp.asarray(overlap.into(wave)))
        known = None if overlap is None else _known_phasors(overlap, cfg.n_fft, cfg.hop)

        def round(wave):
            for magnitude, (n_fft, hop) in reversed(list(zip(magnitudes, cfg.grids, strict=True))):
                wave = istft(magnitude * _unit(stft(wave, n_fft, hop)), n_fft, hop)
            return hold(wave)

        def match(wave):
            spec = stft(wave, cfg.n_fft, cfg.hop)
            return hold(istft(spec * self._gain(jnp.abs(spec), log_mel), cfg.n_fft, cfg.hop))

        wave = hold(istft(magnitudes[0] * start_phasor(magnitudes[0], cfg.n_fft, cfg.hop, known), cfg.n_fft, cfg.hop))
        wave = _accelerated(round, wave, cfg.rounds, momentum=0.9)
        return _accelerated(match, wave, cfg.matches, momentum=0.85)

    def _smooth(self, log_mel: Float[Array, "b f m"]) -> Float[Array, "b f k"]:
        """The mel spread over the bins, less its floor."""
        # Slaney filters have unit area in hertz, so a flat spectrum of magnitude 1 has a mel of 1 / bin width.
        bin_hz = self.cfg.sample_rate_hz / self.cfg.n_fft
        floor = jnp.full((1, 1, self.cfg.bands), np.log(self.cfg.floor), jnp.float32)
        upsample = dsp.mel_to_bins(*self._bands)
        return bin_hz * jax.nn.relu(jnp.exp(log_mel @ upsample) - jnp.exp(floor @ upsample))

    def _match(self, magnitude: Float[Array, "b f k"], log_mel: Float[Array, "b f m"]) -> Float[Array, "b f k"]:
        """Magnitudes whose mel is the input's: the net decides only what a mel leaves open."""
        for _ in range(3):
            magnitude = magnitude * self._gain(magnitude, log_mel)
        return magnitude

    def _gain(self, magnitude: Float[Array, "b f k"], log_mel: Float[Array, "b f m"]) -> Float[Array, "b f k"]:
        """What brings a spectrum's mel towards `log_mel`, at most by e³ at once."""
        mel = jnp.maximum(magnitude @ dsp.mel_filters(*self._bands), self.cfg.floor)
        return jnp.exp(jnp.clip(log_mel - jnp.log(mel), -3, 3) @ dsp.mel_to_bins(*self._bands))


def _known_phasors(overlap: Overlap, n_fft: int, hop: int) -> tuple[Complex[Array, "b f k"], Bool[Array, "1 f 1"]]:
    """Phasors of the known waveform, and which frames lie in it whole."""
    phasors, weight = _unit(stft(jnp.asarray(overlap.wave), n_fft, hop)), jnp.asarray(overlap.weight)
    last = np.arange(1, phasors.shape[1] + 1) * hop + dsp.padding(n_fft, hop) - 1
    return phasors, (weight[np.minimum(last, len(weight) - 1)] > 0)[None, :, None]


def start_phasor(
    magnitude: Float[Array, "b f k"],
    n_fft: int,
    hop: int,
    known: tuple[Complex[Array, "b f k"], Bool[Array, "1 f 1"]] | None = None,
) -> Complex[Array, "b f k"]:
    """Unit phasors that fit the slopes of these magnitudes, frame after frame.

    A bin follows itself in the frame before and its two neighbours in its own frame, each in proportion to its
    magnitude: so a tone keeps its own frequency, whatever the hop.

    Args:
      known: phasors, and which frames have these.
    """
    gamma = _HANN_AS_GAUSSIAN * n_fft**2
    log = jnp.log(magnitude + 1e-7)
    along_bins = jnp.pad((log[..., 2:] - log[..., :-2]) / 2, ((0, 0), (0, 0), (1, 1)))
    along_time = jnp.pad((log[:, 2:] - log[:, :-2]) / 2, ((0, 0), (1, 1), (0, 0)))
    # Bin * hop is taken modulo the window in integers: exact, and so is its sine.
    bins = np.arange(n_fft // 2 + 1)
    centre = (np.float32(2 * np.pi / n_fft) * (bins * hop % n_fft)).astype(np.float32)
    advance = jnp.exp(1j * (centre[None, None] + hop * n_fft / gamma * along_bins))
    delay = jnp.clip(gamma / (2 * np.pi * hop) * along_time, -n_fft / 2, n_fft / 2)
    # Phase counts from the frame's first sample, half a window before its middle: hence the sign between two bins.
    slope = -jnp.exp(-2j * np.pi / n_fft * delay)
    noise = jax.random.normal(jax.random.key(0), (1, *magnitude.shape[1:], 2), jnp.float32)
    # What nothing leads to begins anywhere; one draw for the whole batch keeps equal mels equal.
    anywhere = 1e-3 * magnitude * jax.lax.complex(noise[..., 0], noise[..., 1])

    def step(last, frame):
        now, advance, slope, anywhere, *known = frame
        carried = last * advance + anywhere
        unit = _unit(carried)
        for _ in range(3):
            spoken = now * unit
            from_below = jnp.pad(spoken[:, :-1] * slope[:, 1:], ((0, 0), (1, 0)))
            from_above = jnp.pad(spoken[:, 1:] * jnp.conj(slope[:, 1:]), ((0, 0), (0, 1)))
            unit = _unit(carried + from_below + from_above)
        if known:
            unit = jnp.where(known[1], known[0], unit)
        return now * unit, unit

    frames = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (magnitude, advance, slope, anywhere, *(known or ())))
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(anywhere[:, 0] + slope[:, 0]), frames)[1], 0, 1)


def _accelerated(
    step: Callable[[Array], Array], wave: Float[Array, "b t"], count: int, *, momentum: float
) -> Float[Array, "b t"]:
    """`count` steps, each taken from a point ahead in the direction of the last (as in fast Griffin-Lim)."""

    def body(carry, _):
        now, before = carry
        return (step(now + momentum * (now - before)), now), None

    return jax.lax.scan(body, (wave, wave), length=count)[0][0]


def _finer(magnitude: Float[Array, "b f k"], ratio: int, n_fft: int) -> Float[Array, "b rf j"]:
    """What a window `ratio` times shorter would measure: power spread over its wider bins, interpolated in time."""
    power = jnp.square(magnitude) @ _spread(n_fft, ratio) + 1e-12
    frames = magnitude.shape[1]
    at = np.clip((np.arange(frames * ratio) + 0.5) / ratio - 0.5, 0, frames - 1)
    before = np.floor(at).astype(np.int32)
    after = np.minimum(before + 1, frames - 1)
    part = (at - before).astype(np.float32)[None, :, None]
    log = jnp.log(power)
    return jnp.exp(0.5 * ((1 - part) * log[:, before] + part * log[:, after]))


@lru_cache(maxsize=16)
def _spread(n_fft: int, ratio: int) -> np.ndarray:
    """Power in the bins of a Hann window of n_fft to power in those of one `ratio` times shorter, float32 [k j].

    Exact for a tone, whose lobe is summed and drawn wider, and in the mean for noise.
    """
    hann = lambda n: 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    wide = np.abs(np.fft.fft(hann(n_fft // ratio), n_fft)) ** 2
    narrow = np.abs(np.fft.fft(hann(n_fft))) ** 2
    apart = ratio * np.arange(n_fft // ratio // 2 + 1)[None] - np.arange(n_fft // 2 + 1)[:, None]
    return (wide[apart % n_fft] / narrow.sum()).astype(np.float32)


def _unit(z: Complex[Array, "*b k"]) -> Complex[Array, "*b k"]:
    return z * jax.lax.rsqrt(jnp.square(z.real) + jnp.square(z.imag) + 1e-20)


def _depthwise(x: Float[Array, "b f h"], conv: nnx.Conv) -> Float[Array, "b f h"]:
    """A depthwise convolution as shifted products: XLA's grouped convolution is many times slower on a CPU."""
    kernel = conv.kernel[...]  # [7 1 h]
    taps, frames = kernel.shape[0], x.shape[1]
    padded = jnp.pad(x, ((0, 0), (taps // 2, taps // 2), (0, 0)))
    y = reduce(add, [padded[:, i : i + frames] * kernel[i][None] for i in range(taps)])
    return y if conv.bias is None else y + conv.bias[...][None, None]
