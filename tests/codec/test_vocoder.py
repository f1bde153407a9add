import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import module
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.vocoder import Vocoder, VocoderConfig, band_to_bin
from kfjax.config import from_dict

MEL = MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=40, fmax_hz=8000.0)
SMALL = VocoderConfig(bands=40, width=16, hidden=32, depth=2, n_fft=512, hop=128, sample_rate_hz=16000)


@pytest.fixture(scope="module")
def params():
    return module.init(Vocoder, SMALL, jax.random.key(0))


@pytest.fixture(scope="module")
def vocode(params):
    apply = jax.jit(lambda p, mel: module.bind(Vocoder, SMALL, p)(mel))
    return lambda mel: apply(params, mel)


def sound(seed: int, frames: int = 32) -> np.ndarray:
    t = np.arange(frames * 128) / 16000
    noise = np.random.default_rng(seed).standard_normal(t.size) * np.exp(-5 * t)
    return (0.2 * np.sin(2 * np.pi * 700 * t) + 0.1 * noise).astype(np.float32)[None]


def test_shipped_size():
    assert module.count(module.shapes(Vocoder, VocoderConfig())) <= 3.5e6


@pytest.mark.parametrize("frames", [8, 31, 32])
def test_length_is_frames_times_hop(vocode, frames):
    assert vocode(jnp.full((2, frames, 40), -3.0)).shape == (2, frames * 128)


def test_silence_stays_silent(vocode):
    assert jnp.abs(vocode(jnp.full((1, 16, 40), np.log(1e-5), jnp.float32))).max() < 1e-7


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01])
def test_untrained_has_the_right_level_at_any_gain(vocode, gain):
    wave = gain * sound(0)
    made = np.asarray(vocode(log_mel(wave, MEL)))
    assert 0.3 < np.sqrt(np.mean(made**2) / np.mean(wave**2)) < 3


def test_deterministic_and_finite_for_absurd_input(vocode):
    mel = log_mel(sound(1), MEL)
    np.testing.assert_array_equal(vocode(mel), vocode(mel))
    assert jnp.isfinite(vocode(jnp.full((1, 16, 40), 4.0))).all()


def test_a_steady_tone_keeps_its_frequency(params):
    """Equal frames must not make a sound that repeats with the hop: phase advances by each bin's own frequency."""
    net = module.bind(Vocoder, SMALL, params)
    spectrum = net.spectrum(jnp.full((1, 64, 40), -11.0))
    tone_hz, bin_hz = 1010.0, 16000 / 512
    bins = np.arange(257)
    lobe = np.exp(-0.5 * (bins - tone_hz / bin_hz) ** 2)
    spectrum = spectrum._replace(
        magnitude=jnp.broadcast_to(jnp.asarray(lobe, jnp.float32), (1, 64, 257)),
        advance=jnp.broadcast_to(jnp.asarray((tone_hz / bin_hz - bins) * 2 * np.pi / 4, jnp.float32), (1, 64, 257)),
        onset=jnp.zeros((1, 64, 257)).at[:, 0].set(1.0),
        noise=jnp.zeros((1, 64, 257)),
        delay=jnp.zeros((1, 64, 257)),
    )
    wave = np.asarray(net.waveform(spectrum))[0, 512:-512]
    power = np.abs(np.fft.rfft(wave * np.hanning(wave.size), 1 << 17))
    assert abs(power.argmax() * 16000 / (1 << 17) - tone_hz) < 1.0


def test_a_click_lands_where_its_delay_says(params):
    net = module.bind(Vocoder, SMALL, params)
    shape = (1, 16, 257)
    frame, delay = 8, 37
    spectrum = net.spectrum(jnp.full((1, 16, 40), -11.0))._replace(
        magnitude=jnp.zeros(shape).at[:, frame].set(1.0), advance=jnp.zeros(shape), noise=jnp.zeros(shape),
        delay=jnp.full(shape, float(delay)), onset=jnp.full(shape, 100.0),
    )
    wave = np.asarray(net.waveform(spectrum))[0]
    assert abs(int(np.abs(wave).argmax()) - (frame * 128 + 64 + delay)) <= 1


def test_bands_interpolate_to_bins():
    weights = band_to_bin(40, 512, 16000)
    assert weights.shape == (40, 257)
    np.testing.assert_allclose(weights.sum(0), 1.0, rtol=1e-6)
    assert (weights >= 0).all()


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind"):
        from_dict(VocoderConfig, {"kind": "wavenet"})
