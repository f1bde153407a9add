"""Mono2Stereo alone as a task: on extracted features, or on scenes with the frozen encoders of a flow run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from kfjax.encoders.tokenizer import Tokenizer
from kfjax.nn.module import Params
from kfjax.scenes import Corpus
from kfjax.scenes.encode import encode_corpus
from kfjax.storage.checkpoint import load_params, save_params
from kfjax.system import ENCODERS, init_parts, part_shapes, with_stereo
from kfjax.train.engine.loop import Task
from kfjax.train.engine.optim import make_optimizer, over
from kfjax.train.engine.validation import Figures, Validation
from kfjax.train.tasks import stereo_step
from kfjax.train.tasks.flow import config as flow_config
from kfjax.train.tasks.flow import features
from kfjax.train.tasks.flow.config import FlowRun
from kfjax.train.tasks.flow.scenes import held_out, scene_input
from kfjax.train.tasks.flow.step import FlowStepConfig
from kfjax.train.tasks.inputs import make_buckets
from kfjax.train.tasks.weights import read_parts


def read(values: Mapping[str, Any]) -> FlowRun:
    """The config as dataclasses. A system that has no Mono2Stereo gets one.

    Raises:
      ValueError: as `flow.config.read`; mels that Mono2Stereo can't read.
    """
    run = flow_config.read(values)
    return replace(run, system=with_stereo(run.system))


def make_task(run: FlowRun) -> Task:
    """The task for `engine.loop.run`; exports stereo.safetensors.

    On scenes it starts from nothing, and the encoders run; on features it goes on from that of `data.start`, if it has
    one.

    Raises:
      ValueError: data or weights that are not there or do not fit the config.
    """
    system, optim = run.system, over(run.optim, run.loop.steps)
    loss = stereo_step.make_loss(system)
    figures = stereo_step.make_figures(loss)
    if run.data.extracted:
        material = features.material(replace(run, step=FlowStepConfig()), figures)
        batch, look = material.batch, material.validate
        shapes, start = part_shapes(system, "stereo"), run.data.start
        others = read_parts(start, shapes, optional=("stereo",)) if start else {}
    else:
        batch, look, others = _scenes(run, figures)
    return Task(
        init=lambda key: init_parts(system, ("stereo",), key) | jax.tree.map(jnp.asarray, others),
        init_opt=lambda params: make_optimizer(optim).init({"stereo": params["stereo"]}),
        step=stereo_step.make_step(loss, optim),
        objective=lambda state, batch, key: (loss(state.params, batch), {}),
        batch=batch,
        validate=look,
        export=lambda ema, workdir: save_params(workdir / "stereo.safetensors", ema["stereo"]),
    )


def _scenes(run: FlowRun, figures: Figures) -> tuple[Callable[[int], Any], Validation | None, Params]:
    """Batches, validation and the frozen encoders of a run on scenes."""
    system, data, corpus = run.system, run.data, Corpus(run.data.folder)
    vae = load_params(data.vae, part_shapes(system, "vae")["vae"])
    encode_corpus(corpus, system.codec, vae, system.rates)
    tokenizer = Tokenizer.load(data.tokenizer, system.text_tokens)
    stored = load_params(data.encoders)
    encoders = {name: stored[name] for name in ENCODERS}
    look = held_out(run, tokenizer, vae, figures) if data.heldout else None
    return scene_input(run, tokenizer, corpus, vae, make_buckets(run)), look, encoders


def abstract_params(run: FlowRun) -> Params:
    """Shapes of the parameters that train; allocates nothing and reads no data."""
    return part_shapes(run.system, "stereo")
