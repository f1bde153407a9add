"""Pictures encoded as H.264: those of a film that no container takes as they are, and those that were made."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from kfjax.media.copied import texts
from kfjax.media.frames import shown_frames
from kfjax.media.probe import Track, Upright, frame_seconds

if TYPE_CHECKING:
    import av.container

_COLOURS = ("color_primaries", "color_trc", "colorspace", "color_range")


def add_picture(
    target: "av.container.OutputContainer", width: int, height: int, rate: Fraction, pix_fmt: str = "yuv420p"
) -> "av.VideoStream":
    """A stream of `target` for pictures of these sides, both even."""
    stream = target.add_stream("libx264", rate=rate, width=width, height=height, pix_fmt=pix_fmt)
    stream.options = {"crf": "18", "preset": "veryfast"}
    return stream


def encoded(
    stream: "av.VideoStream", frames: "Iterable[tuple[int, av.VideoFrame]]", tick: Fraction
) -> "Iterator[av.Packet]":
    """The packets of (time in units of `tick` seconds, frame)."""
    for time, frame in frames:
        frame.pts, frame.time_base = time, tick
        yield from stream.encode(frame)
    yield from stream.encode(None)


def encoded_anew(
    target: "av.container.OutputContainer", path: str | os.PathLike, track: Track, source: "av.VideoStream"
) -> "Iterator[av.Packet]":
    """Adds a stream to `target` that shows what `source` does at the same times; its packets.

    Odd sides are made even; more than 8 bits become 10.
    """
    context = source.codec_context
    deep = context.format is not None and max(part.bits for part in context.format.components) > 8
    width, height = (max(2, round(side / 2) * 2) for side in (source.width, source.height))
    rate = Fraction(1 / frame_seconds(track)).limit_denominator(1001)
    stream = add_picture(target, width, height, rate, "yuv420p10le" if deep else "yuv420p")
    stream.codec_context.time_base = track.tick
    stream.metadata.update(texts(source.metadata))
    if source.sample_aspect_ratio:
        stream.codec_context.sample_aspect_ratio = source.sample_aspect_ratio
    is_rgb = context.format is not None and context.format.is_rgb
    for name in _COLOURS if not is_rgb else ():
        setattr(stream.codec_context, name, getattr(context, name))
    if track.upright != Upright():
        stream.set_display_matrix(_matrix(track.upright))
    how = {"width": width, "height": height, "format": stream.codec_context.pix_fmt}
    if is_rgb:
        how["dst_color_range"] = "MPEG"
    return _shown_anew(stream, path, track, how)


def _shown_anew(stream, path, track: Track, how: dict) -> "Iterator[av.Packet]":
    frames = ((round(seconds / track.tick), frame.reformat(**how)) for seconds, frame in shown_frames(path, track))
    held = track.hold * track.tick
    latest = None
    for packet in encoded(stream, frames, track.tick):
        if latest is not None:
            yield latest
        latest = packet
        if packet.pts is not None and packet.pts * packet.time_base == (track.last - track.start) * track.tick:
            packet.duration = round(held / packet.time_base)
    if latest is not None:  # a container takes the track's end from what is shown, or what is decoded last
        latest.duration = round(held / latest.time_base)
        yield latest


def _matrix(upright: Upright) -> list[int]:
    """FFmpeg's display matrix, the reverse of `probe._upright`."""
    x, y = (-(1 << 16) if mirrored else 1 << 16 for mirrored in (upright.mirror_x, upright.mirror_y))
    turned = [0, y, 0, x, 0, 0] if upright.swap else [x, 0, 0, 0, y, 0]
    return [*turned, 0, 0, 1 << 30]
