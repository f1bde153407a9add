import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import blamed, plant

from kfjax import module
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.vocoder import Vocoder, VocoderConfig
from kfjax.data.waves import training_wave
from kfjax.train.loop import LoopConfig, init_state, run
from kfjax.train.optim import OptimConfig
from kfjax.train.vocoder_step import VocoderTraining, magnitude_loss, vocoder_loss, vocoder_task

CFG = VocoderTraining(
    vocoder=VocoderConfig(bands=20, width=16, hidden=32, depth=1, n_fft=512, hop=128, sample_rate_hz=16000),
    mel=MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=20, fmax_hz=8000.0),
    optim=OptimConfig(learning_rate=3e-3), batch=2, frames=24, pieces=3, piece_seconds=0.5,
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


def test_the_loss_is_zero_for_the_target_itself():
    target = jnp.abs(jax.random.normal(jax.random.key(0), (2, 5, 9)))
    assert magnitude_loss(target, target) < 2e-4
    quiet = target.at[1].multiply(1e-2)
    np.testing.assert_allclose(magnitude_loss(0.5 * quiet, quiet), magnitude_loss(0.5 * target, target), rtol=0.02)


def test_every_parameter_learns(wave):
    params = module.init(Vocoder, CFG.vocoder, jax.random.key(0))
    # The heads start at zero and hide the trunk; any other point shows every gradient.
    params = jax.tree.map(lambda x: x + 0.02, params)
    grads = jax.jit(jax.grad(lambda p: vocoder_loss(p, CFG, {"wave": wave})[0]))(params)
    assert all(jnp.isfinite(g).all() and jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_a_decoded_mel_beside_the_wave_is_what_is_vocoded(wave):
    params = module.init(Vocoder, CFG.vocoder, jax.random.key(0))
    loss = lambda batch: vocoder_loss(params, CFG, batch)[0]
    mel = log_mel(wave, CFG.mel)
    np.testing.assert_allclose(loss({"wave": wave}), loss({"wave": wave, "mel": mel}), rtol=1e-5)
    assert loss({"wave": wave, "mel": mel + 1.0}) > loss({"wave": wave}) + 0.1


def test_a_gradient_that_is_not_finite_is_named(tmp_path, monkeypatch, wave):
    plant(monkeypatch, Vocoder, "embed/kernel")
    task = vocoder_task(CFG, tmp_path)
    state = init_state(task, jax.random.key(0))
    assert blamed(task.objective, state, {"wave": wave}).startswith("gradients: embed/kernel: ")


def test_the_loop_trains_it(tmp_path):
    cfg = dataclasses.replace(CFG, batch=8)  # the tests have eight devices
    task = vocoder_task(cfg, tmp_path / "waves")
    np.testing.assert_array_equal(task.batch(3)["wave"], task.batch(3)["wave"])
    assert task.batch(0)["wave"].shape == (8, 24 * 128)
    state = run(task, tmp_path / "run", LoopConfig(steps=4, log_every=2, save_every=4))
    assert int(state.step) == 4 and int(state.skipped) == 0
    # On sounds that are none of the training's, the same at every visit.
    held = task.validate(state.ema, 4)
    assert held == task.validate(state.ema, 8) and 0 < held["loss"] < 20
    assert not np.array_equal(np.load(tmp_path / "waves" / "heldout_8x0.5s_16000.npy")[:3], task.batch.args[0])
