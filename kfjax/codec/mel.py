"""Waveform -> log-mel, laid out so that f frames stand for exactly f * hop samples.

The default is the input of BigVGAN-v2 44 kHz 128-band 512x: magnitudes, Slaney bands, natural logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from kfjax import dsp
from kfjax.nn.module import AnyArray


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
        dsp.padding(self.n_fft, self.hop)
        if not 0 <= self.fmin_hz < self.fmax_hz <= self.sample_rate_hz / 2:
            raise ValueError(
                f"mel range: got {self.fmin_hz:g} to {self.fmax_hz:g} Hz, expected 0 <= fmin < fmax <= "
                f"{self.sample_rate_hz / 2:g} Hz; lower fmax_hz or raise sample_rate_hz"
            )


def log_mel(wave: Float[AnyArray, "b t"], cfg: MelConfig) -> Float[Array, "b f m"]:
    """Log-mel of a wave in [-1, 1] (clipped to it): t // hop frames, `bands` channels.

    log(max(mel(|STFT|), floor)); the magnitude sqrt(re² + im² + 1e-9) has a finite gradient in silence.

    Raises:
      ValueError: the wave is too short (see `dsp.stft`).
    """
    magnitude = dsp.magnitude(dsp.stft(jnp.clip(wave, -1.0, 1.0), cfg.n_fft, cfg.hop))
    filters = dsp.mel_filters(cfg.bands, cfg.n_fft, cfg.sample_rate_hz, cfg.fmin_hz, cfg.fmax_hz)
    mel = jnp.maximum(magnitude @ filters, cfg.floor)
    return jnp.log(mel) if cfg.log == "natural" else jnp.log10(mel)
