"""The bands of a Slaney mel over the bins of a short-time spectrum, and back: numpy alone, nothing slow to import."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# The Slaney scale: linear to 1 kHz, 3 bands of 200 Hz, then 27 steps to every factor of 6.4.
_LINEAR_HZ, _KNEE_HZ = 200 / 3, 1000.0
_STEP = np.log(6.4) / 27


@lru_cache(maxsize=16)
def filters(bands: int, n_fft: int, sample_rate_hz: int) -> np.ndarray:
    """Triangles of unit area from 0 Hz to half the sample rate, float32 [k m]: mel = magnitude @ filters."""
    edges, bins_hz = _edges_hz(bands, sample_rate_hz), _bins_hz(n_fft, sample_rate_hz)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0, np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)))
    return (triangles * (2 / (high - low))).astype(np.float32)


@lru_cache(maxsize=16)
def to_bins(bands: int, n_fft: int, sample_rate_hz: int) -> np.ndarray:
    """Linear interpolation from the bands' centre frequencies to the bins, ends held, float32 [m k]."""
    centres, bins_hz = _edges_hz(bands, sample_rate_hz)[1:-1], _bins_hz(n_fft, sample_rate_hz)
    return np.stack([np.interp(bins_hz, centres, row) for row in np.eye(bands)]).astype(np.float32)


def _edges_hz(bands: int, sample_rate_hz: int) -> np.ndarray:
    """Band i reaches from edge i to edge i + 2, with its centre at edge i + 1."""
    top = sample_rate_hz / 2
    knee = _KNEE_HZ / _LINEAR_HZ
    top_mel = top / _LINEAR_HZ if top < _KNEE_HZ else knee + np.log(top / _KNEE_HZ) / _STEP
    mels = np.linspace(0, top_mel, bands + 2)
    return np.where(mels < knee, mels * _LINEAR_HZ, _KNEE_HZ * np.exp((mels - knee) * _STEP))


def _bins_hz(n_fft: int, sample_rate_hz: int) -> np.ndarray:
    return np.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1)
