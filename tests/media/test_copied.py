"""What a stream copy keeps is kept: codecs × containers × properties, against FFmpeg's own copy where it is there."""

import shutil
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest

from kfjax import media
from kfjax.making.sound import Sound
from tests.tiny import media_files as files

RATE_HZ = 44100
WAVE = np.zeros((RATE_HZ // 2, 2), np.float32)
PRORES = {"0": "apco", "1": "apcs", "2": "apcn", "3": "apch", "4": "ap4h", "5": "ap4x"}
QUIET = {"x265-params": "log-level=none"}
FAST_VPX = {"deadline": "realtime", "cpu-used": "8"}
#: (codec, pixel format, encoder's options, container) of a source: output container -> codec tag.
CODECS = {
    ("libx264", "yuv420p", (), "mp4"): {"mp4": "avc1", "mov": "avc1", "mkv": ""},
    ("libx264", "yuv420p", (), "ts"): {"mp4": "avc1", "mov": "avc1", "mkv": ""},
    ("libx265", "yuv420p", tuple(QUIET.items()), "mp4"): {"mp4": "hvc1", "mov": "hvc1", "mkv": ""},
    ("libx265", "yuv420p10le", tuple(QUIET.items()), "mkv"): {"mp4": "hvc1", "mov": "hvc1", "mkv": ""},
    ("libx265", "yuv420p", tuple(QUIET.items()), "ts"): {"mp4": "hvc1", "mov": "hvc1", "mkv": ""},
    ("libvpx-vp9", "yuv420p", tuple(FAST_VPX.items()), "webm"): {"mp4": "vp09", "mkv": ""},
    ("libsvtav1", "yuv420p", (("preset", "12"), ("svtav1-params", "lp=1")), "mkv"): {"mp4": "av01", "mkv": ""},
    ("mpeg4", "yuv420p", (), "avi"): {"mp4": "mp4v", "mov": "mp4v", "mkv": ""},
    ("mpeg2video", "yuv420p", (), "mpg"): {"mp4": "mp4v", "mkv": ""},
    ("mjpeg", "yuvj420p", (), "mov"): {"mov": "jpeg", "mkv": ""},
    **{
        ("prores_ks", "yuva444p10le" if profile > "3" else "yuv422p10le", (("profile", profile),), "mov"):
            {"mov": tag, "mkv": tag}
        for profile, tag in PRORES.items()
    },
}  # fmt: skip
TABLE = [(source, output, tag) for source, outputs in CODECS.items() for output, tag in outputs.items()]


def made(folder, source, **options):
    codec, pix_fmt, encoder_options, container = source
    how = {"codec": codec, "pix_fmt": pix_fmt, "options": dict(encoder_options), "tick": Fraction(1, 25)}
    return files.write_numbered(folder / f"a.{container}", files.steady(12, 25), **how | options)


def picture(path):
    """What a player learns of the picture from the container."""
    with av.open(str(path)) as container:
        stream, frame = container.streams.video[0], next(container.decode(video=0))
        context = stream.codec_context
        tag, tags = context.codec_tag.rstrip("\0"), {key.lower(): text for key, text in stream.metadata.items()}
        return {
            "codec": context.codec.canonical_name, "tag": tag, "size": (context.width, context.height),
            "aspect": stream.sample_aspect_ratio or Fraction(1), "alpha": tags.get("alpha_mode"),
            "pix_fmt": context.pix_fmt, "colour": (context.color_primaries, context.color_trc, context.colorspace),
            "rotation": frame.rotation % 360, "language": stream.language or "und",
        }  # fmt: skip


def ffmpegs_copy(source, path, *options):
    """The path, after FFmpeg's own stream copy; where there is no FFmpeg the test ends here, with a word."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg: copies are not compared with its own")
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, *options, "-c", "copy", path], check=True)
    return path


def aspect_copy(source, path, aspect):
    """A stream copy whose container states another aspect ratio than the codec."""
    with av.open(str(source)) as original, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(original.streams.video[0], opaque=True)
        stream.codec_context.sample_aspect_ratio = aspect
        for packet in original.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return path


@pytest.mark.parametrize(
    "source, output, tag", TABLE, ids=lambda cell: "-".join(map(str, cell[::3])) if isinstance(cell, tuple) else cell
)
def test_codec_and_tag(tmp_path, source, output, tag):
    path, copy = made(tmp_path, source), tmp_path / f"b.{output}"
    media.mux(path, WAVE, RATE_HZ, copy)
    before, after = picture(path), picture(copy)
    assert after["tag"] == tag
    assert {**after, "tag": ""} == {**before, "tag": ""}
    if source[-1] != "mpg":  # whose pictures without times FFmpeg refuses to copy
        expected = picture(ffmpegs_copy(path, tmp_path / f"c.{output}", "-map", "0:v"))
        is_hevc = after["codec"] == "hevc"  # for which FFmpeg's own choice doesn't play on Apple's devices
        assert after == expected | ({"tag": tag} if is_hevc else {})


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9"])
@pytest.mark.parametrize("output", ["b.mp4", "b.mkv", "b.mov"])
@pytest.mark.parametrize("aspect", [Fraction(5, 4), Fraction(3, 4)])
def test_the_containers_aspect_ratio(tmp_path, codec, output, aspect):
    if codec == "libvpx-vp9" and output == "b.mov":
        output = "b.m4v"
    options = FAST_VPX if codec == "libvpx-vp9" else {}
    plain = files.write_numbered(
        tmp_path / "plain.mp4", files.steady(12, 25), codec=codec, options=options, tick=Fraction(1, 25)
    )
    source = aspect_copy(plain, tmp_path / "a.mp4", aspect)
    assert picture(source)["aspect"] == aspect
    media.mux(source, WAVE, RATE_HZ, tmp_path / output)
    assert float(picture(tmp_path / output)["aspect"]) == pytest.approx(float(aspect), rel=0.01)
    (frames,), _ = media.read_frames(tmp_path / output, [media.FrameSpec(25, 64, "crop")])
    assert files.read_numbers(frames) == list(range(12))
    reference = ffmpegs_copy(source, tmp_path / f"c{output[1:].replace('m4v', 'mp4')}")
    assert picture(tmp_path / output)["aspect"] == picture(reference)["aspect"]
    # The header that was changed in place is sound: FFmpeg checks its sum where it is told to.
    strict = ["ffmpeg", "-v", "error", "-xerror", "-err_detect", "crccheck+explode"]
    subprocess.run([*strict, "-i", tmp_path / output, "-f", "null", "-"], check=True)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_of_vp8_and_vp9(tmp_path, codec):
    clear = np.dstack([np.repeat(files.numbered(7)[..., :1], 3, 2), np.zeros((64, 64), np.uint8)])
    with av.open(str(tmp_path / "a.webm"), "w") as target:
        stream = target.add_stream(codec, rate=25, width=64, height=64, pix_fmt="yuva420p")
        stream.options = FAST_VPX | {"auto-alt-ref": "0"}
        stream.metadata["alpha_mode"] = "1"
        for k in range(8):
            frame = av.VideoFrame.from_ndarray(clear, format="rgba").reformat(format="yuva420p")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    media.mux(tmp_path / "a.webm", WAVE, RATE_HZ, tmp_path / "b.mkv")
    for path in (tmp_path / "a.webm", tmp_path / "b.mkv"):
        assert picture(path)["alpha"] == "1" and b"\x53\xc0\x81\x01" in path.read_bytes()  # AlphaMode
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            assert all(packet.has_sidedata("matroska_block_additional") for packet in packets)


def chaptered(path, subtitle_codec, texts):
    """Two seconds, from 1.4 s on the container's clock, with chapters, subtitles and two sound tracks."""
    start = Fraction(7, 5)
    with av.open(str(path), "w") as target:
        film = target.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p", options={"bf": "0"})
        film.metadata["language"] = "jpn"
        sounds = [target.add_stream("aac", rate=RATE_HZ, layout="stereo") for _ in range(2)]
        for sound, language in zip(sounds, ("eng", "fra"), strict=True):
            sound.metadata["language"] = language
        words = target.add_mux_stream(subtitle_codec, time_base=Fraction(1, 1000))
        words.metadata["language"] = "spa"
        if "mkv" in path.name or "mp4" in path.name:
            unit = Fraction(1, 1000)
            target.set_chapters([
                {"id": 1, "start": 1400, "end": 2000, "time_base": unit, "metadata": {"title": "one"}},
                {"id": 2, "start": 2000, "end": 3400, "time_base": unit, "metadata": {"title": "two"}},
            ])  # fmt: skip
        for k in range(50):
            frame = av.VideoFrame.from_ndarray(files.numbered(k), format="rgb24")
            frame.pts, frame.time_base = round((start + Fraction(k, 25)) * 1000), Fraction(1, 1000)
            target.mux(film.encode(frame))
        for sound, at in zip(sounds, (0.5, 1.5), strict=True):
            wave = np.zeros((2, 2 * RATE_HZ), np.float32)
            wave[:, round(at * RATE_HZ)] = 0.9
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, round(start * RATE_HZ), Fraction(1, RATE_HZ)
            target.mux(sound.encode(frame))
            target.mux(sound.encode(None))
        for at, text in texts:
            packet = av.Packet(text)
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts = packet.dts = round((start + at) * 1000)
            packet.duration = 400
            target.mux(packet)
        target.mux(film.encode(None))
    return path


def everything_else(path):
    with av.open(str(path)) as container:
        chapters = [
            (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"]), c["metadata"].get("title"))
            for c in container.chapters()
        ]
        sounds = [stream.language or "und" for stream in container.streams.audio]
        words = [(stream.language, stream.codec_context.name) for stream in container.streams.subtitles]
        said = [
            (float(packet.pts * packet.time_base), bytes(packet))
            for packet in container.demux() if packet.stream.type == "subtitle" and packet.size
        ]  # fmt: skip
    return chapters, sounds, words, said


def mov_text(text):
    return len(text).to_bytes(2, "big") + text


@pytest.mark.parametrize("output", ["b.mp4", "b.mov", "b.mkv"])
@pytest.mark.parametrize("source, codec", [("a.mkv", "subrip"), ("a.mp4", "mov_text")])
def test_chapters_subtitles_and_languages(tmp_path, source, codec, output):
    wrap = mov_text if codec == "mov_text" else bytes
    texts = [(Fraction(1, 5), wrap(b"knock")), (Fraction(1), wrap(b"who is there?"))]
    path = chaptered(tmp_path / source, codec, texts)
    media.mux(path, WAVE, RATE_HZ, tmp_path / output)
    chapters, sounds, words, said = everything_else(tmp_path / output)
    assert chapters == [(0.0, 0.6, "one"), (0.6, 2.0, "two")]
    assert picture(tmp_path / output)["language"] == "jpn"
    assert len(sounds) == 1
    holds = (codec == "subrip") == (output == "b.mkv")
    assert [language for language, _ in words] == (["spa"] if holds else [])
    spoken = [(at, text) for at, text in said if text.strip(b"\0")]
    assert spoken == ([(0.2, texts[0][1]), (1.0, texts[1][1])] if holds else [])


@pytest.mark.parametrize("output", ["b.mp4", "b.mkv"])
def test_the_other_sound_tracks_are_kept_with_the_original(tmp_path, output):
    path = chaptered(tmp_path / "a.mkv", "subrip", [])
    wave = np.zeros((2 * RATE_HZ, 2), np.float32)
    media.mux(path, wave, RATE_HZ, tmp_path / output, keep_original_gain=1.0)
    assert everything_else(tmp_path / output)[1] == ["und", "fra"]
    with av.open(str(tmp_path / output)) as container:
        first, second = container.streams.audio
        assert container.streams.best("audio") is first
        assert not second.disposition & av.stream.Disposition.default
        for stream, at in ((first, 0.5), (second, 1.5)):
            container.seek(0)
            frames = list(container.decode(stream))
            loudest = max(frames, key=lambda frame: float(np.abs(frame.to_ndarray()).max()))
            assert loudest.time - 0.03 < at < loudest.time + loudest.samples / RATE_HZ + 0.03
    media.mux(path, wave, RATE_HZ, tmp_path / output, keep_original_gain=0.0)
    assert everything_else(tmp_path / output)[1] == ["und", "fra"]
    assert np.abs(media.read_audio(tmp_path / output, RATE_HZ)).max() < 1e-3
    for keeps, tracks in ((True, ["und", "fra"]), (False, ["und"])):
        Sound(wave[None], RATE_HZ, 2.0, path, keeps_original=keeps).save(tmp_path / output)
        assert everything_else(tmp_path / output)[1] == tracks


@pytest.mark.parametrize("bframes", ["0", "2"])
@pytest.mark.parametrize("gop", ["250", "5"])
@pytest.mark.parametrize("first", [-5, -4])
@pytest.mark.parametrize("output", ["b.mkv", "b.mov"])
def test_a_trimmed_start_is_not_shown_again(tmp_path, bframes, gop, first, output):
    """Copied where what is hidden can go, or be hidden; else the picture is encoded anew for Matroska."""
    path = files.write_numbered(
        tmp_path / "a.mp4", files.steady(30, 25, Fraction(first, 25)), tick=Fraction(1, 12800),
        options={"bf": bframes, "g": gop, "sc_threshold": "0"},
    )  # fmt: skip
    (seen,), seconds = media.read_frames(path, [media.FrameSpec(25, 64, "crop")])
    assert files.read_numbers(seen) == list(range(-first, 30))
    media.mux(path, WAVE, RATE_HZ, tmp_path / output)
    info = media.probe(tmp_path / output)
    assert info.seconds == pytest.approx(seconds, abs=1e-3) and info.frame_count == 30 + first
    with av.open(str(tmp_path / output)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert files.read_numbers(np.stack(shown)) == list(range(-first, 30))
    if output == "b.mkv" and first == -5 and gop == "5":
        assert files.picture_packets(tmp_path / output)[0] == files.picture_packets(path)[0][-25:]


@pytest.mark.parametrize("bframes", ["0", "2"])
@pytest.mark.parametrize("milliseconds", [600, 640, 680])
@pytest.mark.parametrize("output", ["b.mkv", "b.mp4"])
def test_a_trimmed_end_is_not_shown_again(tmp_path, bframes, milliseconds, output):
    """Also where the last shown pictures need a hidden one to decode."""
    times = files.steady(30, 25)
    path = files.write_numbered(tmp_path / "a.mp4", times, tick=Fraction(1, 12800), options={"bf": bframes})
    data = bytearray(path.read_bytes())
    length = data.index(b"elst") + 12
    data[length : length + 4] = milliseconds.to_bytes(4, "big")
    path.write_bytes(bytes(data))
    media.mux(path, WAVE, RATE_HZ, tmp_path / output)
    assert media.probe(tmp_path / output).seconds == pytest.approx(milliseconds / 1000, abs=1e-3)
    with av.open(str(tmp_path / output)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert files.read_numbers(np.stack(shown)) == list(range(milliseconds // 40))


def test_depth_and_colour_survive_encoding_anew(tmp_path):
    path = files.write_numbered(
        tmp_path / "a.mp4", files.steady(20, 25, Fraction(-4, 25)), codec="libx265", pix_fmt="yuv420p10le",
        options={"x265-params": "log-level=none:bframes=0:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"},
        rotation=90, tick=Fraction(1, 12800),
    )  # fmt: skip
    media.mux(path, WAVE, RATE_HZ, tmp_path / "b.mkv")
    before, after = picture(path), picture(tmp_path / "b.mkv")
    assert after["codec"] == "h264" and after["pix_fmt"] == "yuv420p10le"
    assert after["colour"] == before["colour"] == (9, 16, 9) and after["rotation"] == 90


@pytest.mark.parametrize("name, codec, pix_fmt, output", [
    ("a.gif", "gif", "rgb8", ".mp4"), ("a.wmv", "wmv2", "yuv420p", ".mp4"), ("a.3gp", "h263", "yuv420p", ".mp4"),
    ("b.3gp", "libx264", "yuv420p", ".mkv"), ("a.webp", "libwebp_anim", "yuv420p", ".mp4"),
    ("a.flv", "flv", "yuv420p", ".mp4"), ("a.mpg", "mpeg2video", "yuv420p", ".mkv"),
    ("a.ts", "libx264", "yuv420p", ".mkv"), ("a.mov", "libx264", "yuv420p", ".mov"),
    ("a.M4V", "mpeg4", "yuv420p", ".m4v"), ("a.avi", "mpeg4", "yuv420p", ".mkv"),
])  # fmt: skip
def test_every_kind_of_clip_has_an_output_by_default(tmp_path, name, codec, pix_fmt, output):
    size = (96, 128) if codec == "h263" else (64, 64)
    pictures = [np.full((*size, 3), 20 + 20 * k, np.uint8) for k in range(10)]
    container = {"a.webp": "webp", "a.wmv": "asf", "a.M4V": "mp4"}.get(name)
    path = files.write_pictures(
        tmp_path / name, pictures, files.steady(10, 25), codec=codec, pix_fmt=pix_fmt, tick=Fraction(1, 25),
        container=container,
    )  # fmt: skip
    assert media.is_clip(path)
    assert media.output_suffix(path) == output
    media.check_output(tmp_path / f"b{output}", path)
    media.mux(path, WAVE[:17640], RATE_HZ, tmp_path / f"b{output}")
    spec = media.FrameSpec(25, 32, "crop")
    levels = lambda path: media.read_frames(path, [spec], counts=[10])[0][0].mean((1, 2, 3))
    before, after = levels(path), levels(tmp_path / f"b{output}")
    assert np.abs(before - after).max() <= 3
    assert media.probe(tmp_path / f"b{output}").seconds == pytest.approx(media.probe(path).seconds, abs=0.011)


def test_an_animation_keeps_its_times(tmp_path):
    times = [Fraction(t, 100) for t in (0, 10, 50, 54, 200)]
    path = files.write_numbered(tmp_path / "a.gif", times, codec="gif", pix_fmt="rgb8", tick=Fraction(1, 100))
    media.mux(path, WAVE, RATE_HZ, tmp_path / "b.mp4")
    assert files.picture_packets(path)[1] == files.picture_packets(tmp_path / "b.mp4")[1]
