"""Writing: a video with new sound and its picture untouched, a waveform, a video from frames."""

import heapq
import io
import os
import struct
import uuid
import wave as riff
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kfjax.media.probe import MediaError, Track, boxes, decoded, demuxed, open_input, picture_stream, scan
from kfjax.media.sound import AAC_RATES_HZ, add_sound, checked_wave, read_audio, sound_packets

if TYPE_CHECKING:
    import av

VIDEO_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
AUDIO_FORMATS = (".wav", ".flac")


def sample_paths(path: str | os.PathLike, samples: int) -> list[Path]:
    """One file for each version of a sound: `clip.mp4`; of several `clip-1.mp4`, `clip-2.mp4`, …"""
    path = Path(path)
    return [path] if samples == 1 else [path.with_stem(f"{path.stem}-{k + 1}") for k in range(samples)]


def check_output(path: str | os.PathLike, source: str | os.PathLike | None = None) -> None:
    """Raises MediaError if `path` can't be written; call it before long work.

    With `source`, also checks that it is another file and that its picture fits into the output's container.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    _check_suffix(path, (*VIDEO_FORMATS, *AUDIO_FORMATS))
    try:
        if path.is_dir():
            raise MediaError(f"{path}: is a folder; give the name of a file to write")
        if not path.parent.is_dir():
            raise MediaError(f"{path}: the folder {path.parent} doesn't exist; create it or give another name")
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error
    if source is None:
        return
    if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
        raise MediaError(f"{path}: is the input itself; give another name to write to")
    if suffix in VIDEO_FORMATS:
        with open_input(source) as container:
            picture = picture_stream(container)
            if picture is None:
                raise MediaError(f"{source}: has no picture to copy; give a video, or write a .wav file")
            _check_codec(path, source, picture)


def _check_suffix(path: str | os.PathLike, suffixes: Iterable[str]) -> None:
    suffix = Path(path).suffix
    if suffix.lower() not in suffixes:
        got = f"a file named *{suffix}" if suffix else "a name without an ending"
        raise MediaError(f"{path}: {got} can't be written here; give a name that ends in one of {' '.join(suffixes)}")


def _check_codec(path: Path, source: str | os.PathLike, picture: "av.VideoStream") -> None:
    """The picture is never re-encoded, so the output's container must take its codec."""
    able = [suffix for suffix, name in VIDEO_FORMATS.items() if _takes(name, picture)]
    if path.suffix.lower() not in able:
        codec = picture.codec_context.codec.canonical_name
        advice = f"give a name that ends in {' or '.join(able)}" if able else "convert it to h264, or write a .wav file"
        raise MediaError(f"{path}: {path.suffix} can't hold the {codec} picture of {source} as it is; {advice}")


def _takes(container_name: str, picture: "av.VideoStream") -> bool:
    """Tried on a file in memory: FFmpeg's list of codecs per container promises too much."""
    import av

    try:
        with av.open(io.BytesIO(), "w", format=container_name) as container:
            container.add_stream_from_template(picture, opaque=True)
            container.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _temporary(path: Path) -> Path:
    return path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix.lower()}")


def _unwritable(path: Path, error: Exception) -> MediaError:
    reason = getattr(error, "strerror", None) or str(error)
    return MediaError(f"{path}: can't be written ({reason}); check the folder, its free space and its permissions")


@contextmanager
def _replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path in the same folder: renamed to `path` when the block succeeds, else removed."""
    import av

    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, av.FFmpegError) as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path, sample_rate_hz: int | None) -> "av.container.OutputContainer":
    """An output container for a video; ValueError for a sample rate that its sound can't have."""
    import av

    if sample_rate_hz is not None and sample_rate_hz not in AAC_RATES_HZ:
        raise ValueError(f"a sample rate of {sample_rate_hz} Hz; videos take one of {AAC_RATES_HZ}")
    name, options = VIDEO_FORMATS[path.suffix], {}
    if name != "matroska":
        # Edit lists count in the movie's timescale: with the sample rate, the sound's length is exact.
        options = {"movflags": "+faststart", "movie_timescale": str(sample_rate_hz or 1000)}
    return av.open(f"file:{path}", "w", format=name, container_options=options)


def mux(
    video_path: str | os.PathLike,
    wave: np.ndarray,
    sample_rate_hz: int,
    output_path: str | os.PathLike,
    *,
    keep_original_gain: float | None = None,
) -> None:
    """Writes the video with `wave` as its only sound; the packets of the picture are copied as they are.

    Args:
      video_path: the source. Its own sound is dropped unless `keep_original_gain` is given.
      wave: f32 [t], [t, 1] or [t, 2]; sample 0 sounds with the first shown picture, the track lasts exactly t samples.
      sample_rate_hz: a rate that AAC knows. mp4 and mov get AAC at 192 kbit/s, mkv gets FLAC.
      output_path: .mp4, .m4v, .mov or .mkv; appears only when complete.
      keep_original_gain: mixes in the source's own sound times this; a sum with a peak above 1 is scaled to 1.

    Raises:
      MediaError: unreadable source, unwritable output, a codec the container can't hold, no original sound to keep.
      ValueError: NaN or infinite samples, wrong shape or rate.
    """
    wave = checked_wave(wave)
    _check_suffix(output_path, VIDEO_FORMATS)
    check_output(output_path, video_path)
    if wave.shape[1] == 1:
        wave = np.repeat(wave, 2, axis=1)
    if keep_original_gain is not None:
        wave = _mixed(wave, read_audio(video_path, sample_rate_hz), keep_original_gain)
    track = scan(video_path)[1]
    pts = track.pts if track.timed else track.pts[_presentation_order(video_path, track)]
    with open_input(video_path) as source, _replacing(output_path) as temporary:
        source_stream = source.streams[track.index]
        with _create(temporary, sample_rate_hz) as target:
            own = ("major_brand", "minor_version", "compatible_brands", "encoder")
            target.metadata.update({key: text for key, text in source.metadata.items() if key not in own})
            copied = target.add_stream_from_template(source_stream, opaque=True)
            if temporary.suffix != ".mkv" and source_stream.codec_context.codec_tag == "hvc1":
                copied.codec_context.codec_tag = "hvc1"  # Apple's players refuse FFmpeg's default, hev1
            sound = add_sound(target, wave, sample_rate_hz)
            pictures = _copied_packets(demuxed(source, source_stream), copied, track, pts)
            if temporary.suffix == ".mkv":  # Matroska has no edit list: what was hidden must go
                pictures = (packet for packet in pictures if packet.pts <= track.last - track.start)
            _write_in_order(target, pictures, sound_packets(sound, wave, sample_rate_hz))
        if pts.max() > track.last and temporary.suffix != ".mkv":
            _hide_after(temporary, round(track.seconds * sample_rate_hz))


def _mixed(wave: np.ndarray, original: np.ndarray, gain: float) -> np.ndarray:
    mixed = wave.copy()
    n = min(len(wave), len(original))
    mixed[:n] += np.float32(gain) * original[:n]
    return mixed / max(1.0, float(np.abs(mixed).max()))


def _write_in_order(target: "av.container.OutputContainer", *streams: Iterator) -> None:
    """Interleaves packets by time, so that neither FFmpeg nor we hold back a whole stream."""
    for packet in heapq.merge(*streams, key=lambda packet: packet.dts * packet.time_base):
        target.mux(packet)


def _copied_packets(packets: Iterable, copied: "av.VideoStream", track: Track, pts: np.ndarray) -> Iterator:
    """The source's picture packets, readdressed to the stream `copied`, with the first shown picture at time 0."""
    # Decoding times: the presentation times in order, strictly rising, and early enough for every packet. So streams
    # without decoding times are no special case.
    steps = np.arange(len(pts))
    dts = np.maximum.accumulate(np.sort(pts) - steps) + steps
    dts -= max(0, int((dts - pts).max()))
    times = list(zip((pts - track.start).tolist(), (dts - track.start).tolist(), strict=True))
    held = round(track.seconds / track.tick) - (track.last - track.start)
    ends = (max(times), times[-1])  # a container takes the track's end from what is shown, or what is decoded last
    filled = (packet for packet in packets if packet.size)
    for (shown, decoded_at), packet in zip(times, filled, strict=False):
        packet.stream, packet.time_base = copied, track.tick
        packet.pts, packet.dts = shown, decoded_at
        if not track.timed or (shown, decoded_at) in ends:
            packet.duration = held
        yield packet


def _presentation_order(path: str | os.PathLike, track: Track) -> np.ndarray:
    """For a stream without timestamps: each packet's place in the order of presentation, which the decoder knows."""
    order, count = [], 0
    with open_input(path) as container:
        stream = container.streams[track.index]
        stream.thread_type = "AUTO"
        for packet in demuxed(container, stream):
            if packet.size:
                packet.pts = packet.dts = count
                count += 1
            order += [frame.pts for frame in decoded(packet) or ()]
    if sorted(order, key=lambda place: -1 if place is None else place) != list(range(len(track.pts))):
        raise MediaError(f"{path}: has no usable timestamps to copy; convert it to mp4 first")
    return np.argsort(np.array(order))


def _hide_after(path: Path, ticks: int) -> None:
    """Ends the shown part of the picture track of an mp4 of ours after `ticks` of its movie timescale.

    A trimmed recording keeps packets that its edit list hides. FFmpeg copies them but not their being hidden.
    """
    with path.open("r+b") as file:
        moov = next(span for kind, span in boxes(file, (0, path.stat().st_size)) if kind == b"moov")
        trak = next(span for kind, span in boxes(file, moov) if kind == b"trak")  # the picture comes first
        edts = next(span for kind, span in boxes(file, trak) if kind == b"edts")
        elst = next(span for kind, span in boxes(file, edts) if kind == b"elst")
        file.seek(elst[0])
        version, entries = struct.unpack(">B3xI", file.read(8))
        wide = version == 1
        file.seek(elst[0] + 8 + (entries - 1) * (20 if wide else 12))
        file.write(struct.pack(">Q" if wide else ">I", ticks))


def write_wav(path: str | os.PathLike, wave: np.ndarray, sample_rate_hz: int) -> None:
    """Writes f32 [t], [t, 1] or [t, 2] as 16-bit .wav or .flac; what exceeds ±1 is clipped.

    Raises MediaError if the file can't be written, ValueError for NaN or infinite samples or a wrong shape.
    """
    import av

    wave = checked_wave(wave)
    _check_suffix(path, AUDIO_FORMATS)
    check_output(path)
    with _replacing(path) as temporary:
        if temporary.suffix == ".flac":
            with av.open(f"file:{temporary}", "w", format="flac") as target:
                target.mux(sound_packets(add_sound(target, wave, sample_rate_hz), wave, sample_rate_hz))
            return
        with riff.open(str(temporary), "wb") as target:
            target.setnchannels(wave.shape[1])
            target.setsampwidth(2)
            target.setframerate(sample_rate_hz)
            target.writeframes(np.round(np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes())


def write_video(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    wave: np.ndarray | None = None,
    sample_rate_hz: int | None = None,
) -> None:
    """Encodes u8 [height, width, 3] RGB frames (even sides) as h264, with `wave` [t, 1 or 2] as its sound.

    Raises MediaError if the file can't be written, ValueError for wrong shapes, types or samples.
    """
    if (wave is None) != (sample_rate_hz is None):
        raise ValueError("wave and sample_rate_hz go together; give both or neither")
    wave = None if wave is None else checked_wave(wave)
    _check_suffix(path, VIDEO_FORMATS)
    check_output(path)
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("no frames to write; give at least one")
    height, width = first.shape[:2]
    if first.dtype != np.uint8 or first.shape[2:] != (3,) or height % 2 or width % 2:
        raise ValueError(f"frames of {first.dtype} {first.shape}; expected uint8 [height, width, 3] with even sides")
    rate = Fraction(fps).limit_denominator(1001)
    with _replacing(path) as temporary, _create(temporary, sample_rate_hz) as target:
        picture = target.add_stream("libx264", rate=rate, width=width, height=height, pix_fmt="yuv420p")
        picture.options = {"crf": "18", "preset": "veryfast"}
        streams = [_encoded_packets(picture, chain([first], frames), rate)]
        if wave is not None:
            streams.append(sound_packets(add_sound(target, wave, sample_rate_hz), wave, sample_rate_hz))
        _write_in_order(target, *streams)


def _encoded_packets(stream: "av.VideoStream", frames: Iterable[np.ndarray], rate: Fraction) -> Iterator:
    import av

    for i, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = i, 1 / rate
        yield from stream.encode(frame)
    yield from stream.encode(None)
