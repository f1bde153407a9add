"""Excerpts of a row: pieces of a film without a scene cut in them, and the frames that are measured of each.

A film is decoded once, from its beginning to its end, and the frames of one excerpt are held, no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice, product
from typing import NamedTuple

import numpy as np

from kfjax import media
from kfjax.data.clean.measures.picture import distance
from kfjax.data.sources import SHORT_SECONDS, Cut, Row, available_seconds

#: A picture that stays longer is a held one.
_LONGEST_FRAME_SECONDS = 0.2
#: Side of the pictures in which cuts are looked for.
_THUMBNAIL = 32
#: A side of the coarse outline.
_SQUARES = 8
#: A cut changes the picture by this many levels of 255 at least, the mean over its pixels and colours,
_LEAST_LEVELS = 8.0
#: in this share of the outline's squares by half of that: something large that moves changes where it was and is,
_CHANGED_SHARE = 0.5
#: and by this many times what the frames around it change by: a camera that shakes changes all of them.
_LEAST_RATIO = 3.0
#: Outlines whose brightness correlates by more are of one scene: something large moves in it, or the camera.
_SAME_SCENE = 0.6
#: No pixel of a black frame is brighter, of 255: a codec adds a few levels to black.
_BLACK_LEVELS = 24
#: Frames before and after that are looked at. Where some before look like some after, it is a flash and not a cut.
_AROUND = 3


class Piece(NamedTuple):
    """An excerpt, and its frames by the specifications asked for: one u8 [n, ...] each, none of sound alone."""

    cut: Cut
    frames: tuple[np.ndarray, ...]


def pieces(
    row: Row, seconds: float, shortest_seconds: float, specs: tuple[media.FrameSpec, ...], *, span_cuts: bool = False
) -> Iterator[Piece]:
    """The row cut into excerpts of `seconds`, one after the other; what is left before a scene cut, or at the end, is
    one too if it is not too short.

    Args:
      specs: of the frames that come with each excerpt; at a constant rate they are those of `media.read_frames`, or
        where these need not be decoded (`media.frames_in_order`) up to 0.1 s later.
      span_cuts: let excerpts go on over scene cuts.

    Raises:
      ValueError: files that can't be read (`media.MediaError`), no sound, nothing of the shortest length. Damage within
        a film is found where it is: what comes before has been yielded then.
    """
    if row.problem:
        raise ValueError(row.problem)
    there = available_seconds(row)
    least, made = min(seconds, shortest_seconds) - SHORT_SECONDS, 0
    if there >= least and there > 0:
        end = row.start_seconds + there
        found = _of_sound(row, end, seconds) if row.video is None else _of_film(row, end, seconds, specs, span_cuts)
        for piece in found:
            if piece.cut.seconds >= least:
                made += 1
                yield piece
    if not made:
        there = f"{max(0.0, there):.2f} seconds" + (" in pieces between scene cuts" if there >= least else "")
        raise ValueError(f"{row.sound}: {there} are there, expected {shortest_seconds:g}; leave it out")


def _of_sound(row: Row, end: float, seconds: float) -> Iterator[Piece]:
    start = row.start_seconds
    while (left := end - start) > 1e-3:
        yield Piece(_cut(row, start, min(left, seconds) if left < seconds - SHORT_SECONDS else seconds), ())
        start += seconds


def _of_film(row: Row, end: float, seconds: float, specs: tuple, span_cuts: bool) -> Iterator[Piece]:
    assert row.video is not None
    start, frames, shown_until = row.start_seconds, _Frames(specs), row.start_seconds
    rates_hz = [spec.rate_hz for spec in specs]
    shown = media.frames_in_order(row.video, _THUMBNAIL, start, rates_hz=rates_hz)
    for frame, is_cut in ((one, False) for one in shown) if span_cuts else scene_cuts(shown):
        if frame.seconds >= end - SHORT_SECONDS / 2:
            break
        at_cut, full = is_cut and frame.seconds > start, frame.seconds >= start + seconds - 1e-6
        if at_cut or full:
            stop = start + seconds if full else shown_until  # of pictures left out none knows on which side they are
            yield Piece(_cut(row, start, stop - start), frames.until(stop - start))
            start, frames = stop if full else frame.seconds, _Frames(specs)
        frames.add(frame, frame.seconds - start)
        shown_until = frame.until_seconds
    if end - start > 1e-3:
        left = end - start
        length = seconds if left >= seconds - SHORT_SECONDS else left
        yield Piece(_cut(row, start, length), frames.until(length))


def _cut(row: Row, start: float, seconds: float) -> Cut:
    return Cut(row, round(start, 3), round(seconds, 3))


class _Frames:
    """Collects what a player shows at 0, 1 / rate_hz, ... of an excerpt; as `media.read_frames`, takes the next frame
    where it is due soon."""

    def __init__(self, specs: tuple[media.FrameSpec, ...]):
        self.specs, self.last = specs, None
        self.kept: tuple[list[np.ndarray], ...] = tuple([] for _ in specs)

    def add(self, frame: media.Shown, seconds: float) -> None:
        """The next frame, and when it is shown, from the excerpt's start."""
        for spec, kept in zip(self.specs, self.kept, strict=True):
            while len(kept) / spec.rate_hz <= seconds + 1e-3:
                late = seconds - len(kept) / spec.rate_hz
                shown = self.last if self.last is not None and late >= _LONGEST_FRAME_SECONDS else frame
                kept.append(shown.picture(spec))
        self.last = frame

    def until(self, seconds: float) -> tuple[np.ndarray, ...]:
        """All of an excerpt of so many seconds, the last picture held to its end."""
        for spec, kept in zip(self.specs, self.kept, strict=True):
            count = max(1, int(spec.rate_hz * seconds + 1e-6))
            while len(kept) < count and self.last is not None:
                kept.append(self.last.picture(spec))
            del kept[count:]
        return tuple(np.stack(kept) for kept in self.kept)


def scene_cuts(frames: Iterable[media.Shown]) -> Iterator[tuple[media.Shown, bool]]:
    """Each frame, and whether a new scene begins with it; `_AROUND` frames behind the decoder.

    One does where the picture changes by much, and by far more than around it (as PySceneDetect's AdaptiveDetector, in
    RGB), and nothing before it looks like anything after it; or where it comes out of black. Dissolves are not found.
    """
    window: deque[media.Shown] = deque()  # _AROUND frames before the one that is judged, it, and _AROUND after it
    changes: deque[float] = deque()  # of each of them to its predecessor
    last, behind = None, 0
    for frame in chain(frames, [None] * _AROUND):
        if frame is not None:
            changes.append(_change(last, frame) if last is not None else 0.0)
            window.append(frame)
            last = frame
        if frame is None or len(window) - behind > _AROUND:
            if behind >= len(window):
                return
            yield window[behind], _is_cut(window, changes, behind)
            behind += 1
        if behind > _AROUND:
            window.popleft()
            changes.popleft()
            behind -= 1


def _is_cut(window: deque[media.Shown], changes: deque[float], i: int) -> bool:
    if i == 0:
        return False
    if window[i - 1].thumbnail.max() < _BLACK_LEVELS <= window[i].thumbnail.max():
        return True
    if changes[i] < _LEAST_LEVELS:
        return False
    around = [changes[k] for k in range(max(1, i - 2), min(len(changes), i + 3)) if k != i]
    if changes[i] < _LEAST_RATIO * (sum(around) / len(around) if around else 0.0):
        return False
    places = np.abs(_coarse(window[i]) - _coarse(window[i - 1])).mean(-1) > _LEAST_LEVELS / 2
    if places.mean() < _CHANGED_SHARE:
        return False
    pairs = product(map(_coarse, islice(window, i)), map(_coarse, islice(window, i, None)))
    return not any(_alike(before, after, changes[i]) for before, after in pairs)


def _alike(one: np.ndarray, other: np.ndarray, change: float) -> bool:
    """Whether two outlines are of one scene: where a fine texture jerks they change by less than the picture, whose
    change is given; where something moves they correlate. A plain picture correlates with none."""
    if np.abs(one - other).mean() < change / 2:
        return True
    one, other = (outline.mean(-1) - outline.mean() for outline in (one, other))
    return (one * other).sum() > _SAME_SCENE * np.sqrt((one**2).sum() * (other**2).sum())


def _change(one: media.Shown, other: media.Shown) -> float:
    return float(distance(one.thumbnail, other.thumbnail).sum(dtype=np.uint32)) / one.thumbnail.size


def _coarse(frame: media.Shown) -> np.ndarray:
    """Averages over squares of the thumbnail, which a jerk of the camera over a fine texture changes by little."""
    side = _THUMBNAIL // _SQUARES
    return frame.thumbnail.reshape(_SQUARES, side, _SQUARES, side, 3).mean((1, 3), dtype=np.float32)
