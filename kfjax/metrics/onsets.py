"""When something is struck in a sound, and how well that matches true events.

Waveforms are float arrays [t] or [t, 2] (left, right); times are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, percentile_filter
from scipy.optimize import linear_sum_assignment

from kfjax import dsp

_HOP_SECONDS = 0.005
_BANDS = 40


@dataclass(frozen=True)
class OnsetDetector:
    """Parameters of `detect_onsets`, tuned on true scene audio.

    Attributes:
      floor_db: band levels below this (dB of full scale) count as silence.
      range_db: so do levels further than this below the loudest band and frame of the clip.
      noise_weight: how much of a band's usual restlessness (rain, wind) is taken off its rises.
      ceiling_db: a band's rise counts no further than this.
      threshold_db: mean rise over the quarter of bands that rise most which makes an onset.
      apart_seconds: the least time between two onsets.
      late_seconds: how much later the curve peaks than the sound begins.
    """

    floor_db: float = -70.0
    range_db: float = 60.0
    noise_weight: float = 2.0
    ceiling_db: float = 30.0
    threshold_db: float = 7.0
    apart_seconds: float = 0.045
    late_seconds: float = 0.001


#: Seconds.
Times = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class OnsetScore:
    """Detected onsets against true ones.

    Attributes:
      precision: matched / detected.
      recall: matched / true (after merging).
      f1: harmonic mean of the two; 1 when there was nothing to detect and nothing was detected.
      pairs: matched (index in detected, index in true); of merged true events, the index of the first.
    """

    precision: float
    recall: float
    f1: float
    pairs: tuple[tuple[int, int], ...]


def detect_onsets(wave: np.ndarray, sample_rate_hz: int, detector: OnsetDetector = OnsetDetector()) -> np.ndarray:
    """Times (seconds, ascending) at which something is struck: the peaks of `onset_strength` above the threshold."""
    strength = onset_strength(wave, sample_rate_hz, detector)
    apart = round(detector.apart_seconds / _HOP_SECONDS)
    peaks = (strength == maximum_filter1d(strength, 2 * apart + 1)) & (strength > detector.threshold_db)
    frames = np.flatnonzero(peaks)
    frames = frames[np.diff(frames, prepend=-apart) >= apart]
    seconds_per_frame = round(_HOP_SECONDS * sample_rate_hz) / sample_rate_hz
    return np.maximum(frames * seconds_per_frame - detector.late_seconds, 0.0)


def onset_strength(wave: np.ndarray, sample_rate_hz: int, detector: OnsetDetector = OnsetDetector()) -> np.ndarray:
    """How much the sound rises, in dB, one value every 5 ms [frames].

    Per mel band: the level above the floor, less the highest level 10 to 30 ms before, less what such rises are in
    that band in the most restless second around; then the mean over the quarter of bands that rise most.
    """
    level = band_levels_db(wave, sample_rate_hz)
    level = np.maximum(level, max(detector.floor_db, level.max(initial=-np.inf) - detector.range_db))
    frames = level.shape[1]
    padded = np.pad(level, ((0, 0), (6, 0)), mode="edge")
    before = np.max([padded[:, 6 - lag : 6 - lag + frames] for lag in (2, 3, 4, 5, 6)], axis=0)
    rise = np.maximum(level - before, 0.0)
    sparse, second = rise[:, ::4], round(0.25 / _HOP_SECONDS)
    usual = maximum_filter1d(percentile_filter(sparse, 85, size=(1, second), mode="nearest"), second, axis=1)
    rise = rise - detector.noise_weight * np.repeat(usual, 4, axis=1)[:, :frames]
    rise[:, -3:] = 0.0  # frames that reach beyond the end: a ringing clip that is cut off there would click
    return np.sort(np.clip(rise, 0.0, detector.ceiling_db), axis=0)[-(_BANDS // 4) :].mean(axis=0)


def band_levels_db(wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Level of 40 mel bands every 5 ms, dB of full scale (a full sine is about 0), power averaged over the channels.

    The common ground of the onset detector and the source classifier: [40, frames].
    """
    window = 1 << round(np.log2(0.023 * sample_rate_hz))
    magnitude = dsp.magnitudes(_channels(wave), window, round(_HOP_SECONDS * sample_rate_hz))
    power = (magnitude**2).mean(axis=0) / (window / 4) ** 2
    return 10 * np.log10(_mel_filters(sample_rate_hz, window).T @ power.T + 1e-12)


def onset_f1(detected: Times, true: Times, tolerance_seconds: float = 0.05) -> OnsetScore:
    """Match detected to true times one to one, as many as can be and then as near as can be.

    True times closer than 50 ms to the first of their group are one event: nobody hears them apart.
    """
    heard, times = np.asarray(detected, float), np.asarray(true, float)
    kept = merge_close(times, 0.05)
    if len(heard) == 0 or len(kept) == 0:
        right = float(len(heard) == len(kept))
        return OnsetScore(right, right, right, ())
    distance = np.abs(heard[:, None] - times[kept][None, :])
    cost = np.where(distance <= tolerance_seconds, distance, 1e3)
    pairs = [(int(i), int(kept[j])) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < 1e3]
    precision, recall = len(pairs) / len(heard), len(pairs) / len(kept)
    f1 = 2 * len(pairs) / (len(heard) + len(kept))
    return OnsetScore(precision, recall, f1, tuple(pairs))


def merge_close(times: Times, apart_seconds: float) -> np.ndarray:
    """Indices of the times that begin a group; a group holds all within `apart_seconds` of its first."""
    kept: list[int] = []
    for index in np.argsort(times, kind="stable"):
        if not kept or times[index] - times[kept[-1]] >= apart_seconds:
            kept.append(int(index))
    return np.array(kept, int)


def _channels(wave: np.ndarray) -> np.ndarray:
    """[t] or [t, c] to [c, t]."""
    return np.asarray(wave, np.float32).reshape(len(wave), -1).T


def _mel_filters(sample_rate_hz: int, window: int) -> np.ndarray:
    return dsp.mel_filters(_BANDS, window, sample_rate_hz, 30.0, min(16000.0, sample_rate_hz / 2), unit="height")
