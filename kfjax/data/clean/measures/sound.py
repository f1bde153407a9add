"""Faults of a recording: clipping, missing treble, copied or inverted channels. Waveforms: f32 [t, c], full scale 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

#: What two channels without any difference are said to have.
NO_SIDE_DB = -120.0
#: Power density below this is noise of 16 bits (-145), or what a codec (-125) or a resampler's filter leaves.
FLOOR_DB_PER_HZ = -120.0
#: And so is, or leaks from a codec or a resampler's filter, what is this far below the highest density above 1 kHz.
RANGE_DB = 60.0
#: Above this AAC may code a band as noise, which the decoder draws for each channel (perceptual noise substitution).
DRAWN_HZ = 3500.0

_FULL = 0.999
_RUN, _FLAT = 3, 1e-4
_SPECTRUM_SAMPLES = 2048
#: A cliff of the spectrum: how far it falls, within how much, and of how much before it the level is taken. Of 513
#: made recordings behind six codecs the 40 steepest without a fault fall by 20 dB at most, those once at 6 to 16 kHz by
#: 32 at least.
_CLIFF_DB, _CLIFF_HZ, _LEDGE_HZ = 26.0, 1500.0, 500.0
#: Bins of the spectrum of which the median counts: a tone's harmonics by rounding to 16 bits stand alone.
_SMOOTHED = 9


def clipped_share(wave: Float[np.ndarray, "t c"]) -> float:
    """Share of clipped samples of the worst channel, 0 to 1.

    Clipped is a sample of at least 0.999 of full scale, or one of at least three in a row within 1e-4 of the channel's
    own maximum (or minimum): what was clipped before its level was lowered has such plateaus. A lossy codec bends
    these: behind one only clipping at full scale is found, by what it leaves beyond. Pure tones below 150 Hz are flat
    enough to count.
    """
    return max((_clipped(channel) for channel in np.asarray(wave).T), default=0.0)


def _clipped(x: Float[np.ndarray, " t"]) -> float:
    if not len(x) or not x.any():
        return 0.0
    clipped = np.abs(x) >= _FULL
    for side in (x, -x):
        top = side.max()
        if top > 0:
            clipped |= _in_runs(side >= top * (1 - _FLAT))
    return float(clipped.mean())


def _in_runs(flags: np.ndarray) -> np.ndarray:
    """Those of the flags that stand in runs of at least `_RUN`."""
    found, there = np.zeros(len(flags), bool), np.flatnonzero(flags)  # most often few are
    lengths = np.diff(np.flatnonzero(np.diff(there, prepend=-2) > 1), append=len(there))
    found[there] = np.repeat(lengths >= _RUN, lengths)
    return found


def bandwidth_hz(wave: Float[np.ndarray, "t c"], sample_rate_hz: int) -> float:
    """The highest frequency with sound in it, Hz: 4000 of a telephone's recording, whatever rate the file has.

    Where the mean power density (Welch's method, 2048 samples) of the channel that has most is above
    `FLOOR_DB_PER_HZ` of full scale and within `RANGE_DB` of its highest value above 1 kHz (rumble is louder than all
    that one hears); 0 for silence. Below that, where the spectrum falls off a cliff (`_cliff`): a lossy codec or a
    resampler's filter may leave more in the empty band than noise of 16 bits. The median over `_SMOOTHED` bins counts,
    so that a sharp edge is found within 200 Hz.
    """
    size = min(_SPECTRUM_SAMPLES, len(wave))
    if size < 16:
        return 0.0
    power, amplitude = _spectra(np.asarray(wave, np.float32), size, sample_rate_hz)
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate_hz)
    highest_db = power[frequencies >= min(1000.0, frequencies[-1] / 4)].max()
    heard = np.flatnonzero((power > FLOOR_DB_PER_HZ) & (power > highest_db - RANGE_DB))
    if not len(heard):
        return 0.0
    return float(min(frequencies[heard[-1]], _cliff(amplitude, frequencies)))


def _spectra(wave: Float[np.ndarray, "t c"], size: int, sample_rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Density of the mean power and of the mean amplitude over half overlapping windows, dB; of each the largest of
    the channels, smoothed. The mean of amplitudes is less that of the loudest windows, in which a codec leaks most."""
    from scipy.fft import rfft
    from scipy.ndimage import median_filter

    window = np.hanning(size + 1)[:-1].astype(np.float32)
    power, amplitude = np.zeros((2, size // 2 + 1))
    for channel in wave.T:
        windows = np.lib.stride_tricks.sliding_window_view(np.ascontiguousarray(channel), size)[:: size // 2]
        one = np.abs(np.asarray(rfft(windows * window, axis=1)))
        power = np.maximum(power, np.square(one).mean(0, dtype=np.float64))
        amplitude = np.maximum(amplitude, np.square(one.mean(0, dtype=np.float64)))
    densities = np.stack([power, amplitude]) * 2 / (sample_rate_hz * float(np.square(window).sum()))
    power, amplitude = median_filter(10 * np.log10(densities + 1e-30), (1, _SMOOTHED), mode="nearest")
    return power, amplitude


def _cliff(level_db: Float[np.ndarray, " f"], frequencies: Float[np.ndarray, " f"]) -> float:
    """Where a spectrum falls by `_CLIFF_DB` at least within `_CLIFF_HZ` and stays there to its end, Hz; else infinite.

    What is recorded falls less steeply; what a low-pass filter or a lower rate has cut off falls so."""
    before, width = (round(hz / frequencies[1]) for hz in (_LEDGE_HZ, _CLIFF_HZ))
    count = len(level_db) - before - width
    if min(before, count) < 1:
        return np.inf
    ledge_db = np.median(np.lib.stride_tricks.sliding_window_view(level_db, before)[:count], axis=1)
    beyond_db = np.maximum.accumulate(level_db[::-1])[::-1][before + width :]
    fall_db = np.where(frequencies[before : before + count] >= 1000.0, ledge_db - beyond_db, 0.0)
    if fall_db.max(initial=0.0) < _CLIFF_DB:
        return np.inf
    return float(frequencies[np.flatnonzero(level_db > ledge_db[fall_db.argmax()] - _CLIFF_DB)[-1]])


def undrawn(wave: Float[np.ndarray, "t c"], sample_rate_hz: float) -> tuple[Float[np.ndarray, "u c"], float]:
    """What is below `DRAWN_HZ`, with as many samples as that needs, and its rate, Hz: what `side_db` and
    `channel_correlation` should be of where a lossy codec may have been at work."""
    from scipy.fft import irfft, next_fast_len, rfft

    # Zeros behind it make both lengths products of small primes: transforms of others take up to twenty times as long.
    fast: Callable[[int], int] = next_fast_len  # pyright: ignore[reportAssignmentType]
    size = fast(max(1, len(wave)))
    kept = fast(max(1, int(DRAWN_HZ / sample_rate_hz * size)))
    if sample_rate_hz <= 2 * DRAWN_HZ or 2 * kept >= len(wave):
        return wave, sample_rate_hz
    spectrum = np.asarray(rfft(np.asarray(wave, np.float32), size, axis=0))
    low = np.asarray(irfft(spectrum[: kept + 1], 2 * kept, axis=0)) * np.float32(2 * kept / size)
    return low, sample_rate_hz * 2 * kept / size


def side_db(wave: Float[np.ndarray, "t c"]) -> float:
    """Level of the difference of left and right over that of their sum, dB; -120 for mono, copied mono and silence."""
    if wave.shape[1] < 2:
        return NO_SIDE_DB
    left, right = np.asarray(wave[:, :2], np.float64).T
    side, middle = np.square(left - right).sum(), np.square(left + right).sum()
    if not side:
        return NO_SIDE_DB
    return float(np.clip(10 * np.log10(side / max(middle, 1e-12 * side)), NO_SIDE_DB, -NO_SIDE_DB))


def channel_correlation(wave: Float[np.ndarray, "t c"]) -> float:
    """Correlation of left and right, -1 to 1: -1 where one is the other inverted, 1 for mono or one silent."""
    if wave.shape[1] < 2:
        return 1.0
    left, right = np.asarray(wave[:, :2], np.float64).T
    scale = np.sqrt(np.square(left).sum() * np.square(right).sum())
    return float(np.clip((left * right).sum() / scale, -1, 1)) if scale else 1.0
