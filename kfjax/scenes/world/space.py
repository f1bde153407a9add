"""Where a sound is heard: level and time difference between the ears from the horizontal position."""

from __future__ import annotations

import numpy as np

#: The ear away from the source hears it this much later when the source is at an edge of the picture.
MAX_EAR_DELAY_SECONDS = 0.00035
#: The quarter circle of constant power is not used to its ends: a source at an edge is still heard by both ears.
_WIDTH = 0.9


def ear_gains(x: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Constant-power gains (left, right) for positions x in -1..1; left² + right² = 1."""
    angle = np.pi / 4 * (1 + _WIDTH * np.clip(x, -1.0, 1.0))
    return np.cos(angle), np.sin(angle)


def place(mono: np.ndarray, x: float, sample_rate_hz: int) -> np.ndarray:
    """A still source: mono [t] to stereo [t + delay, 2]; the nearer ear hears it without delay."""
    delay = round(abs(np.clip(x, -1, 1)) * MAX_EAR_DELAY_SECONDS * sample_rate_hz)
    left, right = ear_gains(x)
    stereo = np.zeros((len(mono) + delay, 2), np.float32)
    starts = (delay, 0) if x > 0 else (0, delay)
    for ear, (start, gain) in enumerate(zip(starts, (left, right), strict=True)):
        stereo[start : start + len(mono), ear] = gain * mono
    return stereo


def place_moving(mono: np.ndarray, x: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """A moving source: mono [t] at positions x [t] to stereo [t, 2]; delays vary smoothly (linear interpolation)."""
    stereo = np.empty((len(mono), 2), np.float32)
    for ear, (side, gain) in enumerate(zip((1.0, -1.0), ear_gains(x), strict=True)):
        delay = np.clip(side * x, 0.0, 1.0) * (MAX_EAR_DELAY_SECONDS * sample_rate_hz)
        stereo[:, ear] = gain * _delayed(mono, delay)
    return stereo


def place_wide(left: np.ndarray, right: np.ndarray, x: float) -> np.ndarray:
    """A surrounding source (weather): two independent channels [t], balanced towards x; stereo [t, 2]."""
    return np.stack([left, right], axis=1) * np.stack(ear_gains(0.5 * x)).astype(np.float32)


def _delayed(mono: np.ndarray, delay: np.ndarray) -> np.ndarray:
    whole = np.floor(delay).astype(np.int32)
    part = (delay - whole).astype(np.float32)
    index = np.arange(len(mono), dtype=np.int32) - whole
    later, earlier = mono[np.maximum(index, 0)], mono[np.maximum(index - 1, 0)]
    return (1 - part) * later + part * earlier
