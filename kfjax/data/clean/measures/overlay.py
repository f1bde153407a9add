"""What is laid over a picture: subtitles, logos and watermarks. Frames are luma, u8 [n, h, w], of a whole excerpt.

They should have about 512 lines and columns (`FRAMES`), whatever the picture's shape: text of a film's subtitles is
then 10 to 40 lines high.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Complex, Float, UInt8

from kfjax.data.clean.measures.picture import distance, inside_bars, still_steps
from kfjax.media import FrameSpec

#: Frames of the picture that are looked at.
FRAMES = FrameSpec(rate_hz=2.0, size=512, resize="stretch", pixels="gray")

# Text: steps of brightness from column to column, of 255, that stand half a second, and their share of a neighbourhood.
_STROKE_LEVELS, _STROKE_SHARE = 40, 0.2
_NEIGHBOURHOOD = (5, 21)
# A line of it: its height as a share of the picture's, at least so much wider, so much of its box full, and so many
# times as many edges in it as above or below it.
_LOWEST, _HIGHEST, _WIDER, _FULL, _APART = 0.012, 0.12, 2.5, 0.6, 3.0
# A logo: mean gradient, its share of the mean of all gradients there, what these are at least in so many of the frames
# (what is behind a logo is as bright at times), and the share of a neighbourhood that has such edges.
_EDGE_LEVELS, _COHERENCE, _LEAST_LEVELS, _LEAST_SHARE = 10.0, 0.8, 4.0, 0.75
_EDGE_SHARE, _LOGO_NEIGHBOURHOOD = 0.1, 17
# Lines beside a black bar that hold its edge.
_SMEARED = 4
# An edge of something is no logo: what is thinner than so many lines or columns, what has so little of its gradients
# across their main direction, and what is longer, as a share of the picture, and fills less of its box.
_THIN, _ACROSS, _CROSSING, _HOLLOW = 5, 0.1, 0.7, 0.4
# A place moves where its brightness is so far from its median half of the time. It does so in this share of the picture
# at least, and of what surrounds a logo; where more of the picture has standing edges, the camera stands still. Every
# fourth line and column is looked at.
_MOVING_LEVELS, _MOVING_SHARE, _STANDING_SHARE, _EVERY = 2.0, 0.3, 0.1, 4
# The camera moves where this share of the picture does at least, where the edges of two frames, one or two steps apart,
# correlate by so much at some shift, and by so much less at none (up to one place), in this share of the steps; and
# where edges that are there less often than always pass through this share of 8 x 8 tiles.
_LEAST_MOVING, _SHIFTED, _SHIFTED_MORE, _SHIFTED_SHARE = 0.1, 0.5, 0.1, 0.5
_PASSED_SHARE, _TILES, _ALWAYS = 0.6, 8, 0.9
_LEAST_FRAMES = 4
# Pictures that follow one another and each stand still are no camera that moves: they do in no more of the steps.
_MOST_STILL = 0.5


def subtitle_share(frames: UInt8[np.ndarray, "n h w"]) -> float:
    """Share of the picture's area in lines of text, 0 to 1: the mean over the steps from frame to frame.

    A line of text is a long low box full of steep edges from left to right that stay where they are for a step, and
    stand apart from what is above or below. Edges in several frames tell text from a picture as in M. R. Lyu, J. Song
    and M. Cai, "A comprehensive method for multilingual video text detection, localization, and extraction", IEEE
    TCSVT 2005. Text in the scene (signs, keyboards) counts too; text on a fine texture of as steep edges is not found.
    """
    if len(frames) < 2:
        return 0.0
    strokes = distance(frames[:, :, 1:], frames[:, :, :-1]) > _STROKE_LEVELS
    return float(np.mean([_text_share(one & other) for one, other in pairwise(strokes)]))


def _text_share(strokes: Bool[np.ndarray, "h w"]) -> float:
    height, width = strokes.shape
    area = 0
    for rows, columns, own in _objects(_around(strokes, _NEIGHBOURHOOD) > _STROKE_SHARE * math.prod(_NEIGHBOURHOOD)):
        high, wide = own.shape
        if not (_LOWEST * height <= high <= _HIGHEST * height and wide >= _WIDER * high):
            continue
        above, below = (slice(max(0, rows.start - high), rows.start), slice(rows.stop, rows.stop + high))
        beside = min(strokes[band, columns].mean() if strokes[band].size else 0.0 for band in (above, below))
        area += own.size * int(own.mean() >= _FULL and strokes[rows, columns].mean() >= _APART * beside)
    return area / (height * width)


def _objects(there: Bool[np.ndarray, "h w"]) -> Iterator[tuple[slice, slice, Bool[np.ndarray, "y x"]]]:
    """Rows and columns of each connected object, and which places of this box are its own."""
    from scipy.ndimage import find_objects, label

    if not there.any():
        return
    (top, bottom), (left, right) = (np.flatnonzero(there.any(axis))[[0, -1]] for axis in (1, 0))
    there = there[top : bottom + 1, left : right + 1]  # most often few places are left
    numbers = np.zeros(there.shape, np.int32)
    label(there, output=numbers)
    for number, (rows, columns) in enumerate(find_objects(numbers), 1):
        own = numbers[rows, columns] == number
        rows, columns = slice(rows.start + top, rows.stop + top), slice(columns.start + left, columns.stop + left)
        yield rows, columns, own


def logo_share(frames: UInt8[np.ndarray, "n h w"]) -> float | None:
    """Share of the picture's area in logos and watermarks, 0 to 1: dense edges that stand still while all else moves.

    None where nothing can be known: the camera stands still, or there are less than 4 frames.

    A standing edge has a large mean gradient, most of the gradients' mean size, and a gradient in most frames. T.
    Dekel, M. Rubinstein, C. Liu and W. T. Freeman, "On the effectiveness of visible watermarks", CVPR 2017, find a
    watermark by the median of gradients. Black bars (`picture.border_share`) are left out, and so are edges of things:
    thin, of one direction, or hollow across the picture. What stands in what does not move is a part of the scene:
    rain, or something large that passes, changes a place now and then, a moving camera most of the time. Over large
    plain walls it does not: there the edges tell that it moves (`_camera_moves`), and then all that stands is a logo.
    """
    from scipy.ndimage import maximum_filter, uniform_filter

    if len(frames) < _LEAST_FRAMES:
        return None
    if still_steps(np.ascontiguousarray(frames[:, ::_EVERY, ::_EVERY])).mean() > _MOST_STILL:
        return None
    inside = _inside_bars(frames)
    if min(inside.shape[1:]) < _LOGO_NEIGHBOURHOOD:
        return None
    edges, down, right = _standing_edges(inside)
    dense = uniform_filter(edges.astype(np.float32), _LOGO_NEIGHBOURHOOD) > _EDGE_SHARE
    if dense.mean() > _STANDING_SHARE:
        return None
    moving = _moving(inside[:, ::_EVERY, ::_EVERY])
    logos = []
    for rows, columns, own in _objects(dense):
        its = own & edges[rows, columns]
        if not _is_edge(own, dense.shape) and _across(down[rows, columns][its], right[rows, columns][its]) >= _ACROSS:
            logos.append(np.zeros_like(dense))
            logos[-1][rows, columns] = own
    side = 2 * (_LOGO_NEIGHBOURHOOD // _EVERY) + 1
    near = [np.asarray(maximum_filter(logo[::_EVERY, ::_EVERY], side), bool) for logo in logos]
    around = [moving[place & ~dense[::_EVERY, ::_EVERY]] for place in near]
    all_moves = moving.mean() >= _MOVING_SHARE
    found = [all_moves and place.size > 0 and place.mean() >= _MOVING_SHARE for place in around]
    if not (all_moves and all(found)):
        besides = np.any([np.zeros_like(moving), *near], axis=0)
        if moving.mean() >= _LEAST_MOVING and _camera_moves(inside, besides):
            found = [True] * len(logos)
        elif not all_moves:
            return None
    return sum(int(logo.sum()) for logo, one in zip(logos, found, strict=True) if one) / frames[0].size


def _is_edge(own: Bool[np.ndarray, "y x"], shape: tuple[int, ...]) -> bool:
    """Of an object, by its places in its box, whether it is an edge of something in a picture of that shape."""
    crossing = max(side / whole for side, whole in zip(own.shape, shape, strict=True)) > _CROSSING
    return min(own.shape) < _LOGO_NEIGHBOURHOOD + _THIN or (crossing and own.mean() < _HOLLOW)


def _inside_bars(frames: UInt8[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n x y"]:
    """Without black bars, nor the lines beside them, into which a codec smears the edge."""
    brightest = frames.max(0, keepdims=True)  # of all frames: a twentieth of the work
    rows, columns = (
        range(side.start + _SMEARED, side.stop - _SMEARED) if side.start else side for side in inside_bars(brightest)
    )
    return frames[:, rows.start : rows.stop, columns.start : columns.stop]


def _moving(frames: UInt8[np.ndarray, "n h w"]) -> Bool[np.ndarray, "h w"]:
    """Where the median absolute deviation over time is large."""
    places = np.moveaxis(frames, 0, -1).astype(np.float32)
    return _median(np.abs(places - _median(places)[..., None])) > _MOVING_LEVELS


def _median(x: Float[np.ndarray, "*s n"]) -> Float[np.ndarray, "*s"]:
    """Along the last axis, as `np.median` and in a third of its time."""
    middle = np.sort(x, axis=-1)[..., (x.shape[-1] - 1) // 2 : x.shape[-1] // 2 + 1]
    return middle.mean(-1)


def _camera_moves(frames: UInt8[np.ndarray, "n h w"], besides: Bool[np.ndarray, "v u"]) -> bool:
    """Whether edges are shifted as one from frame to frame, by their cross-correlation, and come by everywhere: those
    of something that moves before a still camera stay on its path.

    Args:
      besides: places, every `_EVERY`-th, that do not count: what may be laid over the picture.
    """
    high, wide = (side // _EVERY for side in frames.shape[1:])
    blocks = frames[:, : high * _EVERY, : wide * _EVERY].reshape(-1, high, _EVERY, wide, _EVERY)
    edges = np.hypot(*np.gradient(blocks.mean((2, 4), dtype=np.float32), axis=(1, 2)))
    often = (edges > _LEAST_LEVELS).mean(0)
    passing = (often > 0) & (often < _ALWAYS)
    tiles = [part.any() for rows in np.array_split(passing, _TILES) for part in np.array_split(rows, _TILES, axis=1)]
    counted = np.outer(np.hanning(high), np.hanning(wide)) * ~besides[:high, :wide]
    edges = (edges - edges.mean((1, 2), keepdims=True)) * counted
    edges /= np.sqrt(np.square(edges).sum((1, 2), keepdims=True)) + 1e-6
    spectra = np.fft.rfft2(edges)
    shares = [_shifted_share(spectra, steps, (high, wide)) for steps in (1, 2)]
    return bool(max(shares) >= _SHIFTED_SHARE and np.mean(tiles) >= _PASSED_SHARE)


def _shifted_share(spectra: Complex[np.ndarray, "n f g"], steps: int, shape: tuple[int, int]) -> float:
    """How often the pictures behind two spectra, so many steps apart, are one another's shifted."""
    alike = np.fft.irfft2(spectra[steps:] * spectra[:-steps].conj(), shape)
    best, still = alike.max((1, 2)), np.roll(alike, (1, 1), (1, 2))[:, :3, :3].max((1, 2))
    return float(np.mean((best > _SHIFTED) & (best > still + _SHIFTED_MORE)))


def _across(down: Float[np.ndarray, " n"], right: Float[np.ndarray, " n"]) -> float:
    """Share of gradients' power across their main direction, 0 to 0.5: 0 of a straight edge, whatever its slope.

    The smaller eigenvalue of their structure tensor.
    """
    power = np.square(down).sum() + np.square(right).sum()
    main = np.hypot(np.square(down).sum() - np.square(right).sum(), 2 * (down * right).sum())
    return float((power - main) / (2 * power)) if power else 0.0


def _standing_edges(frames: UInt8[np.ndarray, "n h w"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where they are, and the sums of all frames' gradients, downwards and to the right, by central differences; none
    on the border."""
    total = np.pad(frames.sum(0, dtype=np.int32), 1, "edge")
    down, right = (total[2:, 1:-1] - total[:-2, 1:-1]) / 2, (total[1:-1, 2:] - total[1:-1, :-2]) / 2
    strength = np.hypot(down, right)
    y, x = np.nonzero(strength[1:-1, 1:-1] > _EDGE_LEVELS * len(frames))  # of few places single frames are looked at
    y, x = y + 1, x + 1
    at = lambda below, beside: frames[:, y + below, x + beside].astype(np.float32)
    lengths = np.hypot(at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)) / 2
    edges = np.zeros(strength.shape, bool)
    often = (lengths > _LEAST_LEVELS).mean(0) >= _LEAST_SHARE
    edges[y, x] = (strength[y, x] > _COHERENCE * lengths.sum(0)) & often
    return edges, down, right


def _around(there: Bool[np.ndarray, "h w"], sides: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """How many are there in the box around each place; beyond the border the picture is mirrored.

    As `scipy.ndimage.uniform_filter`, counted in bytes: a tenth of its time. Boxes are odd and hold 255 at most.
    """
    counts = np.pad(there.view(np.uint8), [(side // 2, side // 2) for side in sides], "symmetric")
    for axis, side in enumerate(sides):
        part = lambda x, start, stop, axis=axis: x[(slice(None),) * axis + (slice(start, stop),)]
        length, done, power = counts.shape[axis] - side + 1, 0, 1  # `counts` are sums of `power` places
        total = np.zeros_like(part(counts, 0, length))
        while done < side:
            if side & power:
                total += part(counts, done, done + length)
                done += power
            if done < side:
                counts, power = part(counts, None, -power) + part(counts, power, None), 2 * power
        counts = total
    return counts
