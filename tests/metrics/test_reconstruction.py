"""Truth of the codec's measures: closed forms, invariances, and independent packages, each to a stated tolerance."""

import numpy as np
import pytest

from kfjax.metrics.onsets import onset_f1
from kfjax.metrics.reconstruction import (
    BEST_DB,
    CEPSTRA,
    log_mel,
    lsd_db,
    mcd_db,
    mel_cepstra,
    mel_l1,
    multi_resolution_stft_distance,
    pesq_score,
    reconstruction,
    sdr_db,
    si_sdr_db,
)
from kfjax.scenes.world.event import Event
from kfjax.scenes.world.sound import render_sound

RATE = 44100


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def orthogonal_noise(true: np.ndarray, rng) -> np.ndarray:
    """Of the true sound's power, without mean, and orthogonal to it."""
    noise = rng.standard_normal(true.shape)
    noise -= noise.mean(0)
    noise -= true * np.sum(noise * true) / np.sum(true**2)
    return noise * np.sqrt(np.sum(true**2) / np.sum(noise**2))


def centred(rng, *shape) -> np.ndarray:
    wave = rng.standard_normal(shape)
    return wave - wave.mean(0)


@pytest.mark.parametrize("shape", [(4000,), (4000, 2)])
@pytest.mark.parametrize(("gain", "noise_db"), [(1.0, -10.0), (-0.3, 0.0), (20.0, -43.0)])
def test_si_sdr_of_a_scaled_copy_and_orthogonal_noise(rng, shape, gain, noise_db):
    true = centred(rng, *shape)
    noise = abs(gain) * 10 ** (noise_db / 20) * orthogonal_noise(true, rng)
    assert si_sdr_db(gain * true + noise, true) == pytest.approx(-noise_db, abs=1e-9)
    assert si_sdr_db(gain * true + noise + 0.7, 5 * true - 3) == pytest.approx(-noise_db, abs=1e-9)


def test_sdr_counts_gain_as_distortion(rng):
    true = centred(rng, 4000)
    assert sdr_db(0.9 * true, true) == pytest.approx(20, abs=1e-9)
    assert sdr_db(true + 0.1 * orthogonal_noise(true, rng), true) == pytest.approx(20, abs=1e-9)
    assert sdr_db(-true, true) == pytest.approx(-20 * np.log10(2), abs=1e-9)
    assert si_sdr_db(0.9 * true, true) > 90


def test_copies_and_silence(rng):
    true = centred(rng, RATE, 2)
    same = reconstruction(true, true, RATE)
    assert same == (0, 0, 0, 0, same.si_sdr_db, BEST_DB) and same.si_sdr_db > 90
    assert np.isnan([si_sdr_db(true, 0 * true), sdr_db(true, 0 * true)]).all()
    assert si_sdr_db(0 * true, true) == -BEST_DB and sdr_db(0 * true, true) == pytest.approx(0)
    with pytest.raises(ValueError, match="expected the same"):
        sdr_db(true[1:], true)


@pytest.mark.parametrize("gain_db", [-6.0, 3.0, 12.0])
def test_lsd_of_a_gain_is_the_gain(rng, gain_db):
    true = 0.1 * rng.standard_normal((RATE // 2, 2))
    assert lsd_db(10 ** (gain_db / 20) * true, true) == pytest.approx(abs(gain_db), abs=0.01)  # the floor's share


def test_lsd_of_half_the_spectrum_turned_down(rng):
    """20 dB taken off the upper half: the root of the mean square over frequency is 20 / √2."""
    size = 2048
    spectrum = np.exp(2j * np.pi * rng.uniform(size=size // 2 + 1))
    lower = np.where(np.arange(size // 2 + 1) < size // 4, 1, 0.1)
    periodic = lambda s: np.tile(np.fft.irfft(s), 40)  # every frame holds whole periods of every component
    made = lsd_db(30 * periodic(lower * spectrum), 30 * periodic(spectrum))
    assert made == pytest.approx(20 / np.sqrt(2), abs=0.3)


def test_mcd_of_a_known_shift_of_the_cepstrum(rng):
    bands, frames = 128, 9
    true = rng.standard_normal((bands, frames))
    angles = np.pi * (np.arange(bands)[:, None] + 0.5) / bands
    for k, shift in ((1, 0.5), (13, 0.2)):
        made = true + shift * np.cos(k * angles)
        np.testing.assert_allclose((mel_cepstra(made) - mel_cepstra(true))[k - 1], shift, atol=1e-12)
        assert mcd_db(made, true) == pytest.approx(10 / np.log(10) * np.sqrt(2) * shift, abs=1e-9)
    assert mcd_db(true + 3 * np.cos((CEPSTRA + 1) * angles), true) == pytest.approx(0, abs=1e-9)
    assert mcd_db(true + 0.8, true) == pytest.approx(0, abs=1e-9)  # a gain is no distortion
    assert mcd_db(0.9 * true, true) == pytest.approx(mcd_db(true, 0.9 * true))


def test_mel_and_stft_of_a_gain(rng):
    """A gain changes every log by the same, and the spectra's difference is that part of their norm."""
    true = 0.3 * rng.standard_normal(RATE)
    assert mel_l1(0.5 * true, true, RATE) == pytest.approx(np.log(2), abs=1e-3)
    assert multi_resolution_stft_distance(0.5 * true, true) == pytest.approx(0.5 + np.log(2), abs=1e-3)


def test_spectral_distances():
    a, b = (render_sound([Event(0.5, source, "impact", 0.0, 0.8)], 2.0, 0) for source in ("wood", "glass"))
    assert log_mel(a, RATE).shape[0] == 128
    assert mel_l1(a, a, RATE) == 0 and multi_resolution_stft_distance(a, a) == 0
    assert mel_l1(a, 1.1 * a, RATE) < 0.1 < mel_l1(a, b, RATE)
    assert multi_resolution_stft_distance(a, 1.1 * a) < 0.3 < multi_resolution_stft_distance(a, b)


@pytest.mark.slow  # librosa's spectra are compiled for 20 s when first called
def test_the_log_mel_is_librosas():
    import librosa

    wave = np.random.default_rng(0).uniform(-1, 1, (5000, 2)).astype(np.float32)
    expected = librosa.feature.melspectrogram(y=wave.mean(1), sr=RATE, n_fft=2048, hop_length=512, power=1.0)
    np.testing.assert_allclose(log_mel(wave, RATE), np.log(np.maximum(expected, 1e-5)), atol=1e-4)


def test_channel_order_does_not_matter(rng):
    made, true = 0.1 * rng.standard_normal((2, RATE // 2, 2))
    swapped = reconstruction(made[:, ::-1], true[:, ::-1], RATE)
    np.testing.assert_allclose(swapped, reconstruction(made, true, RATE), rtol=1e-6)


def test_a_common_gain_changes_only_what_has_a_floor(rng):
    made, true = 0.1 * rng.standard_normal((2, RATE // 2))
    np.testing.assert_allclose(reconstruction(3 * made, 3 * true, RATE), reconstruction(made, true, RATE), rtol=1e-3)


def test_onset_f1_agrees_with_mir_eval(rng):
    """To 1e-9; its matching has as many pairs as can be, as ours has."""
    onset = pytest.importorskip("mir_eval.onset")
    for _ in range(20):
        true = np.cumsum(rng.uniform(0.06, 0.4, 12))
        found = np.sort(np.concatenate([true[::2] + rng.uniform(-0.07, 0.07, 6), rng.uniform(0, 3, 5)]))
        f1, precision, recall = onset.f_measure(true, found, window=0.05)
        ours = onset_f1(found, true)
        assert (ours.f1, ours.precision, ours.recall) == pytest.approx((f1, precision, recall), abs=1e-9)


@pytest.mark.filterwarnings("ignore:mir_eval.separation:FutureWarning")
def test_si_sdr_agrees_with_bss_eval_where_a_filter_cannot_help(rng):
    """White noise in white sound: to 0.2 dB, what 512 taps fit by chance."""
    separation = pytest.importorskip("mir_eval.separation")
    true = centred(rng, 2 * RATE)
    made = 0.5 * true + 0.2 * rng.standard_normal(len(true))
    sdr = separation.bss_eval_sources(true[None], made[None])[0][0]
    assert si_sdr_db(made, true) == pytest.approx(sdr, abs=0.2)


@pytest.mark.slow  # torchmetrics takes seconds to import
def test_sdrs_agree_with_torchmetrics(rng):
    """To 1e-4 dB."""
    torch = pytest.importorskip("torch")
    audio = pytest.importorskip("torchmetrics.functional.audio")
    true = rng.standard_normal(8000) + 0.2
    made = 0.7 * true + 0.3 * rng.standard_normal(8000) - 0.1
    tensors = torch.as_tensor(made), torch.as_tensor(true)
    expected = audio.scale_invariant_signal_distortion_ratio(*tensors, zero_mean=True)
    assert si_sdr_db(made, true) == pytest.approx(float(expected), abs=1e-4)
    assert sdr_db(made, true) == pytest.approx(float(audio.signal_noise_ratio(*tensors)), abs=1e-4)


def test_pesq_falls_with_noise(rng):
    """Its best is P.862.2's largest value, 4.64; silence has none."""
    pytest.importorskip("pesq")
    t = np.arange(3 * 16000) / 16000
    vowel = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 1.5 * t) > -0.3)
    noise = rng.standard_normal(len(t))
    scores = [pesq_score(0.1 * (vowel + level * noise), 0.1 * vowel) for level in (0.0, 0.01, 0.1)]
    assert scores[0] == pytest.approx(4.64, abs=0.01)
    assert scores[0] > scores[1] > scores[2] >= 1
    assert np.isnan([pesq_score(0.1 * vowel, 0 * vowel), pesq_score(vowel[:1600], vowel[:1600])]).all()


def test_cepstra_are_of_the_logs_that_mel_l1_compares(rng):
    wave = 0.1 * rng.standard_normal(RATE // 2)
    score = reconstruction(0.5 * wave, wave, RATE)
    assert score.mel_l1 == pytest.approx(np.log(2), abs=1e-3) and score.mcd_db == pytest.approx(0, abs=1e-3)
    assert mel_cepstra(log_mel(wave, RATE)).shape[0] == CEPSTRA
