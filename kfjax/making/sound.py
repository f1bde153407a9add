"""What a generation returns: waveforms, with what it takes to save, draw and play them."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kfjax import media, plot
from kfjax.command import local_path
from kfjax.media.write import AUDIO_FORMATS, sample_paths

#: Samples in one picture; more would be too small to read.
MOST_DRAWN = 6


@dataclass(frozen=True)
class Sound:
    """Generated sound. In a notebook it shows a player for each sample.

    Attributes:
      waveforms: f32 [samples, t, 2] within ±1; t is round(seconds · sample_rate_hz). Left and right are equal where
        the model is mono, as the public ones are.
      sample_rate_hz: the model's: 44100, or 16000 of mmaudio-small-16k.
      seconds: length of the sound.
      video: the file it was made for, None for text alone.
      unread: what the model did not read of the prompts (`Model.unread`), empty where it read all.
      keeps_original: the video's own sound is in the waveforms.
      stems: with music, "effects" and "music" apart, f32 [samples, t, 2], before the music's gain.
    """

    waveforms: np.ndarray = field(repr=False)
    sample_rate_hz: int
    seconds: float
    video: Path | None = None
    unread: str = ""
    keeps_original: bool = False
    stems: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def waveform(self) -> np.ndarray:
        """f32 [t, 2], the first sample."""
        return self.waveforms[0]

    def save(self, path: str | Path, *, stems: bool = False) -> list[Path]:
        """Write the sound; with several samples, one file each (`clip-1.mp4`, `clip-2.mp4`, …).

        .wav and .flac hold the sound alone. .mp4, .m4v, .mov and .mkv hold the video's picture, copied as it is, and
        this as its only sound (with the original kept, the video's other sound tracks follow it); where the sound is
        shorter than the picture, the rest is silent.

        Args:
          stems: write those there are too, as `clip.effects.wav` and `clip.music.wav`.

        Returns:
          The files written.

        Raises:
          MediaError: a file that can't be written, or a video where there was none to begin with.
        """
        path = local_path(path)
        paths = sample_paths(path, len(self.waveforms))
        audio_only = path.suffix.lower() in AUDIO_FORMATS
        video = None if audio_only else self.video
        if not audio_only and video is None:
            raise media.MediaError(f"{path}: there is no picture to go with; give a name that ends in .wav or .flac")
        for wave, target in zip(self.waveforms, paths, strict=True):
            if video is None:
                media.write_wav(target, wave, self.sample_rate_hz)
            else:
                gain = 0.0 if self.keeps_original else None  # it is in the wave already; its other tracks follow
                media.mux(video, wave, self.sample_rate_hz, target, keep_original_gain=gain)
        for name, waves in self.stems.items() if stems else ():
            for wave, target in zip(waves, sample_paths(path, len(waves)), strict=True):
                paths.append(target.with_suffix(f".{name}.wav"))
                media.write_wav(paths[-1], wave, self.sample_rate_hz)
        return paths

    def plot(self, path: str | Path) -> Path:
        """Draw frames, waveform, mel and position between left and right over time, as .png.

        Several samples are drawn below each other, the first six of them.

        Returns:
          The file written.

        Raises:
          MediaError: the video can't be read any more.
          ValueError: a name that does not end in .png.
        """
        path = local_path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"plot: got {path}, expected a name in .png; rename it")
        frames = None if self.video is None else plot.read_strip(self.video, self.seconds)
        if len(self.waveforms) == 1:
            plot.overview(path, self.waveform, self.sample_rate_hz, frames=frames)
        else:
            versions = {f"version {k}": wave for k, wave in enumerate(self.waveforms[:MOST_DRAWN], start=1)}
            plot.versions(path, versions, self.sample_rate_hz, frames=frames)
        return path

    def _repr_html_(self) -> str:
        """A player for each sample, which holds its samples (16-bit WAV as a data URI)."""
        with tempfile.TemporaryDirectory() as folder:
            waves = [path.read_bytes() for path in self.save(Path(folder, "sound.wav"))]
        players = [f'<audio controls src="data:audio/wav;base64,{base64.b64encode(wave).decode()}"></audio>'
                   for wave in waves]  # fmt: skip
        if len(players) > 1:
            players = [f"<div>version {k}: {player}</div>" for k, player in enumerate(players, start=1)]
        return "".join(players)


class Stream(Iterator[np.ndarray]):
    """Sound while it is made: an iterator over f32 [t, 2] within ±1, from left to right.

    Attributes:
      sample_rate_hz: the model's.
      seconds: of all of it.
      video: the file it is made for, None for text alone.
      keeps_original: the video's own sound is in the pieces.
    """

    def __init__(
        self,
        pieces: Iterator[np.ndarray],
        sample_rate_hz: int,
        seconds: float,
        video: Path | None = None,
        keeps_original: bool = False,
    ):
        self._pieces, self.sample_rate_hz, self.seconds = pieces, sample_rate_hz, seconds
        self.video, self.keeps_original = video, keeps_original

    def __next__(self) -> np.ndarray:
        return next(self._pieces)

    def save(self, output: str | Path | BinaryIO, *, live: bool = True, suffix: str | None = None) -> None:
        """Write what is still to come, as it is made; the whole sound is never held.

        Args:
          output: a name as `Sound.save` takes it; or a binary file, which need not seek, such as standard output.
          live: the file can be played while it grows, see `media.mux`; otherwise it appears when it is complete.
          suffix: the format of a binary file: .wav, .flac, .mp4, .mov or .mkv.

        Raises:
          MediaError: an output that can't be written (further); what is written so far can be played.
        """
        ending = (suffix or Path(getattr(output, "name", str(output))).suffix).lower()
        output = local_path(output) if isinstance(output, str | Path) else output
        if ending in AUDIO_FORMATS:
            media.write_wav(output, self, self.sample_rate_hz, live=live, suffix=suffix)
        elif self.video is None:
            raise media.MediaError(f"{output}: there is no picture to go with; give a name that ends in .wav or .flac")
        else:
            gain = 0.0 if self.keeps_original else None  # it is in the pieces already; its other tracks follow
            media.mux(self.video, self, self.sample_rate_hz, output, keep_original_gain=gain, live=live, suffix=suffix)


def added(pieces: Iterator[np.ndarray], others: Iterator[np.ndarray], gain: float = 1.0) -> Iterator[np.ndarray]:
    """The pieces, with `gain` times the others where there are some: these may be cut elsewhere, and end before."""
    left = np.zeros((0, 2), np.float32)
    for piece in pieces:
        while len(left) < len(piece) and (other := next(others, None)) is not None:
            left = np.concatenate([left, other])
        own, left = left[: len(piece)], left[len(piece) :]
        yield piece + np.float32(gain) * np.pad(own, ((0, len(piece) - len(own)), (0, 0)))


def finite(wave: np.ndarray) -> np.ndarray:
    """The wave itself; ValueError for NaN or infinite samples."""
    if not np.isfinite(wave).all():
        raise ValueError("the model made NaN or infinite samples; choose smaller guidance, or another model")
    return wave


def within_range(wave: np.ndarray) -> np.ndarray:
    """f32, turned down where it would go beyond ±1."""
    return (wave / max(1.0, float(np.abs(wave).max()))).astype(np.float32)
