"""The generator as a task, from nothing or from `data.start`: on scenes, on extracted features or on random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kfjax.nn.module import Params
from kfjax.rates import lengths
from kfjax.storage.checkpoint import load_params
from kfjax.system import ENCODERS, init_parts, part_shapes
from kfjax.train.engine.flops import train_flops
from kfjax.train.engine.loop import Task
from kfjax.train.engine.optim import make_optimizer, over
from kfjax.train.engine.throughput import Work
from kfjax.train.tasks.flow import features as flow_features
from kfjax.train.tasks.flow import scenes as flow_scenes
from kfjax.train.tasks.flow import step as flow_step
from kfjax.train.tasks.flow.config import FlowRun
from kfjax.train.tasks.lora import init_lora
from kfjax.train.tasks.lora_task import free_rows, lora_task
from kfjax.train.tasks.weights import is_folder, read_parts


def make_task(run: FlowRun) -> Task:
    """The task for `engine.loop.run`.

    Raises:
      ValueError: data or weights that are not there or do not fit the config.
    """
    system, step, data = run.system, run.step, run.data
    names = flow_step.trained_parts(step)
    if not (data.extracted or data.folder):
        raise ValueError(
            "config.data: got neither corpora, folder nor synthetic; expected one of them to train on, "
            "e.g. data.corpora=(('FEATURES', 1.0),) with a folder that kfjax extract made"
        )
    material = flow_features.material(run) if data.extracted else flow_scenes.material(run)
    frozen = _frozen(run, () if data.extracted else ENCODERS)
    tx = make_optimizer(over(run.optim, run.loop.steps))

    def init(key: jax.Array) -> Params:
        parts = init_parts(system, names, key) | flow_step.init_readouts(system, step)
        if is_folder(data.start) or (data.start and data.extracted):  # it may hold the encoders too
            start = read_parts(data.start, {name: parts[name] for name in names}, optional=("stereo",))
        else:
            start = load_params(data.start, parts | frozen) if data.start else {}
        return parts | jax.tree.map(jnp.asarray, start | frozen)

    task = Task(
        init=init,
        init_opt=lambda params: tx.init(flow_step.trained(params, step)),
        step=flow_step.make_step(system, step, tx),
        batch=material.batch,
        panel=material.panel,
        validate=material.validate,
        objective=lambda state, batch, key: flow_step.loss(state.params, batch, key, system, step),
        work=_work(run),
    )
    return lora_task(task, frozen, run) if step.lora.rank else task


def abstract_params(run: FlowRun) -> Params:
    """Shapes of the parameters that train; allocates nothing and reads no data."""
    system, step = run.system, run.step
    if not step.lora.rank:
        readouts = jax.eval_shape(lambda: flow_step.init_readouts(system, step))
        return part_shapes(system, *flow_step.trained_parts(step)) | readouts
    network, free = part_shapes(system, "mmdit")["mmdit"], free_rows(run)
    words = {"words": jax.ShapeDtypeStruct((free, system.text.width), np.float32)} if free else {}
    return words | {"lora": jax.eval_shape(lambda: init_lora(network, step.lora, jax.random.key(0)))}


def _work(run: FlowRun) -> Callable[[Any], Work]:
    """A step's work. Operations are counted where the whole network and it alone trains."""
    system, whole = run.system, run.data.extracted and not run.step.lora.rank
    sizes = {lengths(s, system.rates).latents: (s, lengths(s, system.rates)) for s, _ in run.data.buckets}
    draws = run.step.draws if whole else 0

    def work(batch: Any) -> Work:
        clips, latents, _ = batch.posterior.mean.shape
        seconds, size = sizes[latents]
        flops = train_flops(system.mmdit, size, system.text_tokens, clips * draws)
        return Work(clips, audio_seconds=clips * seconds, flops=flops)

    return work


def _frozen(run: FlowRun, reads: Sequence[str]) -> Params:
    """Parts that the step reads and does not train; `reads`: the encoders that it runs."""
    start, encoders = run.data.start, run.data.encoders or run.data.start
    if run.step.lora.rank:
        return read_parts(start, part_shapes(run.system, *reads, "mmdit"))
    if run.step.train_encoders or not reads:
        return {}
    expected = part_shapes(run.system, *reads)
    return read_parts(encoders, expected) if is_folder(encoders) else load_params(encoders, expected)
