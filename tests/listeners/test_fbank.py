"""Kaldi's filter bank: against a public implementation, and where its values are known."""

import numpy as np
import pytest

from kfjax.listeners.fbank import FRAMES, HOP, SAMPLE_RATE_HZ, WINDOW, clip_log_mels, log_fbank, mel_filters

SECOND = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ


def noise(seconds, batch=1, seed=0):
    """At levels from -100 dB up, changing every 50 ms, off zero."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * SAMPLE_RATE_HZ)
    levels = 10 ** rng.uniform(-5, -1, (batch, samples // 800 + 1)).repeat(800, axis=1)[:, :samples]
    return (levels * rng.standard_normal((batch, samples)) + 0.1).astype(np.float32)


def test_agrees_with_transformers():
    """The same features as the audio spectrogram transformer of `transformers` takes."""
    public = pytest.importorskip("transformers.audio_utils")
    with pytest.warns(UserWarning, match="all zero values"):  # the fourth lies between two bins
        filters = public.mel_filter_bank(
            num_frequency_bins=257, num_mel_filters=128, min_frequency=20, max_frequency=8000, sampling_rate=16000,
            norm=None, mel_scale="kaldi", triangularize_in_mel_space=True,
        )  # fmt: skip
    window = public.window_function(WINDOW, "hann", periodic=False)
    wave = noise(1.3)[0]
    want = public.spectrogram(
        wave, window, frame_length=WINDOW, hop_length=HOP, fft_length=512, power=2.0, center=False, preemphasis=0.97,
        mel_filters=filters, log_mel="log", mel_floor=1.192092955078125e-07, remove_dc_offset=True,
    ).T  # fmt: skip
    np.testing.assert_allclose(log_fbank(wave), want, rtol=1e-5, atol=1e-5)


def test_agrees_with_torchaudio():
    torchaudio = pytest.importorskip("torchaudio")
    import torch

    wave = noise(1.3, seed=1)
    want = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(wave), htk_compat=True, sample_frequency=16000, window_type="hanning", num_mel_bins=128,
        dither=0.0,
    )  # fmt: skip
    np.testing.assert_allclose(log_fbank(wave)[0], want.numpy(), atol=1e-3)  # float32 of theirs


def test_a_sine_in_the_middle_of_a_bin():
    """Power (window's sum / 2)² in its bin, times the gain of pre-emphasis; the filters there sum to 1."""
    hz = 80 * SAMPLE_RATE_HZ / 512
    power = np.exp(log_fbank(np.sin(2 * np.pi * hz * SECOND)))
    gain = abs(1 - 0.97 * np.exp(-2j * np.pi * hz / SAMPLE_RATE_HZ)) ** 2
    window = np.hanning(WINDOW)
    turns = np.exp(-2j * np.pi * np.arange(WINDOW)[None] * (np.arange(257)[:, None] - 80) / 512)
    want = np.square(np.abs(turns @ window) / 2) @ mel_filters() * gain
    near = want > 1e-3 * want.max()
    np.testing.assert_allclose(power[5, near], want[near], rtol=2e-3)
    assert np.argmax(power[5]) == np.argmax(mel_filters()[80])


def test_filters_sum_to_one_between_the_outer_ones():
    filters = mel_filters()
    assert filters.shape == (257, 128)
    hz = np.arange(257) * SAMPLE_RATE_HZ / 512
    inside = (hz > 60) & (hz < 7800)
    np.testing.assert_allclose(filters[inside].sum(axis=1), 1, atol=1e-9)
    assert not filters[hz <= 20].any() and filters[hz == 8000].max() < 1e-9


def test_silence_is_the_floor_and_louder_is_higher():
    np.testing.assert_allclose(log_fbank(np.zeros(WINDOW)), np.log(np.finfo(np.float32).eps))
    wave = np.random.default_rng(0).uniform(-0.1, 0.1, 2000)
    some = mel_filters().any(axis=0)
    np.testing.assert_allclose((log_fbank(4 * wave) - log_fbank(wave))[:, some], 2 * np.log(4), atol=1e-4)


def test_a_constant_is_not_heard():
    wave = noise(0.5)
    np.testing.assert_allclose(log_fbank(wave + 0.5), log_fbank(wave), atol=2e-2)


@pytest.mark.parametrize("seconds, starts", [(8, (0, 3, 6)), (2, (0, 0, 0)), (3, (0, 0.5, 1))])
def test_clips_are_spread_over_the_sound(seconds, starts):
    wave = noise(seconds, batch=2)
    got = clip_log_mels(wave)
    assert (got.shape, got.dtype) == ((2, 3, 128, FRAMES), np.float32)
    assert not got[..., 198:].any()
    for clip, start in enumerate(starts):
        first = round(start * SAMPLE_RATE_HZ)
        part = wave[:, first : first + 2 * SAMPLE_RATE_HZ].astype(np.float64)
        want = log_fbank(part - part.mean(axis=1, keepdims=True)).swapaxes(1, 2)
        np.testing.assert_allclose(got[:, clip, :, :198], want, atol=1e-5)


def test_short_sounds():
    got = clip_log_mels(noise(0.5))
    assert got[0, :, :, :48].all() and not got[..., 48:].any()
    with pytest.raises(ValueError, match="got a wave of 399 samples, expected at least 400"):
        clip_log_mels(np.zeros((1, 399), np.float32))
