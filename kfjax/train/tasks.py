"""From a configuration to a `Task`: what `kfjax train CONFIG` runs.

A configuration is an `ml_collections.ConfigDict` with `task` (codec | vocoder | flow), `loop` (`LoopConfig`) and what
the task itself reads; every key is checked, none is optional by accident.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from kfjax import config as strict
from kfjax import module
from kfjax.checkpoint import load_params, save_params
from kfjax.train.loop import LoopConfig, Task
from kfjax.train.optim import OptimConfig, make_optimizer


def make_task(config: ConfigDict) -> tuple[Task, LoopConfig]:
    """The task and the loop's settings.

    Raises:
      ValueError: an unknown task or key, or data that is not there.
    """
    makers: dict[str, Callable[[ConfigDict, LoopConfig], Task]] = {"codec": _codec, "vocoder": _vocoder, "flow": _flow}
    if config.task not in makers:
        raise ValueError(f"config.task: got {config.task!r}, expected one of {', '.join(makers)}")
    loop = strict.from_dict(LoopConfig, config.loop.to_dict(), where="config.loop")
    return makers[config.task](config, loop), loop


def abstract_params(config: ConfigDict) -> Any:
    """Shapes of the parameters a configuration trains; allocates nothing and reads no data."""
    if config.task == "codec":
        from kfjax.train.codec_step import CodecTraining, init_params

        cfg = strict.from_dict(CodecTraining, config.training.to_dict(), where="config.training")
        zeros = np.zeros(cfg.mel.bands, np.float32)
        return jax.eval_shape(lambda: init_params(cfg, jax.random.key(0), (zeros, zeros + 1)))
    if config.task == "vocoder":
        from kfjax.codec.vocoder import Vocoder
        from kfjax.train.vocoder_step import VocoderTraining

        cfg = strict.from_dict(VocoderTraining, config.training.to_dict(), where="config.training")
        return module.shapes(Vocoder, cfg.vocoder)
    from kfjax.system import SystemConfig
    from kfjax.train.flow_step import FlowStepConfig, trained_parts

    system = strict.from_dict(SystemConfig, config.system.to_dict(), where="config.system")
    parts = system.parts()
    return {name: module.shapes(*parts[name]) for name in trained_parts(strict.from_dict(FlowStepConfig, config.step.to_dict()))}


def _optim(config: ConfigDict, loop: LoopConfig) -> OptimConfig:
    """A schedule that decays over the run's end must know where the end is."""
    return replace(strict.from_dict(OptimConfig, config.to_dict(), where="config.optim"), total_steps=loop.steps)


def _codec(config: ConfigDict, loop: LoopConfig) -> Task:
    """Mel-VAE by Algorithm 2 on the corpus's sound; exports vae.safetensors with its latent statistics."""
    from kfjax.codec.mel import log_mel
    from kfjax.data.scenes import Corpus
    from kfjax.data.sound_input import SoundInput
    from kfjax.train.codec_step import CodecTraining, codec_task, latent_statistics, mel_statistics

    cfg = strict.from_dict(CodecTraining, config.training.to_dict(), where="config.training")
    cfg = replace(cfg, optim=replace(cfg.optim, total_steps=loop.steps))
    data = config.data
    batch = SoundInput(Corpus(data.folder), batch=data.batch, samples=data.frames * cfg.mel.hop, seed=loop.seed)
    mel = jax.jit(lambda wave: log_mel(wave, cfg.mel))
    # Held apart from training batches: steps that no run reaches.
    survey = lambda: (np.asarray(mel(batch(10**9 + i)["wave"])) for i in range(data.survey_batches))

    def export(ema: Any, workdir: Path) -> None:
        gen = ema["gen"]
        mean, std = latent_statistics(gen, cfg.vae, survey())
        save_params(workdir / "vae.safetensors", gen | {"latent_mean": mean, "latent_std": std})

    return codec_task(cfg, batch, mel_statistics(survey()))._replace(export=export)


def _vocoder(config: ConfigDict, loop: LoopConfig) -> Task:
    """The light vocoder; exports vocoder.safetensors."""
    from kfjax.train.vocoder_step import VocoderTraining, vocoder_task

    cfg = strict.from_dict(VocoderTraining, config.training.to_dict(), where="config.training")
    cfg = replace(cfg, optim=replace(cfg.optim, total_steps=loop.steps))
    return vocoder_task(cfg)._replace(export=lambda ema, workdir: save_params(workdir / "vocoder.safetensors", ema))


def _flow(config: ConfigDict, loop: LoopConfig) -> Task:
    """The generator (with its encoders, where they train) on an encoded corpus."""
    from kfjax.data.extract import encode_corpus, fingerprint
    from kfjax.data.input import SceneInput, tokenizer_from
    from kfjax.data.scenes import Corpus
    from kfjax.system import SystemConfig, init_parts
    from kfjax.train.flow_step import FlowBatch, FlowStepConfig, make_step, trained_parts
    from kfjax.train.panel import flow_panel

    system = strict.from_dict(SystemConfig, config.system.to_dict(), where="config.system")
    step = strict.from_dict(FlowStepConfig, config.step.to_dict(), where="config.step")
    data = config.data
    corpus = Corpus(data.folder)
    shapes = {name: module.shapes(*system.parts()[name]) for name in ("vae", "vocoder")}
    codec = {name: load_params(data[name], shapes[name]) for name in shapes}
    encode_corpus(corpus, system.codec, codec["vae"])
    tokenizer = tokenizer_from(corpus, system.text_tokens, Path(data.tokenizer))
    batches = SceneInput(
        system,
        tokenizer,
        corpus,
        batch_seconds=data.batch_seconds,
        weights={float(seconds): weight for seconds, weight in data.buckets},
        seed=loop.seed,
        fingerprint=fingerprint(codec["vae"]),
        multiple_of=jax.device_count(),
    )
    tx = make_optimizer(_optim(config.optim, loop))
    names = trained_parts(step)
    panel = flow_panel(system, tokenizer, codec, Corpus(data.heldout), config.panel.to_dict()) if data.heldout else None
    return Task(
        init=lambda key: init_parts(system, names, key),
        init_opt=tx.init,
        step=make_step(system, step, tx),
        batch=lambda n: FlowBatch(*batches(n)),
        panel=panel,
    )
