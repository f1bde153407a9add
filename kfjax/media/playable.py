"""What browsers play: a video whose picture is H.264 of the ordinary kind, and how to make one of any other."""

import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kfjax.media.frames import shown_frames
from kfjax.media.probe import TICK_SECONDS, MediaError, Upright, frame_seconds, open_input, picture_stream, scan
from kfjax.media.write import write_video

if TYPE_CHECKING:
    import av

#: What every browser decodes: H.264 of 8 bits, chroma at half the size.
_CODEC, _PIXEL_FORMATS = "h264", ("yuv420p", "yuvj420p")
_MOST_FPS = 60.0


def is_playable(path: str | os.PathLike) -> bool:
    """Whether browsers decode the file's picture. Raises MediaError for a file that can't be read."""
    with open_input(path) as container:
        stream = picture_stream(container)
        return (
            stream is not None
            and stream.codec_context.codec.canonical_name == _CODEC
            and stream.codec_context.pix_fmt in _PIXEL_FORMATS
        )


def write_playable(source: str | os.PathLike, target: str | os.PathLike, *, longest_side: int = 1280) -> None:
    """Encodes the picture anew as H.264, upright, at a constant rate of at most 60 a second, without sound.

    The rate is that of the source's ordinary frames (`frame_seconds`); a held picture is repeated.

    Args:
      source: any video that can be read; its picture is made smaller where a side exceeds `longest_side`.
      target: .mp4, .m4v, .mov or .mkv; appears only when complete, and lasts as long, to one picture.

    Raises:
      MediaError: unreadable source, unwritable target.
    """
    track = scan(source)[1]
    rate_hz = _MOST_FPS if track is None else min(_MOST_FPS, 1 / frame_seconds(track))
    write_video(target, pictures(source, rate_hz, longest_side), rate_hz)


def pictures(path: str | os.PathLike, rate_hz: float, longest_side: int) -> Iterator[np.ndarray]:
    """Upright u8 [height, width, 3] pictures with even sides; number k is what is shown at k / rate_hz.

    Raises MediaError for a file without a picture that decodes.
    """
    info, track = scan(path)
    if track is None:
        raise MediaError(f"{path}: has sound but no picture; give a video")
    count = max(1, math.ceil(info.seconds * rate_hz - 1e-6))
    made, held = 0, None
    for time_seconds, frame in shown_frames(path, track):
        image = None
        while held is not None and made < count and made / rate_hz + TICK_SECONDS < time_seconds:
            image = _upright(held, track.upright, longest_side) if image is None else image
            made += 1
            yield image
        held = frame
    if held is None:
        raise MediaError(f"{path}: is damaged: none of its pictures decodes; copy or convert it again")
    image = _upright(held, track.upright, longest_side)
    for _ in range(made, count):
        yield image


def _upright(frame: "av.VideoFrame", upright: Upright, longest_side: int) -> np.ndarray:
    shrink = min(1.0, longest_side / max(frame.width, frame.height))
    width, height = (max(2, round(side * shrink / 2) * 2) for side in (frame.width, frame.height))
    image = frame.reformat(width, height, "rgb24").to_ndarray()
    image = image.transpose(1, 0, 2) if upright.swap else image
    return image[:: -1 if upright.mirror_y else 1, :: -1 if upright.mirror_x else 1]
