"""BigVGAN's training: losses by hand, who learns from what, where its sounds and its start come from."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import media
from kfjax.codec.bigvgan import BigVGAN, BigVGANConfig
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.codec.wave_discriminators import WaveDiscriminatorConfig, WaveDiscriminators
from kfjax.nn import module
from kfjax.storage.checkpoint import load_params, save_params
from kfjax.structs import TrainState
from kfjax.train.engine.loop import LoopConfig, init_state
from kfjax.train.engine.loop import run as run_loop
from kfjax.train.engine.optim import OptimConfig
from kfjax.train.engine.validation import Validation
from kfjax.train.tasks import bigvgan_step
from kfjax.train.tasks.bigvgan_step import BigVGANTraining, feature_distance, fooled, mel_distance, told_apart
from kfjax.train.tasks.make import abstract_params, make_task
from kfjax.train.tasks.vocoder_step import own_mel
from tests.planted import blamed, plant
from tests.tiny import corpus as tiny_corpus

ROOT = Path(__file__).parents[3]
OPTIM = OptimConfig(learning_rate=3e-3, warmup=0.0, b1=0.8, b2=0.99, clip_norm=500.0)
CFG = BigVGANTraining(
    vocoder=BigVGANConfig(bands=12, width=8, rates=(16,), block_kernels=(3,), dilations=(1,)),
    discriminator=WaveDiscriminatorConfig(periods=(2,), resolutions=((64, 16, 48),), width=1),
    mel=MelConfig(16000, 128, 16, 12, fmax_hz=8000.0),
    mel_scales=((128, 12),),
    optim=OPTIM,
    discriminator_optim=OPTIM,
    batch=2,
    frames=24,
)

OWN_MEL = own_mel(CFG.mel)


def drawn(params, seed=0):
    """Weight norm's lengths 1, directions drawn, the rest zero: as far from a solution as a fresh start."""
    rng = np.random.default_rng(seed)
    made = {"g": np.ones, "v": rng.standard_normal}
    return jax.tree_util.tree_map_with_path(
        lambda path, x: np.float32(made.get(path[-1].key, np.zeros)(x.shape)), params
    )


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def waves(seed=0):
    rng = np.random.default_rng(seed)
    at = np.arange(CFG.frames * CFG.mel.hop) / CFG.mel.sample_rate_hz
    tones = [0.3 * np.sin(2 * np.pi * hz * at) for hz in (440, 1300)]
    return (np.stack(tones) + 0.02 * rng.standard_normal((2, len(at)))).astype(np.float32)


def state_of(params):
    zero, begin = np.int32(0), jax.jit(lambda params: bigvgan_step.init_opt(CFG, params))
    return TrainState(zero, params, begin(params), params, zero)


@pytest.fixture(scope="module")
def params():
    return drawn(jax.eval_shape(lambda: bigvgan_step.init_params(CFG, jax.random.key(0))))


@pytest.fixture(scope="module")
def step():
    return jax.jit(bigvgan_step.make_step(CFG, OWN_MEL))


@pytest.fixture(scope="module")
def run(params, step):
    """(states, metrics) of a few steps on one batch."""
    states, metrics = [state_of(params)], []
    for _ in range(4):
        state, values = step(states[-1], {"wave": waves()}, jax.random.key(0))
        states.append(state)
        metrics.append({name: float(value) for name, value in values.items()})
    return states, metrics


def test_adversarial_losses_by_hand():
    """Only the last map of each discriminator is its scores."""
    real = [[jnp.array([9.0]), jnp.array([1.0, 3.0])], [jnp.array([0.0])]]
    fake = [[jnp.array([7.0]), jnp.array([2.0, 0.0])], [jnp.array([-1.0])]]
    assert float(told_apart(real, fake)) == pytest.approx((0 + 4) / 2 + 4 / 2 + 1 + 1)
    assert float(fooled(fake)) == pytest.approx((1 + 1) / 2 + 4)
    assert float(feature_distance(real, fake)) == pytest.approx(2 + (1 + 3) / 2 + 1)


def test_mel_distance_by_hand():
    """Ten times the amplitude is a difference of 1 in every decadic band above the floor, once a scale."""
    cfg = dataclasses.replace(CFG, mel_scales=((128, 12), (64, 6)))
    wave = np.random.default_rng(0).uniform(-0.9, 0.9, (1, 1024)).astype(np.float32)
    assert float(mel_distance(wave, 0.1 * wave, cfg)) == pytest.approx(2.0, rel=1e-3)
    assert float(mel_distance(wave, wave, cfg)) == 0


def test_the_loss_is_the_weighted_sum_of_its_parts(run):
    for values in run[1]:
        parts = 15 * values["mel"] + values["adversarial"] + 2 * values["feature"]
        assert values["loss"] == pytest.approx(parts, rel=1e-5)


def test_a_few_steps_lower_the_mel_loss_and_move_both(run):
    states, metrics = run
    assert metrics[-1]["mel"] < 0.9 * metrics[0]["mel"]
    for name in ("gen", "disc"):
        moved = [
            not equal(states[0].params[name][part], states[-1].params[name][part]) for part in states[0].params[name]
        ]
        assert all(moved)
    assert int(states[-1].step) == 4 and int(states[-1].skipped) == 0


def test_neither_learns_from_the_others_loss(run):
    """AdamW's first step goes against the gradient's sign: that of each network's own loss, the other held still."""
    before, after = (state.params for state in run[0][:2])
    wave = waves()
    mel = log_mel(wave, CFG.mel)
    vocode = lambda gen: module.bind(BigVGAN, CFG.vocoder, gen)(mel)

    @jax.jit
    def own_gradients(before, after):
        made = vocode(before["gen"])
        disc = jax.grad(bigvgan_step.discriminator_loss)(before["disc"], wave, made, CFG)
        loss = lambda gen: bigvgan_step.generator_loss(vocode(gen), wave, after["disc"], CFG)[0]
        return {"gen": jax.grad(loss)(before["gen"]), "disc": disc}

    for old, new, grad in zip(*map(jax.tree.leaves, (before, after, own_gradients(before, after))), strict=True):
        clear = np.abs(grad) > 1e-3 * np.abs(grad).max()
        assert clear.any()
        np.testing.assert_array_equal(np.sign(np.asarray(new) - old)[clear], -np.sign(grad)[clear])


def test_the_average_follows_the_generator(run):
    states, _ = run
    decay = 2 / 11  # of the second step
    old, new = jax.device_get((states[1].ema["gen"], states[2].params["gen"]))
    want = jax.tree.map(lambda a, b: a * decay + b * (1 - decay), old, new)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), states[2].ema["gen"], want)
    assert equal(states[2].ema["disc"], states[2].params["disc"])


def test_a_step_with_bad_data_changes_nothing(run, step):
    before = run[0][1]
    after, metrics = step(before, {"wave": np.full_like(waves(), np.nan)}, jax.random.key(0))
    assert equal(before.params, after.params) and equal(before.opt_state, after.opt_state)
    assert equal(before.ema, after.ema)
    assert int(after.skipped) == int(metrics["skipped"]) == 1 and int(after.step) == int(before.step) + 1


def test_no_convolution_inside_a_loop(params, step):
    """Its gradient there would be some 25 times slower on a CPU."""
    jaxpr = step.trace(state_of(params), {"wave": waves()}, jax.random.key(0)).jaxpr

    is_program = lambda x: hasattr(x, "eqns")

    def primitives(jaxpr, looped=False):
        for equation in jaxpr.eqns:
            yield equation.primitive.name, looped
            inside = looped or equation.primitive.name in ("scan", "while")
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
                if is_program(inner):
                    yield from primitives(inner, inside)

    found = set(primitives(jaxpr.jaxpr))
    assert ("conv_general_dilated", False) in found and ("conv_general_dilated", True) not in found


def test_generator_and_mel_must_fit():
    with pytest.raises(ValueError, match="got 12 bands and 16 samples a frame, expected the mel's 12 and 32"):
        dataclasses.replace(CFG, mel=MelConfig(16000, 128, 32, 12, fmax_hz=8000.0))


# From a configuration to a task.


def config_of(folder, **values):
    spec = importlib.util.spec_from_file_location("bigvgan", ROOT / "configs" / "bigvgan.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    config = loaded.get_config("runlocal")
    config.update_from_flattened_dict({"data.folder": str(folder), **values})
    return config


def test_full_size_is_the_published_one():
    spec = importlib.util.spec_from_file_location("bigvgan", ROOT / "configs" / "bigvgan.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    for variant in ("", "finetune"):
        shapes = abstract_params(loaded.get_config(variant))
        millions = {name: round(module.count(part) / 1e6, 1) for name, part in shapes.items()}
        assert millions == {"gen": 122.2, "disc": 41.4}


def test_a_run_starts_from_given_weights_and_exports_its_own(tmp_path):
    config = config_of(tmp_path / "waves", **{"data.start": str(tmp_path / "model"), "training.pieces": 2})
    shapes = abstract_params(config)["gen"]
    start = drawn(shapes, seed=3)
    # As a converted part lies in its directory.
    save_params(tmp_path / "model" / "vocoder.safetensors", start | {"unused": {"x": np.zeros(1, np.float32)}})
    task = make_task(config)[0]
    assert equal(jax.jit(task.init)(jax.random.key(0))["gen"], start)
    batch = task.batch(3)
    assert batch["wave"].shape == (8, 16 * 512)
    np.testing.assert_array_equal(batch["wave"], task.batch(3)["wave"])
    task.export({"gen": start, "disc": {}}, tmp_path / "out")
    assert equal(load_params(tmp_path / "out" / "vocoder.safetensors", shapes), start)


def test_recordings_and_scenes_are_sounds_to_train_on(tmp_path):
    tone = np.sin(np.arange(30000) * 0.05, dtype=np.float32)[:, None].repeat(2, 1)
    (tmp_path / "sounds" / "below").mkdir(parents=True)
    media.write_wav(tmp_path / "sounds" / "below" / "tone.wav", 0.5 * tone, 44100)
    (tmp_path / "sounds" / "noise.wav").write_bytes(b"nothing")
    config = config_of(tmp_path / "cache", **{"data.sounds": str(tmp_path / "sounds")})
    batch = make_task(config)[0].batch(0)["wave"]
    assert batch.shape == (8, 16 * 512) and 0.04 < np.abs(batch).max() < 0.51
    tiny_corpus.render(tmp_path / "scenes", durations={1.0: 2})
    config = config_of(tmp_path / "cache", **{"data.sounds": str(tmp_path / "scenes")})
    assert make_task(config)[0].batch(0)["wave"].shape == (8, 16 * 512)


@pytest.mark.slow  # fast, of the other pair of networks that train against each other: test_codec_step.py
@pytest.mark.parametrize("network, path, name", [
    (BigVGAN, "conv_pre/bias", "gen/conv_pre/bias"),
    (WaveDiscriminators, "periods/0/layers/0/bias", "disc/periods/0/layers/0/bias"),
])  # fmt: skip
def test_a_gradient_that_is_not_finite_is_named(params, monkeypatch, network, path, name):
    plant(monkeypatch, network, path)
    found = blamed(bigvgan_step.make_objective(CFG, OWN_MEL), state_of(params), {"wave": waves()})
    assert found.startswith(f"gradients: {name}: ")


def test_held_out_sounds_are_looked_at(params):
    figures = bigvgan_step.make_figures(CFG, OWN_MEL)
    held = Validation(figures, lambda i: {"wave": waves(i)}, 2)(params, 7)
    assert held.keys() == {"mel"} and 0 < held["mel"] < 10


@pytest.mark.slow
def test_the_loop_trains_it_on_decoded_mels(tmp_path):
    shapes = module.shapes(MelVAE, VAEConfig(width=32, mel_blocks=1, latent_blocks=1))
    rng = np.random.default_rng(0)
    vae = jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(np.float32), shapes)
    save_params(
        tmp_path / "vae.safetensors", vae | {"mel_std": np.ones(128, np.float32), "latent_std": np.ones(40, np.float32)}
    )
    values = {"data.vae": str(tmp_path / "vae.safetensors"), "training.pieces": 2}
    task = make_task(config_of(tmp_path / "waves", **values))[0]
    state = run_loop(task, tmp_path / "run", LoopConfig(steps=2, log_every=1, save_every=2))
    assert int(state.step) == 2 and int(state.skipped) == 0
    jax.tree.map(np.testing.assert_array_equal, state.params["vae"], load_params(tmp_path / "vae.safetensors"))
    load_params(tmp_path / "run" / "vocoder.safetensors", task.init(jax.random.key(0))["gen"])
    # It hears the decoded mel: on the sound's own, the same step has another loss.
    plain = make_task(config_of(tmp_path / "waves", **{"training.pieces": 2}))[0]
    start = init_state(task, jax.random.key(0))
    traced = (jax.make_jaxpr(t.step)(start, task.batch(0), jax.random.key(0)) for t in (task, plain))
    much, less = (sum(np.size(x) for x in program.consts) for program in traced)
    assert much - less < 0.1 * module.count(vae)  # the VAE is an argument
    one, two = (jax.jit(t.step)(start, task.batch(0), jax.random.key(0))[1]["loss"] for t in (task, plain))
    assert abs(float(one) - float(two)) > 1e-3
