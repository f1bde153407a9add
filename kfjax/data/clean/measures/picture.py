"""Faults of a picture: one that stands still, one with black bars. Frames are u8 [n, h, w, 3] RGB."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8

#: Mean change of a block, of 255, that a codec alone makes of a picture that stands still.
STILL_LEVELS = 2.0
#: No pixel of a black bar is brighter, of 255: a codec adds a few levels to black.
BLACK_LEVELS = 24.0
_BLOCKS = 8
#: Of a row's pixels, all but this share have to be black: the picture's edge rings into the bar.
_BRIGHT_SHARE = 0.02


def still_share(frames: UInt8[np.ndarray, "n h w 3"]) -> float:
    """Share of the steps from frame to frame in which the picture stands still, 0 to 1; 1 for a single frame.

    It does where no block of an eighth of the sides changes by `STILL_LEVELS` in its mean brightness, so that a small
    thing that moves before a camera that does not counts as motion.
    """
    return float(still_steps(brightness(frames)).mean()) if len(frames) > 1 else 1.0


def still_steps(gray: Float[np.ndarray, "n h w"]) -> Bool[np.ndarray, " steps"]:
    """Steps from frame to frame in which the picture stands still; see `still_share`."""
    _, height, width = gray.shape
    rows, columns = (np.linspace(0, side, _BLOCKS, endpoint=False, dtype=int) for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(np.abs(np.diff(gray, axis=0)), rows, axis=1), columns, axis=2)
    areas = np.diff(np.append(rows, height))[:, None] * np.diff(np.append(columns, width))[None, :]
    return (sums / areas).max((1, 2)) < STILL_LEVELS


def border_share(frames: UInt8[np.ndarray, "n h w 3"]) -> float:
    """Share of the area in black bars above and below or left and right, 0 to 1; 1 where all is black.

    A bar is black in every frame. Bars count in pairs, by the thinner one: a dark sky is none.
    """
    gray = brightness(frames)
    rows, columns = inside_bars(gray)
    return 1 - len(rows) * len(columns) / (gray.shape[1] * gray.shape[2])


def inside_bars(gray: Float[np.ndarray, "n h w"]) -> tuple[range, range]:
    """The rows and columns between black bars; empty where all is black."""
    sides = []
    for axis in (2, 1):
        bright = np.quantile(gray, 1 - _BRIGHT_SHARE, axis=axis).max(0) > BLACK_LEVELS
        bar = min(int(bright.argmax()), int(bright[::-1].argmax())) if bright.any() else len(bright)
        sides.append(range(bar, len(bright) - bar))
    return sides[0], sides[1]


def brightness(frames: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w"]:
    """Luma of ITU-R BT.601, 0 to 255."""
    weights, made = np.array([0.299, 0.587, 0.114], np.float32), np.empty(frames.shape[:3], np.float32)
    for frame, gray in zip(frames, made, strict=True):  # one by one: a frame fits into the processor's cache
        np.matmul(frame.astype(np.float32), weights, out=gray)
    return made
