"""Frames of a video at chosen rates and sizes."""

import math
import os
from collections.abc import Iterator, Sequence
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


_SHORTEST_FRAME_SECONDS = 1 / 125  # frames on a finer grid than this have irregular times
#: What is kept of a resized picture: where squares lie between the beginning and the end of its longer side.
_SQUARES = {"stretch": (0.5,), "crop": (0.5,), "crops": (0.0, 0.5, 1.0)}


class FrameSpec(NamedTuple):
    """How frames are wanted: `rate_hz` frames per second, `size` x `size` pixels.

    `stretch` ignores the aspect ratio; `crop` brings the shorter side to `size` and keeps the centre; `crops` keeps
    three squares, from one end of the longer side to the other, next to each other (`size` x 3 `size`). All bicubic.
    """

    rate_hz: float
    size: int
    resize: Literal["stretch", "crop", "crops"]


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
      One u8 [n, size, size, 3] RGB array per spec ([n, size, 3 size, 3] of `crops`), upright, and the excerpt's
      seconds.

    Raises:
      MediaError: no such file, not a video, truncated, shorter than 0.1 s, a single frame, or damaged.
    """
    info, track = scan(path)
    if track is None:
        raise MediaError(f"{path}: has sound but no picture; give a video, or no file and a text prompt alone")
    if (info.frame_count or 0) < 2:
        raise MediaError(f"{path}: holds a single frame; a video of at least {MIN_SECONDS} seconds is needed")
    seconds = _excerpt_seconds(path, track.seconds, start_seconds, duration_seconds)
    if counts is None:
        counts = [max(1, int(spec.rate_hz * seconds + 1e-6)) for spec in specs]
    resizers = {spec[1:]: _Resizer(spec.size, spec.resize, track.upright) for spec in specs}
    widths = [spec.size * len(_SQUARES[spec.resize]) for spec in specs]
    outputs = [np.empty((n, s.size, w, 3), np.uint8) for n, s, w in zip(counts, specs, widths, strict=True)]
    filled, time_seconds, frame, early = [0] * len(specs), 0.0, None, _early_seconds(track)
    for time_seconds, next_frame in shown_frames(path, track, start_seconds):
        reached = time_seconds - start_seconds
        for i, spec in enumerate(specs):
            while filled[i] < counts[i] and filled[i] / spec.rate_hz <= reached + TICK_SECONDS:
                due = reached - filled[i] / spec.rate_hz
                outputs[i][filled[i]] = resizers[spec[1:]](next_frame if frame is None or due < early else frame)
                filled[i] += 1
        frame = next_frame
        if filled == list(counts):
            return outputs, seconds
    if frame is None or time_seconds < float((track.last - track.start) * track.tick) - MISSING_SECONDS:
        there = f"{time_seconds:.2f} of {track.seconds:.2f} seconds"
        raise MediaError(f"{path}: is damaged: its pictures decode up to {there}; copy or convert it again")
    for output, n, spec in zip(outputs, filled, specs, strict=True):
        output[n:] = resizers[spec[1:]](frame)
    return outputs, seconds


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
    path: str | os.PathLike, track: Track, start_seconds: float = 0.0
) -> "Iterator[tuple[float, av.VideoFrame]]":
    """(seconds since the first picture, frame) in order of presentation, from at or before `start_seconds` on."""
    with open_input(path) as container:
        stream = picture_of(container, track)
        stream.thread_type = "AUTO"
        sought = track.timed and start_seconds > 2
        if sought:
            # A second of margin: the first frames after a key frame may refer to pictures before it.
            container.seek(track.start + int((start_seconds - 1) / track.tick), stream=stream)
        packets = damaged = shown = 0
        for packet in demuxed(container, stream):
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
                    yield from shown_frames(path, track)  # the file's index misled the seek
                    return
                shown += 1
                yield float(ticks * track.tick), frame


class _Resizer:
    """Brings decoded frames to `size` x `size` upright RGB; asked again for the same frame, it doesn't work twice."""

    def __init__(self, size: int, resize: str, upright: Upright):
        from av.video.reformatter import Interpolation, VideoReformatter

        if resize not in _SQUARES:
            raise ValueError(f"resize is {resize!r}; expected 'stretch' or 'crop' or 'crops'")
        self.size, self.resize, self.upright = size, resize, upright
        # libswscale widens the bicubic kernel with the reduction, so the result is antialiased.
        self.kernel = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        self.scaler, self.frame, self.image = VideoReformatter(), None, None

    def __call__(self, frame: "av.VideoFrame") -> np.ndarray:
        """u8 [size, size, 3], of `crops` [size, 3 size, 3]."""
        if self.image is None or frame is not self.frame:
            self.frame, self.image = frame, self._scaled(frame)
        return self.image

    def _scaled(self, frame: "av.VideoFrame") -> np.ndarray:
        size = self.size
        width = height = size
        if self.resize != "stretch":
            shorter = min(frame.width, frame.height)
            width, height = size * frame.width // shorter, size * frame.height // shorter
        small = self.scaler.reformat(frame, width, height, "rgb24", interpolation=self.kernel, threads=1)
        swap, mirror_x, mirror_y = self.upright
        image = small.to_ndarray()
        image = image.transpose(1, 0, 2) if swap else image
        image = image[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]
        squares = []
        for part in _SQUARES[self.resize]:
            # As torchvision rounds, for the public encoders: half to even.
            top, left = (round((side - size) * part) for side in image.shape[:2])
            squares.append(image[top : top + size, left : left + size])
        return np.concatenate(squares, axis=1)
