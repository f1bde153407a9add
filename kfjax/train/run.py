"""A run: from a config to the loop. What `kfjax train` and `kfjax.train` call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfjax import command
from kfjax.storage import disk
from kfjax.train.config import (
    MULTIPLE,
    apply,
    assign,
    check_addresses,
    check_workdir,
    complete,
    fix_multiple,
    load_config,
    settings_of,
    stored,
    write_config,
)

if TYPE_CHECKING:
    from kfjax.structs import TrainState

#: How long a process may give no sign of life. Storage that hangs or a machine that is moved takes minutes.
HEARTBEAT_SECONDS = 300


def train(
    config: str | Path,
    workdir: str | Path,
    *,
    set: Mapping[str, Any] | Sequence[str] = (),
    distributed: str | None = None,
    heartbeat_timeout: int = HEARTBEAT_SECONDS,
) -> TrainState:
    """Train, or go on training what is in the working folder.

    Args:
      config: "path/file.py" or "path/file.py:variant", a Python file with get_config(variant); "configs/file.py" may be
        one of kfjax's own.
      workdir: folder for checkpoints, metrics and the exported weights; may be `gs://BUCKET/FOLDER`.
      set: values in place of the config's, {"loop.steps": 500} or ["loop.steps=500"]; a path is a text, NumPy's
        numbers and arrays are Python's.
      distributed: "HOST:PORT,PROCESS,PROCESSES" of one of several processes that train together; "" where the cluster
        says it.
      heartbeat_timeout: with `distributed`, seconds without a sign of life after which a process counts as dead.

    Returns:
      The last state: step, parameters, optimiser, moving average.

    Raises:
      ValueError: no such config, variant or key; a value of another type; a folder that holds another run.
    """
    folder, settings = disk.path(workdir), load_config(command.local(str(config)))
    complete(settings)
    own = settings_of(settings)
    if isinstance(set, Mapping):
        for key, value in set.items():
            assign(settings, str(key), value)
    else:
        for assignment in set:
            apply(settings, assignment)
    check_addresses(settings)
    fix_multiple(settings, stored(folder).get(MULTIPLE, 0))
    check_workdir(folder, settings, own)
    if distributed is not None:
        from kfjax.train.engine.distributed import join

        join(distributed, heartbeat_timeout)

    import jax

    from kfjax import pipeline
    from kfjax.train.engine import loop
    from kfjax.train.tasks import make as tasks

    pipeline.start()  # a resumed run compiles nothing anew
    fix_multiple(settings, jax.device_count())
    task, loop_config = tasks.make_task(settings)

    def claim() -> None:
        check_workdir(folder, settings, own)  # another run may have begun and ended since
        write_config(folder, settings)

    return loop.run(task, folder, loop_config, claim=claim)
