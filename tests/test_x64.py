"""A process whose jax computes in 64 bits (JAX_ENABLE_X64): the programs are the same, in 32 bits."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from kfjax import features, generation
from kfjax.codec import audio_codec
from kfjax.codec.bigvgan import BigVGAN, BigVGANConfig
from kfjax.codec.discriminators import DiscriminatorConfig
from kfjax.codec.mel import MelConfig
from kfjax.codec.vae import VAEConfig
from kfjax.codec.vocoder import VocoderConfig
from kfjax.codec.wave_discriminators import WaveDiscriminatorConfig
from kfjax.nn import module
from kfjax.rates import lengths
from kfjax.structs import FlowBatch, Known, Noise, Posterior, Reference, Schedule, Video
from kfjax.system import ENCODERS, init_parts
from kfjax.train.engine.loop import Task, init_state
from kfjax.train.engine.optim import OptimConfig, make_optimizer
from kfjax.train.tasks import bigvgan_step, stereo_step
from kfjax.train.tasks.codec_step import CodecTraining, codec_task
from kfjax.train.tasks.flow import step as flow_step
from kfjax.train.tasks.flow.step import FlowStepConfig
from kfjax.train.tasks.lora import LoRAConfig, init_lora
from kfjax.train.tasks.vocoder_step import VocoderTraining, own_mel, vocoder_task
from tests.tiny.system import CONFIG, tiny_system, write_model

ROOT = Path(__file__).parents[1]
SIZE, KEY = lengths(1.0, CONFIG.rates), jax.random.key(0)
PARAMS = tiny_system().params
CODEC = {name: PARAMS[name] for name in CONFIG.codec.parts()}
BANDS = {"bands": 16}
OPTIM = OptimConfig(learning_rate=0.1)


def excerpt():
    blank = lambda count, size: np.zeros((count, size, size, 3), np.uint8)
    video = Video(blank(SIZE.clip, CONFIG.clip.size), blank(SIZE.sync_frames, CONFIG.sync.size), 1.0)
    return features.make_excerpt(CONFIG, tiny_system().tokenizer, SIZE, 1.0, video, ["a bell", "rain"])


def encoded():
    return jax.eval_shape(lambda: features.encode(PARAMS, CONFIG, excerpt()))


def one(batch):
    """The first of a batch."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), batch)


def array(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def wide(jaxpr) -> Iterator[str]:
    """The operations of a program whose results are arrays in 64 bits; single numbers, as optax has, do not count."""
    for equation in jaxpr.eqns:
        for result in equation.outvars:
            if result.aval.ndim and result.aval.dtype in (np.float64, np.complex128):
                yield str(equation)
        for inner in jaxprs_in_params(equation.params):
            yield from wide(inner)


def traced(program, *arguments):
    """Shapes of the results, after a look at the program."""
    with jax.enable_x64(True):
        jaxpr, results = jax.make_jaxpr(program, return_shape=True)(*arguments)
    assert not list(wide(jaxpr.jaxpr))
    return results


def test_encoding():
    traced(lambda params, excerpt: features.encode(params, CONFIG, excerpt), PARAMS, excerpt())


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_sampling(method):
    def program(params, encoded, *rest):
        branches = ("full", "empty")
        return generation.sample.jitted(params, encoded, None, *rest, cfg=CONFIG, branches=branches, method=method)

    latents = array(2, SIZE.latents, CONFIG.mmdit.latent_dim)
    whole, mask = array(dtype=np.int32), array(2, SIZE.latents, dtype=bool)
    schedule, known = Schedule(whole, whole, whole, array(), array(2)), Known(latents, mask, latents)
    reference = Reference(one(encoded()), jax.tree.map(lambda leaf: one(leaf), known))
    for given in ((), (reference, known)):
        traced(program, PARAMS["mmdit"], one(encoded()), array(2), schedule, latents, *given)
    drawn = traced(lambda noise: generation.draw.jitted(noise, shape=(3, 4)), Noise(*2 * [array(2, dtype=np.uint32)]))
    assert drawn


def test_codec():
    latents = array(2, SIZE.latents, CONFIG.codec.vae.latent_dim)
    traced(lambda *inputs: generation.decode.jitted(*inputs, cfg=CONFIG), CODEC, latents, encoded())
    traced(lambda params, wave: audio_codec.encode(params, CONFIG.codec, wave), CODEC, array(2, SIZE.samples))


def test_the_large_vocoder():
    cfg = BigVGANConfig(bands=12, width=8, rates=(4, 4), block_kernels=(3,), dilations=(1,))
    call = lambda params, mel: module.bind(BigVGAN, cfg, params)(mel)
    traced(call, module.shapes(BigVGAN, cfg), array(1, 12, 12))


def test_parameters_are_drawn_in_32_bits():
    with jax.enable_x64(True):
        drawn = jax.eval_shape(lambda: init_parts(CONFIG, tuple(CONFIG.parts()), KEY))
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {np.dtype(np.float32)}


def checked_step(init, init_opt, step, batch):
    """A training step, and that its state comes back as it was."""
    task = Task(init, init_opt, step, lambda number: batch)
    with jax.enable_x64(True):
        state = jax.eval_shape(lambda: init_state(task, KEY))
    new, _ = traced(step, state, batch, KEY)
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    assert np.dtype(np.float64) not in {leaf.dtype for leaf in jax.tree.leaves(state)}


@pytest.mark.parametrize("cfg", [
    FlowStepConfig(draws=2, early_times=0.5, train_encoders=True, stereo_weight=0.5, align_weight=0.3,
                   caption_weight=0.1, sound_weight=0.1),
    FlowStepConfig(lora=LoRAConfig(rank=2, words=True), accumulate=2, compute_dtype="bfloat16"),
])  # fmt: skip
def test_training_the_generator(cfg):
    tx = make_optimizer(OptimConfig(decay_steps=2, total_steps=4))

    def init(key):
        if not cfg.lora.rank:
            return init_parts(CONFIG, flow_step.trained_parts(cfg), key) | flow_step.init_readouts(CONFIG, cfg)
        frozen = init_parts(CONFIG, (*ENCODERS, "mmdit"), key)
        words = frozen["text"]["embed"]["embedding"][-4:]
        return frozen | {"lora": init_lora(frozen["mmdit"], cfg.lora, key), "words": words}

    latents, mel = array(2, SIZE.latents, 8), array(2, SIZE.mel, 128)
    batch = FlowBatch(excerpt(), Posterior(latents, latents), mel, mel)
    init_opt = lambda params: tx.init(flow_step.trained(params, cfg))
    checked_step(init, init_opt, flow_step.make_step(CONFIG, cfg, tx), batch)


def test_training_the_stereo():
    tx, loss = make_optimizer(OPTIM), stereo_step.make_loss(CONFIG)
    latents, mel = array(2, SIZE.latents, 8), array(2, SIZE.mel, 128)
    batch = FlowBatch(excerpt(), Posterior(latents, latents), mel, mel)
    init = lambda key: init_parts(CONFIG, ("stereo", *ENCODERS), key)
    init_opt = lambda params: tx.init({"stereo": params["stereo"]})
    checked_step(init, init_opt, stereo_step.make_step(loss, OPTIM), batch)


def test_training_the_codec():
    cfg = CodecTraining(
        mel=MelConfig(**BANDS), vae=VAEConfig(**BANDS, latent_dim=4, width=16, mel_blocks=1, latent_blocks=1),
        discriminator=DiscriminatorConfig(scales=2, layers=2, width=4),
    )  # fmt: skip
    task = codec_task(cfg, lambda step: None, (np.zeros(16, np.float32), np.ones(16, np.float32)))
    checked_step(task.init, task.init_opt, task.step, {"wave": array(2, 16 * 512)})


def test_training_the_vocoders(tmp_path):
    mel = MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, fmax_hz=8000.0, **BANDS)
    cfg = VocoderTraining(
        vocoder=VocoderConfig(**BANDS, width=16, hidden=32, depth=1, n_fft=512, hop=128, sample_rate_hz=16000),
        mel=mel, optim=OPTIM, batch=2, frames=24, pieces=2, piece_seconds=0.25,
    )  # fmt: skip
    task = vocoder_task(cfg, tmp_path)
    checked_step(task.init, task.init_opt, task.step, {"wave": array(2, 24 * 128)})
    cfg = bigvgan_step.BigVGANTraining(
        vocoder=BigVGANConfig(bands=12, width=8, rates=(16,), block_kernels=(3,), dilations=(1,)),
        discriminator=WaveDiscriminatorConfig(periods=(2,), resolutions=((64, 16, 48),), width=1),
        mel=MelConfig(16000, 128, 16, 12, fmax_hz=8000.0), mel_scales=((128, 12),), optim=OPTIM,
        discriminator_optim=OPTIM, batch=2, frames=24,
    )  # fmt: skip
    init, init_opt = lambda key: bigvgan_step.init_params(cfg, key), lambda params: bigvgan_step.init_opt(cfg, params)
    checked_step(init, init_opt, bigvgan_step.make_step(cfg, own_mel(cfg.mel)), {"wave": array(2, 24 * 16)})


@pytest.mark.slow
def test_the_same_sound(tmp_path):
    write_model(tmp_path / "model")
    made = []
    for switch in ("0", "1"):
        command = [sys.executable, "-m", "kfjax", "generate", "--prompt", "a bell rings", "--duration", "1",
                   "--model", str(tmp_path / "model"), "--output", str(tmp_path / f"{switch}.wav")]  # fmt: skip
        env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": switch}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made.append((tmp_path / f"{switch}.wav").read_bytes())
    assert made[0] == made[1]
