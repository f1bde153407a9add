"""Fingerprints of an excerpt's sound and picture: near duplicates differ in few of their 256 bits.

A fingerprint is a text of 64 hexadecimal digits, "" where there is nothing to tell apart: silence, sound of less than
1.1 s, a flat picture. It survives another codec, level, rate and size, not another start in time.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from jaxtyping import UInt8

BITS = 256
_STEPS, _BANDS = 16, 17
_LOW_HZ, _HIGH_HZ = 200.0, 3500.0
_SIDE = 8
_LEAST_CONTRAST = 4.0  # levels of 255
_LEAST_STEP = 1.0  # a codec changes the sign of a smaller one


def sound_fingerprint(wave: np.ndarray, sample_rate_hz: float) -> str:
    """256 bits of a waveform [t, c]: in 17 steps of time and 17 bands of 200 to 3500 Hz, the sign of how the difference
    of neighbouring bands changes from step to step.

    J. Haitsma and T. Kalker, "A highly robust audio fingerprinting system", ISMIR 2002, with few and long steps.
    """
    from scipy.fft import next_fast_len
    from scipy.signal import stft

    mono = np.asarray(wave, np.float32).mean(1)
    fast: Callable[[int], int] = next_fast_len  # pyright: ignore[reportAssignmentType]
    size = fast(round(0.064 * sample_rate_hz))  # others take several times as long
    if len(mono) < (_STEPS + 1) * size or np.abs(mono).max() < 1e-4:
        return ""
    frequencies, _, spectrum = stft(mono, sample_rate_hz, nperseg=size, noverlap=size // 2)
    edges = np.geomspace(_LOW_HZ, _HIGH_HZ, _BANDS + 1)
    places = np.clip(np.searchsorted(frequencies, edges), 1, len(frequencies))
    power = np.abs(spectrum) ** 2
    bands = np.stack([power[a : max(b, a + 1)].sum(0) for a, b in pairwise(places)])
    moments = np.linspace(0, bands.shape[1], _STEPS + 1, endpoint=False, dtype=int)
    level = np.log(np.add.reduceat(bands, moments, axis=1) + 1e-9)
    return _text(np.diff(np.diff(level, axis=0), axis=1) > 0)


def picture_fingerprint(frames: UInt8[np.ndarray, "n h w"]) -> str:
    """256 bits of the frames' luma: of four moments, whether each of 8 x 8 parts is brighter than its neighbour in the
    row (a difference hash), by a level at least."""
    moments = np.linspace(0, len(frames) - 1, 4).round().astype(int)
    gray = frames[moments].astype(np.float32)
    sides = zip(gray.shape[1:], (_SIDE, _SIDE + 1), strict=True)
    rows, columns = (np.linspace(0, side, parts, endpoint=False, dtype=int) for side, parts in sides)
    small = np.add.reduceat(np.add.reduceat(gray, rows, axis=1), columns, axis=2)
    areas = np.diff(np.append(rows, gray.shape[1]))[:, None] * np.diff(np.append(columns, gray.shape[2]))[None, :]
    small = small / areas
    if small.std((1, 2)).max() < _LEAST_CONTRAST:
        return ""
    return _text(np.diff(small, axis=2) > _LEAST_STEP)


def differing_share(one: str, other: str) -> float:
    """Share of the bits in which two fingerprints differ, 0 to 1; about 0.5 of two that have nothing in common."""
    return (int(one, 16) ^ int(other, 16)).bit_count() / BITS


def _text(bits: np.ndarray) -> str:
    return np.packbits(bits.ravel()).tobytes().hex()
