"""Faults of a picture: one that stands still, one with black bars. Frames are luma, u8 [n, h, w]."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

#: Mean change of a block, of 255, that a codec alone makes of a picture that stands still.
STILL_LEVELS = 2.0
#: No pixel of a black bar is brighter, of 255: a codec adds a few levels to black.
BLACK_LEVELS = 24
_BLOCKS = 8
#: Of a row's pixels, all but this share have to be black: the picture's edge rings into the bar.
_BRIGHT_SHARE = 0.02


def still_share(frames: UInt8[np.ndarray, "n h w"]) -> float:
    """Share of the steps from frame to frame in which the picture stands still, 0 to 1; 1 for a single frame.

    It does where no block of an eighth of the sides changes by `STILL_LEVELS` in its mean brightness, so that a small
    thing that moves before a camera that does not counts as motion.
    """
    return float(still_steps(frames).mean()) if len(frames) > 1 else 1.0


def still_steps(frames: UInt8[np.ndarray, "n h w"]) -> Bool[np.ndarray, " steps"]:
    """Steps from frame to frame in which the picture stands still; see `still_share`."""
    _, height, width = frames.shape
    rows, columns = (np.linspace(0, side, _BLOCKS, endpoint=False, dtype=int) for side in (height, width))
    of_rows = np.add.reduceat(distance(frames[1:], frames[:-1]), rows, axis=1, dtype=np.int32)
    sums = np.add.reduceat(of_rows, columns, axis=2)
    areas = np.diff(np.append(rows, height))[:, None] * np.diff(np.append(columns, width))[None, :]
    return (sums / areas).max((1, 2)) < STILL_LEVELS


def border_share(frames: UInt8[np.ndarray, "n h w"]) -> float:
    """Share of the area in black bars above and below or left and right, 0 to 1; 1 where all is black.

    A bar is black in every frame. Bars count in pairs, by the thinner one: a dark sky is none.
    """
    rows, columns = inside_bars(frames)
    return 1 - len(rows) * len(columns) / (frames.shape[1] * frames.shape[2])


def inside_bars(frames: UInt8[np.ndarray, "n h w"]) -> tuple[range, range]:
    """The rows and columns between black bars; empty where all is black."""
    sides, lit = [], frames > BLACK_LEVELS
    for axis in (2, 1):
        bright = (np.count_nonzero(lit, axis=axis) > _BRIGHT_SHARE * lit.shape[axis]).any(0)
        bar = min(int(bright.argmax()), int(bright[::-1].argmax())) if bright.any() else len(bright)
        sides.append(range(bar, len(bright) - bar))
    return sides[0], sides[1]


def distance(one: UInt8[np.ndarray, "*s"], other: UInt8[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s"]:
    """The absolute difference."""
    return np.maximum(one, other) - np.minimum(one, other)
