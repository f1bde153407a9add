"""Short-time spectra and mel filters: everything that listens, measures or makes a waveform uses these.

wave = istft(stft(wave, 2048, 512), 2048, 512)       # [b t], t a multiple of the hop
mel = magnitude(stft(wave, 2048, 512)) @ mel_filters(128, 2048, 44100)
"""

from __future__ import annotations

from functools import lru_cache, reduce
from operator import add
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

# The Slaney scale: linear to 1 kHz, 3 bands of 200 Hz, then 27 steps to every factor of 6.4.
_LINEAR_HZ, _KNEE_HZ = 200 / 3, 1000.0
_KNEE, _STEP = _KNEE_HZ / _LINEAR_HZ, np.log(6.4) / 27


def hann(n_fft: int) -> np.ndarray:
    """Periodic Hann window, float32 [n_fft]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def frames(wave: Float[Array, "b t"], size: int, hop: int) -> Float[Array, "b f size"]:
    """The (t - size) // hop + 1 whole frames of `size` samples, one every `hop`."""
    count, blocks = (wave.shape[1] - size) // hop + 1, -(-size // hop)
    length = (count + blocks - 1) * hop
    if length > wave.shape[1]:
        wave = jnp.pad(wave, ((0, 0), (0, length - wave.shape[1])))
    # A frame is `blocks` neighbouring blocks, the last one cut: slices instead of a gather are cheap on a CPU.
    wave = wave[:, :length].reshape(len(wave), -1, hop)
    return jnp.concatenate([wave[:, i : i + count] for i in range(blocks)], -1)[..., :size]


def spectrum(wave: Float[Array, "b t"], n_fft: int, hop: int, window: np.ndarray) -> Complex[Array, "b f k"]:
    """Spectra of n_fft // 2 + 1 bins of the whole frames under `window`, which may be shorter than n_fft."""
    return jnp.fft.rfft(frames(wave, len(window), hop) * window[None, None], n_fft)


def stft(wave: Float[Array, "b t"], n_fft: int, hop: int) -> Complex[Array, "b f k"]:
    """Short-time spectrum of t // hop frames and n_fft // 2 + 1 bins under a Hann window, in float32.

    The wave is reflected by (n_fft - hop) / 2 samples on both sides, so frame i is centred on the middle of
    samples [i * hop, (i + 1) * hop).

    Raises:
      ValueError: n_fft is not a multiple of hop, or the wave is shorter than one hop or than its own padding.
    """
    pad = padding(n_fft, hop)
    length = wave.shape[-1]
    if length < max(hop, pad + 1):
        raise ValueError(
            f"wave: got {length} samples, expected at least {max(hop, pad + 1)}; pad the wave with silence"
        )
    return spectrum(jnp.pad(wave.astype(jnp.float32), ((0, 0), (pad, pad)), mode="reflect"), n_fft, hop, hann(n_fft))


def istft(spec: Complex[Array, "b f k"], n_fft: int, hop: int) -> Float[Array, "b t"]:
    """The inverse of `stft`: f frames -> f * hop samples, by overlap-add over the summed squared window.

    A spectrum that no wave has (a vocoder's) gives the wave whose windowed frames are nearest to it.

    Raises:
      ValueError: n_fft is not a multiple of hop, or the bins are not n_fft // 2 + 1.
    """
    pad = padding(n_fft, hop)
    if spec.shape[-1] != n_fft // 2 + 1:
        raise ValueError(
            f"spectrum: got {spec.shape[-1]} bins, expected {n_fft // 2 + 1} for n_fft {n_fft}; "
            "pass the n_fft that it was made with"
        )
    window = hann(n_fft)
    framed = jnp.fft.irfft(spec, n_fft) * window[None, None]
    power = jnp.broadcast_to(jnp.square(window)[None, None], (1, *framed.shape[1:]))
    keep = slice(pad, pad + framed.shape[1] * hop)
    return _overlap_add(framed, hop)[:, keep] / _overlap_add(power, hop)[:, keep]


def padding(n_fft: int, hop: int) -> int:
    """Samples by which `stft` reflects a wave. Raises ValueError for sizes whose `istft` is not exact."""
    if hop < 1 or n_fft % hop or (n_fft - hop) % 2:
        raise ValueError(
            f"spectrum: got n_fft {n_fft} and hop {hop}, expected n_fft a multiple of hop, n_fft - hop even; "
            "choose powers of two, such as 2048 and 512"
        )
    return (n_fft - hop) // 2


def _overlap_add(framed: Float[Array, "b f w"], hop: int) -> Float[Array, "b t"]:
    batch, count, n_fft = framed.shape
    overlap = n_fft // hop
    blocks = framed.reshape(batch, count, overlap, hop)
    # Block j of frame i lands on block i + j of the wave.
    shifted = [jnp.pad(blocks[:, :, j], ((0, 0), (j, overlap - 1 - j), (0, 0))) for j in range(overlap)]
    return reduce(add, shifted).reshape(batch, -1)


def power(spec: Complex[Array, "*b k"]) -> Float[Array, "*b k"]:
    """Squared magnitudes."""
    return jnp.square(spec.real) + jnp.square(spec.imag)


def magnitude(spec: Complex[Array, "*b k"]) -> Float[Array, "*b k"]:
    """sqrt(power + 1e-9): a finite gradient in silence, below what the last of 16 bits makes."""
    return jnp.sqrt(power(spec) + 1e-9)


def magnitudes(
    wave: Float[np.ndarray, "*b t"], window: int, hop: int, mode: Literal["constant", "reflect"] = "constant"
) -> Float[np.ndarray, "*b f k"]:
    """In numpy and in the wave's own precision: magnitudes under a symmetric Hann window.

    Frame i is centred on sample i * hop; beyond the ends there is silence, or with "reflect" the wave's mirror image.
    """
    sides = [(0, 0)] * (wave.ndim - 1) + [(window // 2, window // 2)]
    framed = np.lib.stride_tricks.sliding_window_view(np.pad(wave, sides, mode=mode), window, axis=-1)[..., ::hop, :]
    return np.abs(np.fft.rfft(framed * np.hanning(window).astype(wave.dtype), axis=-1))


@lru_cache(maxsize=32)
def mel_filters(
    bands: int,
    n_fft: int,
    sample_rate_hz: int,
    low_hz: float = 0.0,
    high_hz: float | None = None,
    *,
    scale: Literal["slaney", "htk"] = "slaney",
    unit: Literal["area", "height"] = "area",
    straight: Literal["hz", "mel"] = "hz",
    dtype: type = np.float32,
) -> np.ndarray:
    """Triangular filters whose corners are evenly spaced on a mel scale, [k m]: mel = magnitude @ filters.

    Args:
      low_hz, high_hz: outer corners of the first and the last filter; None is half the sample rate.
      unit: what is 1 of every filter, its area in Hz or its height.
      straight: the axis along which a triangle's sides are straight.
    """
    corners = _corners(bands, sample_rate_hz, low_hz, high_hz, scale)
    at = np.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1)[:, None]
    if straight == "mel":
        at, corners = mels(at, scale), mels(corners, scale)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    triangles = np.maximum(0, np.minimum((at - low) / (centre - low), (high - at) / (high - centre)))
    return (triangles * (2 / (high - low)) if unit == "area" else triangles).astype(dtype)


@lru_cache(maxsize=16)
def mel_to_bins(bands: int, n_fft: int, sample_rate_hz: int) -> np.ndarray:
    """Linear interpolation from the centres of Slaney bands to the bins, ends held, float32 [m k]."""
    centres = _corners(bands, sample_rate_hz, 0.0, None, "slaney")[1:-1]
    bins_hz = np.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1)
    return np.stack([np.interp(bins_hz, centres, row) for row in np.eye(bands)]).astype(np.float32)


def _corners(bands: int, sample_rate_hz: int, low_hz: float, high_hz: float | None, scale: str) -> np.ndarray:
    """In Hz: band i reaches from corner i to corner i + 2, with its centre at corner i + 1."""
    ends = np.array([low_hz, sample_rate_hz / 2 if high_hz is None else high_hz])
    low, high = mels(ends, scale)
    at = np.linspace(low, high, bands + 2)
    if scale == "htk":
        return 700 * np.expm1(at / 1127)
    return np.where(at < _KNEE, at * _LINEAR_HZ, _KNEE_HZ * np.exp((at - _KNEE) * _STEP))


def mels(hz: np.ndarray, scale: str = "slaney") -> np.ndarray:
    """Frequencies in mels, on Slaney's scale or on HTK's ("htk")."""
    if scale == "htk":
        return 1127 * np.log1p(hz / 700)
    above = _KNEE + np.log(np.maximum(hz, _KNEE_HZ) / _KNEE_HZ) / _STEP
    return np.where(hz < _KNEE_HZ, hz / _LINEAR_HZ, above)
