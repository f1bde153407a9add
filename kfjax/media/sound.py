"""Sound tracks: decoding one into a waveform, and a waveform into packets."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, islice
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeGuard

import numpy as np

from kfjax.media.probe import MediaError, decoded, demuxed, open_input, scan, sound_stream, tick_of

if TYPE_CHECKING:
    import av.container

AAC_BITS_PER_SECOND = 192_000
AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_CHUNK_SAMPLES = 1024
#: Of both AAC and MP3.
_CODED_HZ = (16000, 22050, 24000, 32000, 44100, 48000)
#: An excerpt from here on is sought; to it is decoded sooner than sought.
_SEEK_SECONDS = 4.0
#: What a resampler's filter needs before the first sample, amply; and a decoder, which may add up what it has heard.
_SETTLE_SECONDS, _LEAD_SECONDS = 0.25, 2


class _Heard(NamedTuple):
    """What a track sounds like from its `skipped`-th sample on, at the rate that was asked for."""

    samples: np.ndarray  # f32 [t, 1 or 2]
    skipped: int
    first_seconds: Fraction  # of the track's first sample


def read_audio(
    path: str | os.PathLike,
    sample_rate_hz: int,
    channels: Literal[1, 2] = 2,
    duration_seconds: float | None = None,
    start_seconds: float = 0.0,
) -> np.ndarray:
    """The file's sound, f32 [t, channels], resampled; sample 0 is `start_seconds` after the first shown picture.

    Mono becomes two equal channels, stereo becomes mono by the mean; more channels are mixed to stereo first, centre
    and surround at -3 dB. The sum, and a file of floats, may go beyond ±1. Shorter than `duration_seconds` where the
    sound ends before, down to no samples. Raises MediaError if there is no sound.
    """
    _, track = scan(path)
    origin = track.start * track.tick if track is not None and track.timed else None
    stop_seconds = math.inf if duration_seconds is None else start_seconds + duration_seconds + 1
    heard = None
    if start_seconds > _SEEK_SECONDS:
        heard = _sought(path, sample_rate_hz, origin, start_seconds, stop_seconds)
    heard = heard or _from_the_beginning(path, sample_rate_hz, origin, stop_seconds)
    if heard is None:
        raise MediaError(f"{path}: its sound doesn't decode; convert it again")
    offset = 0 if origin is None else round((heard.first_seconds - origin) * sample_rate_hz)
    offset += heard.skipped - round(start_seconds * sample_rate_hz)
    samples = heard.samples[max(-offset, 0) :]
    if offset > 0:
        samples = np.pad(samples, ((offset, 0), (0, 0)))
    if duration_seconds is not None:
        samples = samples[: round(duration_seconds * sample_rate_hz)]
    if channels != samples.shape[1]:
        samples = samples.mean(1, keepdims=True) if channels == 1 else np.repeat(samples, 2, axis=1)
    return np.ascontiguousarray(samples, np.float32)


def _from_the_beginning(path, sample_rate_hz: int, origin: Fraction | None, stop_seconds: float) -> _Heard | None:
    """The track up to at least `stop_seconds` after `origin` (None: its beginning); None if nothing decodes."""
    with open_input(path) as container:
        frames = _SoundFrames(path, container, origin, stop_seconds)
        if (head := next(frames, None)) is None:
            return None
        return frames.heard(head, 0, (head.pts or 0) * tick_of(head), sample_rate_hz)


def _sought(
    path, sample_rate_hz: int, origin: Fraction | None, start_seconds: float, stop_seconds: float
) -> _Heard | None:
    """As `_from_the_beginning` from a little before `start_seconds` on, sample for sample, without what lies before it.

    Decoders and the resampler's filter remember a while; both start so early that they know what they would know. Times
    that a container rounds are made whole by frames of one size. None where that leaves the place open. (AAC names
    bands that are mere noise, and leaves it to the decoder to draw it: there the noise is another, the same each time.)
    """
    with open_input(path) as container:
        frames = _SoundFrames(path, container, origin, stop_seconds)
        lead = list(islice(frames, 3))
        if len(lead) < 3 or lead[0].pts is None:
            return None
        first, rate = lead[0].pts * tick_of(lead[0]), lead[0].sample_rate
        assert frames.origin is not None  # the first frame is there
        # Where a sample of the input falls on one of the output the resampler is in the phase that it begins in.
        whole = rate // math.gcd(rate, sample_rate_hz)
        before = float(frames.origin - first) + start_seconds - _SETTLE_SECONDS
        place = math.ceil(before * rate / whole) * whole
        if place - _LEAD_SECONDS * rate < 0:
            return None
        if not frames.seek(first + Fraction(place, rate) - _LEAD_SECONDS):
            return None
        known = False
        for frame in frames:
            index = _index(frame, first, lead)
            if index is None or index > place:
                return None
            if index + frame.samples > place:
                return frames.heard(_cut(frame, place - index), place, first, sample_rate_hz) if known else None
            known = known or index + _LEAD_SECONDS * rate / 2 < place
        return None


class _SoundFrames:
    """The frames of a file's sound track, up to `stop_seconds` after `origin` and a little further.

    `origin` is in the container's seconds; None: that of the first frame.
    """

    def __init__(self, path, container: "av.container.InputContainer", origin: Fraction | None, stop_seconds: float):
        stream = sound_stream(container)
        if stream is None or stream.codec_context is None:
            raise MediaError(f"{path}: has no sound; give a file with an audio track")
        self._container, self._stream, self.origin, self._stop = container, stream, origin, stop_seconds
        self._end = 0  # of the packets that have been read, in ticks: fractions are slow
        self._frames = self._decoded()

    def _decoded(self) -> "Iterator[av.AudioFrame]":
        tick_seconds = float(tick_of(self._stream))
        for packet in demuxed(self._container, self._stream):
            if packet.size and packet.pts is not None:
                self._end = max(self._end, packet.pts + (packet.duration or 0))
            for frame in decoded(packet) or ():
                if self.origin is None:
                    self.origin = (frame.pts or 0) * frame.time_base
                yield frame
            if self.origin is not None and self._end * tick_seconds - float(self.origin) > self._stop:
                return

    def __iter__(self) -> "_SoundFrames":
        return self

    def __next__(self) -> "av.AudioFrame":
        return next(self._frames)

    def seek(self, seconds: Fraction) -> bool:
        """Go on from a frame at or before this time; False where the file can't be sought."""
        from av.error import FFmpegError

        try:
            self._container.seek(int(seconds / tick_of(self._stream)), stream=self._stream)
        except FFmpegError:
            return False
        self._frames = self._decoded()
        return True

    def heard(self, head: "av.AudioFrame", place: int, first_seconds: Fraction, sample_rate_hz: int) -> _Heard:
        """`head` and all frames after it; `place`: which sample of the track it begins with."""
        import av

        layout = "mono" if self._stream.codec_context.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=sample_rate_hz)
        pieces = [part.to_ndarray() for frame in chain([head], self, [None]) for part in resampler.resample(frame)]
        samples, skipped = np.concatenate(pieces, axis=1).T, place * sample_rate_hz // head.sample_rate
        end_seconds = self._end * tick_of(self._stream)
        if end_seconds > first_seconds and tick_of(self._stream) <= Fraction(1, self._stream.rate):
            # A codec pads its last block; a container that counts in samples says where the sound ends.
            samples = samples[: max(0, round((end_seconds - first_seconds) * sample_rate_hz) - skipped)]
        return _Heard(samples, skipped, first_seconds)


def _index(frame: "av.AudioFrame", first_seconds: Fraction, lead: "Sequence[av.AudioFrame]") -> int | None:
    """Which sample of the track the frame begins with; None if that can't be said. `lead`: the track's first frames."""
    if frame.pts is None:
        return None
    step = tick_of(frame) * frame.sample_rate  # what one timestamp counts, in samples
    at = frame.pts * step - first_seconds * frame.sample_rate
    if step <= 1:
        return round(at)
    start, size = lead[0].samples, lead[1].samples
    if size != lead[2].samples or size != frame.samples:
        return None
    index = start + round((at - start) / size) * size
    return index if abs(index - at) <= step else None


def _cut(frame: "av.AudioFrame", samples: int) -> "av.AudioFrame":
    """The frame without its first `samples`."""
    import av

    values = frame.to_ndarray()
    values = values[:, samples * (1 if frame.format.is_planar else frame.layout.nb_channels) :]
    values = np.ascontiguousarray(values)
    made = av.AudioFrame.from_ndarray(values, frame.format.name, frame.layout.name)  # pyright: ignore[reportArgumentType]  # of to_ndarray's type
    made.sample_rate, made.time_base = frame.sample_rate, frame.time_base
    return made


def checked_wave(wave: np.ndarray) -> np.ndarray:
    """The waveform as f32 [t, 1 or 2]; ValueError unless it is finite and not empty."""
    wave = np.asarray(wave, np.float32)
    wave = wave[:, None] if wave.ndim == 1 else wave
    if wave.ndim != 2 or wave.shape[1] not in (1, 2) or not len(wave):
        raise ValueError(f"a waveform of shape {wave.shape}; expected [t], [t, 1] or [t, 2] with t > 0")
    bad = wave.size - int(np.isfinite(wave).sum())
    if bad:
        raise ValueError(f"the waveform has {bad} NaN or infinite samples; expected finite values")
    return wave


def is_whole(wave: np.ndarray | Iterable[np.ndarray]) -> TypeGuard[np.ndarray]:
    """Whether it is a waveform (an array of any kind), not pieces of one."""
    return hasattr(wave, "shape")


def checked_pieces(wave: np.ndarray | Iterable[np.ndarray]) -> tuple[int, Iterator[np.ndarray]]:
    """(channels, pieces f32 [t, channels]) of a waveform that is whole or comes piece by piece.

    ValueError as `checked_wave`, of each piece where it comes; pieces may be empty, but not all of them.
    """
    if is_whole(wave):
        whole = checked_wave(wave)
        return whole.shape[1], iter([whole])
    pieces = (checked_wave(piece) for piece in wave if len(piece))
    first = next(pieces, None)
    if first is None:
        raise ValueError("the waveform: got no samples in any piece, expected at least one")
    return first.shape[1], _alike(first, pieces)


def _alike(first: np.ndarray, pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for piece in chain([first], pieces):
        if piece.shape[1] != first.shape[1]:
            raise ValueError(f"the waveform: got {piece.shape[1]} channels after {first.shape[1]}; keep their number")
        yield piece


def add_sound(container: "av.container.OutputContainer", channels: int, sample_rate_hz: int) -> "av.AudioStream":
    """An audio stream: AAC, but FLAC in Matroska, which can't say where a padded AAC block ends."""
    layout = "mono" if channels == 1 else "stereo"
    if container.format.name in ("matroska", "flac"):
        return container.add_stream("flac", rate=sample_rate_hz, layout=layout)
    return container.add_stream("aac", rate=sample_rate_hz, layout=layout, bit_rate=AAC_BITS_PER_SECOND)


def sound_packets(stream: "av.AudioStream", pieces: Iterable[np.ndarray], sample_rate_hz: int) -> "Iterator[av.Packet]":
    """Encodes pieces f32 [t, 1 or 2] for a stream of `add_sound`; sample 0 is at time 0.

    Where one piece ends and the next begins changes nothing.
    """
    import av

    start = 0
    for chunk in _chunks(pieces):
        layout = "mono" if chunk.shape[1] == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, start, Fraction(1, sample_rate_hz)
        start += len(chunk)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def through_codec(
    wave: np.ndarray, sample_rate_hz: int, codec: Literal["aac", "mp3"], bits_per_second: int
) -> np.ndarray:
    """f32 [t, 1 or 2] as it comes out of a lossy codec: as long, and not shifted. A rate that the codec does not know
    passes through the next higher one."""
    import av

    name, suffix = {"aac": ("aac", ".mp4"), "mp3": ("libmp3lame", ".mp3")}[codec]
    rate_hz = next((hz for hz in _CODED_HZ if hz >= sample_rate_hz), _CODED_HZ[-1])
    with TemporaryDirectory(prefix="kfjax-") as folder:
        path = f"{folder}/sound{suffix}"
        with av.open(path, "w") as container:
            layout = "mono" if wave.shape[1] == 1 else "stereo"
            stream = container.add_stream(name, rate=rate_hz, layout=layout, bit_rate=bits_per_second)
            assert isinstance(stream, av.AudioStream)
            container.mux([*sound_packets(stream, [wave], sample_rate_hz)])
        made = read_audio(path, sample_rate_hz, 1 if layout == "mono" else 2)[: len(wave)]
    return np.pad(made, ((0, len(wave) - len(made)), (0, 0)))


def _chunks(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The samples of all pieces, `_CHUNK_SAMPLES` at a time."""
    rest = None
    for piece in pieces:
        piece = piece if rest is None else np.concatenate([rest, piece])
        whole = len(piece) // _CHUNK_SAMPLES * _CHUNK_SAMPLES
        for start in range(0, whole, _CHUNK_SAMPLES):
            yield piece[start : start + _CHUNK_SAMPLES]
        rest = piece[whole:]
    if rest is not None and len(rest):
        yield rest
