"""Sound that is given: a recording of which parts stand, and a reference that the sound shall be like.

A recording lies on the time axis of what is made: its second 0 is the video's. Where it stands the result is the
recording itself, sample for sample; the codec's latents of it condition the rest (`structs.Known`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from kfjax import media
from kfjax.codec.pieces import BORDER_LATENTS as BORDER_LATENTS
from kfjax.command import local_path
from kfjax.rates import Rates

Span = tuple[float, float]  # seconds, from and to

#: Where a recording goes over into what is made, within the recording.
FADE_SECONDS = 0.02
#: A recording may end so much earlier than what is kept of it: coders cut.
MISSING_SECONDS = 0.1
LONGEST_REFERENCE_SECONDS, SHORTEST_REFERENCE_SECONDS = 3.0, 0.5
#: Peak below which a sound is silence, of full scale.
SILENCE = 1e-3


def parse_spans(text: str, name: str) -> tuple[Span, ...]:
    """Spans as people write them: "0-3", "1.5-2,4-6.25", "3-" (to the end).

    Raises:
      ValueError: anything else.
    """
    spans = []
    for part in text.split(","):
        number = r"(\d+(?:\.\d*)?|\.\d+)"
        found = re.fullmatch(rf"\s*{number}\s*-\s*{number}?\s*", part)
        if not found:
            raise ValueError(f"{name}: got {part.strip()!r}, expected seconds such as 0-3 or 1.5-2,4-6; correct it")
        spans.append((float(found[1]), float(found[2]) if found[2] else math.inf))
    return tuple(spans)


def checked_spans(spans: Sequence[Span], seconds: float, name: str) -> tuple[Span, ...]:
    """The spans in order, within [0, seconds]; an end of infinity is the sound's.

    Raises:
      ValueError: a span that is empty or beyond the sound, or two that overlap.
    """
    within = [(start, seconds if math.isinf(end) else end) for start, end in spans]
    for start, end in within:
        if not (0 <= start < end <= seconds + MISSING_SECONDS):
            raise ValueError(
                f"{name}: got {start:g}-{end:g}, expected a span within 0-{seconds:g} seconds that is not empty; "
                "correct it"
            )
    ordered = sorted((start, min(end, seconds)) for start, end in within)
    for (first, end), (start, last) in pairwise(ordered):
        if start < end:
            raise ValueError(f"{name}: got {first:g}-{end:g} and {start:g}-{last:g}, which overlap; join them")
    return tuple(ordered)


def complement(spans: Sequence[Span], seconds: float) -> tuple[Span, ...]:
    """What of [0, seconds] lies outside the ordered spans."""
    borders = [0.0, *(border for span in spans for border in span), seconds]
    return tuple((start, end) for start, end in zip(borders[::2], borders[1::2], strict=True) if end > start)


@dataclass(frozen=True)
class Recording:
    """A recording and what of it stands.

    Attributes:
      wave: f32 [t, 2], at the model's rate.
      kept: spans that stand, in order, in seconds.
      strength: how much of the way from noise the rest is made anew: 1 from noise, less begins at the recording.
    """

    wave: Float[np.ndarray, "t 2"]
    kept: tuple[Span, ...]
    strength: float

    def known(self, latents: int, hz: float, seconds: float) -> Bool[np.ndarray, " n"]:
        """Which latents of the sound the network takes as given: those that hear nothing but what is kept.

        Raises:
          ValueError: a span too short to have one, or nothing left to make.
        """
        mask = np.zeros(latents, bool)
        for start, end in self.kept:
            first = 0 if start <= 0 else math.ceil(start * hz - 1e-6) + BORDER_LATENTS
            last = latents if end >= seconds else math.floor(end * hz + 1e-6) - BORDER_LATENTS
            if first >= last:
                least = (2 * BORDER_LATENTS + 1) / hz
                raise ValueError(f"keep: got {start:g}-{end:g}, expected at least {least:.1f} s; keep more, or nothing")
            mask[first:last] = True
        if mask.all():
            raise ValueError("keep: got all of the recording; leave something to make")
        return mask

    def spliced(
        self, made: Float[np.ndarray, "t 2"], sample_rate_hz: int, seconds: float, first: int = 0
    ) -> Float[np.ndarray, "t 2"]:
        """`made`, samples `first` and on of the sound, with the recording where it stands.

        Within a kept span the sound goes over from what is made to the recording in `FADE_SECONDS`, and back.
        """
        made, fade = np.array(made, np.float32), round(FADE_SECONDS * sample_rate_hz)
        for start, end in self.kept:
            begin, stop = round(start * sample_rate_hz), round(min(end, seconds) * sample_rate_hz)
            a, b = max(begin, first), min(stop, first + len(made))
            if a >= b:
                continue
            place = np.arange(a, b)
            share = np.ones(len(place), np.float32)
            if begin > 0:
                share = np.minimum(share, (place - begin + 0.5) / fade)
            if end < seconds:
                share = np.minimum(share, (stop - place - 0.5) / fade)
            own = self.wave[a:b]
            own = np.pad(own, ((0, len(place) - len(own)), (0, 0)))
            mixed = share[:, None] * own + (1 - share[:, None]) * made[a - first : b - first]
            made[a - first : b - first] = np.where(share[:, None] >= 1, own, mixed)
        return made


def read_recording(
    audio: str | Path | np.ndarray,
    rates: Rates,
    seconds: float,
    *,
    keep: Sequence[Span] = (),
    redo: Sequence[Span] = (),
    strength: float | None = None,
) -> Recording:
    """The recording at the model's rate, and what of it stands.

    Args:
      audio: a file with sound, or f32 [t] or [t, 1 or 2] at the model's rate.
      seconds: of the sound that is made.
      keep: spans that stand; or
      redo: spans that are made anew, while the others stand.
      strength: above 0 and up to 1, how far from the recording the rest is. Default: 1.

    Raises:
      ValueError: spans that don't fit, none of the three, a recording that is too short, silent or not finite.
      MediaError: a file without sound; a ValueError too.
    """
    if keep and redo:
        raise ValueError("keep and redo: got both, expected one of them; give what stands, or what is made anew")
    if not keep and not redo and strength is None:
        raise ValueError("audio: got none of keep, redo and strength; say what of it stands, or how much it may change")
    kept = checked_spans(keep, seconds, "keep")
    if redo:
        kept = complement(checked_spans(redo, seconds, "redo"), seconds)
    wave = as_stereo(audio, rates.sample_rate_hz, seconds)
    needed = seconds if strength is not None else max((end for _, end in kept), default=0.0)
    there = len(wave) / rates.sample_rate_hz
    if there < needed - MISSING_SECONDS:
        raise ValueError(
            f"audio: is {there:.2f} s long, expected at least the {needed:.2f} s that are kept of it; "
            "give a longer one, or keep less"
        )
    return Recording(wave, kept, 1.0 if strength is None else strength)


class ReferenceSound(NamedTuple):
    """A short sound that the sound shall be like.

    Attributes:
      wave: f32 [t, 2], at the model's rate, whole steps of 0.5 s.
      start_seconds: where it lies in its file.
      film: the file has a picture, which stands with its sound.
    """

    wave: Float[np.ndarray, "t 2"]
    start_seconds: float
    film: bool


def read_reference(path: str | Path, rates: Rates) -> ReferenceSound:
    """The loudest three seconds of a file, or all of a shorter one.

    Raises:
      ValueError: silence, or a sound of less than half a second.
      MediaError: a file without sound; a ValueError too.
    """
    path, rate = local_path(path), rates.sample_rate_hz
    wave = media.read_audio(path, rate)
    seconds = math.floor(min(LONGEST_REFERENCE_SECONDS, len(wave) / rate) * 2) / 2
    if seconds < SHORTEST_REFERENCE_SECONDS:
        got = f"{len(wave) / rate:.2f} s"
        raise ValueError(f"reference: {path} has {got} of sound, expected at least {SHORTEST_REFERENCE_SECONDS:g} s")
    if np.abs(wave).max() < SILENCE:
        raise ValueError(f"reference: {path} is silent; give a sound that can be heard")
    step = rate // 2
    power = np.square(wave[: len(wave) // step * step]).reshape(-1, step, 2).sum((1, 2), dtype=np.float64)
    start = int(np.convolve(power, np.ones(int(2 * seconds)), "valid").argmax()) * step
    wave = wave[start : start + int(seconds * rate)]
    return ReferenceSound(wave, start / rate, media.probe(path).has_video)


def as_stereo(
    audio: str | Path | np.ndarray, sample_rate_hz: int, seconds: float | None = None
) -> Float[np.ndarray, "t 2"]:
    """f32 [t, 2] of a file or of samples; ValueError for other shapes and for numbers that are not finite."""
    if isinstance(audio, str | Path):
        return media.read_audio(local_path(audio), sample_rate_hz, duration_seconds=seconds)
    wave = np.asarray(audio, np.float32)
    wave = wave[:, None] if wave.ndim == 1 else wave
    if wave.ndim != 2 or wave.shape[1] not in (1, 2):
        raise ValueError(f"audio: got shape {np.shape(audio)}, expected [t], [t, 1] or [t, 2]")
    if not np.isfinite(wave).all():
        raise ValueError("audio: got NaN or infinite samples, expected numbers within ±1")
    wave = np.repeat(wave, 2, 1) if wave.shape[1] == 1 else wave
    return wave if seconds is None else wave[: round(seconds * sample_rate_hz)]
