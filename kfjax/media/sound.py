"""Sound tracks: decoding one into a waveform, and a waveform into packets."""

import math
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np

from kfjax.media.probe import MediaError, decoded, demuxed, open_input, scan

if TYPE_CHECKING:
    import av

AAC_BITS_PER_SECOND = 192_000
AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_CHUNK_SAMPLES = 1024


def read_audio(
    path: str | os.PathLike,
    sample_rate_hz: int,
    channels: Literal[1, 2] = 2,
    duration_seconds: float | None = None,
    start_seconds: float = 0.0,
) -> np.ndarray:
    """The file's sound, f32 [t, channels], resampled; sample 0 is `start_seconds` after the first shown picture.

    Mono becomes two equal channels, stereo becomes mono by the mean; more channels are mixed to stereo first. Shorter
    than `duration_seconds` where the sound ends before. Raises MediaError if there is no sound.
    """
    _, track = scan(path)
    with open_input(path) as container:
        stream = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            raise MediaError(f"{path}: has no sound; give a file with an audio track")
        origin = track.start * track.tick if track is not None and track.timed else None
        stop = math.inf if duration_seconds is None else (origin or 0) + start_seconds + duration_seconds + 1
        samples, first = _decode(container, stream, sample_rate_hz, stop)
    if samples is None:
        raise MediaError(f"{path}: its sound doesn't decode; convert it again")
    offset = 0 if origin is None else round((first - origin) * sample_rate_hz)
    offset -= round(start_seconds * sample_rate_hz)
    samples = np.pad(samples, ((max(offset, 0), 0), (0, 0)))[max(-offset, 0) :]
    if duration_seconds is not None:
        samples = samples[: round(duration_seconds * sample_rate_hz)]
    if channels != samples.shape[1]:
        samples = samples.mean(1, keepdims=True) if channels == 1 else np.repeat(samples, 2, axis=1)
    return np.ascontiguousarray(samples, np.float32)


def _decode(container, stream, sample_rate_hz: int, stop: float) -> tuple[np.ndarray | None, Fraction]:
    """Samples [t, 1 or 2] from the stream's first to at least `stop` seconds, and the first one's time in seconds."""
    import av

    layout = "mono" if stream.codec_context.channels == 1 else "stereo"
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=sample_rate_hz)
    pieces, first, end = [], None, Fraction(0)
    for packet in demuxed(container, stream):
        if packet.size and packet.pts is not None:
            end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        for frame in decoded(packet) or ():
            if first is None:
                first = (frame.pts or 0) * frame.time_base
            pieces += [part.to_ndarray() for part in resampler.resample(frame)]
        if end > stop:
            break
    if first is None:
        return None, Fraction(0)
    pieces += [part.to_ndarray() for part in resampler.resample(None)]
    samples = np.concatenate(pieces, axis=1).T
    if end > first and stream.time_base <= Fraction(1, stream.rate):
        # A codec pads its last block; a container that counts in samples says where the sound ends.
        samples = samples[: round((end - first) * sample_rate_hz)]
    return samples, first


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


def add_sound(container: "av.container.OutputContainer", wave: np.ndarray, sample_rate_hz: int) -> "av.AudioStream":
    """An audio stream for `wave`: AAC, but FLAC in Matroska, which can't say where a padded AAC block ends."""
    layout = "mono" if wave.shape[1] == 1 else "stereo"
    if container.format.name in ("matroska", "flac"):
        return container.add_stream("flac", rate=sample_rate_hz, layout=layout)
    return container.add_stream("aac", rate=sample_rate_hz, layout=layout, bit_rate=AAC_BITS_PER_SECOND)


def sound_packets(stream: "av.AudioStream", wave: np.ndarray, sample_rate_hz: int) -> "Iterator[av.Packet]":
    """Encodes f32 [t, 1 or 2] for a stream of `add_sound`; sample 0 is at time 0."""
    import av

    layout = "mono" if wave.shape[1] == 1 else "stereo"
    for start in range(0, len(wave), _CHUNK_SAMPLES):
        chunk = np.ascontiguousarray(wave[start : start + _CHUNK_SAMPLES].T)
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, start, Fraction(1, sample_rate_hz)
        yield from stream.encode(frame)
    yield from stream.encode(None)
