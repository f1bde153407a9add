"""Makers of ordinary and odd media files for tests. Every frame carries its number as a picture."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIDE = 64
BLOCK = 16  # a number is drawn as 4 x 4 black and white blocks, most significant bit first


def numbered(index: int) -> np.ndarray:
    """u8 [64, 64, 3] picture of a 16-bit number."""
    bits = np.array([(index >> bit) & 1 for bit in range(15, -1, -1)], np.uint8).reshape(4, 4)
    gray = np.kron(bits * 200 + 25, np.ones((BLOCK, BLOCK), np.uint8)).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers in u8 [n, 64, 64, 3] frames."""
    centres = frames[:, BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK].mean(-1) > 125
    return [int(sum(1 << (15 - place) for place in np.flatnonzero(bits))) for bits in centres.reshape(-1, 16)]


def write_pictures(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[Fraction],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    tick: Fraction = Fraction(1, 90000),
    rate: Fraction = Fraction(25),
    options: dict | None = None,
    rotation: float | None = None,
    mirrored: bool = False,
    duration: int | None = None,
) -> Path:
    """Encodes RGB pictures shown at the given times (seconds); `rotation` is only metadata."""
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", format=container) as target:
        stream = target.add_stream(codec, rate=rate, width=width, height=height, pix_fmt=pix_fmt, time_base=tick)
        stream.options = options or {}
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirrored)
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = round(time / tick), tick
            if duration is not None:
                frame.duration = duration
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def write_numbered(path: Path, times: Sequence[Fraction], **options) -> Path:
    """A video whose frame i shows the number i at times[i]."""
    return write_pictures(path, [numbered(i) for i in range(len(times))], times, **options)


def steady(count: int, fps: Fraction, start: Fraction = Fraction(0)) -> list[Fraction]:
    """Times of a constant frame rate."""
    return [start + i / Fraction(fps) for i in range(count)]


def write_sound(
    path: Path, wave: np.ndarray, sample_rate_hz: int, codec: str = "aac", start: int = 0, **options: str
) -> Path:
    """A sound-only file from f32 [t, c] whose first sample has the timestamp `start`; `options` of the encoder."""
    layout = "mono" if wave.shape[1] == 1 else "stereo"
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=sample_rate_hz, layout=layout, options=options)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, start, Fraction(1, sample_rate_hz)
        target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def write_still(path: Path) -> Path:
    """A png or jpg of one numbered frame."""
    av.VideoFrame.from_ndarray(numbered(7), format="rgb24").save(str(path))
    return path


def copy_start(source: Path, path: Path, fraction: float) -> Path:
    """A copy of a file that breaks off after a fraction of its bytes."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def copy_damaged(source: Path, path: Path) -> Path:
    """A copy of an mp4 in which the encoded data (the mdat box) is overwritten with noise."""
    data = bytearray(source.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4 if data.index(b"moov") > start else len(data)
    data[start:end] = np.random.default_rng(0).integers(0, 256, end - start, np.uint8).tobytes()
    path.write_bytes(bytes(data))
    return path


def picture_packets(path: Path) -> tuple[list[bytes], list[Fraction]]:
    """Bytes and presentation times (seconds after the earliest) of the picture's packets, in file order."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        times = [packet.pts * packet.time_base for packet in packets]
    return [bytes(packet) for packet in packets], [time - min(times) for time in times]
