"""From a config to a `Task`: what `kfjax train CONFIG` runs.

A config is an `ml_collections.ConfigDict` with `task`, a key of `TASKS`. The task reads all of it into one dataclass,
which refuses unknown keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from kfjax import command
from kfjax.command import say
from kfjax.nn.module import Params
from kfjax.storage import cache, disk
from kfjax.storage.stored_state import steps
from kfjax.train.engine.loop import LoopConfig, Task, export_average
from kfjax.train.tasks import bigvgan_step, codec_step, model_directory, stereo_task, vocoder_step
from kfjax.train.tasks.flow import config as flow_config
from kfjax.train.tasks.flow import product as flow_product
from kfjax.train.tasks.flow import task as flow_task
from kfjax.xla.sharding import training_hangs


class Kind(NamedTuple):
    """A kind of task.

    Attributes:
      read: the config, as nested dicts -> its dataclass, which has a field `loop`.
      make: that dataclass -> the task.
      params: that dataclass -> shapes of the parameters that train.
      product: that dataclass, and the branches of the parameters or of their average -> what it gives to a model.
    """

    read: Callable[[Mapping[str, Any]], Any]
    make: Callable[[Any], Task]
    params: Callable[[Any], Params]
    product: Callable[[Any, Mapping[str, Params]], model_directory.Product]


TASKS = {
    "codec": Kind(codec_step.read, codec_step.make_task, codec_step.abstract_params, codec_step.product),
    "vocoder": Kind(vocoder_step.read, vocoder_step.make_task, vocoder_step.abstract_params, vocoder_step.product),
    "bigvgan": Kind(bigvgan_step.read, bigvgan_step.make_task, bigvgan_step.abstract_params, bigvgan_step.product),
    "flow": Kind(flow_config.read, flow_task.make_task, flow_task.abstract_params, flow_product.product),
    "stereo": Kind(stereo_task.read, stereo_task.make_task, stereo_task.abstract_params, flow_product.product),
}


def make_task(config: ConfigDict) -> tuple[Task, LoopConfig]:
    """The task and the loop's settings.

    Raises:
      ValueError: an unknown task or key, data that is not there, or a jax that can't train on these devices.
    """
    if hangs := training_hangs(jax.default_backend()):
        raise ValueError(hangs)
    kind, run = _read(config)
    task = kind.make(run)
    return task._replace(export=_ending(task, partial(kind.product, run))), run.loop


def abstract_params(config: ConfigDict) -> Params:
    """Shapes of the parameters that a config trains; allocates nothing and reads no data."""
    kind, run = _read(config)
    return kind.params(run)


def product(values: Mapping[str, Any], weights: Mapping[str, Params]) -> model_directory.Product:
    """What a run gives to a model.

    Args:
      values: its settings, as its config.json has them.
      weights: branches of its parameters or of their average, each asked for when it is needed.

    Raises:
      ValueError: an unknown task or key, a bad value.
    """
    kind = _kind(values)
    return kind.product(kind.read(_here(values)), weights)


def _here(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """With copies on this machine in place of models and weights in a bucket."""
    copied = lambda x: str(cache.local(disk.path(x))) if isinstance(x, str) and command.in_bucket(x) else x
    data = values.get("data")
    if not isinstance(data, Mapping):
        return values
    named = ("system", "codec")  # of these the configuration alone is read
    return {**values, "data": {k: x if k in named else copied(x) for k, x in data.items()}}


def _ending(task: Task, product: Callable[[Params], model_directory.Product]) -> Callable[[Params, Path], None]:
    """The task's own export, and then a model directory, `model`, where all parts of one are known."""

    def export(ema: Params, workdir: Path) -> None:
        (task.export or export_average)(ema, workdir)
        done = steps(workdir / "checkpoints")
        try:
            model_directory.write(product(ema), workdir / "model", step=done[-1] if done else None)
        except model_directory.IncompleteModel as error:
            say(f"no model directory yet: {error}")

    return export


def _read(config: ConfigDict) -> tuple[Kind, Any]:
    values = config.to_dict()
    kind = _kind(values)
    return kind, kind.read(_here(values))


def _kind(values: Mapping[str, Any]) -> Kind:
    if (name := values.get("task")) not in TASKS:
        raise ValueError(f"config.task: got {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]
