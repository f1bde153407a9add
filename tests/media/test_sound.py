"""Excerpts from the middle of long sound files."""

import math
import wave as riff

import av
import numpy as np
import pytest

from kfjax import media
from kfjax.media import sound
from tests.tiny import media_files as files


@pytest.fixture(scope="module")
def long_sound():
    """f32 [t, 2] of 24 s at 48 kHz: a rising tone on the left, gusts of noise on the right."""
    t = np.arange(24 * 48000) / 48000
    noise = np.random.default_rng(0).standard_normal(len(t)) * (np.sin(3 * t) > 0)
    return np.stack([0.3 * np.sin(2 * np.pi * (300 + 20 * t) * t), 0.1 * noise], 1).astype(np.float32)


@pytest.mark.parametrize("name, codec", [
    ("a.wav", "pcm_s16le"), ("a.mp3", "mp3"), ("a.m4a", "aac"), ("a.mkv", "libopus"), ("b.mkv", "flac"),
])  # fmt: skip
def test_late_excerpts_are_sought_and_the_same_to_the_sample(tmp_path, monkeypatch, long_sound, name, codec):
    """Times that Matroska rounds to milliseconds included; of AAC without the noise that decoders draw themselves."""
    options = {"aac_pns": "0"} if codec == "aac" else {}
    path = files.write_sound(tmp_path / name, long_sound, 48000, codec, **options)
    frames = []
    monkeypatch.setattr(sound, "decoded", lambda packet: [frames.append(frame) or frame for frame in packet.decode()])

    def excerpt(rate_hz, start):
        frames.clear()
        wave = media.read_audio(path, rate_hz, 2, 1.3, start)
        return wave, sum(frame.samples for frame in frames) / 48000

    late = {start: (excerpt(44100, start), excerpt(48000, start)) for start in (9.0, 16.123, 23.0)}
    monkeypatch.setattr(sound, "_SEEK_SECONDS", math.inf)
    for start, got in late.items():
        for (wave, seconds), rate_hz in zip(got, (44100, 48000), strict=True):
            whole, all_seconds = excerpt(rate_hz, start)
            np.testing.assert_array_equal(wave, whole)
            assert len(wave) == round(min(1.3, 24 - start) * rate_hz)
            assert seconds < 10 and all_seconds > min(24, start + 1.3) - 0.1  # Matroska is sought by pieces of 5 s


@pytest.mark.parametrize("start_seconds", [0.0, 2.0, 9.0])
def test_sound_alone_begins_with_its_first_sample_whatever_its_time(tmp_path, long_sound, start_seconds):
    early = files.write_sound(tmp_path / "early.mka", long_sound, 48000, "flac")
    late = files.write_sound(tmp_path / "late.mka", long_sound, 48000, "flac", start=5 * 48000)
    one, two = (media.read_audio(path, 48000, 2, 1.3, start_seconds) for path in (early, late))
    assert len(one) == round(1.3 * 48000)
    np.testing.assert_array_equal(one, two)
    first = round(start_seconds * 48000)
    np.testing.assert_allclose(one, long_sound[first : first + len(one)], atol=1e-3)


@pytest.mark.parametrize("channel, mixed", [(0, (1, 0)), (1, (0, 1)), (2, (2**-0.5, 2**-0.5)), (3, (0, 0)),
                                            (4, (2**-0.5, 0)), (5, (0, 2**-0.5))])  # fmt: skip
def test_five_channels_are_mixed_to_two(tmp_path, channel, mixed):
    """Front, centre, low-frequency effects (left out), and surround."""
    wave = np.zeros((6, 4800), np.float32)
    wave[channel] = np.sin(np.arange(4800) / 10)
    with av.open(str(tmp_path / "a.wav"), "w") as target:
        stream = target.add_stream("pcm_f32le", rate=48000, layout="5.1")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T).reshape(1, -1), "flt", "5.1")
        frame.sample_rate, frame.pts = 48000, 0
        target.mux([*stream.encode(frame), *stream.encode(None)])
    heard = media.read_audio(tmp_path / "a.wav", 48000)
    np.testing.assert_allclose(heard, wave[channel][:, None] * mixed, atol=1e-4)
    assert media.read_audio(tmp_path / "a.wav", 48000, start_seconds=3.0, duration_seconds=1.0).shape == (0, 2)


def test_a_wav_that_is_written_again_is_the_same(tmp_path):
    """Every 16-bit value, the loudest too: what stands of a recording stands to the last bit."""
    samples = np.arange(-32768, 32768, dtype="<i2")
    with riff.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 44100, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    media.write_wav(tmp_path / "b.wav", media.read_audio(tmp_path / "a.wav", 44100, channels=1), 44100)
    with riff.open(str(tmp_path / "b.wav"), "rb") as file:
        np.testing.assert_array_equal(np.frombuffer(file.readframes(65536), "<i2"), samples)


@pytest.mark.parametrize("codec", ["aac", "mp3"])
@pytest.mark.parametrize("rate_hz, channels", [(16000, 1), (40000, 2), (44100, 2)])
def test_a_lossy_codec_shifts_nothing(codec, rate_hz, channels):
    """Also at a rate that it does not know."""
    rng, heard = np.random.default_rng(0), np.zeros((rate_hz + 17, channels), np.float32)
    for start in (rate_hz // 4, rate_hz // 2):
        noise = rng.standard_normal((rate_hz // 20, channels))
        heard[start : start + len(noise)] = 0.1 * np.cumsum(noise - noise.mean(0), axis=0) / 20
    made = media.through_codec(heard, rate_hz, codec, 48_000)
    assert made.shape == heard.shape and made.dtype == np.float32 and not np.array_equal(made, heard)
    alike = np.correlate(made[:, 0], heard[100:-100, 0], "valid")
    assert alike.argmax() == 100 and alike.max() > 0.95 * np.linalg.norm(made[:, 0]) * np.linalg.norm(heard[:, 0])
    np.testing.assert_array_equal(media.through_codec(heard, rate_hz, codec, 48_000), made)
