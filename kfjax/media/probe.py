"""Opening a file and finding out what it holds, from its packets rather than from what its header claims."""

import functools
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kfjax.media.headers import boxes
from kfjax.media.suffixes import is_animated_webp
from kfjax.media.webp import as_png, stamp

if TYPE_CHECKING:
    import av.container
    import av.stream

MIN_SECONDS = 0.1  # the shortest excerpt the system accepts
TICK_SECONDS = 1e-3  # containers may round times to milliseconds
LONGEST_FRAME_SECONDS = 0.2  # a picture that stays longer is a held one
HOLD_FRAME_SECONDS = 0.04  # what counts as a frame where all pictures are held
LONGEST_HOLD_SECONDS = 10  # where frames are held longer on average, the header has to say so too
MISSING_SECONDS = 0.5  # a file that ends this much before its declared end has been cut off


class MediaError(ValueError):
    """A file that can't be read or written as asked; the message is one line, fit to be shown to a user."""


class MediaInfo(NamedTuple):
    """What a file holds. `seconds` is the picture's duration (the sound's if there is no picture).

    `width` and `height` are as displayed, after `rotation` (degrees counter-clockwise). Without a picture they, `fps`
    and `rotation` are 0 and `frame_count` is None; without sound `audio_rate_hz` is 0.
    """

    seconds: float
    fps: float
    width: int
    height: int
    rotation: int
    has_video: bool
    has_audio: bool
    audio_rate_hz: int
    frame_count: int | None


class Upright(NamedTuple):
    """What turns the stored picture upright: first swap x and y, then mirror x and y."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False


class Track(NamedTuple):
    """The picture stream as its packets describe it."""

    index: int
    pts: np.ndarray  # i64 [n], in units of `tick`, in decoding order; in order of presentation when not `timed`
    tick: Fraction  # seconds
    start: int  # pts of the first shown frame
    last: int  # pts of the last shown frame
    seconds: float
    timed: bool  # False: frames have no timestamps, or wrong ones; the k-th that is decoded is shown at pts[k]
    hidden: np.ndarray  # bool [n], in decoding order: decoded but not shown, by an edit list
    key: Sequence[bool] = ()  # when timed, [n] in decoding order: decodes without the ones before
    upright: Upright = Upright()

    @property
    def hold(self) -> int:
        """How long the last shown frame stays, in units of `tick`."""
        return round(self.seconds / self.tick) - (self.last - self.start)

    @property
    def gaps(self) -> np.ndarray:
        """Seconds from each shown frame to the next, f64."""
        return np.diff(np.unique(self.pts[~self.hidden])) * float(self.tick)


def probe(path: str | os.PathLike) -> MediaInfo:
    """What the file holds, from one pass over its packets (one frame is decoded). Raises MediaError."""
    return scan(path)[0]


def scan(path: str | os.PathLike) -> tuple[MediaInfo, Track | None]:
    """Probe result and picture track, remembered until the file changes."""
    return _scan(os.fspath(path), stamp(path))


@contextmanager
def open_input(path: str | os.PathLike) -> "Iterator[av.container.InputContainer]":
    """A container to read from. FFmpeg's errors inside the block become a MediaError that names the file."""
    import av
    from av.error import FFmpegError

    path = Path(path)
    try:
        _check_readable(path)
        # `file:` keeps a name with a colon from being read as a network address.
        file, options = f"file:{path}", {"protocol_whitelist": "file"}
        if is_animated_webp(path):
            file = io.BytesIO(_webp_as_png(path))
        with av.open(file, "r", options=options, metadata_errors="replace") as container:
            name = container.format.name
            if name == "tty":  # FFmpeg draws text files as pictures
                raise MediaError(f"{path}: is a text file; give a video file (mp4, mov, mkv, webm, avi, gif)")
            if name in ("image2", "ico") or name.endswith("_pipe"):
                raise MediaError(f"{path}: is a still image; a video is needed")
            yield container
    except FFmpegError as error:
        reason = getattr(error, "strerror", None) or str(error)
        advice = "give one that plays (mp4, mov, mkv, webm, avi, gif; of sound wav, flac, mp3, m4a)"
        raise MediaError(f"{path}: is not a readable video or sound file ({reason}); {advice}") from error


def _webp_as_png(path: Path) -> bytes:
    try:
        return as_png(str(path), stamp(path))
    except ValueError as error:
        raise MediaError(f"{path}: is not a readable WebP ({error}); convert it to mp4 or gif") from error


def _check_readable(path: Path) -> None:
    """What can be said about a file without FFmpeg, in better words than its own."""
    try:
        if not path.exists():
            raise MediaError(f"{path}: no such file; give the path of a video file")
        if path.is_dir():
            raise MediaError(f"{path}: is a folder; give the path of one video file")
        if not path.is_file():  # reading would wait for whoever writes into a pipe
            raise MediaError(f"{path}: is a pipe or a device; give the path of a file")
        with path.open("rb") as file:
            head = file.read(12)
            size = path.stat().st_size
            is_mp4 = head[4:8] == b"ftyp"
            has_index = is_mp4 and any(kind == b"moov" and end <= size for kind, (_, end) in boxes(file, (0, size)))
    except OSError as error:
        raise MediaError(f"{path}: can't be read ({error.strerror}); check its name and permissions") from error
    if not head:
        raise MediaError(f"{path}: is an empty file; give a video file that plays")
    if is_mp4 and not has_index:
        if head[8:12] in (b"heic", b"heix", b"mif1", b"avif"):
            raise MediaError(f"{path}: is a still image; a video is needed")
        raise MediaError(f"{path}: is an mp4/mov file without its index, cut off; copy or record it again")


def picture_stream(container: "av.container.InputContainer") -> "av.VideoStream | None":
    """The container's picture stream; cover art doesn't count."""
    from av import VideoStream
    from av.stream import Disposition

    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        return None
    return None if stream.disposition & Disposition.attached_pic else stream


def picture_of(container: "av.container.InputContainer", track: Track) -> "av.VideoStream":
    """The stream that the track describes."""
    from av import VideoStream

    stream = container.streams[track.index]
    assert isinstance(stream, VideoStream)
    return stream


def sound_stream(container: "av.container.InputContainer") -> "av.AudioStream | None":
    """The container's main sound track."""
    from av import AudioStream

    stream = container.streams.best("audio")
    return stream if isinstance(stream, AudioStream) else None


def tick_of(timed: "av.stream.Stream | av.AudioFrame") -> Fraction:
    """What its timestamps count in, seconds."""
    assert timed.time_base is not None  # FFmpeg has one wherever there are timestamps
    return timed.time_base


def demuxed(container: "av.container.InputContainer", *streams: "av.stream.Stream") -> "Iterator[av.Packet]":
    """The packets of the streams (all by default), up to where the file breaks off."""
    from av.error import FFmpegError

    try:
        yield from container.demux(*streams)
    except (FFmpegError, IndexError):  # PyAV raises IndexError for a stream that a damaged header hid
        return


def decoded(packet: "av.Packet") -> list | None:
    """The frames that a packet releases from its decoder; None for a damaged packet."""
    from av.error import FFmpegError

    try:
        return packet.decode()
    except FFmpegError:
        return None


@functools.lru_cache(maxsize=16)
def _scan(path: str, changed: tuple) -> tuple[MediaInfo, Track | None]:
    del changed  # only part of the cache's key
    with open_input(path) as container:
        picture, sound = picture_stream(container), sound_stream(container)
        rate_hz = sound.rate if sound is not None else 0
        if picture is None and sound is None:
            raise MediaError(f"{path}: has neither picture nor sound; give a video file that plays")
        packets, ends, first = _demux(container, picture)
        if picture is None:
            assert sound is not None  # one of the two is there
            start = Fraction(container.start_time or 0, 1_000_000)
            seconds = max(float(ends.get(sound.index, start) - start), 0.0)
            return MediaInfo(seconds, 0.0, 0, 0, 0, False, True, rate_hz, None), None
        if not packets:
            raise MediaError(f"{path}: has a picture stream without any frame; give a video file that plays")
        track = _track(container, picture, packets)
        _reject_truncated(path, container, picture, track, ends)
        _reject_nonsense(path, container, picture, track)
        rotation, upright = 0, Upright()
        if first is not None:
            rotation, upright = first.rotation % 360, _upright(first.side_data.get("DISPLAYMATRIX"))
        width, height = picture.width, picture.height
        if upright.swap:
            width, height = height, width
        count = int((~track.hidden).sum())
        fps = count / track.seconds
        info = MediaInfo(track.seconds, fps, width, height, rotation, True, sound is not None, rate_hz, count)
        return info, track._replace(upright=upright)


def _demux(container, picture) -> tuple[list, dict[int, Fraction], "av.VideoFrame | None"]:
    """Runs through all packets: (pts, dts, duration, discarded, key) of each picture packet, the end of each stream
    in seconds, and the first frame that decodes (it knows the rotation)."""
    packets, ends, ticks, first = [], {}, {}, None
    for packet in demuxed(container):
        stream, pts = packet.stream, packet.pts
        if stream is picture and first is None:
            first = next(iter(decoded(packet) or ()), None)
        if not packet.size:
            continue
        if stream is picture:
            packets.append((pts, packet.dts, packet.duration or 0, packet.is_discard, packet.is_keyframe))
        if pts is not None and packet.time_base:
            end = pts + (packet.duration or 0)
            ends[stream.index] = max(ends.get(stream.index, end), end)
            ticks[stream.index] = packet.time_base
    return packets, {index: end * ticks[index] for index, end in ends.items()}, first  # fractions are slow


def _track(container, picture, packets: list) -> Track:
    pts, dts, durations, discarded, key = zip(*packets, strict=True)
    # AVI stores no presentation times, and those FFmpeg derives are wrong where frames are reordered.
    if container.format.name == "avi" and picture.codec_context.has_b_frames and None not in dts:
        return _reordered(picture, np.array(dts))
    if None in pts:
        return _even(picture, durations)
    tick, pts, hidden = picture.time_base, np.array(pts), np.array(discarded)
    if hidden.all():
        hidden = np.zeros_like(hidden)
    start, last = (int(pick(pts[~hidden])) for pick in (np.min, np.max))
    track = Track(picture.index, pts, tick, start, last, 0.0, True, hidden, key)
    hold = max(duration for time, duration in zip(pts, durations, strict=True) if time == last)
    if hold * tick < TICK_SECONDS:  # unknown, or a mere placeholder
        hold = Fraction(last - start, len(track.gaps)) if last > start else 1 / _rate(picture) / tick
    ticks = last - start + hold
    if "mov" in container.format.name and last - start < (picture.duration or 0) < ticks:
        ticks = picture.duration  # an edit list may end within the last frame
    return track._replace(seconds=float(ticks * tick))


def _rate(picture) -> Fraction:
    return Fraction(picture.average_rate or picture.guessed_rate or picture.base_rate or 25)


def _even(picture, durations: Sequence[int]) -> Track:
    """A stream without timestamps: frames evenly spaced, as far apart as the stream itself says."""
    n, step = len(durations), sorted(durations)[len(durations) // 2]
    tick = step * picture.time_base if step > 0 else 1 / _rate(picture)
    return Track(picture.index, np.arange(n), tick, 0, n - 1, float(n * tick), False, np.zeros(n, bool))


def _reordered(picture, dts: np.ndarray) -> Track:
    """Decoding times alone: frames are shown at the same times, in their own order, as late as reordering takes."""
    n, delay = len(dts), min(picture.codec_context.reorder_depth, len(dts) - 1)
    step = np.median(np.diff(dts)) if n > 1 else 1
    times = np.concatenate([dts[delay:], dts[-1] + step * np.arange(1, delay + 1)]).astype(np.int64)
    times -= times[0]
    seconds = float((times[-1] + int(step)) * picture.time_base)
    return Track(picture.index, times, picture.time_base, 0, int(times[-1]), seconds, False, np.zeros(n, bool))


def frame_seconds(track: Track) -> float:
    """How long an ordinary frame of the track lasts: the grid on which frames lie that are not held.

    The largest unit, up to a fifth of a second, of which the distances between frames are multiples; where they are
    irregular, the smallest of those that are common.
    """
    gaps = track.gaps
    if not len(gaps):
        return HOLD_FRAME_SECONDS
    shortest = float(np.quantile(gaps, 0.05, method="lower"))
    if shortest > LONGEST_FRAME_SECONDS + TICK_SECONDS:
        return HOLD_FRAME_SECONDS
    for parts in (1, 2, 3, 4):
        unit = shortest / parts
        counts = np.maximum(np.rint(gaps / unit), 1)
        if np.mean(np.abs(gaps / counts - unit) <= 1.01 * TICK_SECONDS / parts) > 0.9:
            return float(gaps.sum() / counts.sum())
    return shortest


def _reject_truncated(path: str, container, picture, track: Track, ends: dict) -> None:
    """A file that promises more than it holds has been cut off: sound for it would not fit what is missing."""
    got, declared = track.seconds, track.seconds
    if picture.frames > len(track.pts) and picture.duration:
        declared = float(picture.duration * picture.time_base)
    elif "matroska" in container.format.name and container.duration and ends:
        declared = got + container.duration / 1e6 - float(max(ends.values()))
    if declared - got > MISSING_SECONDS:
        there = f"{got:.2f} of {declared:.2f} seconds of picture"
        raise MediaError(f"{path}: is cut off: {there} are there; copy or record it again")


def _reject_nonsense(path: str, container, picture, track: Track) -> None:
    """Slideshows hold their pictures long; so do damaged timestamps, but then the header says otherwise."""
    declared = float((picture.duration or 0) * picture.time_base) or (container.duration or 0) / 1e6
    n = len(track.pts)
    if track.seconds > LONGEST_HOLD_SECONDS * n and abs(declared - track.seconds) > track.seconds / n:
        span = f"{n} frames in {track.seconds:.0f} seconds"
        raise MediaError(f"{path}: has timestamps that make no sense, {span}; convert it again")


def _upright(matrix: bytes | None) -> Upright:
    """Reads a display matrix: x' = a x + c y, y' = b x + d y, in quarter turns and mirrorings."""
    if matrix is None:
        return Upright()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    return Upright(True, c < 0, b < 0) if abs(b) > abs(a) else Upright(False, a < 0, d < 0)
