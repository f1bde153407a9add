"""Streams copied as they are, with what a stream copy keeps: codec tag, aspect ratio, alpha, language, chapters."""

import io
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kfjax.media.probe import MediaError, Track, decoded, demuxed, open_input, picture_of, tick_of

if TYPE_CHECKING:
    import av.container
    import av.stream
    from av.container.core import Chapter

S = TypeVar("S", bound="av.stream.Stream")

_MUXERS_OWN = ("major_brand", "minor_version", "compatible_brands", "encoder")


def takes(container_name: str, stream: "av.stream.Stream", tag: str = "") -> bool:
    """Whether the container holds the stream, under this codec tag (its own choice without one).

    Tried on a file in memory: FFmpeg's list of codecs per container promises too much.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(io.BytesIO(), "w", format=container_name) as container:
            copied = container.add_stream_from_template(stream, opaque=True)
            if tag:
                copied.codec_context.codec_tag = tag
            container.start_encoding()
    except (ValueError, FFmpegError):
        return False
    return True


def add_copy(target: "av.container.OutputContainer", stream: S) -> S:
    """A stream of `target` for the packets of `stream`."""
    from av import VideoStream

    copied = target.add_stream_from_template(stream, opaque=True)
    copied.metadata.update(texts(stream.metadata))
    if stream.type == "attachment":
        return copied
    copied.disposition = stream.disposition
    tag = _tag(target.format.name, stream)
    if tag:
        copied.codec_context.codec_tag = tag
    if isinstance(stream, VideoStream) and isinstance(copied, VideoStream) and stream.sample_aspect_ratio:
        copied.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio
    return copied


def texts(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata without what each muxer writes itself."""
    return {key: text for key, text in metadata.items() if key.lower() not in _MUXERS_OWN}


def _tag(container_name: str, stream: "av.stream.Stream") -> str:
    """The source's own codec tag where the container knows it; "" leaves the choice to FFmpeg."""
    context = stream.codec_context
    try:
        own = context.codec_tag.rstrip("\0")
    except UnicodeDecodeError:  # AVI numbers codecs
        own = ""
    # FFmpeg's choice for HEVC in mp4 and mov, hev1, isn't played on Apple's devices. dvh1 is Dolby Vision.
    is_hevc = context.codec.canonical_name == "hevc" and container_name in ("mp4", "mov")
    wanted = "hvc1" if is_hevc and own != "dvh1" else own
    return wanted if wanted and takes(container_name, stream, wanted) else ""


def display_size(stream: "av.VideoStream") -> tuple[int, int] | None:
    """(width, height) at which the picture is shown; None where no aspect ratio is stated."""
    aspect = stream.sample_aspect_ratio
    return (max(1, round(stream.width * aspect)), stream.height) if aspect else None


def chapters(source: "av.container.InputContainer", start: Fraction) -> "list[Chapter]":
    """The source's chapters as seconds after `start`, without those that end before."""
    moved: list[Chapter] = []
    for chapter in source.chapters():
        unit = chapter["time_base"]
        assert unit is not None  # FFmpeg gives every chapter one
        begin, end = (max(0, round((place * unit - start) * 1000)) for place in (chapter["start"], chapter["end"]))
        if end > begin:
            moved.append({**chapter, "start": begin, "end": end, "time_base": Fraction(1, 1000)})
    return moved


def add_others(
    target: "av.container.OutputContainer",
    source: "av.container.InputContainer",
    path: str | os.PathLike,
    start: Fraction,
    *,
    sounds: bool,
) -> "list[Iterator[av.Packet]]":
    """Adds to `target` what else the source has and the container holds: subtitles and their fonts, and where `sounds`
    are kept, all its sound tracks but the main one. Their packets, with the second `start` at time 0."""
    from av.stream import Disposition

    main, packets = source.streams.best("audio"), []
    for stream in source.streams:
        if stream.type == "attachment" and target.format.name == "matroska":
            add_copy(target, stream)
        wanted = stream.type == "subtitle" or (stream.type == "audio" and sounds and stream is not main)
        if wanted and stream.codec_context is not None and takes(target.format.name, stream):
            copied = add_copy(target, stream)
            if stream.type == "audio":
                copied.disposition = stream.disposition & ~Disposition.default
            packets.append(_other_packets(path, stream.index, copied, start))
    return packets


def _other_packets(
    path: str | os.PathLike, index: int, copied: "av.stream.Stream", start: Fraction
) -> "Iterator[av.Packet]":
    """The packets of sound or subtitle track `index`, readdressed to `copied`, with the second `start` at time 0."""
    with open_input(path) as source:
        stream, latest = source.streams[index], None
        tick = tick_of(stream)
        shift = round(start / tick)
        for packet in demuxed(source, stream):
            if not packet.size or packet.pts is None or packet.pts < shift:
                continue
            place = packet.pts - shift
            packet.stream, packet.time_base = copied, tick
            packet.pts = packet.dts = place
            if latest is None or place > latest:
                latest = place
                yield packet


def copyable(track: Track, *, hides: bool) -> np.ndarray | None:
    """Which picture packets are copied, bool [n] in decoding order; None where a copy would show what is hidden.

    Args:
      hides: the container hides what lies before the first shown picture and after the last. mp4 and mov do, but not
        while they grow; Matroska doesn't. There what is hidden is left out where the rest decodes without it, at the
        end and before a key frame.
    """
    n, shown = len(track.pts), np.flatnonzero(~track.hidden)
    if not track.timed or len(shown) == n:
        return np.ones(n, bool)
    if hides:
        between = (track.pts >= track.start) & (track.pts <= track.last)
        return None if (track.hidden & between).any() else np.ones(n, bool)
    kept = np.zeros(n, bool)
    first = shown[0] if track.key[shown[0]] and track.pts[shown[0]] == track.start else 0
    kept[first : shown[-1] + 1] = True
    return None if (track.hidden & kept).any() else kept


def picture_packets(
    packets: Iterable, copied: "av.VideoStream", track: Track, pts: np.ndarray, kept: np.ndarray
) -> Iterator:
    """The `kept` of the source's picture packets, readdressed to `copied`, with the first shown picture at time 0."""
    # Decoding times: the presentation times in order, strictly rising, and early enough for every packet. So streams
    # without decoding times are no special case.
    steps = np.arange(int(kept.sum()))
    dts = np.maximum.accumulate(np.sort(pts[kept]) - steps) + steps
    dts -= max(0, int((dts - pts[kept]).max()))
    times = list(zip((pts[kept] - track.start).tolist(), (dts - track.start).tolist(), strict=True))
    ends = (max(times), times[-1])  # a container takes the track's end from what is shown, or what is decoded last
    filled = (packet for packet in packets if packet.size)
    wanted = (packet for packet, keep in zip(filled, kept, strict=False) if keep)
    for (shown, decoded_at), packet in zip(times, wanted, strict=False):
        packet.stream, packet.time_base = copied, track.tick
        packet.pts, packet.dts = shown, decoded_at
        if (shown, decoded_at) in ends:
            packet.duration = track.hold
        elif not track.timed:
            packet.duration = 0  # to the next
        yield packet


def presentation_order(path: str | os.PathLike, track: Track) -> np.ndarray:
    """For a stream without timestamps: each packet's place in the order of presentation, which the decoder knows."""
    order, count = [], 0
    with open_input(path) as container:
        stream = picture_of(container, track)
        stream.thread_type = "AUTO"
        for packet in demuxed(container, stream):
            if packet.size:
                packet.pts = packet.dts = count
                count += 1
            order += [frame.pts for frame in decoded(packet) or ()]
    if sorted(order, key=lambda place: -1 if place is None else place) != list(range(len(track.pts))):
        raise MediaError(f"{path}: has no usable timestamps to copy; convert it to mp4 first")
    return np.argsort(np.array(order))
