"""Writing: a video with new sound and its picture untouched, a waveform, a video from frames."""

import heapq
import os
import uuid
import wave as riff
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

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
from kfjax.media.sound import AAC_RATES_HZ, add_sound, checked_wave, read_audio, sound_packets

if TYPE_CHECKING:
    import av.container

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
    """A picture that one of the common containers takes is not encoded anew for another."""
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


def _temporary(path: Path) -> Path:
    return path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix.lower()}")


def _unwritable(path: Path, error: Exception) -> MediaError:
    reason = getattr(error, "strerror", None) or str(error)
    return MediaError(f"{path}: can't be written ({reason}); check the folder, its free space and its permissions")


@contextmanager
def _replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path in the same folder: renamed to `path` when the block succeeds, else removed."""
    from av.error import FFmpegError

    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, FFmpegError) as error:
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
    """Writes the video with `wave` as its sound; the packets of the picture are copied as they are.

    Kept are codec tag (HEVC is always `hvc1`, which Apple's devices need), aspect ratio, rotation, colours, alpha, what
    an edit list hides, metadata, chapters, and subtitles where the container takes their codec. The picture is encoded
    anew, as H.264, in two cases: neither mp4 nor Matroska takes its codec (GIF, WebP, WMV, H.263), or Matroska, which
    has no edit lists, would show what is hidden and the rest does not decode without it.

    Args:
      video_path: the source. Its own sound is dropped unless `keep_original_gain` is given.
      wave: f32 [t], [t, 1] or [t, 2]; sample 0 sounds with the first shown picture, the track lasts exactly t samples.
      sample_rate_hz: a rate that AAC knows. mp4 and mov get AAC at 192 kbit/s, mkv gets FLAC.
      output_path: .mp4, .m4v, .mov or .mkv; appears only when complete.
      keep_original_gain: mixes in the source's main sound track times this; a sum with a peak above 1 is scaled to 1.
        Its other tracks (languages, commentary) are not mixed but follow as they are, where the container takes their
        codec. 0: only these; `wave` has the main track in it already.

    Raises:
      MediaError: unreadable source, unwritable output, a codec the container can't hold, no original sound to keep.
      ValueError: NaN or infinite samples, wrong shape or rate.
    """
    from av.stream import Disposition

    wave = checked_wave(wave)
    _check_suffix(output_path, VIDEO_FORMATS)
    check_output(output_path, video_path)
    if wave.shape[1] == 1:
        wave = np.repeat(wave, 2, axis=1)
    if keep_original_gain:
        wave = _mixed(wave, read_audio(video_path, sample_rate_hz), keep_original_gain)
    track, name = scan(video_path)[1], VIDEO_FORMATS[Path(output_path).suffix.lower()]
    assert track is not None  # check_output has found its picture
    kept = copyable(track, name)
    with open_input(video_path) as source, _replacing(output_path) as temporary:
        picture = picture_of(source, track)
        with _create(temporary, sample_rate_hz) as target:
            target.metadata.update(texts(source.metadata))
            start = track.start * track.tick if track.timed else Fraction(0)
            target.set_chapters(chapters(source, start))
            if kept is None or not takes(name, picture):
                shown, kept = encoded_anew(target, video_path, track, picture), None
            else:
                pts = track.pts if track.timed else track.pts[presentation_order(video_path, track)]
                copied = add_copy(target, picture)
                shown = picture_packets(demuxed(source, picture), copied, track, pts, kept)
            sound = add_sound(target, wave, sample_rate_hz)
            sound.disposition = Disposition.default
            others = add_others(target, source, video_path, start, sounds=keep_original_gain is not None)
            _write_in_order(target, shown, sound_packets(sound, wave, sample_rate_hz), *others)
        if name == "matroska" and (size := display_size(picture)):
            set_display_size(temporary, *size)
        if name != "matroska" and kept is not None and track.timed and track.pts.max() > track.last:
            hide_after(temporary, round(track.seconds * sample_rate_hz))


def _mixed(wave: np.ndarray, original: np.ndarray, gain: float) -> np.ndarray:
    mixed = wave.copy()
    n = min(len(wave), len(original))
    mixed[:n] += np.float32(gain) * original[:n]
    return mixed / max(1.0, float(np.abs(mixed).max()))


def _write_in_order(target: "av.container.OutputContainer", *streams: Iterator) -> None:
    """Interleaves packets by time, so that neither FFmpeg nor we hold back a whole stream."""
    for packet in heapq.merge(*streams, key=lambda packet: packet.dts * packet.time_base):
        target.mux(packet)


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
                for packet in sound_packets(add_sound(target, wave, sample_rate_hz), wave, sample_rate_hz):
                    target.mux(packet)
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
        picture = add_picture(target, width, height, rate)
        streams = [encoded(picture, _counted(chain([first], frames)), 1 / rate)]
        if wave is not None and sample_rate_hz is not None:
            streams.append(sound_packets(add_sound(target, wave, sample_rate_hz), wave, sample_rate_hz))
        _write_in_order(target, *streams)


def _counted(images: Iterable[np.ndarray]) -> Iterator[tuple[int, "av.VideoFrame"]]:
    import av

    for k, image in enumerate(images):
        yield k, av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
