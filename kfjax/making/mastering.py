"""Loudness and peaks of finished sound: a limiter that works on pieces of it, and gain to a loudness.

pieces = Limiter(44100).through(pieces)    # no true peak above -1 dB, as long as what went in
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from kfjax.metrics.levels import PEAK_SAMPLES, SILENCE_LUFS, loudness_lufs, true_peaks

#: -1 dB of full scale: what EBU R 128 allows a true peak.
CEILING = 10 ** (-1 / 20)
#: How fast a limiter's gain comes back.
RELEASE_DB_PER_SECOND = 40.0
#: Where the gain moves, a peak between two samples is not scaled by exactly one gain; this is more than it may differ.
_MARGIN_DB = 0.05
_BLOCK_SECONDS = 10


class Limiter:
    """A look-ahead limiter: sound that comes in pieces leaves without a true peak above the ceiling.

    All channels share one gain. It falls along a raised cosine within the look-ahead before a peak and comes back at
    `RELEASE_DB_PER_SECOND`. Samples are unchanged, bit for bit, where no true peak is near that exceeds the ceiling.
    Where pieces begin and end changes nothing.

    Args:
      sample_rate_hz: of the sound.
      ceiling: linear, above 0; the true peak is estimated at four times the rate (BS.1770-4, annex 2).
      look_ahead_seconds: in which the gain falls; what `feed` returns lags by this and 20 samples.
      channels: of the sound.
    """

    def __init__(
        self, sample_rate_hz: int, ceiling: float = CEILING, look_ahead_seconds: float = 0.01, *, channels: int = 2
    ):
        ahead = max(1, round(look_ahead_seconds * sample_rate_hz))
        self.ceiling = ceiling
        self._fade = np.hanning(ahead + 3)[1:-1] / np.hanning(ahead + 3).sum()
        self._release = RELEASE_DB_PER_SECOND / sample_rate_hz
        # A peak needs its gain on all samples between which it lies.
        self._held = ahead + 2 * PEAK_SAMPLES + 1
        # Silence before the first sample. Each stage has in front of what is new what it still needs of what was.
        self._lag = self._skip = ahead + 2 * PEAK_SAMPLES
        self._delayed = np.zeros((self._lag, channels), np.float32)
        self._wave = np.zeros((2 * PEAK_SAMPLES, channels), np.float32)
        self._excess = np.zeros(self._held - 1)
        self._reduction = np.zeros(ahead)
        self._count, self._highest = 0, 0.0

    def through(self, pieces: Iterable[Float[np.ndarray, "t c"]]) -> Iterator[Float[np.ndarray, "u c"]]:
        """All pieces of a sound, f32; what comes out has other lengths, and the same altogether."""
        yield from filter(len, map(self.feed, pieces))
        yield from filter(len, [self.end()])

    def feed(self, wave: Float[np.ndarray, "t c"]) -> Float[np.ndarray, "u c"]:
        """The next piece, of any length. Returns what is finished, f32; altogether it lags by the look-ahead."""
        if not len(wave):
            return self._delayed[:0]
        wave = np.asarray(wave, np.float32)
        self._wave = np.concatenate([self._wave, wave])
        peaks = true_peaks(self._wave) / self.ceiling
        self._wave = self._wave[-2 * PEAK_SAMPLES :]
        excess_db = np.where(peaks > 1, 20 * np.log10(np.maximum(peaks, 1)) + _MARGIN_DB, 0.0)
        reduction_db = self._released(self._highest_ahead(excess_db))
        self._reduction = np.concatenate([self._reduction, reduction_db])
        smooth_db = np.convolve(self._reduction, self._fade, "valid")
        self._reduction = self._reduction[-(len(self._fade) - 1) :]
        self._delayed = np.concatenate([self._delayed, wave])
        out, self._delayed = self._delayed[: len(wave)], self._delayed[len(wave) :]
        out = (out * 10 ** (-smooth_db / 20)[:, None]).clip(-self.ceiling, self.ceiling).astype(np.float32)
        skipped = min(self._skip, len(out))
        self._skip -= skipped
        return out[skipped:]

    def end(self) -> Float[np.ndarray, "u c"]:
        """What is left after the last piece."""
        return self.feed(np.zeros_like(self._delayed[: self._lag]))

    def _highest_ahead(self, excess_db: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """The maximum of the look-ahead from each sample on."""
        from scipy.ndimage import maximum_filter1d

        self._excess = np.concatenate([self._excess, excess_db])
        size = self._held
        # The filter is centred, and says nothing of use at the ends.
        highest = maximum_filter1d(self._excess, size)[size // 2 :][: len(excess_db)]
        self._excess = self._excess[-(size - 1) :]
        return highest

    def _released(self, reduction_db: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """y[n] = max(x[n], y[n - 1] - release): the highest line of that slope through an earlier value."""
        # Numbered from the first sample, so that a piece's rounding is that of the whole.
        slope = self._release * np.arange(self._count, self._count + len(reduction_db))
        lines = np.maximum.accumulate(np.append(self._highest, reduction_db + slope))[1:]
        self._count, self._highest = self._count + len(reduction_db), float(lines[-1])
        return lines - slope


def limited(wave: Float[np.ndarray, "t c"], sample_rate_hz: int, ceiling: float = CEILING) -> Float[np.ndarray, "t c"]:
    """The whole sound through a `Limiter`."""
    limiter, block = Limiter(sample_rate_hz, ceiling, channels=wave.shape[1]), _BLOCK_SECONDS * sample_rate_hz
    return np.concatenate([*limiter.through(wave[start : start + block] for start in range(0, len(wave), block))])


def to_loudness(wave: Float[np.ndarray, "t c"], sample_rate_hz: int, lufs: float) -> Float[np.ndarray, "t c"]:
    """The sound at an integrated loudness, with no true peak above -1 dB.

    Gain, then a `Limiter`: where that works the sound ends below `lufs`. A sound of less than 0.4 s is measured as if
    silence followed up to there; one without a block above -70 LUFS is silent, and returned as it is.

    Args:
      wave: [t, c], finite.
      lufs: integrated loudness (`loudness_lufs`), -70 to 0. -23 is broadcasting's (EBU R 128), -14 common on the web.

    Raises:
      ValueError: a loudness out of its range.
    """
    if not SILENCE_LUFS < lufs <= 0:
        raise ValueError(f"loudness: got {lufs:g} LUFS, expected above {SILENCE_LUFS:g} to 0; -23 is usual, or -14")
    loudness = loudness_lufs(wave, sample_rate_hz)
    if loudness <= SILENCE_LUFS:
        return wave
    return limited(wave * np.float32(10 ** ((lufs - loudness) / 20)), sample_rate_hz)
