"""Frames of a long film window by window: those of the whole film, decoded once, little of them held."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from kfjax import media
from kfjax.media import frames as frames_module
from tests.tiny import media_files as files

SLOW, FAST, WIDE = media.FrameSpec(8, 64, "stretch"), media.FrameSpec(25, 64, "crop"), media.FrameSpec(1, 48, "crops")
SPECS = (SLOW, FAST, WIDE)


def variable(count):
    gaps = [Fraction(g, 1000) for g in (40, 20, 300, 10, 33, 33, 34, 120, 5, 15, 50, 1500, 100, 40, 40, 40)]
    return [Fraction(7, 5) + sum(gaps[k % len(gaps)] for k in range(i)) for i in range(count)]


def windows(seconds, length=3, step=2):
    """Of `length` seconds, every `step`, the last beyond the film's end."""
    return [(start, [int(spec.rate_hz * length) for spec in SPECS]) for start in range(0, int(seconds) + 1, step)]


def whole(path, seconds, specs=SPECS):
    return media.read_frames(path, specs, counts=[int(spec.rate_hz * seconds) for spec in specs])[0]


@pytest.mark.parametrize("name, times", [
    ("a.mp4", files.steady(180, 25)), ("a.mkv", files.steady(180, 25, Fraction(7, 5))), ("b.mp4", variable(50)),
    ("b.mkv", variable(50)), ("c.mp4", [0, 3, 4, 9]), ("a.h264", files.steady(180, 25)),
    ("d.mp4", files.steady(180, 25, Fraction(-1, 5))),
])  # fmt: skip
def test_windows_are_those_of_the_whole_film(tmp_path, name, times):
    path = files.write_numbered(tmp_path / name, [Fraction(t) for t in times], tick=Fraction(1, 1000))
    asked = windows(media.probe(path).seconds)
    film, got = whole(path, asked[-1][0] + 3), list(media.frames_in_windows(path, SPECS, asked))
    assert len(got) == len(asked) >= 4
    for (start, counts), arrays in zip(asked, got, strict=True):
        for spec, count, array, all_ in zip(SPECS, counts, arrays, film, strict=True):
            first = int(start * spec.rate_hz)
            np.testing.assert_array_equal(array, all_[first : first + count])


def test_each_output_is_resized_once_and_each_packet_decoded_once(tmp_path, monkeypatch):
    path = files.write_numbered(tmp_path / "a.mp4", files.steady(200, 25), tick=Fraction(1, 25))
    media.probe(path)
    packets, scaled = [], []
    decoded, work = frames_module.decoded, frames_module._Resizer._scaled
    monkeypatch.setattr(frames_module, "decoded", lambda packet: [packets.append(1), decoded(packet)][1])
    monkeypatch.setattr(frames_module._Resizer, "_scaled", lambda self, frame: [scaled.append(1), work(self, frame)][1])
    taken = media.frames_in_windows(path, [FAST], [(start, [75]) for start in range(0, 6, 2)])
    next(taken)
    assert len(scaled) == 75 and len(packets) < 120  # a window is there as soon as its frames are
    list(taken)
    assert len(scaled) == 7 * 25 and len(packets) <= 201


@pytest.mark.parametrize("times", [files.steady(1000, 25), [Fraction(t) for t in (0, 1, 39)]], ids=["steady", "held"])
def test_little_is_held(tmp_path, times):
    path = files.write_numbered(tmp_path / "a.mp4", times, tick=Fraction(1, 25))
    asked, one = windows(40), sum(int(3 * spec.rate_hz) * spec.size**2 * 3 for spec in (SLOW, FAST)) + 9 * 48**2 * 3
    next(media.frames_in_windows(path, SPECS, asked[:1]))
    ours = tracemalloc.Filter(True, "*/kfjax/media/*", all_frames=True)  # threads of other tests may be at work
    tracemalloc.start(16)
    try:
        held = [
            sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)
            for _ in media.frames_in_windows(path, SPECS, asked)
        ]
    finally:
        tracemalloc.stop()
    assert len(held) == 21 and one < max(held) < 3.2 * one  # of 14 windows' worth: what is yielded, and two begun


def test_bad_windows(tmp_path):
    path = files.write_numbered(tmp_path / "a.mp4", files.steady(100, 25), tick=Fraction(1, 25))
    with pytest.raises(ValueError, match=r"a start at 0.04 s, expected a multiple of 1/8 s"):
        media.frames_in_windows(path, [FAST, SLOW], [(0.04, [25, 8])])
    with pytest.raises(ValueError, match="order"):
        media.frames_in_windows(path, [FAST], [(2, [25]), (1, [25])])
    with pytest.raises(media.MediaError, match="no such file"):
        media.frames_in_windows(tmp_path / "b.mp4", [FAST], [(0, [25])])


def test_damage_is_told_where_it_is_reached(tmp_path):
    path = files.write_numbered(tmp_path / "a.mp4", files.steady(200, 25), tick=Fraction(1, 25), options={"g": "10"})
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    middle = (start + end) // 2
    data[middle:end] = np.random.default_rng(0).integers(0, 256, end - middle, np.uint8).tobytes()
    path.write_bytes(bytes(data))
    taken = media.frames_in_windows(path, [FAST], [(start, [50]) for start in range(0, 8, 2)])
    assert files.read_numbers(next(taken)[0]) == list(range(50))
    with pytest.raises(media.MediaError, match=r"damaged|decode") as caught:
        list(taken)
    with pytest.raises(media.MediaError) as at_once:
        whole(path, 8, [FAST])
    assert str(caught.value) == str(at_once.value)
