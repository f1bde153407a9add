"""One process of a training run that several may share.

    python process_run.py WORKDIR STEPS SECONDS_A_BATCH FIRST_BAD_STEP HEARTBEAT_SECONDS PORT PROCESS PROCESSES

Appends what it loads to rows-PROCESS.txt in WORKDIR, or in $ROWS: a step, then the numbers of its rows in the global
batch of twelve.
From FIRST_BAD_STEP on, counted from 0, the last row of the batch is not finite.
"""

import os
import sys
import time
from pathlib import Path

import jax
import numpy as np

from kfjax import command
from kfjax.train.engine.distributed import join
from kfjax.train.engine.loop import LoopConfig, run
from tests.tiny.task import make_batch, make_task

ROWS, DEVICES = 12, 6


class Rows:
    """The tiny task's batches; with several processes each makes only its rows."""

    def __init__(self, log: Path, seconds: float, bad: int):
        self._log, self._seconds, self._bad = log, seconds, bad

    def __call__(self, step: int):
        return self.runs(step, range(DEVICES), DEVICES)

    def runs(self, step: int, numbers, of: int):
        time.sleep(self._seconds)
        rows = np.arange(ROWS).reshape(of, -1)[list(numbers)].ravel()
        with self._log.open("a") as file:
            print(step, *rows, file=file)
        batch = {name: x[:ROWS] for name, x in make_batch(step).items()}
        if step >= self._bad:
            batch["y"][-1] = np.nan
        return {name: x[rows] for name, x in batch.items()}


def panel(ema, step: int, folder: Path) -> dict[str, float]:
    return {"w": float(ema["layers"][0]["w"].sum())}


def main(argv: list[str]) -> int:
    workdir, seconds = argv[0], float(argv[2])
    steps, bad, heartbeat, port, process, processes = (int(x) for x in (argv[1], *argv[3:]))
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        join(f"127.0.0.1:{port},{process},{processes}", heartbeat)
    batch = Rows(Path(os.environ.get("ROWS", workdir), f"rows-{process}.txt"), seconds, bad)
    every = {"log_every": 1, "save_every": 1000, "panel_every": 4, "max_skipped": 3}
    run(make_task(batch, panel=panel), workdir, LoopConfig(steps=steps, prefetch=1, mesh="data=3,fsdp=2", **every))
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
