"""Sustained sounds: shaped noise, crackle and harmonics that follow an event's path."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.signal import butter, sosfilt

#: Level (RMS) of a sustained sound of loudness 1, before it is placed between the ears.
SUSTAINED_RMS = 0.08
SPEED_OF_SOUND = 343.0
#: An engine's road: metres from the middle of the picture to its edge, and from the ear to the road.
ROAD_HALF_WIDTH, ROAD_DISTANCE = 15.0, 5.0
#: Pass bands (Hz) of things rolling and sliding, by material: the rumble or scrape, and the surface's own colour.
ROLLING_HZ = {"wood": (80, 420), "metal": (220, 1400), "glass": (500, 2400), "rubber": (45, 180), "stone": (110, 750)}
SLIDING_HZ = {
    "wood": (900, 2600),
    "metal": (3500, 8000),
    "glass": (5000, 11000),
    "rubber": (500, 1300),
    "stone": (1500, 5200),
}


def rain(size: int, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """A bright hiss and a dense patter of small drops; mono float32 [size], RMS about 1."""
    hiss = _noise(size, (3000, 12000), rng, sample_rate_hz)
    drops = _sprinkle(size, 90.0, 2.0, rng, sample_rate_hz)
    patter = _filtered((1800, 5000), drops, sample_rate_hz)
    return _blend((1.0, hiss), (0.5, patter))


def wind(size: int, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """Low noise whose whistle comes and goes within seconds; mono float32 [size], RMS about 1."""
    low = _noise(size, (200, 600), rng, sample_rate_hz)
    whistle = _noise(size, (700, 1300), rng, sample_rate_hz)
    gust = _slow(size, 0.7, rng, sample_rate_hz)
    return _blend((0.8, low), (1.0, whistle * gust))


def fire(size: int, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """Crackle and sizzle over a deep rumble; mono float32 [size], RMS about 1.

    The crackles are many and small: sparse loud ones could not be told from things struck.
    """
    rumble = _noise(size, (40, 140), rng, sample_rate_hz)
    sizzle = _noise(size, (1200, 3800), rng, sample_rate_hz)
    crackle = _filtered((1200, 3800), _sprinkle(size, 130.0, 2.5, rng, sample_rate_hz), sample_rate_hz)
    return _blend((0.9, rumble), (0.25, sizzle), (0.65, crackle))


def engine(x: np.ndarray, pitch: float, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """Harmonics of a firing rate, Doppler-shifted along the road; mono float32 [size], RMS about 1.

    Args:
      x: horizontal position at every sample, -1 to 1; at ±1 the engine is `ROAD_HALF_WIDTH` metres from the middle.
      pitch: firing rate relative to 62 Hz.
    """
    distance = np.hypot(ROAD_HALF_WIDTH * x, ROAD_DISTANCE)
    receding = np.gradient(distance) * sample_rate_hz if len(x) > 1 else np.zeros(len(x))
    rate_hz = 62.0 * pitch * (1 + 0.01 * rng.standard_normal()) / (1 + receding / SPEED_OF_SOUND)
    cycle = 2 * np.pi * np.cumsum(rate_hz / sample_rate_hz)
    # Harmonics by the multiple-angle recurrence sin(k a) = 2 cos(a) sin((k - 1) a) - sin((k - 2) a).
    twice, before, now = 2 * np.cos(cycle), np.zeros(len(x)), np.sin(cycle)
    tone = np.zeros(len(x))
    for k in range(1, 13):
        tone += now * (1.25 if k % 2 == 0 else 0.8) * k**-0.7
        before, now = now, twice * now - before
    exhaust = _noise(len(x), (90, 700), rng, sample_rate_hz) * (0.6 + 0.4 * np.sin(cycle))
    return _blend((0.9, tone), (0.35, exhaust))


def rolling(x: np.ndarray, material: str, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """A rumble with the bumps of a turning thing, faster with its speed; mono float32 [size], RMS about 1."""
    low, high = _surface(ROLLING_HZ, "rolling", material)
    speed = _speed(x, sample_rate_hz)
    turns = np.cumsum((0.5 + 6.0 * speed) / sample_rate_hz)
    bump = 0.7 + 0.3 * np.sin(2 * np.pi * (turns + rng.random()))
    rumble = _noise(len(x), (low, high), rng, sample_rate_hz) * bump
    grain = _noise(len(x), (high, 2.2 * high), rng, sample_rate_hz) * bump**2
    return _blend((0.95, rumble), (0.35, grain))


def sliding(x: np.ndarray, material: str, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """A steady scrape, roughened by stick and slip; mono float32 [size], RMS about 1."""
    band = _surface(SLIDING_HZ, "sliding", material)
    slips = np.cumsum((28.0 + 20.0 * np.minimum(_speed(x, sample_rate_hz), 2.0)) / sample_rate_hz)
    stick = 0.65 + 0.35 * np.sin(2 * np.pi * (slips + rng.random()))
    return _blend((1.0, _noise(len(x), band, rng, sample_rate_hz) * stick))


def _surface(bands: dict, source: str, material: str) -> tuple[float, float]:
    if material not in bands:
        raise ValueError(f"{source} of {material!r}: expected one of {', '.join(bands)}")
    return bands[material]


def _speed(x: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Half picture widths a second, smoothed over the steps of a path sampled at the frame rate."""
    if len(x) < 2:
        return np.zeros(len(x))
    hop = max(1, sample_rate_hz // 25)
    coarse = x[::hop]
    speed = np.abs(np.gradient(coarse)) * sample_rate_hz / hop if len(coarse) > 1 else np.zeros(1)
    return np.interp(np.arange(len(x)), np.arange(len(speed)) * hop, speed)


def _noise(size: int, band_hz: tuple[float, float], rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """Band-passed Gaussian noise of RMS about 1."""
    noise = rng.standard_normal(size, dtype=np.float32)
    return _filtered(band_hz, noise, sample_rate_hz) * np.float32(_unit_gain(band_hz, sample_rate_hz))


def _slow(size: int, rate_hz: float, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """A random curve between 0 and 1 with about `rate_hz` turns a second."""
    knots = rng.random(int(size / sample_rate_hz * rate_hz * 2) + 3)
    curve = np.interp(np.arange(size), np.arange(len(knots)) * sample_rate_hz / (2 * rate_hz), knots)
    return curve.astype(np.float32)


def _sprinkle(size: int, rate_hz: float, sigma: float, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """Impulses at random times, `rate_hz` a second on average; `sigma` bounds how far the loud exceed the usual."""
    count = rng.poisson(rate_hz * size / sample_rate_hz)
    impulses = np.zeros(size, np.float32)
    heights = rng.uniform(1 / sigma, 1.0, count) * rng.choice((-1.0, 1.0), count)
    np.add.at(impulses, rng.integers(0, max(size, 1), count), heights.astype(np.float32))
    return impulses * np.float32(np.sqrt(sample_rate_hz / rate_hz))


def _blend(*parts: tuple[float, np.ndarray]) -> np.ndarray:
    first, *rest = (np.float32(gain) * part.astype(np.float32) for gain, part in parts)
    return sum(rest, first)


@cache
def _band(band_hz: tuple[float, float], sample_rate_hz: int) -> np.ndarray:
    high = min(band_hz[1], 0.45 * sample_rate_hz)
    low = min(band_hz[0], 0.5 * high)
    return np.asarray(butter(2, (low, high), "bandpass", fs=sample_rate_hz, output="sos")).astype(np.float32)


def _filtered(band_hz: tuple[float, float], wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    return np.asarray(sosfilt(_band(band_hz, sample_rate_hz), wave))


@cache
def _unit_gain(band_hz: tuple[float, float], sample_rate_hz: int) -> float:
    impulse = np.zeros(1 << 15)
    impulse[0] = 1.0
    response = np.asarray(sosfilt(_band(band_hz, sample_rate_hz).astype(float), impulse))
    return float(1 / np.sqrt(np.sum(response**2)))
