"""Reading and writing media files: which frame is taken when, where sound lies, and what bad files end in."""

import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from kfjax import media
from tests.tiny import media_files as files

RATE_HZ = 44100
SLOW, FAST = media.FrameSpec(8, 64, "stretch"), media.FrameSpec(25, 64, "crop")
RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), 30, 50, 60]


def expected_frames(times, rate_hz, count, start=0.0, steady=True):
    """The rule, spelled out: at a steady rate the first frame at or after start + k / rate, the last one held; else
    what a player shows."""
    times = [float(t - times[0]) for t in times]
    wanted = [start + k / rate_hz for k in range(count)]
    if not steady:
        return [max(i for i, t in enumerate(times) if t <= w + 1e-3) for w in wanted]
    return [next((i for i, t in enumerate(times) if t >= w - 1e-3), len(times) - 1) for w in wanted]


def check_frames(path, times, seconds, specs=(SLOW, FAST), steady=True, **excerpt):
    outputs, got_seconds = media.read_frames(path, specs, **excerpt)
    assert got_seconds == pytest.approx(seconds, abs=2e-3)
    for spec, frames in zip(specs, outputs, strict=True):
        assert len(frames) == max(1, int(spec.rate_hz * got_seconds + 1e-6))
        start = excerpt.get("start_seconds", 0.0)
        assert files.read_numbers(frames) == expected_frames(times, spec.rate_hz, len(frames), start, steady)


def clicks(seconds, at, channels=2, rate_hz=RATE_HZ):
    wave = np.zeros((round(seconds * rate_hz), channels), np.float32)
    for time in at:
        wave[round(time * rate_hz)] = 0.9
    return wave


def assert_click(wave, at, rate_hz=RATE_HZ, tolerance_seconds=1e-3):
    assert abs(int(np.abs(wave[:, 0]).argmax()) / rate_hz - at) < tolerance_seconds


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """1.2 s at 25 fps with reordered frames, and a click at 0.5 s."""
    path = tmp_path_factory.mktemp("media") / "plain.mp4"
    media.write_video(path, (files.numbered(i) for i in range(30)), 25, clicks(1.2, [0.5]), RATE_HZ)
    return path


# Frames


@pytest.mark.parametrize("fps", RATES, ids=lambda fps: f"{float(fps):.2f}")
def test_each_rate_takes_the_right_frames(tmp_path, fps):
    count = int(fps * Fraction(6, 5))
    times = files.steady(count, fps)
    path = files.write_numbered(tmp_path / "a.mp4", times, rate=fps, tick=1 / Fraction(fps))
    check_frames(path, times, count / fps)
    info = media.probe(path)
    assert (info.width, info.height, info.frame_count, info.has_audio) == (64, 64, count, False)
    assert info.fps == pytest.approx(float(fps))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.webm"])
def test_variable_rate_and_late_start(tmp_path, name):
    gaps = [Fraction(g, 1000) for g in (40, 20, 300, 10, 33, 33, 34, 120, 5, 15, 50, 40, 100, 40, 40, 40)]
    times = [Fraction(7, 5) + sum(gaps[:i]) for i in range(len(gaps))]
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    options = {"deadline": "realtime", "cpu-used": "8"} if name.endswith("webm") else None
    path = files.write_numbered(tmp_path / name, times, codec=codec, options=options)
    seconds = media.probe(path).seconds
    assert 0.88 < seconds < 1.3  # the last frame's own duration is the container's guess
    check_frames(path, times, seconds, steady=False)


@pytest.mark.parametrize("name", ["a.h264", "a.avi"])
@pytest.mark.parametrize("reordered", [True, False])
def test_no_timestamps(tmp_path, name, reordered):
    times = files.steady(30, 25)
    options = {} if reordered else {"bf": "0"}
    path = files.write_numbered(tmp_path / name, times, tick=Fraction(1, 25), options=options)
    check_frames(path, times, 1.2)
    media.mux(path, clicks(1.2, [0.5]), RATE_HZ, tmp_path / "b.mp4")
    check_frames(tmp_path / "b.mp4", times, 1.2)
    assert_click(media.read_audio(tmp_path / "b.mp4", RATE_HZ), 0.5)


@pytest.mark.parametrize(
    "name, codec, pix_fmt",
    [
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mov", "prores_ks", "yuv422p10le"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "yuv444p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_formats(tmp_path, name, codec, pix_fmt):
    times = files.steady(20, 20)
    path = files.write_numbered(
        tmp_path / name, times, codec=codec, pix_fmt=pix_fmt, rate=Fraction(20), tick=Fraction(1, 20)
    )
    check_frames(path, times, 1.0)


def test_one_pass_serves_many_specs(plain):
    specs = [media.FrameSpec(rate, 64, "stretch") for rate in (0.5, 3, 7.3, 25, 100)]
    check_frames(plain, files.steady(30, 25), 1.2, specs)


def test_excerpts(tmp_path):
    times = files.steady(200, 25)
    path = files.write_numbered(tmp_path / "a.mp4", times, tick=Fraction(1, 25), options={"g": "12"})
    check_frames(path, times, 8.0)
    check_frames(path, times, 1.0, start_seconds=0.52, duration_seconds=1.0)
    check_frames(path, times, 2.0, start_seconds=5.31, duration_seconds=2.0)  # far enough for a seek
    check_frames(path, times, 0.5, start_seconds=7.5, duration_seconds=9.0)
    (frames,), seconds = media.read_frames(path, [SLOW], start_seconds=7.9, counts=[5])
    assert seconds == pytest.approx(0.1) and files.read_numbers(frames) == [198, 199, 199, 199, 199]


def test_short_videos_work(tmp_path):
    times = files.steady(5, 25)
    path = files.write_numbered(tmp_path / "a.mp4", times, tick=Fraction(1, 25))
    check_frames(path, times, 0.2)


@pytest.mark.parametrize("degrees, mirrored", [(0, False), (90, False), (180, False), (270, False), (0, True)])
def test_upright(tmp_path, degrees, mirrored):
    picture = np.full((48, 96, 3), 30, np.uint8)
    picture[:24, :48, 0], picture[24:, 48:, 1] = 220, 220
    path = files.write_pictures(
        tmp_path / "a.mov", [picture] * 10, files.steady(10, 25), rotation=degrees, mirrored=mirrored
    )
    outputs, _ = media.read_frames(path, [media.FrameSpec(5, 48, "stretch"), media.FrameSpec(5, 48, "crop")])
    upright = np.rot90(picture[:, ::-1] if mirrored else picture, degrees // 90)
    for frames in outputs:
        assert (np.sign(frames[0].astype(int) - 125)[6::12, 6::12] == quarters(upright)).all()
    info = media.probe(path)
    assert (info.height, info.width) == upright.shape[:2]
    assert mirrored or info.rotation == degrees


def quarters(picture):
    """Signs of the four quarters' colours, each as 2 x 2 cells."""
    height, width = picture.shape[:2]
    cells = picture[height // 4 :: height // 2, width // 4 :: width // 2]
    return np.sign(cells.repeat(2, 0).repeat(2, 1).astype(int) - 125)


def test_stretch_and_crop(tmp_path):
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96] = files.numbered(0b1010_0101_1100_0011)
    path = files.write_pictures(tmp_path / "a.mp4", [picture] * 5, files.steady(5, 25))
    (crop, stretch), _ = media.read_frames(path, [FAST, SLOW])
    assert files.read_numbers(crop)[0] == 0b1010_0101_1100_0011
    assert stretch[0, :, 2:14].max() < 40 and stretch[0, 2:14, 18:22].min() > 180


def test_reduction_is_antialiased(tmp_path):
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[::2] = 255
    path = files.write_pictures(
        tmp_path / "a.mkv", [stripes] * 3, files.steady(3, 25), codec="ffv1", pix_fmt="yuv444p", rate=25
    )
    (frames,), _ = media.read_frames(path, [SLOW])
    frames = frames[:, 2:-2]  # at the border the kernel sees half as many stripes
    assert abs(int(frames.min()) - 127) < 6 and abs(int(frames.max()) - 127) < 6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say a process's peak")
def test_frames_are_let_go(tmp_path):
    """Decoded pictures must not wait for the garbage collector: it holds hundreds of megabytes back at 1080p."""
    script = (
        "import gc, sys; gc.disable()\n"
        "from kfjax import media\n"
        "peak = lambda: int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) / 1024\n"
        "media.probe(sys.argv[1])\n"
        "used = peak()\n"
        "media.read_frames(sys.argv[1], [media.FrameSpec(8, 64, 'stretch'), media.FrameSpec(25, 64, 'crop')])\n"
        "print(peak() - used)\n"
    )
    picture = np.zeros((720, 1280, 3), np.uint8)
    path = files.write_pictures(
        tmp_path / "a.mp4", [picture] * 150, files.steady(150, 25), options={"preset": "ultrafast"}
    )
    megabytes = float(subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=True).stdout)
    assert megabytes < 60  # 150 frames would be 207


# Sound


@pytest.mark.parametrize(
    "name, codec", [("a.m4a", "aac"), ("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "mp3")]
)
def test_read_audio(tmp_path, name, codec):
    path = files.write_sound(tmp_path / name, clicks(1.3, [0.7], channels=1, rate_hz=48000), 48000, codec)
    stereo = media.read_audio(path, RATE_HZ)
    mono = media.read_audio(path, RATE_HZ, channels=1, duration_seconds=1.0)
    assert stereo.shape == (round(1.3 * RATE_HZ), 2) and mono.shape == (RATE_HZ, 1)
    assert stereo.dtype == np.float32 and (stereo[:, 0] == stereo[:, 1]).all()
    assert_click(stereo, 0.7)
    assert_click(media.read_audio(path, RATE_HZ, start_seconds=0.4), 0.3)


def test_channels_are_mixed_by_the_mean(tmp_path):
    wave = np.stack([np.full(4000, 0.5), np.full(4000, -0.1)], 1).astype(np.float32)
    media.write_wav(tmp_path / "a.wav", wave, 8000)
    assert np.allclose(media.read_audio(tmp_path / "a.wav", 8000, channels=1), 0.2, atol=1e-3)


def test_sound_is_placed_against_the_picture(tmp_path, plain):
    with av.open(str(plain)) as source, av.open(str(tmp_path / "late.mkv"), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        for packet in source.demux():
            if not packet.size:
                continue
            late = Fraction(3, 10) if packet.stream.type == "audio" else 0
            packet.pts += int(late / packet.time_base)
            packet.dts += int(late / packet.time_base)
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    assert_click(media.read_audio(tmp_path / "late.mkv", RATE_HZ), 0.8, tolerance_seconds=2e-3)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_write_wav(tmp_path, name):
    wave = np.random.default_rng(0).uniform(-1.2, 1.2, (3001, 2)).astype(np.float32)
    media.write_wav(tmp_path / name, wave, RATE_HZ)
    assert np.abs(media.read_audio(tmp_path / name, RATE_HZ) - wave.clip(-1, 1)).max() < 1e-4
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(media.MediaError, match=r"\.wav \.flac"):
        media.write_wav(tmp_path / "a.mp4", wave, RATE_HZ)


# Muxing


@pytest.mark.parametrize("samples", [52920, 52921, 50000, 60001])
@pytest.mark.parametrize("name", ["b.mp4", "b.mov", "b.mkv", "b.M4V"])
def test_mux(tmp_path, plain, name, samples):
    wave = clicks(samples / RATE_HZ, [0.25])
    output = tmp_path / name
    media.mux(plain, wave, RATE_HZ, output)
    data, times = files.picture_packets(plain)
    copied, copied_times = files.picture_packets(output)
    assert copied == data
    assert max(abs(a - b) for a, b in zip(times, copied_times, strict=True)) <= (1e-3 if "mkv" in name else 0)
    sound = media.read_audio(output, RATE_HZ)
    assert sound.shape == (samples, 2)
    assert_click(sound, 0.25)
    assert os.listdir(tmp_path) == [name]
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        if "mkv" not in name:
            stream = container.streams.audio[0]
            assert stream.duration * stream.time_base == Fraction(samples, RATE_HZ)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_mux_of_a_late_start(tmp_path, name):
    times = files.steady(30, 25, Fraction(7, 5))
    path = files.write_numbered(tmp_path / name, times)
    for output in (tmp_path / "b.mp4", tmp_path / "b.mkv"):
        media.mux(path, clicks(1.2, [0.5]), RATE_HZ, output)
        check_frames(output, times, 1.2)
        assert_click(media.read_audio(output, RATE_HZ), 0.5)


def test_mux_keeps_rotation(tmp_path):
    path = files.write_pictures(tmp_path / "a.mov", [files.numbered(5)] * 10, files.steady(10, 25), rotation=90)
    for name in ("b.mp4", "b.mkv"):
        media.mux(path, clicks(0.4, [0.1]), RATE_HZ, tmp_path / name)
        assert media.probe(tmp_path / name).rotation == 90


def test_mux_hides_what_an_edit_list_hid(tmp_path):
    """Frames before 0 and after a trim stay in the file, unseen."""
    times = files.steady(30, 25, Fraction(-4, 25))
    path = files.write_numbered(tmp_path / "a.mp4", times, tick=Fraction(1, 12800), options={"bf": "0"})
    shorten_edit_list(path, 900)
    assert media.probe(path).seconds == pytest.approx(0.9) and media.probe(path).frame_count == 23
    media.mux(path, clicks(0.9, [0.5]), RATE_HZ, tmp_path / "b.mp4")
    assert files.picture_packets(path) == files.picture_packets(tmp_path / "b.mp4")
    info = media.probe(tmp_path / "b.mp4")
    assert info.seconds == pytest.approx(0.9) and info.frame_count == 23
    (frames,), _ = media.read_frames(tmp_path / "b.mp4", [FAST])
    assert files.read_numbers(frames) == list(range(4, 26))
    assert_click(media.read_audio(tmp_path / "b.mp4", RATE_HZ), 0.5)


def shorten_edit_list(path, milliseconds):
    data = bytearray(path.read_bytes())
    start = data.index(b"elst") + 12
    data[start : start + 4] = milliseconds.to_bytes(4, "big")
    path.write_bytes(bytes(data))


def test_mux_keeps_the_original_sound(tmp_path, plain):
    media.mux(plain, clicks(1.2, [0.9]), RATE_HZ, tmp_path / "b.mkv", keep_original_gain=0.5)
    sound = np.abs(media.read_audio(tmp_path / "b.mkv", RATE_HZ)[:, 0])
    assert_click(sound[:, None], 0.9)
    middle = slice(round(0.45 * RATE_HZ), round(0.55 * RATE_HZ))
    assert 0.2 < sound[middle].max() < 0.7
    assert abs(sound[middle].argmax() + middle.start - 0.5 * RATE_HZ) < 44
    loud = np.full((52920, 2), 0.9, np.float32)
    media.mux(plain, loud, RATE_HZ, tmp_path / "c.mkv", keep_original_gain=1.0)
    assert np.abs(media.read_audio(tmp_path / "c.mkv", RATE_HZ)).max() <= 1
    silent = files.write_numbered(tmp_path / "silent.mp4", files.steady(10, 25))
    with pytest.raises(media.MediaError, match="no sound"):
        media.mux(silent, loud, RATE_HZ, tmp_path / "d.mp4", keep_original_gain=1.0)
    assert not (tmp_path / "d.mp4").exists()


def test_mux_of_mono_and_other_rates(tmp_path, plain):
    media.mux(plain, clicks(1.2, [0.5], channels=1, rate_hz=16000)[:, 0], 16000, tmp_path / "b.mp4")
    sound = media.read_audio(tmp_path / "b.mp4", 16000)
    assert sound.shape == (19200, 2)
    with pytest.raises(ValueError, match="44100"):
        media.mux(plain, clicks(1.2, [0.5]), 12345, tmp_path / "c.mp4")
    assert sorted(os.listdir(tmp_path)) == ["b.mp4"]


def test_mux_names_the_container_that_fits(tmp_path):
    path = files.write_numbered(
        tmp_path / "a.webm", files.steady(5, 25), codec="libvpx", options={"deadline": "realtime"}
    )
    with pytest.raises(media.MediaError, match=r"vp8.*\.mkv"):
        media.mux(path, clicks(0.2, [0.1]), RATE_HZ, tmp_path / "b.mp4")
    media.mux(path, clicks(0.2, [0.1]), RATE_HZ, tmp_path / "b.mkv")
    assert files.picture_packets(path)[0] == files.picture_packets(tmp_path / "b.mkv")[0]


def test_a_failure_leaves_nothing_behind(tmp_path, plain, monkeypatch):
    wave = clicks(1.2, [0.5])
    existing = tmp_path / "b.mp4"
    existing.write_bytes(b"precious")
    monkeypatch.setattr(media.write.heapq, "merge", lambda *streams, key: iter([next(streams[0]), 1 / 0]))
    with pytest.raises(ZeroDivisionError):
        media.mux(plain, wave, RATE_HZ, existing)
    monkeypatch.undo()
    wave[7, 1] = np.nan
    with pytest.raises(ValueError, match="1 NaN"):
        media.mux(plain, wave, RATE_HZ, existing)
    assert os.listdir(tmp_path) == ["b.mp4"] and existing.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "name, message",
    [
        ("b.txt", "can't be written here"),
        ("b", "without an ending"),
        ("missing/b.mp4", "doesn't exist"),
        ("folder.mp4", "is a folder"),
        ("x" * 300 + ".mp4", "can't be written"),
    ],
)
def test_check_output(tmp_path, plain, name, message):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(media.MediaError, match=message):
        media.check_output(tmp_path / name, plain)
    assert os.listdir(tmp_path) == ["folder.mp4"]


def test_check_output_accepts_and_protects(tmp_path, plain):
    media.check_output(tmp_path / "b.mp4", plain)
    media.check_output(tmp_path / "b.wav", plain)
    media.check_output(tmp_path / "b.mkv")
    assert not os.listdir(tmp_path)
    (tmp_path / "link.mp4").symlink_to(plain)
    for same in (plain, tmp_path / "link.mp4"):
        with pytest.raises(media.MediaError, match="input itself"):
            media.mux(plain, clicks(1.2, [0.5]), RATE_HZ, same)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that refuses writing")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(media.MediaError, match="Permission"):
        media.check_output(tmp_path / "b.mp4")
    tmp_path.chmod(0o700)


# Bad input


def bad_files(folder, plain):
    """name -> (path, what its error says)."""
    (folder / "words.txt").write_text("not a video\n" * 50)
    (folder / "words.mp4").write_text("not a video\n" * 50)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "empty.mp4").touch()
    long = files.write_numbered(folder / "long.mkv", files.steady(100, 25))
    media.write_video(front := folder / "front.mp4", (files.numbered(i) for i in range(100)), 25)
    index = folder / "index.mp4"
    index.write_bytes(front.read_bytes()[: front.read_bytes().index(b"mdat") + 4])
    one = files.write_numbered(folder / "one.mp4", files.steady(1, 25))
    two = files.write_numbered(folder / "two.mp4", files.steady(2, 60), rate=60, tick=Fraction(1, 60))
    with av.open(str(none := folder / "none.mp4"), "w") as target:
        target.add_stream("libx264", rate=25, width=64, height=64)
        target.start_encoding()
    os.mkfifo(folder / "pipe.mp4")
    return {
        "pipe": (folder / "pipe.mp4", "is a pipe or a device"),
        "no such file": (folder / "absent.mp4", "no such file"),
        "folder": (folder, "is a folder"),
        "text": (folder / "words.txt", "text file|not a readable video"),
        "text called mp4": (folder / "words.mp4", "not a readable video"),
        "noise": (folder / "noise.mp4", "not a readable video"),
        "empty": (folder / "empty.mp4", "empty file"),
        "png": (files.write_still(folder / "a.png"), "still image"),
        "jpg": (files.write_still(folder / "a.jpg"), "still image"),
        "sound": (files.write_sound(folder / "a.m4a", clicks(1, [0.5]), RATE_HZ), "no picture"),
        "no frames": (none, "neither picture nor sound"),
        "one frame": (one, "single frame"),
        "0.03 s": (two, "too short"),
        "no index": (files.copy_start(plain, folder / "cut.mp4", 0.3), "without its index"),
        "cut mp4": (files.copy_start(front, folder / "cut2.mp4", 0.5), r"cut off: \d\.\d\d of 4\.00"),
        "cut mkv": (files.copy_start(long, folder / "cut3.mkv", 0.5), r"cut off: \d\.\d\d of 4\.00"),
        "nothing but an index": (index, "without any frame"),
        "damaged": (files.copy_damaged(front, folder / "damaged.mp4"), "damaged|decode"),
    }


def test_bad_input(tmp_path, plain):
    for name, (path, message) in bad_files(tmp_path, plain).items():
        with pytest.raises(media.MediaError) as caught:
            media.read_frames(path, [SLOW])
        line = str(caught.value)
        assert re.search(message, line), f"{name}: {line}"
        assert "\n" not in line and str(path) in line, f"{name}: {line}"
        output = tmp_path / "output.mp4"
        if name in ("no such file", "folder", "text", "noise", "empty", "png", "sound", "no frames", "cut mp4"):
            with pytest.raises(media.MediaError):
                media.mux(path, clicks(1, [0.5]), RATE_HZ, output)
        assert not output.exists() and not [left for left in os.listdir(tmp_path) if left.startswith(".")]


def test_a_file_cut_at_its_very_end_still_reads(tmp_path):
    path = tmp_path / "a.mp4"
    media.write_video(path, (files.numbered(i) for i in range(50)), 25)
    cut = files.copy_start(path, tmp_path / "b.mp4", 0.97)
    (frames,), seconds = media.read_frames(cut, [FAST])
    assert 1.5 < seconds <= 2.0 and files.read_numbers(frames)[:30] == list(range(30))


@pytest.mark.parametrize("excerpt", [{"start_seconds": 9.0}, {"start_seconds": -1.0}, {"duration_seconds": 0.0}])
def test_bad_excerpts(plain, excerpt):
    with pytest.raises(media.MediaError, match="excerpt"):
        media.read_frames(plain, [SLOW], **excerpt)


def test_an_excerpt_below_the_minimum(plain):
    with pytest.raises(media.MediaError, match="too short"):
        media.read_frames(plain, [SLOW], duration_seconds=0.05)
    with pytest.raises(ValueError, match="'stretch' or 'crop'"):
        media.read_frames(plain, [media.FrameSpec(8, 64, "squash")])


def test_sound_alone(tmp_path):
    sound = files.write_sound(tmp_path / "a.mp3", clicks(1, [0.5]), RATE_HZ, "mp3")
    assert media.probe(sound)[5:] == (False, True, RATE_HZ, None)
    assert media.probe(sound).seconds == pytest.approx(1.0, abs=0.06)


def test_write_video_refuses(tmp_path):
    for frames, message in [
        ([], "no frames"),
        ([np.zeros((3, 4, 3), np.uint8)], "even"),
        ([np.zeros((4, 4, 3))], "uint8"),
    ]:
        with pytest.raises(ValueError, match=message):
            media.write_video(tmp_path / "a.mp4", frames, 25)
    with pytest.raises(ValueError, match="go together"):
        media.write_video(tmp_path / "a.mp4", [files.numbered(0)], 25, clicks(1, [0.5]))
    assert not os.listdir(tmp_path)


def test_a_changed_file_is_looked_at_again(tmp_path):
    path = files.write_numbered(tmp_path / "a.mp4", files.steady(10, 25), tick=Fraction(1, 25))
    assert media.probe(path).frame_count == 10
    files.write_numbered(path, files.steady(20, 25), tick=Fraction(1, 25))
    assert media.probe(path).frame_count == 20


def test_import_is_light():
    script = "import sys, kfjax.media; print([name for name in ('av', 'jax', 'cv2', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"
