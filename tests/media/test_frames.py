"""Which picture is seen when: held pictures, slow and variable rates, streams without timestamps."""

from fractions import Fraction

import av
import numpy as np
import pytest

from kfjax import media
from kfjax.media.playable import pictures, write_playable
from tests.tiny import media_files as files
from tests.tiny.crawl import luma

CLIP, SYNC = media.FrameSpec(8, 64, "stretch"), media.FrameSpec(25, 64, "crop")


def hammer(fps):
    """Which picture is seen in each frame of four seconds at a constant rate: four blows, each a run of pictures."""
    shown, picture = [], 0
    for k in range(4 * fps):
        moves = (k * 24 // fps) % 24 in range(17, 23)
        picture += bool(moves and k)
        shown.append(picture)
    return shown


def without_repeats(shown, fps):
    """(pictures, times) of the frames that differ from the one before, and the last."""
    kept = [k for k in range(len(shown)) if k in (0, len(shown) - 1) or shown[k] != shown[k - 1]]
    return [files.numbered(shown[k]) for k in kept], [Fraction(k, fps) for k in kept]


@pytest.mark.parametrize("fps", [10, 24, 25, 30, 60])
@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_the_same_pictures_at_the_same_times_give_the_same_frames(tmp_path, name, fps):
    shown = hammer(fps)
    constant = files.write_pictures(
        tmp_path / "a.mp4", [files.numbered(n) for n in shown], files.steady(len(shown), fps), rate=Fraction(fps)
    )
    pictures_, times = without_repeats(shown, fps)
    variable = files.write_pictures(tmp_path / name, pictures_, times)
    counts = [int(4 * spec.rate_hz) for spec in (CLIP, SYNC)]
    expected, _ = media.read_frames(constant, [CLIP, SYNC], counts=counts)
    got, _ = media.read_frames(variable, [CLIP, SYNC], counts=counts)
    for one, other in zip(expected, got, strict=True):
        assert files.read_numbers(one) == files.read_numbers(other)


@pytest.mark.parametrize(
    "gaps", [[40, 1000, 40, 2000, 40, 40, 900], [33, 34, 33, 700, 31, 900, 36], [3000, 5000, 2000]]
)
def test_a_hold_is_seen_to_its_end(tmp_path, gaps):
    """Never more than an ordinary frame early, and never late."""
    times = [Fraction(sum(gaps[:k]), 1000) for k in range(len(gaps) + 1)]
    path = files.write_numbered(tmp_path / "a.mp4", times)
    (frames,), _ = media.read_frames(path, [SYNC], counts=[int(times[-1] * 25)])
    for k, number in enumerate(files.read_numbers(frames)):
        at_earliest = max(i for i, t in enumerate(times) if t <= k / 25 + 1e-3)
        at_latest = max(i for i, t in enumerate(times) if t <= k / 25 + 0.04)
        assert at_earliest <= number <= at_latest


@pytest.mark.parametrize("fps", [5, 12, Fraction(24000, 1001), 25, Fraction(30000, 1001), 60, 120])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_constant_rate_keeps_the_published_recipe(tmp_path, fps, name):
    times = files.steady(int(fps), fps)
    path = files.write_numbered(tmp_path / name, times, rate=Fraction(fps))
    (frames,), _ = media.read_frames(path, [SYNC], counts=[25])
    times = [round(t, 3) for t in times] if name == "a.mkv" else times
    seen = [next((i for i, t in enumerate(times) if t >= k / 25 - 1e-3), len(times) - 1) for k in range(25)]
    assert files.read_numbers(frames) == seen


def test_the_page_shows_held_pictures_as_long(tmp_path):
    shown = hammer(25)
    path = files.write_pictures(tmp_path / "a.mkv", *without_repeats(shown, 25))
    write_playable(path, tmp_path / "b.mp4")
    assert media.probe(tmp_path / "b.mp4").fps == pytest.approx(25)
    assert files.read_numbers(np.stack(list(pictures(tmp_path / "b.mp4", 25.0, 64)))) == shown
    assert files.read_numbers(np.stack(list(pictures(path, 25.0, 64)))) == shown


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_slideshow_is_read(tmp_path, name):
    times = [Fraction(0), Fraction(20), Fraction(45)]
    path = files.write_numbered(tmp_path / name, times)
    assert media.probe(path).frame_count == 3 and media.probe(path).seconds > 45
    (frames,), _ = media.read_frames(path, [media.FrameSpec(2, 64, "crop")])
    assert files.read_numbers(frames) == [0] * 40 + [1] * 50


def test_timestamps_that_make_no_sense(tmp_path):
    """A flipped bit in the time of a part, of which the header knows nothing."""
    path = files.write_numbered(tmp_path / "a.mkv", [Fraction(0), Fraction(6), Fraction(7)], options={"bf": "0"})
    data = bytearray(path.read_bytes())
    time = data.index(b"\xe7\x82", data.rindex(b"\x1f\x43\xb6\x75")) + 2
    data[time] ^= 0x80  # 32 s later
    path.write_bytes(bytes(data))
    with pytest.raises(media.MediaError, match="make no sense, 3 frames"):
        media.probe(path)


@pytest.mark.parametrize("fps", [Fraction(12), Fraction(30000, 1001), Fraction(50)])
@pytest.mark.parametrize("name, codec", [("a.h264", "libx264"), ("a.hevc", "libx265"), ("a.m4v", "mpeg4")])
def test_a_raw_stream_has_its_own_rate(tmp_path, fps, name, codec):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {"bf": "2"}
    times = files.steady(24, fps)
    kind = {"a.h264": "h264", "a.hevc": "hevc", "a.m4v": "m4v"}[name]
    path = files.write_numbered(
        tmp_path / name, times, codec=codec, container=kind, rate=fps, tick=1 / fps, options=options
    )
    info = media.probe(path)
    assert info.seconds == pytest.approx(24 / fps, abs=2e-3) and info.fps == pytest.approx(float(fps), rel=1e-3)
    (frames,), _ = media.read_frames(path, [media.FrameSpec(float(fps), 64, "crop")], counts=[24])
    assert files.read_numbers(frames) == list(range(24))


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("repeat", [1, 2])
def test_avi_with_reordered_and_repeated_pictures(tmp_path, codec, repeat):
    """AVI fills its clock with empty chunks: at each second tick, and for a hold."""
    kept = [k for k in range(60) if not 20 <= k < 40]
    path = tmp_path / "a.avi"
    tick = Fraction(1, 25 * repeat)
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=25 * repeat, width=64, height=64, pix_fmt="yuv420p", time_base=tick)
        stream.options = {"bf": "2"}
        for k in kept:
            frame = av.VideoFrame.from_ndarray(files.numbered(k), format="rgb24")
            frame.pts, frame.time_base = k * repeat, tick
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    info = media.probe(path)
    assert info.seconds == pytest.approx(2.4, abs=0.041) and info.frame_count == 40
    (frames,), _ = media.read_frames(path, [SYNC], counts=[60])
    assert files.read_numbers(frames) == [k if k in kept else 19 for k in range(60)]
    media.mux(path, np.zeros((1000, 2), np.float32), 44100, tmp_path / "b.mp4")
    (frames,), _ = media.read_frames(tmp_path / "b.mp4", [SYNC], counts=[60])
    assert files.read_numbers(frames) == [k if k in kept else 19 for k in range(60)]


B_FRAMES = {
    "libx264": {"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=none:scenecut=0:keyint=250"},
    "mpeg4": {"bf": "2"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:b-adapt=0"},
}


def in_order(path, start=0.0, rates=()):
    return list(media.frames_in_order(path, 8, start, rates_hz=rates))


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.mp4", "libx265")])
@pytest.mark.parametrize("start", [0.0, 3.25])
def test_what_is_not_needed_is_not_decoded(tmp_path, name, codec, start):
    encoder = {"codec": codec, "rate": Fraction(24), "tick": Fraction(1, 24), "options": B_FRAMES[codec] | {"g": "48"}}
    path = files.write_numbered(tmp_path / name, files.steady(144, 24), **encoder)
    whole, kept = in_order(path, start), in_order(path, start, [4.0, 2.0])
    assert len(kept) < 0.6 * len(whole)
    numbers = {one.seconds: files.read_numbers(one.picture(CLIP)[None]) for one in whole}
    assert all(files.read_numbers(one.picture(CLIP)[None]) == numbers[one.seconds] for one in kept)
    shown = {round(24 * one.seconds) for one in kept}
    assert all(shown & {k, k + 1, k + 2} for k in range(round(24 * start), 144, 6))  # within 0.1 s
    after = [one.seconds for one in whole[1:]] + [6.0]
    until = {one.seconds: seconds for one, seconds in zip(whole, after, strict=True)}
    assert all(one.until_seconds == pytest.approx(until[one.seconds], abs=2e-3) for one in kept)


@pytest.mark.parametrize(("name", "fps"), [("a.mp4", 12), ("a.avi", 24)])
def test_all_is_decoded_of_a_slow_film_and_of_one_without_times(tmp_path, name, fps):
    path = files.write_numbered(
        tmp_path / name, files.steady(48, fps), rate=Fraction(fps), tick=Fraction(1, fps), options=B_FRAMES["libx264"]
    )
    assert len(in_order(path, 0.0, [4.0])) == 48


def test_a_picture_that_is_held_is_decoded(tmp_path):
    times = [k / Fraction(24) + (k >= 30) + (k >= 61) for k in range(96)]
    path = files.write_numbered(tmp_path / "a.mp4", times, rate=Fraction(24), options=B_FRAMES["libx264"])
    kept = in_order(path, 0.0, [4.0])
    shown = {round(one.seconds * 24) for one in kept}
    assert len(kept) < 70 and {29, 30 + 24, 60 + 24, 61 + 48, 95 + 48} <= shown


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.mov", {"rotation": 90}),
        ("a.mp4", {"pix_fmt": "yuvj420p"}),
        ("a.mkv", {"codec": "libx264", "pix_fmt": "yuv420p10le"}),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "bgr0"}),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "gray"}),
    ],
)
def test_gray_is_the_luma_of_a_picture(tmp_path, name, options):
    """Black is 0 and white 255, whatever the file's range."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, 24:48], picture[:, 48:72], picture[32:, 72:] = 255, 128, (200, 60, 90)
    path = files.write_pictures(tmp_path / name, [picture] * 10, files.steady(10, 25), **options)
    specs = [media.FrameSpec(5, 32, resize, pixels) for resize in ("crop", "crops") for pixels in ("rgb24", "gray")]
    (crop, crop_gray, crops, crops_gray), _ = media.read_frames(path, specs)
    assert crop_gray.shape == (2, 32, 32) and crops_gray.shape == (2, 32, 96) and crops_gray.dtype == np.uint8
    for rgb, gray in ((crop, crop_gray), (crops, crops_gray)):
        assert np.abs(luma(rgb).astype(int) - gray).mean() < 1.5
        assert gray.min() <= 2 and gray.max() >= 253
