import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.pieces import Overlap
from kfjax.codec.vocoder import Vocoder, VocoderConfig, start_phasor
from kfjax.config import from_dict
from kfjax.dsp import istft, stft
from kfjax.nn import module

MEL = MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=40, fmax_hz=8000.0)
SMALL = VocoderConfig(bands=40, width=16, hidden=32, depth=2, n_fft=512, hop=128, sample_rate_hz=16000)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: module.init(Vocoder, SMALL, jax.random.key(0)))()


@pytest.fixture(scope="module")
def vocode(params):
    return jax.jit(lambda mel: module.bind(Vocoder, SMALL, params)(mel))


mel_of = jax.jit(lambda wave: log_mel(wave, MEL))


def sound(seed: int, frames: int = 32) -> np.ndarray:
    t = np.arange(frames * 128) / 16000
    noise = np.random.default_rng(seed).standard_normal((2, t.size)) * np.exp(-5 * t)
    return (0.2 * np.sin(2 * np.pi * 700 * t) + 0.1 * noise).astype(np.float32)


def test_shipped_size():
    assert module.count(module.shapes(Vocoder, VocoderConfig())) <= 3.5e6


@pytest.mark.parametrize("frames", [32, 31])
def test_length_is_frames_times_hop(vocode, frames):
    assert vocode(np.full((2, frames, 40), -3, np.float32)).shape == (2, frames * 128)


def test_silence_stays_silent(vocode):
    assert np.abs(vocode(np.full((2, 32, 40), np.log(1e-5), np.float32))).max() < 1e-6


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01])
def test_untrained_has_the_right_mel_at_any_gain(vocode, gain):
    wave = np.float32(gain) * sound(0)
    made = np.asarray(vocode(mel_of(wave)))
    assert 0.7 < np.sqrt(np.mean(np.square(made)) / np.mean(wave**2)) < 1.4
    assert np.abs(np.asarray(mel_of(made)) - mel_of(wave)).mean() < 0.15


def test_equal_mels_make_equal_waves_and_absurd_ones_stay_finite(vocode):
    mel = np.asarray(mel_of(sound(1)))
    np.testing.assert_array_equal(*vocode(mel[[0, 0]]))
    assert np.isfinite(vocode(np.full((2, 32, 40), 4, np.float32))).all()


def test_magnitudes_are_on_the_grids(params):
    magnitudes = jax.jit(lambda mel: module.bind(Vocoder, SMALL, params).magnitudes(mel))(mel_of(sound(2)))
    for magnitude, (n_fft, hop) in zip(magnitudes, SMALL.grids, strict=True):
        true = np.abs(stft(sound(2), n_fft, hop))
        assert magnitude.shape == true.shape and (magnitude >= 0).all()
        assert 0.7 < np.linalg.norm(magnitude) / np.linalg.norm(true) < 1.4


@pytest.mark.parametrize("tone_hz", [1000.0, 1013.0])
def test_the_starting_phase_of_a_tone_keeps_its_frequency(tone_hz):
    """Equal frames must not make a wave that repeats with the hop (125 Hz here)."""
    tone = np.sin(2 * np.pi * tone_hz * np.arange(64 * 128) / 16000).astype(np.float32)[None]

    @jax.jit
    def again(tone):
        magnitude = jnp.abs(stft(tone, 512, 128))
        return istft(magnitude * start_phasor(magnitude, 512, 128), 512, 128)

    wave = np.asarray(again(tone))[0, 512:-512]
    power = np.abs(np.fft.rfft(wave * np.hanning(wave.size), 1 << 17))
    assert abs(power.argmax() * 16000 / (1 << 17) - tone_hz) < 2.0
    assert np.abs(wave).max() > 0.9


def test_starting_phases_go_on_from_the_known_ones():
    tone = np.sin(2 * np.pi * 1013 * np.arange(64 * 128) / 16000 + 1.3).astype(np.float32)[None]

    @jax.jit
    def again(tone, is_known):
        spec = stft(tone, 512, 128)
        magnitude = jnp.abs(spec)
        known = spec / (magnitude + 1e-9), is_known[None, :, None]
        return istft(magnitude * start_phasor(magnitude, 512, 128, known), 512, 128)

    behind = slice(24 * 128, 34 * 128)
    alike = lambda first: np.corrcoef(again(tone, np.arange(64) < first)[0, behind], tone[0, behind])[0, 1]
    assert alike(22) > 0.95 > 2 * alike(0)


def test_what_is_known_stays(vocode, params):
    mel, wave = mel_of(sound(3)), sound(4)
    known = jax.jit(lambda *args: module.bind(Vocoder, SMALL, params)(args[0], Overlap(*args[1:])))
    weight = np.clip(16 - np.arange(wave.shape[1], dtype=np.float32) / 256, 0, 1)
    made = np.asarray(known(mel, wave, weight))
    np.testing.assert_array_equal(made[:, : 15 * 256], wave[:, : 15 * 256])
    assert np.abs(made - vocode(mel)).max() > 0.01
    np.testing.assert_allclose(known(mel, wave, 0 * weight), vocode(mel), atol=1e-3)


def test_a_click_stays_where_it_was(vocode):
    click = np.zeros((2, 32 * 128), np.float32)
    click[0, 2021] = 0.9
    made = np.square(np.asarray(vocode(mel_of(click))))[0]
    assert made[2021 - 64 : 2021 + 64].sum() > 0.6 * made.sum()


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind"):
        from_dict(VocoderConfig, {"kind": "wavenet"})
