"""Frames of a video at chosen rates and sizes."""

import heapq
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from kfjax.media.probe import (
    MIN_SECONDS,
    MISSING_SECONDS,
    TICK_SECONDS,
    MediaError,
    Track,
    Upright,
    decoded,
    demuxed,
    frame_seconds,
    open_input,
    picture_of,
    scan,
)

if TYPE_CHECKING:
    import av


_SPARE_SECONDS = 1 / 19  # a picture that is shown no longer, as the one before, may be left out
_LATE_SECONDS = 0.1  # and what is due then may be taken of a picture so much later
_SHORTEST_FRAME_SECONDS = 1 / 125  # frames on a finer grid than this have irregular times
#: What is kept of a resized picture: where squares lie between the beginning and the end of its longer side.
_SQUARES = {"stretch": (0.5,), "crop": (0.5,), "crops": (0.0, 0.5, 1.0)}


class FrameSpec(NamedTuple):
    """How frames are wanted: `rate_hz` frames per second, `size` x `size` pixels.

    `stretch` ignores the aspect ratio; `crop` brings the shorter side to `size` and keeps the centre; `crops` keeps
    three squares, from one end of the longer side to the other, next to each other (`size` x 3 `size`). All bicubic.
    `pixels`: RGB, or `gray` for luma alone as the file has it, 0 to 255, in a fifth of the time: [n, size, size].
    """

    rate_hz: float
    size: int
    resize: Literal["stretch", "crop", "crops"]
    pixels: Literal["rgb24", "gray"] = "rgb24"


class Shown(NamedTuple):
    """A frame of a film, as it leaves the decoder.

    `thumbnail` is u8 [n, n, 3], upright or not. `picture` brings the frame to a `FrameSpec`'s size (its rate does not
    matter) as `read_frames` does, when it is called.
    """

    seconds: float  # since the first picture
    until_seconds: float  # when the next picture is shown, whether it is decoded or left out
    thumbnail: np.ndarray
    picture: Callable[[FrameSpec], np.ndarray]


def read_frames(
    path: str | os.PathLike,
    specs: Sequence[FrameSpec],
    *,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    counts: Sequence[int] | None = None,
) -> tuple[list[np.ndarray], float]:
    """Frames of an excerpt at several rates and sizes, in one decoding pass.

    Output k of a spec is what a player shows at start + k / rate_hz: the last frame up to then, held to the end of the
    video. As in the recipe of the published encoders, the next frame is taken where it is due within an ordinary one
    (`frame_seconds`); so at a constant rate, down to five a second, it is the first frame at or after that time.

    Args:
      path: a video file; variable frame rates, rotation and missing timestamps are understood.
      specs: the wanted rates and sizes.
      start_seconds: where the excerpt starts, from the first shown picture.
      duration_seconds: its length; shortened to what the video has. None: to the end.
      counts: frames per spec; by default max(1, int(rate_hz * seconds)).

    Returns:
      One u8 [n, size, size, 3] RGB array per spec ([n, size, 3 size, 3] of `crops`; without the last axis of `gray`),
      upright, and the excerpt's seconds.

    Raises:
      MediaError: no such file, not a video, truncated, shorter than 0.1 s, a single frame, or damaged.
    """
    track = _film(path)
    seconds = _excerpt_seconds(path, track.seconds, start_seconds, duration_seconds)
    if counts is None:
        counts = [max(1, int(spec.rate_hz * seconds + 1e-6)) for spec in specs]
    spans = [range(count) for count in counts]
    return next(_windows(path, track, specs, [spans], start_seconds)), seconds


def frames_in_windows(
    path: str | os.PathLike,
    specs: Sequence[FrameSpec],
    windows: Iterable[tuple[float, Sequence[int]]],
    *,
    start_seconds: float = 0.0,
) -> Iterator[list[np.ndarray]]:
    """Frames of a video window by window, in one decoding pass; each is yielded as soon as its frames are there.

    A window's frames are those that `read_frames` gives from `start_seconds` on at the same times, bit for bit; the
    last picture is held beyond the video's end. Windows may overlap: what they share is resized once. The frames of
    those that have begun are held, no more.

    Args:
      path, specs: as of `read_frames`.
      windows: (start in seconds, frames per spec) of each, in the order of their starts, which are whole multiples of
        every spec's 1 / rate_hz after `start_seconds`.
      start_seconds: where the first may start, from the first shown picture.

    Yields:
      One array per spec for each window, as of `read_frames`.

    Raises:
      MediaError: as `read_frames`, before the first window; of damage, where it is reached.
      ValueError: windows out of order, or a start between two frames.
    """
    track = _film(path)
    _excerpt_seconds(path, track.seconds, start_seconds, None)
    spans = [
        [_span(start, count, spec) for count, spec in zip(counts, specs, strict=True)] for start, counts in windows
    ]
    for earlier, later in pairwise(spans):
        if any(one.start > other.start for one, other in zip(earlier, later, strict=True)):
            raise ValueError("windows: got one that starts before its predecessor; give them in order of their starts")
    return _windows(path, track, specs, spans, start_seconds)


def frames_in_order(
    path: str | os.PathLike, thumbnail: int, start_seconds: float = 0.0, *, rates_hz: Sequence[float] = ()
) -> Iterator[Shown]:
    """The frames of a film, in one decoding pass, from the last one at or before `start_seconds` on.

    Args:
      thumbnail: side of the small square picture that is made of each, by averaging areas.
      rates_hz: leave out what is not needed at these rates; by default nothing. Where 20 pictures or more are shown in
        a second, those that no other is predicted from are not decoded, but for one of those within 0.1 s from
        start + k / rate on: that which the file has first, from which others are predicted most likely. What is decoded
        is the same, bit for bit. That halves the work for H.264, HEVC and MPEG-4 with B-frames, and saves nothing where
        no picture, or every one, stands alone.

    Raises:
      MediaError: as `read_frames`; of damage, where it is reached.
    """
    from av.video.reformatter import Interpolation, VideoReformatter

    track = _film(path)
    scaler, resizers = VideoReformatter(), {}
    times = _shown_seconds(track)
    spare = _spare_pts(track, start_seconds, rates_hz)

    def picture(frame: "av.VideoFrame", spec: FrameSpec) -> np.ndarray:
        if spec not in resizers:
            resizers[spec] = _Resizer(spec, track.upright)
        return resizers[spec](frame)

    def shown(seconds: float, frame: "av.VideoFrame") -> Shown:
        small = scaler.reformat(frame, thumbnail, thumbnail, "rgb24", interpolation=Interpolation.AREA, threads=1)
        after = int(np.searchsorted(times, seconds + 1e-9, side="right"))
        until = float(times[after]) if after < len(times) else track.seconds
        return Shown(seconds, until, small.to_ndarray(), partial(picture, frame))

    seconds, last = 0.0, None
    # `kfjax clean` has a process a core
    for seconds, frame in shown_frames(path, track, start_seconds, threads=1, spare=spare):
        if last is not None and seconds > start_seconds + TICK_SECONDS:
            yield shown(*last)
        last = seconds, frame
    if last is None or seconds < float((track.last - track.start) * track.tick) - MISSING_SECONDS:
        raise _damaged(path, seconds, track)
    yield shown(*last)


def _shown_seconds(track: Track) -> np.ndarray:
    """When the pictures are shown, from the first one on, f64."""
    return (np.unique(track.pts[~track.hidden]) - track.start) * float(track.tick)


def _spare_pts(track: Track, start_seconds: float, rates_hz: Sequence[float]) -> frozenset[int]:
    """The timestamps of pictures that need not be decoded; see `frames_in_order`."""
    if not track.timed or not rates_hz:
        return frozenset()
    seconds = _shown_seconds(track)
    pts, places = np.unique(track.pts[~track.hidden], return_index=True)  # places: in the file
    short = np.diff(seconds) < _SPARE_SECONDS
    spare = np.zeros(len(seconds), bool)
    spare[1:-1] = short[1:] & short[:-1]
    for rate_hz in rates_hz:
        due = start_seconds + np.arange(max(0, math.ceil((seconds[-1] - start_seconds) * rate_hz))) / rate_hz
        first, late = (np.searchsorted(seconds, due + more) for more in (-TICK_SECONDS, _LATE_SECONDS))
        spare[first[:1]] = False  # nothing before the start is shown for it
        spare[[a + places[a : max(a + 1, b)].argmin() for a, b in zip(first, late, strict=True)]] = False
    return frozenset(pts[spare].tolist())


def _damaged(path: str | os.PathLike, seconds: float, track: Track) -> MediaError:
    there = f"{seconds:.2f} of {track.seconds:.2f} seconds"
    return MediaError(f"{path}: is damaged: its pictures decode up to {there}; copy or convert it again")


def _span(start_seconds: float, count: int, spec: FrameSpec) -> range:
    """The window's outputs, numbered from the video's beginning."""
    first = round(start_seconds * spec.rate_hz)
    if start_seconds < 0 or abs(first - start_seconds * spec.rate_hz) > 1e-6 * max(1, first):
        period = f"1/{spec.rate_hz:g} s"
        raise ValueError(f"windows: got a start at {start_seconds:g} s, expected a multiple of {period}; move it there")
    return range(first, first + count)


def _film(path: str | os.PathLike) -> Track:
    info, track = scan(path)
    if track is None:
        raise MediaError(f"{path}: has sound but no picture; give a video, or no file and a text prompt alone")
    if (info.frame_count or 0) < 2:
        raise MediaError(f"{path}: holds a single frame; a video of at least {MIN_SECONDS} seconds is needed")
    return track


def _windows(
    path: str | os.PathLike,
    track: Track,
    specs: Sequence[FrameSpec],
    windows: Sequence[Sequence[range]],
    start_seconds: float,
) -> Iterator[list[np.ndarray]]:
    """The arrays of each window; `windows`: for each its outputs per spec, in order."""
    resizers = {spec[1:]: _Resizer(spec, track.upright) for spec in specs}
    shapes = [(spec.size, spec.size * len(_SQUARES[spec.resize]), 3)[: 2 + (spec.pixels != "gray")] for spec in specs]
    totals = [max((spans[i].stop for spans in windows), default=0) for i in range(len(specs))]
    waiting, begun, done = deque(windows), deque(), [0] * len(specs)
    for i, k, frame in _outputs(path, track, specs, totals, start_seconds):
        while waiting and waiting[0][i].start <= k:
            spans = waiting.popleft()
            arrays = [np.empty((len(span), *shape), np.uint8) for span, shape in zip(spans, shapes, strict=True)]
            begun.append((spans, arrays))
        for spans, arrays in begun:
            if k in spans[i]:
                arrays[i][k - spans[i].start] = resizers[specs[i][1:]](frame)
        done[i] = k + 1
        while begun and all(count >= span.stop for count, span in zip(done, begun[0][0], strict=True)):
            yield begun.popleft()[1]
    for _ in waiting:  # windows of no frames
        yield [np.empty((0, *shape), np.uint8) for shape in shapes]


def _outputs(
    path: str | os.PathLike, track: Track, specs: Sequence[FrameSpec], totals: Sequence[int], start_seconds: float
) -> "Iterator[tuple[int, int, av.VideoFrame]]":
    """(spec, output, the frame that it shows) in order of time, `totals` of each spec; see `read_frames`."""
    due = heapq.merge(
        *(_due(i, spec.rate_hz, total) for i, (spec, total) in enumerate(zip(specs, totals, strict=True)))
    )
    output, time_seconds, frame, early = next(due, None), 0.0, None, _early_seconds(track)
    for time_seconds, next_frame in shown_frames(path, track, start_seconds):
        reached = time_seconds - start_seconds
        while output is not None and output[0] <= reached + TICK_SECONDS:
            seconds, i, k = output
            yield i, k, next_frame if frame is None or reached - seconds < early else frame
            output = next(due, None)
        frame = next_frame
        if output is None:
            return
    if frame is None or time_seconds < float((track.last - track.start) * track.tick) - MISSING_SECONDS:
        raise _damaged(path, time_seconds, track)
    while output is not None:
        yield output[1], output[2], frame
        output = next(due, None)


def _due(i: int, rate_hz: float, total: int) -> Iterator[tuple[float, int, int]]:
    """(seconds from the start, spec, output) of one spec."""
    return ((k / rate_hz, i, k) for k in range(total))


def _excerpt_seconds(path, total: float, start: float, duration: float | None) -> float:
    if not 0 <= start < total:
        raise MediaError(f"{path}: is {total:.2f} seconds long; an excerpt can't start at {start:g} seconds")
    seconds = total - start
    if duration is not None:
        if not duration > 0:
            raise MediaError(f"{path}: an excerpt of {duration:g} seconds was asked for; give a duration above 0")
        seconds = min(seconds, float(duration))
    if seconds < MIN_SECONDS - 1e-6:
        raise MediaError(f"{path}: {seconds:.3f} seconds are too short; at least {MIN_SECONDS} seconds are needed")
    return seconds


def _early_seconds(track: Track) -> float:
    """The next frame is taken where it is due in less than this: at a constant rate always, as none is held."""
    ordinary = frame_seconds(track)
    if track.gaps.max(initial=0.0) < 1.5 * ordinary:
        return math.inf
    return ordinary - TICK_SECONDS if ordinary > _SHORTEST_FRAME_SECONDS else TICK_SECONDS


def shown_frames(
    path: str | os.PathLike,
    track: Track,
    start_seconds: float = 0.0,
    *,
    threads: int = 0,
    spare: Set[int] = frozenset(),
) -> "Iterator[tuple[float, av.VideoFrame]]":
    """(seconds since the first picture, frame) in order of presentation, from at or before `start_seconds` on.

    Args:
      threads: of the decoder; 0: as many as there are cores.
      spare: timestamps of pictures that are left out where no other is predicted from them. A change between
        packets counts at once in one thread alone.
    """
    with open_input(path) as container:
        stream = picture_of(container, track)
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        sought = track.timed and start_seconds > 2
        if sought:
            # A second of margin: the first frames after a key frame may refer to pictures before it.
            container.seek(track.start + int((start_seconds - 1) / track.tick), stream=stream)
        packets = damaged = shown = 0
        for packet in demuxed(container, stream):
            if spare:
                stream.codec_context.skip_frame = "NONREF" if packet.pts in spare else "DEFAULT"
            frames = decoded(packet)
            packets, damaged = packets + 1, damaged + (frames is None)
            if damaged >= 10 and damaged > packets / 10:
                raise MediaError(f"{path}: is damaged: {damaged} of {packets} frames don't decode; copy it again")
            for frame in frames or ():
                if track.timed and frame.pts is None:
                    continue
                if not track.timed and shown == len(track.pts):
                    return
                ticks = frame.pts - track.start if track.timed else int(track.pts[shown])
                if sought and not shown and ticks * track.tick > start_seconds:
                    yield from shown_frames(
                        path, track, threads=threads, spare=spare
                    )  # the file's index misled the seek
                    return
                shown += 1
                yield float(ticks * track.tick), frame


class _Resizer:
    """Brings decoded frames to upright pictures of a spec; asked again for the same frame, it doesn't work twice."""

    def __init__(self, spec: FrameSpec, upright: Upright):
        from av.video.reformatter import Interpolation, VideoReformatter

        if spec.resize not in _SQUARES:
            raise ValueError(f"resize is {spec.resize!r}; expected 'stretch' or 'crop' or 'crops'")
        self.spec, self.upright = spec, upright
        # libswscale widens the bicubic kernel with the reduction, so the result is antialiased.
        self.kernel = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        self.scaler, self.frame, self.image = VideoReformatter(), None, None

    def __call__(self, frame: "av.VideoFrame") -> np.ndarray:
        """u8 [size, size, 3], of `crops` [size, 3 size, 3]; without the last axis of `gray`."""
        if self.image is None or frame is not self.frame:
            self.frame, self.image = frame, self._scaled(frame)
        return self.image

    def _scaled(self, frame: "av.VideoFrame") -> np.ndarray:
        _, size, resize, pixels = self.spec
        width = height = size
        if resize != "stretch":
            shorter = min(frame.width, frame.height)
            width, height = size * frame.width // shorter, size * frame.height // shorter
        small = self.scaler.reformat(frame, width, height, pixels, interpolation=self.kernel, threads=1)
        swap, mirror_x, mirror_y = self.upright
        image = small.to_ndarray()
        image = image.swapaxes(0, 1) if swap else image
        image = image[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]
        squares = []
        for part in _SQUARES[resize]:
            # As torchvision rounds, for the public encoders: half to even.
            top, left = (round((side - size) * part) for side in image.shape[:2])
            squares.append(image[top : top + size, left : left + size])
        return np.concatenate(squares, axis=1)
