"""Seconds become lengths here and nowhere else.

lengths(8.0, Rates()): 353280 samples, 690 mel frames, 345 latents, 64 CLIP frames, 200 sync frames, 192 sync tokens
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

#: The shortest and longest excerpt that one pass of the generator accepts, seconds.
MIN_SECONDS = 0.1
MAX_SECONDS = 60.0
#: The longest sound, made in windows.
LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Rates:
    """The clocks of a system. Defaults: 44.1 kHz audio, 43.07 latents, 8 CLIP and 25 sync frames a second."""

    sample_rate_hz: int = 44100
    hop: int = 512
    downsample: int = 2
    clip_hz: float = 8.0
    sync_hz: float = 25.0
    segment_frames: int = 16
    segment_step: int = 8
    tokens_per_segment: int = 8

    @property
    def latent_hz(self) -> float:
        return self.sample_rate_hz / (self.hop * self.downsample)


class Lengths(NamedTuple):
    """Lengths on every axis for one duration. `samples` is what the codec makes: a whole number of latents."""

    samples: int
    mel: int
    latents: int
    clip: int
    sync_frames: int
    sync: int


def check_seconds(seconds: float, most: float = MAX_SECONDS) -> None:
    """Refuses a duration that no system makes.

    Raises:
      ValueError: seconds is not a finite number in [MIN_SECONDS, most].
    """
    if not (math.isfinite(seconds) and MIN_SECONDS <= seconds <= most):
        raise ValueError(
            f"duration: got {seconds:g} s, expected {MIN_SECONDS:g} to {most:g} s; "
            "choose another duration or cut the video"
        )


def lengths(seconds: float, rates: Rates) -> Lengths:
    """Lengths for an excerpt of `seconds`.

    Latents are rounded up, frames down, and a sync segment must be whole; an excerpt too short for one frame or
    one segment gets one all the same (its last frame is held).

    Raises:
      ValueError: as `check_seconds`.
    """
    check_seconds(seconds)
    exact = seconds * rates.sample_rate_hz / rates.hop / rates.downsample
    latents = math.ceil(exact - 1e-9)
    # 1e-6: a duration such as 2.6 s must not lose a frame to binary rounding.
    sync_frames = max(rates.segment_frames, int(rates.sync_hz * seconds + 1e-6))
    segments = (sync_frames - rates.segment_frames) // rates.segment_step + 1
    return Lengths(
        samples=latents * rates.downsample * rates.hop,
        mel=latents * rates.downsample,
        latents=latents,
        clip=max(1, int(rates.clip_hz * seconds + 1e-6)),
        sync_frames=sync_frames,
        sync=segments * rates.tokens_per_segment,
    )


def exact_samples(seconds: float, rates: Rates) -> int:
    """Samples of a soundtrack that lasts exactly `seconds`: what a user gets after the codec's tail is cut."""
    return round(seconds * rates.sample_rate_hz)


def sync_token_seconds(tokens: int, rates: Rates) -> list[float]:
    """Centre of every sync token in true time. Segments overlap by half, so times step back at each border."""
    per = rates.tokens_per_segment
    frames = rates.segment_frames / per
    return [(rates.segment_step * (k // per) + frames * (k % per) + frames / 2) / rates.sync_hz for k in range(tokens)]
