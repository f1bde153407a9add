"""A take: one sound of a visitor, its files, and its outline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from kfjax.demo.wish import Wish

#: Of the picture on which seconds are marked.
OUTLINE_POINTS = 240


@dataclass(frozen=True)
class Take:
    """A sound that was made, or a recording that was uploaded.

    Attributes:
      number: counts a visitor's takes.
      words: its name in the visitor's list.
      wish: what it was made for.
      seconds: its length.
      sound: a .wav.
      film: an mp4 that browsers play, None where there was no clip.
      picture: a png of the sound.
      stems: with music a .wav of the sound without it, and one of the music.
      outline: the peak in each of `OUTLINE_POINTS` equal parts, from 0 to 1.
      unread: what the model did not read of the prompts, one line; empty: it read all.
    """

    number: int
    words: str
    wish: Wish
    seconds: float
    sound: Path
    film: Path | None
    picture: Path
    stems: tuple[Path, ...]
    outline: tuple[float, ...]
    unread: str

    def files(self) -> list[Path]:
        return [path for path in (self.sound, self.film, self.picture, *self.stems) if path is not None]

    def samples(self) -> np.ndarray:
        """f32 [t, 2], scaled so that writing them again gives the same numbers."""
        return np.asarray(wavfile.read(self.sound)[1], np.float32) / 2**15


def outline(wave: np.ndarray) -> tuple[float, ...]:
    """The peak in each of `OUTLINE_POINTS` equal parts of a sound [t, channels], relative to the highest."""
    peaks = np.array([np.abs(part).max() for part in np.array_split(wave, OUTLINE_POINTS)])
    return tuple((peaks / max(peaks.max(), 1e-3)).clip(0, 1).round(3).tolist())
