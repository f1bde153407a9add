"""Mono2Stereo alone as a task, on the frozen encoders of a flow run."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kfjax.encoders.tokenizer import Tokenizer
from kfjax.nn.module import Params
from kfjax.scenes import Corpus
from kfjax.scenes.encode import encode_corpus
from kfjax.storage.checkpoint import load_params, save_params
from kfjax.system import ENCODERS, init_parts, part_shapes
from kfjax.train.engine.loop import Task
from kfjax.train.engine.optim import make_optimizer, over
from kfjax.train.tasks import stereo_step
from kfjax.train.tasks.flow.config import FlowRun
from kfjax.train.tasks.flow.scenes import held_out, scene_input
from kfjax.train.tasks.inputs import make_buckets


def make_task(run: FlowRun) -> Task:
    """The task for `engine.loop.run`; exports stereo.safetensors.

    Raises:
      ValueError: data or weights that are not there or do not fit the config.
    """
    system, data, optim = run.system, run.data, over(run.optim, run.loop.steps)
    corpus = Corpus(data.folder)
    vae = load_params(data.vae, part_shapes(system, "vae")["vae"])
    encode_corpus(corpus, system.codec, vae, system.rates)
    tokenizer = Tokenizer.load(data.tokenizer, system.text_tokens)
    stored = load_params(data.encoders)
    encoders = {name: stored[name] for name in ENCODERS}
    loss = stereo_step.make_loss(system)
    figures = lambda params, batch, key: {"loss": loss(params, batch)}
    return Task(
        init=lambda key: init_parts(system, ("stereo",), key) | jax.tree.map(jnp.asarray, encoders),
        init_opt=lambda params: make_optimizer(optim).init({"stereo": params["stereo"]}),
        step=stereo_step.make_step(loss, optim),
        objective=lambda state, batch, key: (loss(state.params, batch), {}),
        batch=scene_input(run, tokenizer, corpus, vae, make_buckets(run)),
        validate=held_out(run, tokenizer, vae, figures) if data.heldout else None,
        export=lambda ema, workdir: save_params(workdir / "stereo.safetensors", ema["stereo"]),
    )


def abstract_params(run: FlowRun) -> Params:
    """Shapes of the parameters that train; allocates nothing and reads no data."""
    return part_shapes(run.system, "stereo")
