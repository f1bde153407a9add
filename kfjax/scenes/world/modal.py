"""Struck sounds: sums of damped sinusoids plus a burst of contact noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.signal import butter, sosfilt

#: Peak amplitude of a struck sound of loudness 1, before it is placed between the ears.
STRUCK_PEAK = 0.6
#: One row of the mode bank's matrix product, in samples.
_ROW = 256


@dataclass(frozen=True)
class Body:
    """What rings when a thing is struck.

    Attributes:
      base_hz: frequency of the mode of ratio 1 at pitch 1.
      ratios: mode frequencies relative to `base_hz`.
      gains: mode amplitudes, any scale.
      decay_seconds: time in which the mode of ratio 1 falls by 40 dB.
      damping: how much faster higher modes die: decay = decay_seconds * ratio ** -damping.
      noise: amplitude of the contact noise relative to the modes.
      noise_hz: the contact noise's pass band (low, high).
      noise_seconds: time in which the contact noise falls by 40 dB.
    """

    base_hz: float
    ratios: tuple[float, ...]
    gains: tuple[float, ...]
    decay_seconds: float
    damping: float
    noise: float
    noise_hz: tuple[float, float]
    noise_seconds: float


_PIANO_RATIOS = tuple(k * (1 + 4e-4 * k * k) ** 0.5 for k in range(1, 11))

#: The bodies of the world. Centre and decay of each are far from every other's, so that ear and model can tell.
BODIES = {
    "wood": Body(430.0, (1, 2.57, 4.93), (1, 0.55, 0.25), 0.08, 0.3, 0.5, (300, 2500), 0.012),
    "metal": Body(760.0, (1, 2.76, 5.40, 8.93), (0.8, 1, 0.7, 0.4), 0.5, 0.15, 0.3, (2000, 9000), 0.008),
    "glass": Body(3300.0, (1, 1.58, 2.24, 2.92), (1, 0.8, 0.5, 0.3), 0.3, 0.3, 0.3, (5000, 15000), 0.006),
    "rubber": Body(120.0, (1, 1.59), (1, 0.4), 0.06, 0.0, 0.35, (60, 900), 0.03),
    "stone": Body(1250.0, (1, 1.47, 2.09, 2.83), (1, 0.8, 0.6, 0.5), 0.045, 0.2, 1.0, (900, 6000), 0.02),
    "clock": Body(4200.0, (1, 1.41), (1, 0.6), 0.018, 0.0, 0.3, (5000, 14000), 0.006),
    "bell": Body(
        560.0,
        (0.5, 1, 1.183, 1.506, 2.0, 2.66, 3.01),
        (0.4, 1, 0.6, 0.5, 0.8, 0.4, 0.3),
        1.5,
        0.35,
        0.15,
        (2000, 8000),
        0.008,
    ),
    "piano": Body(440.0, _PIANO_RATIOS, tuple(0.75**k for k in range(10)), 1.0, 0.5, 0.25, (80, 1500), 0.02),
}

#: What is walked on: the heel's and the sole's pass bands (Hz), the sole's level, its 40-dB decay (seconds), grain.
GROUNDS = {
    "wood": ((90, 420), (300, 1500), 0.30, 0.09, False),
    "stone": ((150, 900), (1200, 5000), 0.40, 0.06, False),
    "metal": ((200, 1100), (1500, 7000), 0.50, 0.14, False),
    "grass": ((60, 260), (700, 3000), 0.35, 0.12, False),
    "gravel": ((80, 500), (1800, 8000), 0.90, 0.14, True),
    "snow": ((60, 300), (900, 4500), 0.70, 0.16, True),
}


def strike(source: str, pitch: float, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """One stroke of a body at loudness 1: mono float32, from the onset until it has fallen by 60 dB.

    Mode gains vary by about 10 % and the pitch by less than 1 % from stroke to stroke: no two are equal, all alike.
    """
    return _level(_ring, source, sample_rate_hz) * _ring(source, pitch, rng, sample_rate_hz)


def footstep(ground: str, pitch: float, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """One step at loudness 1: a low heel, then a softer, brighter sole; mono float32. `ground` is in `GROUNDS`."""
    if ground not in GROUNDS:
        raise ValueError(f"footsteps on {ground!r}: expected one of {', '.join(GROUNDS)}")
    return _level(_step, ground, sample_rate_hz) * _step(ground, pitch, rng, sample_rate_hz)


def noise_burst(
    band_hz: tuple[float, float],
    decay_seconds: float,
    rng: np.random.Generator,
    sample_rate_hz: int,
    pitch: float = 1.0,
    grain: bool = False,
) -> np.ndarray:
    """Band-passed noise falling by 40 dB in `decay_seconds`, about 1 at its peak; `grain` breaks it into crunches."""
    size = round(1.5 * decay_seconds * sample_rate_hz)
    noise = rng.standard_normal(size, dtype=np.float32)
    if grain:
        crunches = rng.uniform(0.3, 1.7, size // 500 + 2)
        noise *= np.repeat(crunches, 500)[:size].astype(np.float32)
    shape = np.exp(-np.log(100) / (decay_seconds * sample_rate_hz) * np.arange(size, dtype=np.float32))
    low, high = (min(edge * pitch, 0.45 * sample_rate_hz) for edge in band_hz)
    filtered = sosfilt(_band(round(low, 1), round(high, 1), sample_rate_hz), noise * shape)
    # White noise of unit variance keeps the share of power the band lets through; 3 sigma is its usual peak.
    return (filtered / (3 * np.sqrt(2 * (high - low) / sample_rate_hz))).astype(np.float32)


def _step(ground: str, pitch: float, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    heel_hz, sole_hz, sole_level, sole_decay, grain = GROUNDS[ground]
    step = np.zeros(round(0.35 * sample_rate_hz), np.float32)
    heel = noise_burst(heel_hz, 0.05, rng, sample_rate_hz, pitch)
    click = noise_burst(sole_hz, 0.012, rng, sample_rate_hz, pitch)
    sole = noise_burst(sole_hz, sole_decay, rng, sample_rate_hz, pitch, grain=grain)
    sole *= np.minimum(1, np.arange(len(sole)) / (0.012 * sample_rate_hz))  # rolls on to the ground, no second onset
    start = round(0.03 * sample_rate_hz)
    step[: len(heel)] += 1.6 * heel
    step[: len(click)] += 0.5 * click
    step[start : start + len(sole)] += sole_level * sole
    return step


def _ring(source: str, pitch: float, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    body = BODIES[source]
    ratios = np.array(body.ratios)
    # What rings long keeps its pitch, else a stroke would beat with the one before.
    detuned = 1 + 0.0005 / body.decay_seconds * rng.standard_normal()
    frequency_hz = body.base_hz * ratios * pitch * detuned
    gains = np.array(body.gains) * np.exp(0.1 * rng.standard_normal(len(ratios)))
    decay = body.decay_seconds * ratios**-body.damping * pitch**-0.3
    audible = frequency_hz < 0.45 * sample_rate_hz
    sound = damped_sinusoids(frequency_hz[audible], gains[audible], decay[audible], sample_rate_hz)
    contact = noise_burst(body.noise_hz, body.noise_seconds, rng, sample_rate_hz)[: len(sound)]
    sound[: len(contact)] += np.float32(body.noise * gains.max()) * contact
    return sound


def damped_sinusoids(
    frequency_hz: np.ndarray, gains: np.ndarray, decay_seconds: np.ndarray, sample_rate_hz: int
) -> np.ndarray:
    """sum_m gain_m exp(-t ln(100) / decay_m) sin(2 pi f_m t) until 60 dB down; modes [m], result mono float32.

    exp(c (a + b)) = exp(c a) exp(c b), so that with t = row start + column the whole bank is one product of matrices.
    """
    rate = (-np.log(100) / decay_seconds + 2j * np.pi * frequency_hz) / sample_rate_hz
    rows = int(np.ceil(1.5 * decay_seconds.max() * sample_rate_hz / _ROW))
    start = gains[:, None] * np.exp(rate[:, None] * (_ROW * np.arange(rows)))
    within = np.exp(rate[:, None] * np.arange(_ROW))
    # einsum, not @: so small a product costs less than waking the threads of a BLAS.
    sound = np.einsum("mr,mc->rc", start.real, within.imag) + np.einsum("mr,mc->rc", start.imag, within.real)
    return sound.reshape(-1).astype(np.float32)


@cache
def _level(make: Callable[..., np.ndarray], what: str, sample_rate_hz: int) -> np.float32:
    """The gain that brings the usual stroke to `STRUCK_PEAK`: a constant, so that loudness keeps its meaning."""
    strokes = (make(what, 1.0, np.random.default_rng(seed), sample_rate_hz) for seed in range(16))
    return np.float32(STRUCK_PEAK / np.median([np.abs(stroke).max() for stroke in strokes]))


@cache
def _band(low_hz: float, high_hz: float, sample_rate_hz: int) -> np.ndarray:
    return np.asarray(butter(1, (low_hz, high_hz), "bandpass", fs=sample_rate_hz, output="sos"))
