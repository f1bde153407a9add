"""Outputs that grow: what is there plays at any time, and at the end they are what a complete file is."""

import os
import resource
import signal
import subprocess
import sys
import threading
from fractions import Fraction

import av
import numpy as np
import pytest

from kfjax import media
from tests.tiny import media_files as files

RATE_HZ = 44100
WAVE = (np.random.default_rng(0).standard_normal((6 * RATE_HZ + 77, 2)) * 0.1).astype(np.float32)
VIDEOS, SOUNDS = ("b.mp4", "b.mov", "b.mkv"), ("b.wav", "b.flac")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Six seconds with reordered frames and a key frame every two."""
    path = tmp_path_factory.mktemp("live") / "film.mp4"
    return files.write_numbered(path, files.steady(150, 25), tick=Fraction(1, 12800), options={"g": "50"})


def cut(wave, size):
    return [wave[start : start + size] for start in range(0, len(wave), size)]


def write(output, pieces, film, **options):
    if (options.get("suffix") or output.suffix) in (".wav", ".flac"):
        media.write_wav(output, pieces, RATE_HZ, **options)
    else:
        media.mux(film, pieces, RATE_HZ, output, **options)


def ends(path):
    """Type of stream -> seconds up to which there are packets."""
    reached = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                reached[packet.stream.type] = max(reached.get(packet.stream.type, 0.0), end)
    return reached


@pytest.mark.parametrize("name", VIDEOS + SOUNDS)
def test_pieces_give_the_bytes_of_the_whole(tmp_path, film, name):
    """But for a random number in every Matroska file."""
    one, two = tmp_path / name, tmp_path / f"c{name[1:]}"
    write(one, WAVE, film)
    write(two, iter([WAVE[:0], *cut(WAVE, 5000), WAVE[:0]]), film)
    if name != "b.mkv":
        assert one.read_bytes() == two.read_bytes()
    np.testing.assert_array_equal(media.read_audio(one, RATE_HZ), media.read_audio(two, RATE_HZ))
    assert sorted(os.listdir(tmp_path)) == sorted([name, two.name])


@pytest.mark.parametrize("name", VIDEOS + SOUNDS)
def test_a_growing_file_plays(tmp_path, film, name):
    path, seen = tmp_path / name, []

    def pieces():
        for number, piece in enumerate(cut(WAVE, RATE_HZ)):
            if number > 1:
                seen.append((number, ends(path)))
            yield piece

    write(path, pieces(), film, live=True)
    assert len(seen) == 5
    for number, reached in seen:
        assert number - 1.1 < reached["audio"] <= number + 0.05  # all but the last fragment or cluster
        assert name in SOUNDS or number - 1.1 < reached["video"] <= number + 0.1
    complete = tmp_path / f"c{name[1:]}"
    write(complete, WAVE, film)
    np.testing.assert_array_equal(media.read_audio(path, RATE_HZ), media.read_audio(complete, RATE_HZ))
    assert len(media.read_audio(path, RATE_HZ)) == len(WAVE)
    if name == "b.wav":
        assert path.read_bytes() == complete.read_bytes()
    if name in VIDEOS:
        assert files.picture_packets(path) == files.picture_packets(complete)
        assert files.picture_packets(path)[0] == files.picture_packets(film)[0]
        assert media.probe(path) == media.probe(complete)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4", ".mkv"])
def test_a_pipe(film, suffix):
    """Nothing is sought; the reader follows."""
    source, sink = os.pipe()
    waves, pictures = [], []

    def read():
        with os.fdopen(source, "rb") as file, av.open(file) as container:
            for frame in container.decode():
                if isinstance(frame, av.VideoFrame):
                    pictures.append(frame.to_ndarray(format="rgb24"))
                else:
                    waves.append(frame.to_ndarray())

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(sink, "wb") as file:
        write(file, iter(cut(WAVE, 5000)), film, live=True, suffix=suffix)
    reader.join()
    samples = sum(wave.shape[1] // (2 if len(wave) == 1 else 1) for wave in waves)
    assert len(WAVE) <= samples < len(WAVE) + (2049 if suffix == ".mp4" else 1)
    assert files.read_numbers(np.stack(pictures)) == list(range(150)) if pictures else suffix in (".wav", ".flac")


@pytest.mark.parametrize("name", VIDEOS + SOUNDS)
def test_what_a_killed_process_wrote_plays(tmp_path, film, name):
    script = (
        "import os, signal, sys, numpy as np; from kfjax import media\n"
        "def pieces():\n"
        "    for k in range(4): yield np.random.default_rng(k).uniform(-.1, .1, (44100, 2)).astype(np.float32)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "film, path = sys.argv[1:]\n"
        "if path[-4:] == '.wav' or path[-5:] == '.flac': media.write_wav(path, pieces(), 44100, live=True)\n"
        "else: media.mux(film, pieces(), 44100, path, live=True)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(film), str(tmp_path / name)])
    assert process.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [name]
    sound = media.read_audio(tmp_path / name, RATE_HZ)
    assert 2.9 * RATE_HZ < len(sound) <= 4 * RATE_HZ
    if name in VIDEOS:
        (frames,), seconds = media.read_frames(tmp_path / name, [media.FrameSpec(25, 64, "crop")])
        assert 2.9 < seconds <= 4.1
        numbers = files.read_numbers(frames)[:-4]  # the last may refer to ones that are missing
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("name", VIDEOS + SOUNDS)
def test_a_full_disk_ends_in_one_line_and_what_is_there_plays(tmp_path, film, name):
    loud = np.random.default_rng(0).uniform(-1, 1, WAVE.shape).astype(np.float32)
    whole = tmp_path / f"whole{name[1:]}"
    write(whole, loud, film)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole.stat().st_size * 2 // 3, limits[1]))
    try:
        with pytest.raises(media.MediaError) as caught:
            write(tmp_path / name, iter(cut(loud, RATE_HZ)), film, live=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value).startswith(f"{tmp_path / name}: can't be written (") and "\n" not in str(caught.value)
    assert 2 * RATE_HZ < len(media.read_audio(tmp_path / name, RATE_HZ)) < 5 * RATE_HZ
    assert name in SOUNDS or ends(tmp_path / name)["video"] > 2


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4", ".mkv"])
def test_a_closed_pipe_ends_in_one_line(film, suffix):
    source, sink = os.pipe()
    os.close(source)
    given = []

    def pieces():
        for piece in cut(WAVE, RATE_HZ):
            given.append(1)
            yield piece

    with open(sink, "wb", buffering=0) as file, pytest.raises(media.MediaError) as caught:
        write(file, pieces(), film, live=True, suffix=suffix)
    assert str(caught.value) == "the output: can't be written further (Broken pipe); what read it has ended"
    assert len(given) < 4  # nothing more is made for nobody


@pytest.mark.parametrize("name", VIDEOS + SOUNDS)
def test_an_error_in_the_middle(tmp_path, film, name):
    def pieces():
        yield from cut(WAVE, RATE_HZ)[:3]
        yield np.full((10, 2), np.nan, np.float32)

    with pytest.raises(ValueError, match="20 NaN"):
        write(tmp_path / name, pieces(), film)
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match="20 NaN"):
        write(tmp_path / name, pieces(), film, live=True)
    assert 2.9 * RATE_HZ < len(media.read_audio(tmp_path / name, RATE_HZ)) <= 3 * RATE_HZ


@pytest.mark.parametrize("first, last", [(0, 700), (-5, None), (-4, 900)])
@pytest.mark.parametrize("name", VIDEOS)
def test_what_an_edit_list_hides_stays_hidden(tmp_path, name, first, last):
    path = files.write_numbered(
        tmp_path / "a.mp4", files.steady(30, 25, Fraction(first, 25)), tick=Fraction(1, 12800), options={"g": "5"}
    )
    if last is not None:
        data = bytearray(path.read_bytes())
        start = data.index(b"elst") + 12
        data[start : start + 4] = last.to_bytes(4, "big")
        path.write_bytes(bytes(data))
    spec = media.FrameSpec(25, 64, "crop")
    (expected,), seconds = media.read_frames(path, [spec])
    media.mux(path, iter(cut(WAVE[: 2 * RATE_HZ], 10000)), RATE_HZ, tmp_path / name, live=True)
    (frames,), got = media.read_frames(tmp_path / name, [spec], counts=[len(expected)])
    assert files.read_numbers(frames) == files.read_numbers(expected)
    assert got == pytest.approx(seconds, abs=0.041)


def test_live_matroska_keeps_rare_subtitles_and_waits_for_none(tmp_path, film):
    path = tmp_path / "a.mkv"
    with av.open(str(film)) as original, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(original.streams.video[0], opaque=True)
        words = target.add_mux_stream("subrip", time_base=Fraction(1, 1000))
        target.set_chapters([{"id": 1, "start": 0, "end": 6000, "time_base": Fraction(1, 1000),
                              "metadata": {"title": "one"}}])  # fmt: skip
        for packet in original.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
        packet = av.Packet(b"at last")
        packet.stream, packet.time_base, packet.duration = words, Fraction(1, 1000), 400
        packet.pts = packet.dts = 5500
        target.mux(packet)
    seen = []

    def pieces():
        for number, piece in enumerate(cut(WAVE, RATE_HZ)):
            if number == 4:
                seen.extend(ends(tmp_path / name) for name in os.listdir(tmp_path) if name.startswith("b"))
            yield piece

    for name in ("b.mkv", "b.mp4"):
        media.mux(path, pieces(), RATE_HZ, tmp_path / name, live=True)
        with av.open(str(tmp_path / name)) as container:
            chapters = [(c["metadata"].get("title"), int(c["start"] * c["time_base"])) for c in container.chapters()]
            assert len(container.streams.subtitles) == (name == "b.mkv")
            assert chapters == [("one", 0)]
        assert seen.pop()["audio"] > 2.9
    assert b"at last" in (tmp_path / "b.mkv").read_bytes()


def test_refusals(tmp_path, film):
    with pytest.raises(ValueError, match="no samples in any piece"):
        media.write_wav(tmp_path / "a.wav", iter([WAVE[:0]]), RATE_HZ)
    with pytest.raises(ValueError, match="1 channels after 2"):
        media.write_wav(tmp_path / "a.wav", [WAVE[:10], WAVE[:10, :1]], RATE_HZ)
    with pytest.raises(ValueError, match="mix it into the pieces"):
        media.mux(film, [WAVE], RATE_HZ, tmp_path / "a.mp4", keep_original_gain=1.0)
    with open(os.devnull, "wb") as file:
        with pytest.raises(ValueError, match=r"suffix: got None for a binary file, expected one of \.wav \.flac"):
            media.write_wav(file, WAVE, RATE_HZ, live=True)
        with pytest.raises(ValueError, match="pass live=True"):
            media.write_wav(file, WAVE, RATE_HZ, suffix=".wav")
    with pytest.raises(media.MediaError, match="is the input itself"):
        media.mux(film, [WAVE], RATE_HZ, film, live=True)
    assert not os.listdir(tmp_path)
