"""Measures of recordings: each finds its own planted fault, and no other sound."""

import numpy as np
import pytest

from kfjax import media
from kfjax.data.clean.measures import sound
from tests.tiny import media_files
from tests.tiny.crawl import recording

RATE_HZ = 44100
CASES = range(20)


def precision_and_recall(faults: list[float], clean: list[float], refused) -> tuple[float, float]:
    hits, false = sum(map(refused, faults)), sum(map(refused, clean))
    return hits / max(1, hits + false), hits / len(faults)


@pytest.fixture(scope="module")
def clean():
    return [recording(seed) for seed in CASES]


def check(measure, plant, clean, refused):
    """Precision and recall of at least 0.95 on as many faults as clean sounds."""
    faults = [measure(plant(wave, np.random.default_rng(seed))) for seed, wave in enumerate(clean)]
    precision, recall = precision_and_recall(faults, [measure(wave) for wave in clean], refused)
    assert min(precision, recall) >= 0.95, (precision, recall)


def clipped(wave, rng):
    """A gain of 6 to 20 dB over full scale, and a level of -12 to 0 dB after it."""
    loud = wave / np.abs(wave).max() * 10 ** (rng.uniform(6, 20) / 20)
    return (np.clip(loud, -1, 1) * 10 ** (rng.uniform(-12, 0) / 20)).astype(np.float32)


def test_clipping(clean):
    check(sound.clipped_share, clipped, clean, lambda share: share > 0.001)


def test_clipping_is_the_share_of_samples():
    wave = np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)[:, None]
    assert sound.clipped_share(wave * 0.9) == 0
    limit = np.cos(np.pi / 2 * 0.3)  # a sine is beyond it 0.3 of the time
    assert sound.clipped_share(np.clip(wave, -limit, limit) * 0.5) == pytest.approx(0.3, abs=0.01)
    assert sound.clipped_share(np.zeros((100, 2))) == 0
    one_channel = np.concatenate([wave * 0.9, np.clip(2 * wave, -1, 1)], axis=1)
    assert sound.clipped_share(one_channel) == sound.clipped_share(one_channel[:, 1:]) > 0.5


def test_clipping_at_full_scale_is_found_behind_a_codec(tmp_path, clean):
    for seed, wave in enumerate(clean[:4]):
        loud = np.clip(wave / np.abs(wave).max() * 4, -1, 1).astype(np.float32)
        media_files.write_sound(tmp_path / "loud.m4a", loud, RATE_HZ)
        media_files.write_sound(tmp_path / "clean.m4a", wave, RATE_HZ)
        assert sound.clipped_share(media.read_audio(tmp_path / "loud.m4a", RATE_HZ)) > 0.001, seed
        assert sound.clipped_share(media.read_audio(tmp_path / "clean.m4a", RATE_HZ)) < 0.001, seed


def test_bandwidth(clean, tmp_path):
    """Recordings that were once at 8, 11 or 16 kHz, as FFmpeg resamples them."""

    def low_passed(wave, rng):
        low_hz = int(rng.choice([8000, 11025, 16000]))
        media.write_wav(tmp_path / "a.wav", wave, RATE_HZ)
        media.write_wav(tmp_path / "low.wav", media.read_audio(tmp_path / "a.wav", low_hz), low_hz)
        return media.read_audio(tmp_path / "low.wav", RATE_HZ)

    check(lambda wave: sound.bandwidth_hz(wave, RATE_HZ), low_passed, clean, lambda hz: hz < 10000)


@pytest.mark.parametrize("cutoff_hz", [3000, 8000, 15000])
def test_bandwidth_is_where_the_sound_ends(cutoff_hz):
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(2 * RATE_HZ))
    spectrum[2 * cutoff_hz :] = 0
    wave = 0.1 * np.fft.irfft(spectrum)[:, None]
    assert sound.bandwidth_hz(wave, RATE_HZ) == pytest.approx(cutoff_hz, abs=250)
    assert sound.bandwidth_hz(0 * wave, RATE_HZ) == 0


def test_copied_mono(clean):
    copied = lambda wave, _: np.repeat(wave[:, :1], 2, axis=1)
    check(sound.side_db, copied, clean, lambda db: db < -60)


def test_side_is_the_level_of_the_difference():
    one = np.random.default_rng(0).standard_normal((1000, 1)).astype(np.float32)
    assert sound.side_db(np.concatenate([one, 0 * one], axis=1)) == pytest.approx(0, abs=0.01)
    assert sound.side_db(np.concatenate([one, 0.9 * one], axis=1)) == pytest.approx(20 * np.log10(0.1 / 1.9), abs=0.01)
    assert sound.side_db(one) == sound.side_db(np.zeros((10, 2))) == -120
    assert sound.side_db(np.concatenate([one, -one], axis=1)) == 120


def test_inverted_channel(clean):
    """One channel inverted, in recordings of which both have most in common."""
    close = [np.stack([x[:, 0], 0.8 * x[:, 0] + 0.2 * x[:, 1]], axis=1) for x in clean]
    inverted = lambda wave, _: wave * np.array([1, -1], np.float32)
    check(sound.channel_correlation, inverted, close, lambda r: r < -0.3)
    assert sound.channel_correlation(close[0][:, :1]) == sound.channel_correlation(0 * close[0]) == 1


def test_channels_behind_a_codec_that_draws_noise(clean):
    """AAC leaves noise above 4 kHz to the decoder, which draws it for each channel anew."""
    for seed, wave in enumerate(clean[:5]):
        rng = np.random.default_rng(seed)
        spectrum = np.fft.rfft(wave.mean(1, keepdims=True) * [1, 1], axis=0)
        above = spectrum[4000 * len(wave) // RATE_HZ :]
        above *= np.exp(2j * np.pi * rng.uniform(size=above.shape))
        copied = np.fft.irfft(spectrum, len(wave), axis=0).astype(np.float32)
        assert sound.side_db(copied) > -50 > sound.side_db(sound.undrawn(copied, RATE_HZ)[0]), seed
        inverted, _ = sound.undrawn(copied * np.float32([1, -1]), RATE_HZ)
        assert sound.channel_correlation(inverted) < -0.98, seed


def test_what_is_undrawn_keeps_its_level(clean):
    time = np.arange(RATE_HZ) / RATE_HZ
    low, high = (0.1 * np.sin(2 * np.pi * hz * time)[:, None] * np.float32([1, 0.5]) for hz in (500, 6000))
    kept, kept_hz = sound.undrawn(low + high, RATE_HZ)
    assert len(kept) == pytest.approx(2 * sound.DRAWN_HZ, abs=2) and kept_hz == pytest.approx(len(kept), rel=1e-3)
    np.testing.assert_allclose(np.square(kept).mean(0), np.square(low).mean(0), rtol=0.01)
    assert sound.side_db(sound.undrawn(clean[0][:, [0, 0]], RATE_HZ)[0]) == -120
    assert len(sound.undrawn(low[:1], RATE_HZ)[0]) == 1 and sound.undrawn(low, 7000)[0] is low


def test_rounding_is_no_treble():
    """Decaying tones without noise, rounded to 16 bits: harmonics of the rounding stand alone."""
    time = np.arange(4 * RATE_HZ) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * hz * time) for hz in (220, 331, 1250, 2500)) * np.exp(-2 * time) / 10
    assert sound.bandwidth_hz(np.round(tones[:, None] * 32767) / 32768, RATE_HZ) < 10000
