"""From a config to a `Task`: what `kfjax train CONFIG` runs.

A config is an `ml_collections.ConfigDict` with `task`, a key of `TASKS`. The task reads all of it into one dataclass,
which refuses unknown keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from kfjax.command import say
from kfjax.nn.module import Params
from kfjax.storage.stored_state import steps
from kfjax.train.engine.loop import LoopConfig, Task, export_average
from kfjax.train.tasks import bigvgan_step, codec_step, model_directory, stereo_task, vocoder_step
from kfjax.train.tasks.flow import config as flow_config
from kfjax.train.tasks.flow import task as flow_task
from kfjax.xla.sharding import training_hangs


class Kind(NamedTuple):
    """A kind of task.

    Attributes:
      read: the config, as nested dicts -> its dataclass, which has a field `loop`.
      make: that dataclass -> the task.
      params: that dataclass -> shapes of the parameters that train.
    """

    read: Callable[[Mapping[str, Any]], Any]
    make: Callable[[Any], Task]
    params: Callable[[Any], Params]


TASKS = {
    "codec": Kind(codec_step.read, codec_step.make_task, codec_step.abstract_params),
    "vocoder": Kind(vocoder_step.read, vocoder_step.make_task, vocoder_step.abstract_params),
    "bigvgan": Kind(bigvgan_step.read, bigvgan_step.make_task, bigvgan_step.abstract_params),
    "flow": Kind(flow_config.read, flow_task.make_task, flow_task.abstract_params),
    "stereo": Kind(stereo_task.read, stereo_task.make_task, stereo_task.abstract_params),
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
    return task._replace(export=_ending(task, run)), run.loop


def abstract_params(config: ConfigDict) -> Params:
    """Shapes of the parameters that a config trains; allocates nothing and reads no data."""
    kind, run = _read(config)
    return kind.params(run)


def read_run(values: Mapping[str, Any]) -> Any:
    """A run's settings, as its config.json has them, in the dataclass of its task.

    Raises:
      ValueError: an unknown task or key, a bad value.
    """
    return _kind(values).read(values)


def _ending(task: Task, run: Any) -> Callable[[Params, Path], None]:
    """The task's own export, and then a model directory, `model`, where all parts of one are known."""

    def export(ema: Params, workdir: Path) -> None:
        (task.export or export_average)(ema, workdir)
        done = steps(workdir / "checkpoints")
        try:
            model_directory.write(run, ema, workdir / "model", step=done[-1] if done else None)
        except model_directory.IncompleteModel as error:
            say(f"no model directory yet: {error}")

    return export


def _read(config: ConfigDict) -> tuple[Kind, Any]:
    values = config.to_dict()
    kind = _kind(values)
    return kind, kind.read(values)


def _kind(values: Mapping[str, Any]) -> Kind:
    if (name := values.get("task")) not in TASKS:
        raise ValueError(f"config.task: got {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]
