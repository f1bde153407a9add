"""Short-time spectra inverted, and filter banks against librosa's."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from kfjax import dsp

stft, istft = (jax.jit(function, static_argnums=(1, 2)) for function in (dsp.stft, dsp.istft))


def tone(samples: int, batch: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    time = np.arange(samples) / 44100
    wave = 0.5 * np.sin(2 * np.pi * 440 * time) + 0.05 * rng.standard_normal((batch, samples))
    return wave.astype(np.float32)


@pytest.mark.parametrize("samples, size, hop", [(100, 10, 10), (100, 10, 5), (101, 10, 3), (47, 48, 10), (50, 3, 7)])
def test_frames_are_all_whole_ones(samples, size, hop):
    wave = np.arange(2 * samples, dtype=np.float32).reshape(2, samples)
    if samples < size:
        assert dsp.frames(wave, size, hop).shape == (2, 0, size)
        return
    want = np.lib.stride_tricks.sliding_window_view(wave, size, axis=1)[:, ::hop]
    np.testing.assert_array_equal(dsp.frames(wave, size, hop), want)


@pytest.mark.parametrize("n_fft, hop", [(2048, 512), (1024, 256), (512, 128), (512, 256)])
def test_istft_inverts_stft(n_fft, hop):
    wave = tone(20 * hop)
    back = istft(stft(wave, n_fft, hop), n_fft, hop)
    assert back.shape == wave.shape
    np.testing.assert_allclose(back, wave, atol=1e-5)


def test_istft_of_odd_tail_stops_at_the_last_whole_hop():
    wave = tone(20 * 512 + 100)
    np.testing.assert_allclose(istft(stft(wave, 2048, 512), 2048, 512), wave[:, : 20 * 512], atol=1e-5)


def test_a_spectrum_of_another_size_is_refused():
    with pytest.raises(ValueError, match="100 bins"):
        dsp.istft(jnp.zeros((1, 4, 100), jnp.complex64), 2048, 512)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_magnitudes_are_scipys(mode):
    wave, window = tone(4000), np.hanning(512)
    padded = np.pad(wave, ((0, 0), (256, 256)), mode=mode)
    *_, want = signal.stft(padded, window=window, nperseg=512, noverlap=412, boundary=None, padded=False)
    want = window.sum() * np.abs(want).swapaxes(1, 2)  # scipy divides by the window's sum
    np.testing.assert_allclose(dsp.magnitudes(wave, 512, 100, mode), want, atol=1e-4)


@pytest.mark.parametrize("bands, n_fft, rate, low, high", [
    (128, 2048, 44100, 0.0, None), (40, 512, 16000, 0.0, None), (40, 1024, 44100, 30.0, 16000.0),
    (80, 1024, 16000, 0.0, 8000.0),
])  # fmt: skip
@pytest.mark.parametrize("scale, unit", [("slaney", "area"), ("slaney", "height"), ("htk", "height")])
def test_filters_are_librosas(bands, n_fft, rate, low, high, scale, unit):
    import librosa

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bands between two bins
        want = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bands, fmin=low, fmax=high, htk=scale == "htk")
    if unit == "height":  # librosa's own, without `norm`, would be compiled for 20 s when first called
        edges = librosa.mel_frequencies(bands + 2, fmin=low, fmax=high or rate / 2, htk=scale == "htk")
        want = want * (edges[2:] - edges[:-2])[:, None] / 2
    got = dsp.mel_filters(bands, n_fft, rate, low, high, scale=scale, unit=unit)
    assert got.shape == (n_fft // 2 + 1, bands) and got.dtype == np.float32
    np.testing.assert_allclose(got, want.T, rtol=1e-6, atol=1e-7 * want.max())


def test_bands_interpolate_to_bins():
    weights = dsp.mel_to_bins(40, 512, 16000)
    assert weights.shape == (40, 257)
    np.testing.assert_allclose(weights.sum(0), 1.0, rtol=1e-6)
    assert (weights >= 0).all()
