"""How loud, how silent and how wide a sound is, and on which side. Waveforms are [t] or [t, channels], full scale 1."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float

#: What a silent sound is said to have: BS.1770's absolute gate.
SILENCE_LUFS = -70.0
#: Frames below this (dB of full scale, root mean square) count as silent.
SILENT_DB = -60.0
#: Samples on either side of which a peak between two is made.
PEAK_SAMPLES = 10
_FRAME_SECONDS = 0.05
_STEPS_AT_ONCE = 600  # a minute at a time: an hour fits into memory
_PEAK_BLOCK = 4096


def loudness_lufs(wave: np.ndarray, sample_rate_hz: int) -> float:
    """Integrated loudness of ITU-R BS.1770-4: K-weighted, in blocks of 0.4 s, gated; at least -70.

    A sine of 997 Hz at full scale in one channel has -3.01; mono is one channel. Shorter sounds make one block.
    """
    steps = _step_energies(wave, sample_rate_hz)
    power = np.lib.stride_tricks.sliding_window_view(steps, 4).mean(-1)
    heard = power[_lufs(power) > SILENCE_LUFS]
    heard = heard[_lufs(heard) > _lufs(heard.mean()) - 10] if len(heard) else heard
    return float(_lufs(heard.mean())) if len(heard) else SILENCE_LUFS


def true_peak_db(wave: np.ndarray) -> float:
    """The highest peak between the samples, dB of full scale: of the wave at four times its rate (BS.1770-4, annex 2).

    -inf for silence.
    """
    x = np.pad(np.asarray(wave).reshape(len(wave), -1), ((2 * PEAK_SAMPLES, 2 * PEAK_SAMPLES), (0, 0)))
    starts = range(0, len(x) - 2 * PEAK_SAMPLES, _PEAK_BLOCK)
    blocks = [x[start : start + _PEAK_BLOCK + 2 * PEAK_SAMPLES] for start in starts]
    samples, peak = np.array([np.abs(block).max(initial=0.0) for block in blocks]), 0.0
    for k in samples.argsort()[::-1]:
        if samples[k] * _gain() <= peak:  # so are all that are left: most of a sound need not be filtered
            break
        peak = max(peak, true_peaks(blocks[k]).max())
    return float(20 * np.log10(peak)) if peak else -np.inf


def true_peaks(wave: Float[np.ndarray, "t c"]) -> Float[np.ndarray, " u"]:
    """The highest absolute value of any channel from each sample to the next, at four times the rate.

    Of all but the first and last `PEAK_SAMPLES`, which the interpolation needs.
    """
    highest = np.zeros(len(wave) - 2 * PEAK_SAMPLES)
    for channel in _channels(wave).copy():
        np.maximum(highest, np.abs(channel[PEAK_SAMPLES : len(channel) - PEAK_SAMPLES]), out=highest)
        for taps in _between():
            np.maximum(highest, np.abs(np.convolve(channel, taps, "valid")[1:]), out=highest)
    return highest


@cache
def _between() -> list[np.ndarray]:
    """Filters for the three values between two samples: those of SciPy's `resample_poly` for four times the rate."""
    from scipy.signal.windows import kaiser

    count = 4 * PEAK_SAMPLES
    taps = np.sinc(np.arange(-count, count + 1) / 4) * kaiser(2 * count + 1, 5.0)
    return [taps[k::4] for k in (1, 2, 3)]


def _gain() -> float:
    """How many times higher than all samples around it a value between two can be."""
    return max(float(np.abs(taps).sum()) for taps in _between())


def silence_share(wave: np.ndarray, sample_rate_hz: int) -> float:
    """Share of frames of 50 ms whose level is below -60 dB of full scale, 0 to 1."""
    return float((_frame_levels_db(wave, sample_rate_hz).max(0) < SILENT_DB).mean())


def width_db(wave: np.ndarray, sample_rate_hz: int) -> float:
    """How far apart the channels' levels are, dB: root mean square over frames that sound; 0 for mono and silence."""
    levels = _frame_levels_db(wave, sample_rate_hz)
    heard = levels.max(0) >= SILENT_DB
    if len(levels) != 2 or not heard.any():
        return 0.0
    left, right = np.maximum(levels[:, heard], SILENT_DB)
    return float(np.sqrt(np.mean((right - left) ** 2)))


def position_correlation(made: np.ndarray, true: np.ndarray, sample_rate_hz: int) -> float:
    """Pearson correlation of both sounds' level difference of the channels, over frames in which both sound, -1 to 1.

    NaN where one is mono, stands still (0.1 dB) or shares less than half a second with the other.
    """
    a, b = (_frame_levels_db(wave, sample_rate_hz) for wave in (made, true))
    frames = min(a.shape[1], b.shape[1])
    if len(a) != 2 or len(b) != 2:
        return float("nan")
    both = (a.max(0)[:frames] >= SILENT_DB) & (b.max(0)[:frames] >= SILENT_DB)
    sides = [np.diff(np.maximum(x[:, :frames][:, both], SILENT_DB), axis=0)[0] for x in (a, b)]
    if both.sum() * _FRAME_SECONDS < 0.5 or min(side.std() for side in sides) < 0.1:
        return float("nan")
    return float(np.corrcoef(*sides)[0, 1])


def level_difference_db(wave: np.ndarray, time_seconds: float, window_seconds: float, sample_rate_hz: int) -> float:
    """Level of the right channel over the left's, dB, in the window that begins at `time_seconds`; wave [t, 2].

    Positive is right. A floor of -80 dB of full scale keeps silence at 0.
    """
    start = max(0, round(time_seconds * sample_rate_hz))
    part = np.asarray(wave[start : start + round(window_seconds * sample_rate_hz)], float)
    left, right = (part**2).mean(axis=0) + 1e-8 if len(part) else (1.0, 1.0)
    return float(10 * np.log10(right / left))


def _channels(wave: np.ndarray) -> Float[np.ndarray, "c t"]:
    return np.asarray(wave, np.float64).reshape(len(wave), -1).T


def _lufs(power):
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-12))


def _step_energies(wave: np.ndarray, rate: int) -> Float[np.ndarray, " steps"]:
    """Mean squares of the K-weighted channels, summed, of each whole 0.1 s; of four at least, in silence if need be."""
    from scipy.signal import sosfilt

    step, size = round(0.1 * rate), _STEPS_AT_ONCE * round(0.1 * rate)
    wave = wave if len(wave) >= 4 * step else np.pad(wave, ((0, 4 * step - len(wave)), *[(0, 0)] * (wave.ndim - 1)))
    filters = _k_weighting(rate)
    energies, state = [], np.zeros((len(filters), wave[:1].size, 2))
    for start in range(0, len(wave) // step * step, size):
        x, state = sosfilt(filters, _channels(wave[start : start + size]), zi=state)
        whole = x[:, : x.shape[1] // step * step].reshape(len(x), -1, step)
        energies.append(np.einsum("cst,cst->s", whole, whole) / step)
    return np.concatenate(energies)


def _k_weighting(rate: int) -> Float[np.ndarray, "2 6"]:
    """BS.1770's two filters, a shelf for the head and a high-pass, for any rate; as SciPy's `sosfilt` takes them.

    Their analogue prototypes, found from the standard's coefficients for 48 kHz by the bilinear transform.
    """
    gain, root = 10 ** (3.999843853973347 / 20), 10 ** (3.999843853973347 * 0.4996667741545416 / 20)
    k, q = np.tan(np.pi * 1681.974450955533 / rate), 0.7071752369554196
    shelf = np.array([gain + root * k / q + k**2, 2 * (k**2 - gain), gain - root * k / q + k**2])
    poles = np.array([1 + k / q + k**2, 2 * (k**2 - 1), 1 - k / q + k**2])
    k, q = np.tan(np.pi * 38.13547087602444 / rate), 0.5003270373238773
    low = np.array([1 + k / q + k**2, 2 * (k**2 - 1), 1 - k / q + k**2])
    sections = (shelf, poles), (np.array([1.0, -2.0, 1.0]), low / low[0])
    return np.array([np.concatenate([b, a]) / a[0] for b, a in sections])


def _frame_levels_db(wave: np.ndarray, rate: int) -> Float[np.ndarray, "c frames"]:
    """Level of each channel in frames of 50 ms; what is left at the end is a frame of its own."""
    x, size = _channels(wave), round(_FRAME_SECONDS * rate)
    frames = max(1, -(-x.shape[1] // size))
    x = np.pad(x, ((0, 0), (0, frames * size - x.shape[1])))
    x = x.reshape(len(x), frames, size)
    return 10 * np.log10(np.einsum("cft,cft->cf", x, x) / size + 1e-12)
