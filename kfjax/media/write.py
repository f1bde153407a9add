"""Writing: a video with new sound and its picture untouched, a waveform, a video from frames."""

import heapq
import os
import struct
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from kfjax.media.copied import (
    add_copy,
    add_others,
    chapters,
    copyable,
    display_size,
    picture_packets,
    presentation_order,
    takes,
    texts,
)
from kfjax.media.encoded import add_picture, encoded, encoded_anew
from kfjax.media.headers import hide_after, set_display_size
from kfjax.media.probe import MediaError, demuxed, open_input, picture_of, picture_stream, scan
from kfjax.media.sound import AAC_RATES_HZ, add_sound, checked_pieces, checked_wave, is_whole, read_audio, sound_packets
from kfjax.media.target import Output, Pipe, replacing, target_of, temporary_name, unwritable

if TYPE_CHECKING:
    import av.container

VIDEO_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
AUDIO_FORMATS = (".wav", ".flac")
_UNKNOWN_BYTES = 0xFFFFFFFF  # in a WAV, which holds less than that
#: A fragment or cluster a second, of at least half a second, each written at once. The header of a fragmented file
#: waits for the first one: with it comes the edit list, and so the sample at time 0.
_FRAGMENTED = {
    "movflags": "+empty_moov+delay_moov+default_base_moof+frag_keyframe",
    "frag_duration": "1000000",
    "min_frag_duration": "500000",
}
_LIVE_OPTIONS = {
    "mp4": _FRAGMENTED | {"flush_packets": "1"},
    "mov": _FRAGMENTED | {"flush_packets": "1"},
    # Packets come in order; a muxer that waited for the next subtitle would hold back ten seconds.
    "matroska": {"cluster_time_limit": "1000", "flush_packets": "1", "max_interleave_delta": "1"},
    "flac": {"flush_packets": "1"},
}


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
        temporary = temporary_name(path)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise unwritable(path, error) from error
    if source is None:
        return
    if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
        raise MediaError(f"{path}: is the input itself; give another name to write to")
    if suffix in VIDEO_FORMATS:
        _check_picture(path, source)


def _check_target(
    output: Output, suffix: str | None, suffixes: Collection[str], source: str | os.PathLike | None = None
) -> str:
    """The output's ending, in small letters, once it is known that it can be written."""
    if isinstance(output, str | os.PathLike):
        _check_suffix(output, suffixes)
        check_output(output, source)
        return Path(output).suffix.lower()
    if suffix is None or suffix not in suffixes:
        raise ValueError(f"suffix: got {suffix!r} for a binary file, expected one of {' '.join(suffixes)}")
    if source is not None and suffix in VIDEO_FORMATS:
        _check_picture(Path(f"output{suffix}"), source)
    return suffix


def _check_suffix(path: str | os.PathLike, suffixes: Iterable[str]) -> None:
    suffix = Path(path).suffix
    if suffix.lower() not in suffixes:
        got = f"a file named *{suffix}" if suffix else "a name without an ending"
        raise MediaError(f"{path}: {got} can't be written here; give a name that ends in one of {' '.join(suffixes)}")


def _check_picture(path: Path, source: str | os.PathLike) -> None:
    """A picture that one of the common containers takes is not encoded anew for another."""
    with open_input(source) as container:
        picture = picture_stream(container)
        if picture is None:
            raise MediaError(f"{source}: has no picture to copy; give a video, or write a .wav file")
        able = [suffix for suffix, name in VIDEO_FORMATS.items() if takes(name, picture)]
        if path.suffix.lower() not in able and {".mp4", ".mkv"} & set(able):
            codec, advice = picture.codec_context.codec.canonical_name, f"give a name that ends in {' or '.join(able)}"
            raise MediaError(f"{path}: {path.suffix} can't hold the {codec} picture of {source} as it is; {advice}")


def output_suffix(source: str | os.PathLike) -> str:
    """The ending that a video with new sound has by default: the source's own if that can hold its picture, else .mkv
    or .mp4, whichever can; .mp4, with the picture encoded anew, where neither does. .mkv for a file that can't be read.
    """
    own = Path(source).suffix.lower()
    if own in (".mp4", ".m4v", ".mov"):  # these hold what they held; Matroska may hold what PyAV doesn't let it
        return own
    try:
        with open_input(source) as container:
            picture = picture_stream(container)
            able = [] if picture is None else [end for end in (".mkv", ".mp4") if takes(VIDEO_FORMATS[end], picture)]
    except MediaError:
        return ".mkv"
    return (able or [".mp4"])[0]


def _create(target: Path | Pipe, suffix: str, sample_rate_hz: int | None, live: bool) -> "av.container.OutputContainer":
    """An output container for a video; ValueError for a sample rate that its sound can't have."""
    if sample_rate_hz is not None and sample_rate_hz not in AAC_RATES_HZ:
        raise ValueError(f"a sample rate of {sample_rate_hz} Hz; videos take one of {AAC_RATES_HZ}")
    name, options = VIDEO_FORMATS[suffix], {}
    if name != "matroska":
        # Edit lists count in the movie's timescale: with the sample rate, the sound's length is exact.
        options = {"movflags": "+faststart", "movie_timescale": str(sample_rate_hz or 1000)}
    if live:
        options |= _LIVE_OPTIONS[name]
    return _open(target, name, options)


def _open(target: Path | Pipe, name: str, options: dict[str, str]) -> "av.container.OutputContainer":
    import av

    file = f"file:{target}" if isinstance(target, Path) else target
    return av.open(file, "w", format=name, container_options=options)


def mux(
    video_path: str | os.PathLike,
    wave: np.ndarray | Iterable[np.ndarray],
    sample_rate_hz: int,
    output: Output,
    *,
    keep_original_gain: float | None = None,
    live: bool = False,
    suffix: str | None = None,
) -> None:
    """Writes the video with `wave` as its sound; the packets of the picture are copied as they are.

    Kept are codec tag (HEVC is always `hvc1`, which Apple's devices need), aspect ratio, rotation, colours, alpha, what
    an edit list hides, metadata, chapters, and subtitles where the container takes their codec. The picture is encoded
    anew, as H.264, in two cases: neither mp4 nor Matroska takes its codec (GIF, WebP, WMV, H.263), or a container that
    hides nothing (Matroska, and any that is live) would show what is hidden and the rest does not decode without it.

    Args:
      video_path: the source. Its own sound is dropped unless `keep_original_gain` is given.
      wave: f32 [t], [t, 1] or [t, 2], or pieces of it, which are asked for when they are due. Sample 0 sounds with the
        first shown picture, the track lasts exactly t samples.
      sample_rate_hz: a rate that AAC knows. mp4 and mov get AAC at 192 kbit/s, mkv gets FLAC.
      output: .mp4, .m4v, .mov or .mkv; appears only when complete, unless it is live.
      keep_original_gain: mixes in the source's main sound track times this; a sum with a peak above 1 is scaled to 1.
        Its other tracks (languages, commentary) are not mixed but follow as they are, where the container takes their
        codec. 0: only these; `wave` has the main track in it already.
      live: the file grows in place, a second at a time, and plays at any time up to what is there, also when the
        writing ends in an error. mp4 and mov are fragmented, and hold neither subtitles nor other sound tracks.
      suffix: the format of a live output that is a binary file; it need not seek.

    Raises:
      MediaError: unreadable source, unwritable output, a codec the container can't hold, no original sound to keep.
      ValueError: NaN or infinite samples, wrong shape or rate; an original sound to be mixed into pieces.
    """
    from av.stream import Disposition

    suffix = _check_target(output, suffix, VIDEO_FORMATS, video_path)
    if keep_original_gain:
        if not is_whole(wave):
            raise ValueError("keep original: got a waveform in pieces, expected a whole one; mix it into the pieces")
        original = read_audio(video_path, sample_rate_hz)
        wave = _mixed(_stereo(checked_wave(wave)), original, keep_original_gain)
    pieces = checked_pieces(wave)[1]
    track, name = scan(video_path)[1], VIDEO_FORMATS[suffix]
    assert track is not None  # its picture has been found
    hides = name != "matroska" and not live
    with open_input(video_path) as source, target_of(output, live) as place:
        picture = picture_of(source, track)
        with _create(place, suffix, sample_rate_hz, live) as target:
            target.metadata.update(texts(source.metadata))
            start = track.start * track.tick if track.timed else Fraction(0)
            target.set_chapters(chapters(source, start))
            kept = copyable(track, hides=hides) if takes(name, picture) else None
            if kept is None:
                shown = encoded_anew(target, video_path, track, picture)
            else:
                pts = track.pts if track.timed else track.pts[presentation_order(video_path, track)]
                shown = picture_packets(demuxed(source, picture), add_copy(target, picture), track, pts, kept)
            sound = add_sound(target, 2, sample_rate_hz)
            sound.disposition = Disposition.default
            others = []
            if name == "matroska" or not live:  # a fragmented file's header would wait for the first packet of each
                others = add_others(target, source, video_path, start, sounds=keep_original_gain is not None)
            _write_in_order(target, shown, sound_packets(sound, map(_stereo, pieces), sample_rate_hz), *others)
        if isinstance(place, Path) and name == "matroska" and (size := display_size(picture)):
            set_display_size(place, *size)
        if isinstance(place, Path) and hides and kept is not None and track.timed and track.pts.max() > track.last:
            hide_after(place, round(track.seconds * sample_rate_hz))


def _stereo(wave: np.ndarray) -> np.ndarray:
    return np.repeat(wave, 2, axis=1) if wave.shape[1] == 1 else wave


def _mixed(wave: np.ndarray, original: np.ndarray, gain: float) -> np.ndarray:
    mixed = wave.copy()
    n = min(len(wave), len(original))
    mixed[:n] += np.float32(gain) * original[:n]
    return mixed / max(1.0, float(np.abs(mixed).max()))


def _write_in_order(target: "av.container.OutputContainer", *streams: Iterator) -> None:
    """Interleaves packets by time, so that neither FFmpeg nor we hold back a whole stream."""
    for packet in heapq.merge(*streams, key=lambda packet: packet.dts * packet.time_base):
        target.mux(packet)


def write_wav(
    output: Output,
    wave: np.ndarray | Iterable[np.ndarray],
    sample_rate_hz: int,
    *,
    live: bool = False,
    suffix: str | None = None,
) -> None:
    """Writes f32 [t], [t, 1] or [t, 2] as 16-bit .wav or .flac; what exceeds ±1 is clipped.

    Args:
      output: a name that ends in .wav or .flac; appears only when complete, unless it is live.
      wave: whole, or in pieces, which are asked for when they are due.
      live: the file grows in place and plays at any time up to what is there, also when the writing ends in an error.
      suffix: the format of a live output that is a binary file; it need not seek.

    Raises:
      MediaError: the file can't be written.
      ValueError: NaN or infinite samples or a wrong shape.
    """
    suffix = _check_target(output, suffix, AUDIO_FORMATS)
    channels, pieces = checked_pieces(wave)
    with target_of(output, live) as place:
        if suffix == ".flac":
            with _open(place, "flac", _LIVE_OPTIONS["flac"] if live else {}) as target:
                for packet in sound_packets(add_sound(target, channels, sample_rate_hz), pieces, sample_rate_hz):
                    target.mux(packet)
        elif isinstance(place, Path):
            with place.open("wb") as file:
                _write_riff(file, pieces, channels, sample_rate_hz)
        else:
            _write_riff(place, pieces, channels, sample_rate_hz)


def _write_riff(file: BinaryIO | Pipe, pieces: Iterable[np.ndarray], channels: int, sample_rate_hz: int) -> None:
    """16-bit WAV whose header is true after every piece; in that of a pipe the lengths are unknown."""
    size = 0
    file.write(_riff_header(channels, sample_rate_hz, _UNKNOWN_BYTES if isinstance(file, Pipe) else size))
    for piece in pieces:
        size += file.write(np.clip(np.round(piece * 32768.0), -32768, 32767).astype("<i2").tobytes())
        if not isinstance(file, Pipe):
            file.seek(0)
            file.write(_riff_header(channels, sample_rate_hz, size))
            file.seek(0, os.SEEK_END)
            file.flush()


def _riff_header(channels: int, sample_rate_hz: int, size: int) -> bytes:
    """The first 44 bytes of a WAV with `size` bytes of 16-bit samples."""
    rest, size, frame = min(36 + size, _UNKNOWN_BYTES), min(size, _UNKNOWN_BYTES), 2 * channels
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, sample_rate_hz, frame * sample_rate_hz, frame, 16)
    return struct.pack("<4sI4s", b"RIFF", rest, b"WAVE") + kind + struct.pack("<4sI", b"data", size)


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
    with replacing(path) as temporary, _create(temporary, temporary.suffix, sample_rate_hz, False) as target:
        picture = add_picture(target, width, height, rate)
        streams = [encoded(picture, _counted(chain([first], frames)), 1 / rate)]
        if wave is not None and sample_rate_hz is not None:
            streams.append(sound_packets(add_sound(target, wave.shape[1], sample_rate_hz), [wave], sample_rate_hz))
        _write_in_order(target, *streams)


def _counted(images: Iterable[np.ndarray]) -> Iterator[tuple[int, "av.VideoFrame"]]:
    import av

    for k, image in enumerate(images):
        yield k, av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
