"""The log-mel: against librosa, against the public converter (its reference output is optional)."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from kfjax.codec.mel import MelConfig, log_mel

SHARED = Path(os.environ.get("KFJAX_SHARED", Path(__file__).parents[3] / "shared"))
CFG = MelConfig()
REFERENCE = SHARED / "fixtures/mmaudio/mel_44k.npz"


def tone(samples: int, batch: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    time = np.arange(samples) / 44100
    wave = 0.5 * np.sin(2 * np.pi * 440 * time) + 0.05 * rng.standard_normal((batch, samples))
    return wave.astype(np.float32)


mel_of = jax.jit(log_mel, static_argnums=1)


def relative(got, expected) -> float:
    return float(np.linalg.norm(np.asarray(got) - expected) / np.linalg.norm(expected))


@pytest.mark.skipif(not REFERENCE.exists(), reason="reference outputs are not at hand")
@pytest.mark.parametrize("name, samples", [("out/mel", 353280), ("out/mel_half_second", 22050)])
def test_equals_public_converter(name, samples):
    with np.load(REFERENCE) as reference:
        expected = reference[name]
        wave = reference["in/waveform"][: len(expected), :samples]
    assert relative(mel_of(wave, CFG), expected.transpose(0, 2, 1)) < 1e-5


def test_equals_librosa():
    import librosa

    wave = tone(8192, 1)
    padded = np.pad(wave[0], 768, mode="reflect")
    # scipy's spectra, as a mean over the window; librosa's would be compiled for 20 s when first called.
    spec = scipy.signal.stft(padded, nperseg=2048, noverlap=2048 - 512, boundary=None, padded=False)[2] * 1024
    bands = librosa.filters.mel(sr=44100, n_fft=2048, n_mels=128, fmin=0, fmax=22050)
    expected = np.log(np.maximum(bands @ np.sqrt(np.abs(spec) ** 2 + 1e-9), 1e-5))
    got = mel_of(wave, CFG)
    assert got.shape == (1, 16, 128)
    assert relative(got[0].T, expected) < 1e-5


@pytest.mark.parametrize("samples, frames", [(1024, 2), (1025, 2), (8 * 512 - 1, 7), (8 * 512, 8)])
def test_frames_are_whole_hops(samples, frames):
    assert jax.eval_shape(mel_of, tone(samples), CFG).shape == (2, frames, 128)


def test_log10_differs_by_a_factor_only():
    wave = tone(4096)
    natural, decimal = mel_of(wave, CFG), np.asarray(mel_of(wave, MelConfig(log="log10")))
    np.testing.assert_allclose(decimal * np.log(10), natural, rtol=1e-5)


def test_silence_and_overload_stay_finite():
    full = np.ones((1, 2048), np.float32)
    np.testing.assert_allclose(mel_of(1e6 * full, CFG), mel_of(full, CFG))
    gradient = jax.jit(jax.grad(lambda wave: log_mel(wave, CFG).sum()))(0 * full)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: MelConfig(n_fft=1000, hop=512), "multiple of hop"),
        (lambda: MelConfig(sample_rate_hz=16000), "fmax"),
        (lambda: log_mel(jnp.zeros((1, 700)), CFG), "700 samples"),
    ],
)
def test_errors_say_what_was_got(call, words):
    with pytest.raises(ValueError, match=words):
        call()
