"""Log-mel to waveform: a light vocoder with an inverse-STFT head, fast on a CPU.

Backbone after Vocos (Siuzdak, arXiv 2306.00814): ConvNeXt blocks at the frame rate. The head differs. A
convolutional net cannot place the phase of a steady tone: equal frames in give equal frames out, and those repeat
with the hop. So the net predicts how phase *moves*, and a recursion over frames makes it:

    u_t = unit(u_{t-1} · exp(i advance_t) + onset_t · exp(i delay_t) + noise_t · ξ_t)

per bin: tones carry their phase over by their own frequency (`advance`), an onset resets the bins it reaches to the
straight phase of a click (`delay`, in samples, summed along frequency), and noise blurs it.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from kfjax import layers, module
from kfjax.codec.mel import istft


@dataclass(frozen=True)
class VocoderConfig:
    """Sizes of the vocoder. `bands`, `n_fft`, `hop` and `sample_rate_hz` are those of the (natural-log) mel."""

    kind: Literal["istft"] = "istft"
    bands: int = 128
    width: int = 256
    hidden: int = 768
    depth: int = 6
    n_fft: int = 2048
    hop: int = 512
    sample_rate_hz: int = 44100
    floor: float = 1e-5


class Spectrum(NamedTuple):
    """What the head says about every frame and bin; training also supervises the phase's slopes directly."""

    magnitude: Array  # [b f k], 0 where the mel is at its floor
    advance: Array  # [b f k], radians a frame beyond the bin's own centre frequency
    delay: Array  # [b f k], samples: where in the frame an onset lies, from the frame's middle
    onset: Array  # [b f k], how strongly the click's phase replaces the carried phase
    noise: Array  # [b f k], how strongly the phase is blurred


class Block(nnx.Module):
    """ConvNeXt block in one dimension: depthwise k7, LayerNorm, GELU MLP, layer scale, residual."""

    def __init__(self, cfg: VocoderConfig, *, rngs: nnx.Rngs):
        self.mix = nnx.Conv(cfg.width, cfg.width, (7,), feature_group_count=cfg.width, padding="SAME", rngs=rngs)
        self.up = layers.linear(cfg.width, cfg.hidden, rngs)
        self.down = layers.linear(cfg.hidden, cfg.width, rngs)
        self.scale = nnx.Param(jnp.full((cfg.width,), 1.0 / cfg.depth))

    def __call__(self, x: Float[Array, "b f h"]) -> Float[Array, "b f h"]:
        y = self.up(layers.layer_norm(_depthwise(x, self.mix)))
        return x + self.scale[...][None, None] * self.down(jax.nn.gelu(y))


class Vocoder(nnx.Module):
    """log_mel [b f m] -> wave [b f * hop]. Deterministic: its noise comes from a fixed key unless one is given."""

    def __init__(self, cfg: VocoderConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        bins = cfg.n_fft // 2 + 1
        self.embed = layers.conv(cfg.bands, cfg.width, 7, rngs)
        self.blocks = module.stack(lambda r: Block(cfg, rngs=r), cfg.depth, rngs)
        self.fine = layers.linear(cfg.width, 2 * bins, rngs, zero=True)  # per bin: magnitude, advance
        self.coarse = layers.linear(cfg.width, 3 * cfg.bands, rngs, zero=True)  # per band: delay, onset, noise

    def __call__(self, log_mel: Float[Array, "b f m"], *, key: Array | None = None) -> Float[Array, "b t"]:
        """The waveform of a natural-log mel.

        Args:
          log_mel: as `mel.log_mel` makes it. Frames at the floor in every band come out silent.
          key: draws the phase noise; the same fixed key when not given.
        """
        return self.waveform(self.spectrum(log_mel), key=key)

    def spectrum(self, log_mel: Float[Array, "b f m"]) -> Spectrum:
        """Magnitudes and the movement of phase for every frame and bin, before any of it is put together."""
        dtype = self.embed.kernel[...].dtype
        x = self.embed((0.25 * log_mel + 1.5).astype(dtype))
        x = layers.layer_norm(module.scan_blocks(self.blocks, x, lambda block, x: block(x)))
        correction, advance = jnp.split(self.fine(x).astype(jnp.float32), 2, -1)
        upsample = band_to_bin(self.cfg.bands, self.cfg.n_fft, self.cfg.sample_rate_hz)
        delay, onset, noise = (y @ upsample for y in jnp.split(self.coarse(x).astype(jnp.float32), 3, -1))
        return Spectrum(
            magnitude=self._smooth_magnitude(log_mel.astype(jnp.float32)) * jnp.exp(correction),
            advance=advance,
            delay=self.cfg.n_fft / 4 * delay,
            onset=jnp.exp(onset - 2),
            noise=jnp.exp(noise - 2),
        )

    def waveform(self, spectrum: Spectrum, *, key: Array | None = None) -> Float[Array, "b t"]:
        """Phases by recursion over frames, then the inverse STFT: exactly f * hop samples."""
        phasor = self._phasor(spectrum, jax.random.key(0) if key is None else key)
        return istft(spectrum.magnitude * phasor, self.cfg.n_fft, self.cfg.hop)

    def _smooth_magnitude(self, log_mel: Float[Array, "b f m"]) -> Float[Array, "b f k"]:
        """The mel spread back over the bins, less its floor: the right level for sounds never trained on."""
        # Slaney filters have unit area in hertz, so a flat spectrum of magnitude 1 has a mel of 1 / bin width.
        bin_hz = self.cfg.sample_rate_hz / self.cfg.n_fft
        floor = jnp.full((1, 1, self.cfg.bands), np.log(self.cfg.floor), jnp.float32)
        upsample = band_to_bin(self.cfg.bands, self.cfg.n_fft, self.cfg.sample_rate_hz)
        return bin_hz * jax.nn.relu(jnp.exp(log_mel @ upsample) - jnp.exp(floor @ upsample))

    def _phasor(self, spectrum: Spectrum, key: Array) -> Array:
        n_fft, hop = self.cfg.n_fft, self.cfg.hop
        bins = np.arange(n_fft // 2 + 1)
        # Integer arithmetic before the float: bin * hop is exact, and its sine too.
        carry = jnp.exp(1j * (np.float32(2 * np.pi / n_fft) * (bins * hop % n_fft)[None, None] + spectrum.advance))
        # Phase is counted from the frame's first sample, half a window before its middle: hence (-1)^k.
        click = np.float32(1 - 2 * (bins % 2))[None, None] * jnp.exp(-2j * np.pi / n_fft * jnp.cumsum(spectrum.delay, -1))
        noise = jax.random.normal(key, (*spectrum.noise.shape, 2))
        push = spectrum.onset * click + spectrum.noise * jax.lax.complex(noise[..., 0], noise[..., 1])

        def step(unit, frame):
            z = unit * frame[0] + frame[1]
            unit = z * jax.lax.rsqrt(jnp.square(z.real) + jnp.square(z.imag) + 1e-4)
            # No gradient through time: a long product of rotations is chaotic and drowns everything else.
            return jax.lax.stop_gradient(unit), unit

        start = jnp.zeros_like(push[:, 0])
        frames = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (carry, push))
        return jnp.moveaxis(jax.lax.scan(step, start, frames)[1], 0, 1)


@lru_cache(maxsize=16)
def band_to_bin(bands: int, n_fft: int, sample_rate_hz: int) -> np.ndarray:
    """Linear interpolation from mel bands (at their centre frequencies) to STFT bins, float32 [m k]."""
    top_hz = sample_rate_hz / 2
    centres = _slaney_hz(np.linspace(0, _slaney_mel(top_hz), bands + 2)[1:-1])
    bins_hz = np.linspace(0, top_hz, n_fft // 2 + 1)
    return np.stack([np.interp(bins_hz, centres, row) for row in np.eye(bands)]).astype(np.float32)


def _slaney_mel(hz: float) -> float:
    return hz / (200 / 3) if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def _depthwise(x: Float[Array, "b f h"], conv: nnx.Conv) -> Float[Array, "b f h"]:
    """A depthwise convolution as a sum of shifted products: XLA's grouped convolution is many times slower on a CPU."""
    kernel = conv.kernel[...]  # [7 1 h]
    taps, frames = kernel.shape[0], x.shape[1]
    padded = jnp.pad(x, ((0, 0), (taps // 2, taps // 2), (0, 0)))
    return sum(padded[:, i : i + frames] * kernel[i][None] for i in range(taps)) + conv.bias[...][None, None]
