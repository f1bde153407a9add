"""What is laid over a picture: subtitles, logos and watermarks. Frames are u8 [n, h, w, 3] RGB of a whole excerpt.

They should have about 512 lines and columns (`FRAMES`), whatever the picture's shape: text of a film's subtitles is
then 10 to 40 lines high.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from kfjax.data.clean.measures.picture import brightness, inside_bars, still_steps
from kfjax.media import FrameSpec

#: Frames of the picture that are looked at.
FRAMES = FrameSpec(rate_hz=2.0, size=512, resize="stretch")

# Text: steps of brightness from column to column, of 255, that stand half a second, and their share of a neighbourhood.
_STROKE_LEVELS, _STROKE_SHARE = 40.0, 0.2
_NEIGHBOURHOOD = (5, 21)
# A line of it: its height as a share of the picture's, at least so much wider, so much of its box full, and so many
# times as many edges in it as above or below it.
_LOWEST, _HIGHEST, _WIDER, _FULL, _APART = 0.012, 0.12, 2.5, 0.6, 2.0
# A logo: mean gradient, its share of the mean of all gradients there, the smallest of them, and the share of a
# neighbourhood that has such edges.
_EDGE_LEVELS, _COHERENCE, _LEAST_LEVELS, _EDGE_SHARE, _LOGO_NEIGHBOURHOOD = 10.0, 0.8, 4.0, 0.1, 17
# Lines beside a black bar that hold its edge.
_SMEARED = 4
# What is longer, as a share of the picture, is no logo, nor is what is thinner than so many lines or columns: an edge.
_CROSSING, _THIN = 0.7, 5
# A place moves where its brightness is so far from its median half of the time. It does so in this share of the picture
# at least, and of what surrounds a logo; where more of the picture has standing edges, the camera stands still. Every
# fourth line and column is looked at.
_MOVING_LEVELS, _MOVING_SHARE, _STANDING_SHARE, _EVERY = 2.0, 0.3, 0.1, 4
# The camera moves where this share of the picture does at least, where the edges of two frames, one after the other,
# correlate by so much at some shift, and by so much less at none (up to one place), in this share of the steps; and
# where edges that are there less often than always pass through this share of 8 x 8 tiles.
_LEAST_MOVING, _SHIFTED, _SHIFTED_MORE, _SHIFTED_SHARE = 0.1, 0.5, 0.1, 0.5
_PASSED_SHARE, _TILES, _ALWAYS = 0.6, 8, 0.9
_LEAST_FRAMES = 4
# Pictures that follow one another and each stand still are no camera that moves: they do in no more of the steps.
_MOST_STILL = 0.5


def subtitle_share(frames: UInt8[np.ndarray, "n h w 3"]) -> float:
    """Share of the picture's area in lines of text, 0 to 1: the mean over the steps from frame to frame.

    A line of text is a long low box full of steep edges from left to right that stay where they are for a step, and
    stand apart from what is above or below. Edges in several frames tell text from a picture as in M. R. Lyu, J. Song
    and M. Cai, "A comprehensive method for multilingual video text detection, localization, and extraction", IEEE
    TCSVT 2005. Text in the scene (signs, keyboards) counts too; text on a fine texture of as steep edges is not found.
    """
    gray = brightness(frames)
    if len(gray) < 2:
        return 0.0
    strokes = np.abs(np.diff(gray, axis=2)) > _STROKE_LEVELS
    return float(np.mean([_text_share(one & other) for one, other in pairwise(strokes)]))


def _text_share(strokes: Bool[np.ndarray, "h w"]) -> float:
    from scipy.ndimage import find_objects, label, uniform_filter

    height, width = strokes.shape
    share = uniform_filter(strokes.astype(np.float32), _NEIGHBOURHOOD)  # pyright: ignore[reportArgumentType]
    numbers = np.zeros(strokes.shape, np.int32)
    label(share > _STROKE_SHARE, output=numbers)
    area = 0
    for number, (rows, columns) in enumerate(find_objects(numbers), 1):
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        if not (_LOWEST * height <= high <= _HIGHEST * height and wide >= _WIDER * high):
            continue
        above, below = (slice(max(0, rows.start - high), rows.start), slice(rows.stop, rows.stop + high))
        beside = min(strokes[band, columns].mean() if strokes[band].size else 0.0 for band in (above, below))
        full = (numbers[rows, columns] == number).mean() >= _FULL
        area += high * wide * int(full and strokes[rows, columns].mean() >= _APART * beside)
    return area / (height * width)


def logo_share(frames: UInt8[np.ndarray, "n h w 3"]) -> float | None:
    """Share of the picture's area in logos and watermarks, 0 to 1: dense edges that stand still while all else moves.

    None where nothing can be known: the camera stands still, or there are less than 4 frames.

    A standing edge has a large mean gradient, most of the gradients' mean size, and a gradient in every frame (their
    temporal minimum). T. Dekel, M. Rubinstein, C. Liu and W. T. Freeman, "On the effectiveness of visible watermarks",
    CVPR 2017, find a watermark by the median of gradients. Black bars (`picture.border_share`) are left out, and what
    crosses most of the picture is an edge. What stands in what does not move is a part of the scene: rain, or something
    large that passes, changes a place now and then, a moving camera most of the time. Over large plain walls it does
    not: there the edges tell that it moves (`_camera_moves`), and then all that stands is a logo.
    """
    from scipy.ndimage import find_objects, label, uniform_filter

    whole = brightness(frames)
    if len(whole) < _LEAST_FRAMES or still_steps(whole[:, ::_EVERY, ::_EVERY]).mean() > _MOST_STILL:
        return None
    gray = _inside_bars(whole)
    if min(gray.shape[1:]) < _LOGO_NEIGHBOURHOOD:
        return None
    moving = _moving(gray[:, ::_EVERY, ::_EVERY])
    camera_moves = cache(lambda: moving.mean() >= _LEAST_MOVING and _camera_moves(gray))  # seldom asked
    dense = uniform_filter(_standing_edges(gray).astype(np.float32), _LOGO_NEIGHBOURHOOD) > _EDGE_SHARE
    if dense.mean() > _STANDING_SHARE or not (moving.mean() >= _MOVING_SHARE or camera_moves()):
        return None
    numbers = np.zeros(dense.shape, np.int32)
    label(dense, output=numbers)
    height, width = dense.shape
    area = 0
    for number, (rows, columns) in enumerate(find_objects(numbers), 1):
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        if max(high / height, wide / width) > _CROSSING or min(high, wide) < _LOGO_NEIGHBOURHOOD + _THIN:
            continue
        if _moving_around(numbers[::_EVERY, ::_EVERY], number, moving) >= _MOVING_SHARE or camera_moves():
            area += int((numbers[rows, columns] == number).sum())
    return area / whole[0].size


def _inside_bars(gray: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "n x y"]:
    """Without black bars, nor the lines beside them, into which a codec smears the edge."""
    brightest = gray.max(0, keepdims=True)  # of all frames: a twentieth of the work
    rows, columns = (
        range(side.start + _SMEARED, side.stop - _SMEARED) if side.start else side for side in inside_bars(brightest)
    )
    return gray[:, rows.start : rows.stop, columns.start : columns.stop]


def _moving(gray: Float[np.ndarray, "n h w"]) -> Bool[np.ndarray, "h w"]:
    """Where the median absolute deviation over time is large."""
    return np.median(np.abs(gray - np.median(gray, axis=0)), axis=0) > _MOVING_LEVELS


def _camera_moves(gray: Float[np.ndarray, "n h w"]) -> bool:
    """Whether edges are shifted as one from frame to frame, by their cross-correlation, and come by everywhere: those
    of something that moves before a still camera stay on its path."""
    high, wide = (side // _EVERY for side in gray.shape[1:])
    small = gray[:, : high * _EVERY, : wide * _EVERY].reshape(-1, high, _EVERY, wide, _EVERY).mean((2, 4))
    edges = np.hypot(*np.gradient(small, axis=(1, 2)))
    often = (edges > _LEAST_LEVELS).mean(0)
    passing = (often > 0) & (often < _ALWAYS)
    tiles = [part.any() for rows in np.array_split(passing, _TILES) for part in np.array_split(rows, _TILES, axis=1)]
    edges = (edges - edges.mean((1, 2), keepdims=True)) * np.outer(np.hanning(high), np.hanning(wide))
    edges /= np.sqrt(np.square(edges).sum((1, 2), keepdims=True)) + 1e-6
    spectra = np.fft.rfft2(edges)
    alike = np.fft.irfft2(spectra[1:] * spectra[:-1].conj(), (high, wide))
    best, still = alike.max((1, 2)), np.roll(alike, (1, 1), (1, 2))[:, :3, :3].max((1, 2))
    shifted = np.mean((best > _SHIFTED) & (best > still + _SHIFTED_MORE))
    return bool(shifted >= _SHIFTED_SHARE and np.mean(tiles) >= _PASSED_SHARE)


def _moving_around(numbers: Int[np.ndarray, "h w"], number: int, moving: Bool[np.ndarray, "h w"]) -> float:
    """Share of what moves in the surroundings of an object, as wide as its edges' neighbourhood; 0 without any."""
    from scipy.ndimage import maximum_filter

    near = maximum_filter(numbers == number, 2 * (_LOGO_NEIGHBOURHOOD // _EVERY) + 1)
    around = near & (numbers == 0)
    return float(moving[around].mean()) if around.any() else 0.0


def _standing_edges(gray: Float[np.ndarray, "n h w"]) -> Bool[np.ndarray, "h w"]:
    zeros = lambda *shape: np.zeros((*shape, *gray.shape[1:]), np.float32)
    down, right, size, least = zeros(), zeros(), zeros(), zeros() + np.inf
    for frame in gray:  # central differences over two pixels
        dy, dx = zeros(), zeros()
        dy[1:-1], dx[:, 1:-1] = frame[2:] - frame[:-2], frame[:, 2:] - frame[:, :-2]
        length = np.sqrt(dy**2 + dx**2) / 2
        down, right, size, least = down + dy, right + dx, size + length, np.minimum(least, length)
    standing = np.sqrt(down**2 + right**2) / 2
    large = standing > _EDGE_LEVELS * len(gray)
    return large & (standing > _COHERENCE * size) & (least > _LEAST_LEVELS)
