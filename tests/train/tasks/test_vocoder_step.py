import dataclasses

import jax
import numpy as np
import pytest

from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.codec.vocoder import Vocoder, VocoderConfig
from kfjax.nn import module
from kfjax.scenes.waves import training_wave
from kfjax.train.engine.loop import LoopConfig, init_state, run
from kfjax.train.engine.optim import OptimConfig
from kfjax.train.tasks import vocoder_step
from kfjax.train.tasks.vocoder_step import VocoderTraining, decoded_mel, magnitude_loss, vocoder_loss, vocoder_task
from tests.crossing import twice_at_once
from tests.planted import blamed, plant

CFG = VocoderTraining(
    vocoder=VocoderConfig(bands=20, width=16, hidden=32, depth=1, n_fft=512, hop=128, sample_rate_hz=16000),
    mel=MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=20, fmax_hz=8000.0),
    optim=OptimConfig(learning_rate=3e-3),
    batch=2,
    frames=24,
    pieces=3,
    piece_seconds=0.5,
)


@pytest.fixture(scope="module")
def wave():
    return training_wave(3, 24 * 128 / 16000, 16000)[None]


def start_of(task):
    return jax.jit(lambda: init_state(task, jax.random.key(0)))()


def test_training_waves_are_sound_and_repeatable():
    for seed in range(12):
        wave = training_wave(seed, 0.4, 16000)
        assert wave.shape == (6400,) and wave.dtype == np.float32 and np.isfinite(wave).all()
        assert 0.09 < np.abs(wave).max() < 0.91
    np.testing.assert_array_equal(training_wave(5, 0.4, 16000), training_wave(5, 0.4, 16000))


def test_of_two_processes_one_renders_the_training_sounds(tmp_path, monkeypatch):
    render = lambda: vocoder_step.render_pool(tmp_path, CFG)
    (one, other), waves = twice_at_once(render, vocoder_step, "training_wave", monkeypatch)
    assert [given[0] for given, _ in waves] == [0, 1, 2]
    assert one.shape == (3, 8000) and not list(tmp_path.glob("*.part"))
    np.testing.assert_array_equal(one, other)


def test_the_loss_is_zero_for_the_target_itself():
    target, loss = np.abs(np.random.default_rng(0).standard_normal((2, 5, 9), np.float32)), jax.jit(magnitude_loss)
    assert loss(target, target) < 2e-4
    quiet = target * np.float32([1, 1e-2])[:, None, None]
    half = np.float32(0.5)
    np.testing.assert_allclose(loss(half * quiet, quiet), loss(half * target, target), rtol=0.02)


def test_every_parameter_learns(wave):
    params = jax.device_get(jax.jit(lambda: module.init(Vocoder, CFG.vocoder, jax.random.key(0)))())
    # The heads start at zero and hide the trunk; any other point shows every gradient.
    params = jax.tree.map(lambda x: x + np.float32(0.02), params)
    grads = jax.jit(jax.grad(lambda p: vocoder_loss(p, CFG, wave, log_mel(wave, CFG.mel))[0]))(params)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def vae_of(bands: int):
    """A VAE's configuration and drawn weights."""
    cfg = VAEConfig(bands=bands, width=16, mel_blocks=1, latent_blocks=1)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(np.float32), module.shapes(MelVAE, cfg))
    return cfg, params | {"mel_std": np.ones(bands, np.float32), "latent_std": np.ones(cfg.latent_dim, np.float32)}


def test_what_the_vae_gives_back_is_what_is_read(tmp_path, wave):
    """The VAE is in the state, not in the program, and stays as it is."""
    cfg, vae = vae_of(20)
    reading = decoded_mel(CFG.mel, cfg, vae)
    batch = {"wave": np.repeat(wave, 2, 0)}
    task, plain = vocoder_task(CFG, tmp_path, reading), vocoder_task(CFG, tmp_path)
    state = start_of(task)

    @jax.jit
    def losses(params):
        """On what the VAE gives back, and on the sound's own mel."""
        network, own = module.bind(MelVAE, cfg, vae), log_mel(batch["wave"], CFG.mel)
        return [
            vocoder_loss(params, CFG, batch["wave"], mel)[0] for mel in (network.decode(network.encode(own).mean), own)
        ]

    expected, on_its_own = losses(state.params["vocoder"])
    step = jax.jit(task.step)
    after, metrics = step(state, batch, jax.random.key(1))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert abs(on_its_own - expected) > 1e-3
    for part in (after.params, after.ema):
        jax.tree.map(np.testing.assert_array_equal, part["vae"], vae)
    traced = jax.make_jaxpr(task.step)(state, batch, jax.random.key(1))
    own = jax.make_jaxpr(plain.step)(start_of(plain), batch, jax.random.key(1))
    constants = lambda traced: sum(np.size(x) for x in traced.consts)  # filters and windows
    assert constants(traced) - constants(own) < 0.1 * module.count(vae)


def test_a_gradient_that_is_not_finite_is_named(tmp_path, monkeypatch, wave):
    plant(monkeypatch, Vocoder, "embed/kernel")
    task = vocoder_task(CFG, tmp_path)
    state = start_of(task)
    assert blamed(task.objective, state, {"wave": wave}).startswith("gradients: vocoder/embed/kernel: ")


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
