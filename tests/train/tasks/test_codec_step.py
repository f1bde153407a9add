"""The codec's training against Algorithm 2: weights per step, what moves, what is frozen; losses by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.codec.discriminators import DiscriminatorConfig, MelDiscriminator
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.vae import STATISTICS, MelVAE, VAEConfig
from kfjax.nn import module
from kfjax.structs import Posterior
from kfjax.train.engine.loop import init_state
from kfjax.train.engine.optim import OptimConfig
from kfjax.train.tasks import losses
from kfjax.train.tasks.codec_step import (
    CodecTraining,
    Stages,
    batch_mel,
    codec_task,
    latent_statistics,
    make_objective,
    mel_statistics,
    weights_at,
)
from tests.planted import blamed, plant

STAGES = Stages(mse_steps=2, kl_steps=4, gan_steps=2, decoder_steps=3, kl_upper=0.4, gan_upper=0.2, kl_margin=0.0)
CFG = CodecTraining(
    mel=MelConfig(bands=16),
    vae=VAEConfig(bands=16, latent_dim=4, width=16, mel_blocks=1, latent_blocks=1),
    discriminator=DiscriminatorConfig(scales=2, layers=2, width=4),
    stages=STAGES,
    optim=OptimConfig(learning_rate=0.1, weight_decay=0.1),
    discriminator_optim=OptimConfig(learning_rate=0.1, weight_decay=0.1),
)


def mels(batch=4, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 16, 16)).astype(np.float32) * 2 - 5


@pytest.fixture(scope="module")
def task():
    return codec_task(CFG, lambda step: {"mel": mels(seed=step)}, mel_statistics([mels()]))


@pytest.fixture(scope="module")
def step(task):
    return jax.jit(task.step)


@pytest.fixture(scope="module")
def trained(task, step):
    """(states, metrics) of a whole run: states[i] is the state before step i."""
    state = jax.jit(lambda: init_state(task, jax.random.key(0)))()
    states, metrics = [state], []
    for i in range(STAGES.steps):
        state, values = step(state, task.batch(i), jax.random.key(i))
        states.append(state)
        metrics.append({name: float(value) for name, value in values.items()})
    assert step._cache_size() == 1  # one compiled step for all stages
    return states, metrics


def test_weights_follow_algorithm_2():
    got = [weights_at(step, STAGES) for step in range(STAGES.steps + 1)]
    assert [int(w.stage) for w in got] == [1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 4, 4]
    np.testing.assert_allclose([w.kl for w in got], [0, 0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose([w.gan for w in got], [0] * 6 + [0.1] + [0.2] * 5, atol=1e-6)
    assert [bool(w.encoder_trains) for w in got] == [True] * 8 + [False] * 4
    assert [bool(w.disc_trains) for w in got] == [False] * 6 + [True] * 6
    assert all(bool(w.decoder_trains) for w in got)


def test_weights_are_the_same_traced():
    traced = jax.vmap(lambda step: jnp.stack([jnp.float32(x) for x in weights_at(step, STAGES)]))(jnp.arange(12))
    eager = [[float(x) for x in weights_at(step, STAGES)] for step in range(12)]
    np.testing.assert_allclose(traced, eager, atol=1e-6)


def test_a_stage_of_no_steps_is_left_out():
    stages = replace(STAGES, kl_steps=0, decoder_steps=0)
    assert [int(weights_at(step, stages).stage) for step in range(stages.steps)] == [1, 1, 3, 3]
    assert float(weights_at(2, stages).kl) == pytest.approx(0.4)


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_each_step_moves_what_its_stage_trains(trained):
    states, metrics = trained
    for i in range(STAGES.steps):
        before, after, weights = states[i].params, states[i + 1].params, weights_at(i, STAGES)
        assert metrics[i]["stage"] == weights.stage
        assert equal(before["gen"]["encoder"], after["gen"]["encoder"]) != bool(weights.encoder_trains), i
        assert not equal(before["gen"]["decoder"], after["gen"]["decoder"]), i
        assert equal(before["disc"], after["disc"]) != bool(weights.disc_trains), i
        assert equal([before["gen"][k] for k in STATISTICS], [after["gen"][k] for k in STATISTICS]), i


def test_metrics_show_the_parts(trained):
    _, metrics = trained
    for i, values in enumerate(metrics):
        weights = weights_at(i, STAGES)
        parts = values["mse"] + float(weights.kl) * values["kl"] + float(weights.gan) * values["adversarial"]
        assert values["loss"] == pytest.approx(parts, rel=1e-4), i
        assert (values["disc"] > 0) == bool(weights.disc_trains), i
        assert values["skipped"] == 0


def test_average_follows_the_vae(trained):
    states, _ = trained
    decay = 2 / 11  # of the second step
    trees = jax.device_get([states[1].ema, states[2].params, states[2].ema])
    old, new, got = (jax.tree.leaves(tree["gen"]["decoder"]) for tree in trees)
    for a, b, c in zip(old, new, got, strict=True):
        np.testing.assert_allclose(a * decay + b * (1 - decay), c, atol=1e-6)


def test_a_step_with_bad_data_changes_nothing(trained, step):
    states, bad = trained[0], {"mel": np.full((4, 16, 16), np.nan, np.float32)}
    for before in (states[0], states[6]):
        after, metrics = step(before, bad, jax.random.key(0))
        assert equal(before.params, after.params) and equal(before.ema, after.ema)
        assert int(after.skipped) == int(metrics["skipped"]) == 1
        assert int(after.step) == int(before.step) + 1


@pytest.mark.parametrize("network, path, stage, name", [
    (MelVAE, "decoder/inp/kernel", 0, "gen/decoder/inp/kernel"),
    (MelDiscriminator, "scales/0/out/bias", 6, "disc/scales/0/out/bias"),
    (MelDiscriminator, "scales/0/out/bias", 0, None),  # it does not train yet
])  # fmt: skip
def test_a_gradient_that_is_not_finite_is_named(trained, monkeypatch, network, path, stage, name):
    plant(monkeypatch, network, path)
    found = blamed(make_objective(CFG), trained[0][stage], {"mel": mels()})
    assert found is None if name is None else found.startswith(f"gradients: {name}: ")


def test_kl_by_hand():
    """Two channels of mean (1, 0) and std (1, 2): 0.5 and 0.5·(4 - 1) - ln 2 nats, summed; mean over batch and time."""
    posterior = Posterior(jnp.array([[[1.0, 0.0]]]), jnp.array([[[1.0, 2.0]]]))
    value = 0.5 + 1.5 - np.log(2)
    assert float(losses.kl(posterior)) == pytest.approx(value, rel=1e-5)
    repeated = Posterior(jnp.tile(posterior.mean, (3, 5, 1)), jnp.tile(posterior.std, (3, 5, 1)))
    assert float(losses.kl(repeated)) == pytest.approx(value, rel=1e-5)
    assert float(losses.kl_margin(posterior, 1.0)) == pytest.approx(value - 1, rel=1e-5)
    assert float(losses.kl_margin(posterior, 2.0)) == 0.0
    assert not np.any(jax.grad(lambda m: losses.kl_margin(posterior._replace(mean=m), 2.0))(posterior.mean))


def test_hinge_by_hand():
    real, fake = [jnp.array([0.0, 2.0]), jnp.array([3.0])], [jnp.array([-2.0, 1.0]), jnp.array([0.5])]
    # scale 1: mean(1, 0) + mean(0, 2); scale 2: 0 + 1.5
    assert float(losses.hinge_discriminator(real, fake)) == pytest.approx((0.5 + 1.0 + 0.0 + 1.5) / 2)
    assert float(losses.hinge_generator(fake)) == pytest.approx(-(-0.5 + 0.5) / 2)


def test_r1_by_hand():
    """Scores x² and 3x at every element: gradient 2x + 3, squared, mean over elements."""
    x = jnp.array([[[1.0, -2.0]]])
    assert float(losses.r1(lambda x: [jnp.square(x), 3 * x], x)) == pytest.approx((25 + 1) / 2)


def test_statistics():
    data = [mels(seed=i) for i in range(3)]
    mean, std = mel_statistics(data)
    np.testing.assert_allclose(mean, np.concatenate(data).mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(std, np.concatenate(data).std((0, 1)), rtol=1e-4)
    assert mel_statistics([np.zeros((2, 4, 16))])[1].min() == pytest.approx(0.1)
    with pytest.raises(ValueError, match="got no data"):
        mel_statistics([])


def test_latents_are_normalised_by_their_statistics(trained):
    gen = trained[0][-1].ema["gen"]
    mean, std = latent_statistics(gen, CFG.vae, [mels(64, seed=i) for i in range(2)])
    vae = module.bind(MelVAE, CFG.vae, gen | {"latent_mean": mean, "latent_std": std})
    encode = jax.jit(lambda mel, key: vae.encode(mel).sample(key))
    latents = np.concatenate([encode(mels(64, seed=i), jax.random.key(i)) for i in range(2)])
    np.testing.assert_allclose(latents.mean((0, 1)), 0, atol=0.1)
    np.testing.assert_allclose(latents.std((0, 1)), 1, atol=0.1)


def test_batches_of_waves_become_mels():
    wave = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 5 * 512)).astype(np.float32)
    got = batch_mel({"wave": wave}, CFG.mel)
    np.testing.assert_allclose(got, log_mel(wave, CFG.mel)[:, :4], atol=1e-6)


def test_errors_say_what_was_got():
    with pytest.raises(ValueError, match="kl_steps -1"):
        Stages(kl_steps=-1)
    with pytest.raises(ValueError, match="got 16 bands in vae, expected the mel's 128"):
        replace(CFG, mel=MelConfig())
