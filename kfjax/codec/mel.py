"""Waveform <-> short-time spectrum -> log-mel, laid out so that f frames stand for exactly f * hop samples.

The default is the input of BigVGAN-v2 44 kHz 128-band 512x: magnitudes, Slaney bands, natural logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float


@dataclass(frozen=True)
class MelConfig:
    """What a log-mel is. `floor` is the smallest magnitude that the logarithm sees."""

    sample_rate_hz: int = 44100
    n_fft: int = 2048
    hop: int = 512
    bands: int = 128
    fmin_hz: float = 0.0
    fmax_hz: float = 22050.0
    log: Literal["natural", "log10"] = "natural"
    floor: float = 1e-5

    def __post_init__(self):
        _padding(self.n_fft, self.hop)
        if not 0 <= self.fmin_hz < self.fmax_hz <= self.sample_rate_hz / 2:
            raise ValueError(
                f"mel range: got {self.fmin_hz:g} to {self.fmax_hz:g} Hz, expected 0 <= fmin < fmax <= "
                f"{self.sample_rate_hz / 2:g} Hz; lower fmax_hz or raise sample_rate_hz"
            )


def hann(n_fft: int) -> np.ndarray:
    """Periodic Hann window, float32 [n_fft]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def stft(
    wave: Float[Array, "b t"], n_fft: int, hop: int, window: Float[Array, " w"] | None = None
) -> Complex[Array, "b f k"]:
    """Short-time spectrum of t // hop frames and n_fft // 2 + 1 bins, in float32.

    The wave is reflected by (n_fft - hop) / 2 samples on both sides, so frame i is centred on the middle of
    samples [i * hop, (i + 1) * hop). `window` [n_fft] defaults to the periodic Hann window.

    Raises:
      ValueError: n_fft is not a multiple of hop, or the wave is shorter than one hop or than its own padding.
    """
    pad = _padding(n_fft, hop)
    length = wave.shape[-1]
    if length < max(hop, pad + 1):
        raise ValueError(
            f"wave: got {length} samples, expected at least {max(hop, pad + 1)}; pad the wave with silence"
        )
    window = hann(n_fft) if window is None else window
    padded = jnp.pad(wave.astype(jnp.float32), ((0, 0), (pad, pad)), mode="reflect")
    frames, overlap = length // hop, n_fft // hop
    # A frame is `overlap` neighbouring blocks: slices instead of a gather keep this cheap on a CPU.
    blocks = padded[:, : (frames + overlap - 1) * hop].reshape(-1, frames + overlap - 1, hop)
    framed = jnp.concatenate([blocks[:, i : i + frames] for i in range(overlap)], -1)
    return jnp.fft.rfft(framed * window[None, None])


def istft(
    spec: Complex[Array, "b f k"], n_fft: int, hop: int, window: Float[Array, " w"] | None = None
) -> Float[Array, "b t"]:
    """The inverse of `stft`: f frames -> f * hop samples, by overlap-add over the summed squared window.

    A spectrum that no wave has (a vocoder's) gives the wave whose windowed frames are nearest to it.

    Raises:
      ValueError: n_fft is not a multiple of hop, or the bins are not n_fft // 2 + 1.
    """
    pad = _padding(n_fft, hop)
    if spec.shape[-1] != n_fft // 2 + 1:
        raise ValueError(
            f"spectrum: got {spec.shape[-1]} bins, expected {n_fft // 2 + 1} for n_fft {n_fft}; "
            "pass the n_fft that it was made with"
        )
    window = hann(n_fft) if window is None else window
    frames = jnp.fft.irfft(spec, n_fft) * window[None, None]
    power = jnp.broadcast_to(jnp.square(window)[None, None], (1, *frames.shape[1:]))
    keep = slice(pad, pad + frames.shape[1] * hop)
    return _overlap_add(frames, hop)[:, keep] / _overlap_add(power, hop)[:, keep]


def mel_basis(cfg: MelConfig) -> np.ndarray:
    """Slaney mel filters (Slaney frequency scale, unit area), float32 [bins, bands]."""
    return _mel_basis(cfg.sample_rate_hz, cfg.n_fft, cfg.bands, cfg.fmin_hz, cfg.fmax_hz)


def log_mel(wave: Float[Array, "b t"], cfg: MelConfig) -> Float[Array, "b f m"]:
    """Log-mel of a wave in [-1, 1] (clipped to it): t // hop frames, `bands` channels.

    log(max(mel(|STFT|), floor)); the magnitude sqrt(re² + im² + 1e-9) has a finite gradient in silence.

    Raises:
      ValueError: the wave is too short (see `stft`).
    """
    spec = stft(jnp.clip(wave, -1.0, 1.0), cfg.n_fft, cfg.hop)
    magnitude = jnp.sqrt(jnp.square(spec.real) + jnp.square(spec.imag) + 1e-9)
    mel = jnp.maximum(magnitude @ mel_basis(cfg), cfg.floor)
    return jnp.log(mel) if cfg.log == "natural" else jnp.log10(mel)


def _padding(n_fft: int, hop: int) -> int:
    if hop < 1 or n_fft % hop or (n_fft - hop) % 2:
        raise ValueError(
            f"spectrum: got n_fft {n_fft} and hop {hop}, expected n_fft a multiple of hop, n_fft - hop even; "
            "choose powers of two, such as 2048 and 512"
        )
    return (n_fft - hop) // 2


def _overlap_add(frames: Float[Array, "b f w"], hop: int) -> Float[Array, "b t"]:
    batch, count, n_fft = frames.shape
    overlap = n_fft // hop
    blocks = frames.reshape(batch, count, overlap, hop)
    # Block j of frame i lands on block i + j of the wave.
    shifted = [jnp.pad(blocks[:, :, j], ((0, 0), (j, overlap - 1 - j), (0, 0))) for j in range(overlap)]
    return sum(shifted).reshape(batch, -1)


@lru_cache(maxsize=16)
def _mel_basis(sample_rate_hz: int, n_fft: int, bands: int, fmin_hz: float, fmax_hz: float) -> np.ndarray:
    import librosa  # slow to import, and generation never needs it

    basis = librosa.filters.mel(sr=sample_rate_hz, n_fft=n_fft, n_mels=bands, fmin=fmin_hz, fmax=fmax_hz)
    return np.ascontiguousarray(basis.T, np.float32)
