"""From a config to a `Task`: what `kfjax train CONFIG` runs.

A config is an `ml_collections.ConfigDict` with `task`, a key of `TASKS`. The task reads all of it into one dataclass,
which refuses unknown keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from kfjax.nn.module import Params
from kfjax.train.engine.loop import LoopConfig, Task
from kfjax.train.tasks import bigvgan_step, codec_step, stereo_task, vocoder_step
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
    "stereo": Kind(flow_config.read, stereo_task.make_task, stereo_task.abstract_params),
}


def make_task(config: ConfigDict) -> tuple[Task, LoopConfig]:
    """The task and the loop's settings.

    Raises:
      ValueError: an unknown task or key, data that is not there, or a jax that can't train on these devices.
    """
    if hangs := training_hangs(jax.default_backend()):
        raise ValueError(hangs)
    kind, run = _read(config)
    return kind.make(run), run.loop


def abstract_params(config: ConfigDict) -> Params:
    """Shapes of the parameters that a config trains; allocates nothing and reads no data."""
    kind, run = _read(config)
    return kind.params(run)


def _read(config: ConfigDict) -> tuple[Kind, Any]:
    values = config.to_dict()
    if (name := values.get("task")) not in TASKS:
        raise ValueError(f"config.task: got {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name], TASKS[name].read(values)
