import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import module
from kfjax.codec.mel import MelConfig, log_mel, stft
from kfjax.codec.vocoder import Spectrum, Vocoder, VocoderConfig
from kfjax.data.waves import training_wave
from kfjax.train.loop import LoopConfig, run
from kfjax.train.optim import OptimConfig
from kfjax.train.vocoder_step import VocoderTraining, phase_slope_loss, stft_loss, vocoder_loss, vocoder_task

CFG = VocoderTraining(
    vocoder=VocoderConfig(bands=20, width=16, hidden=32, depth=1, n_fft=512, hop=128, sample_rate_hz=16000),
    mel=MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=20, fmax_hz=8000.0),
    optim=OptimConfig(learning_rate=3e-3), batch=2, frames=24, windows=(128, 512), pieces=3, piece_seconds=0.5,
)


@pytest.fixture(scope="module")
def wave():
    return jnp.asarray(training_wave(3, 24 * 128 / 16000, 16000))[None]


def test_training_waves_are_sound_and_repeatable():
    for seed in range(12):
        wave = training_wave(seed, 0.4, 16000)
        assert wave.shape == (6400,) and wave.dtype == np.float32 and np.isfinite(wave).all()
        assert 0.09 < np.abs(wave).max() < 0.91
    np.testing.assert_array_equal(training_wave(5, 0.4, 16000), training_wave(5, 0.4, 16000))


def test_stft_loss_is_zero_for_the_wave_itself_and_blind_to_sign(wave):
    assert stft_loss(wave, wave, 256) < 2e-4
    assert stft_loss(-wave, wave, 256) < 2e-4
    assert stft_loss(0.5 * wave, wave, 256) > 0.3


def test_true_phase_slopes_have_no_loss(wave):
    target = stft(wave, 512, 128)
    angle, bins = jnp.angle(target), jnp.arange(257)[None, None]
    advance = jnp.diff(angle, axis=1, prepend=angle[:, :1]) - 2 * np.pi / 512 * bins * 128
    delay = -(jnp.diff(angle, axis=2, prepend=angle[..., :1]) + np.pi) * 512 / (2 * np.pi)
    nothing = jnp.zeros(target.shape)
    assert phase_slope_loss(Spectrum(nothing, advance, delay, nothing, nothing), target) < 1e-3
    assert phase_slope_loss(Spectrum(nothing, advance + 1, delay, nothing, nothing), target) > 0.3


@pytest.mark.parametrize("windows", [(), (128, 512)])
def test_every_parameter_learns(wave, windows):
    cfg = dataclasses.replace(CFG, windows=windows)
    params = module.init(Vocoder, cfg.vocoder, jax.random.key(0))
    # The heads start at zero and hide the trunk; any other point shows every gradient.
    params = jax.tree.map(lambda x: x + 0.02, params)
    grads = jax.grad(lambda p: vocoder_loss(p, cfg, {"wave": wave}, jax.random.key(1))[0])(params)
    assert all(jnp.isfinite(g).all() and jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_a_decoded_mel_beside_the_wave_is_what_is_vocoded(wave):
    params = module.init(Vocoder, CFG.vocoder, jax.random.key(0))
    loss = lambda batch: vocoder_loss(params, CFG, batch, jax.random.key(1))[0]
    mel = log_mel(wave, CFG.mel)
    np.testing.assert_allclose(loss({"wave": wave}), loss({"wave": wave, "mel": mel}), rtol=1e-5)
    assert loss({"wave": wave, "mel": mel + 1.0}) > loss({"wave": wave}) + 0.1


def test_the_loop_trains_it(tmp_path):
    task = vocoder_task(CFG, tmp_path / "waves")
    np.testing.assert_array_equal(task.batch(3)["wave"], task.batch(3)["wave"])
    assert task.batch(0)["wave"].shape == (2, 24 * 128)
    state = run(task, tmp_path / "run", LoopConfig(steps=4, log_every=2, save_every=4))
    assert int(state.step) == 4 and int(state.skipped) == 0
