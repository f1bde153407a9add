"""One process of a training run that several may share.

    python process_run.py WORKDIR STEPS SECONDS_A_BATCH PORT PROCESS PROCESSES

Appends what it loads to WORKDIR/rows-PROCESS.txt: a step, then the numbers of its rows in the global batch.
"""
import sys
import time
from pathlib import Path

import jax
import numpy as np
from tiny_task import make_batch, make_task

from kfjax.train.loop import LoopConfig, run


class Rows:
    """The tiny task's batches; with several processes each makes only its rows."""

    def __init__(self, log: Path, seconds: float):
        self._log, self._seconds = log, seconds

    def __call__(self, step: int):
        return self.runs(step, range(8), 8)

    def runs(self, step: int, numbers, of: int):
        time.sleep(self._seconds)
        rows = np.arange(16).reshape(of, -1)[list(numbers)].ravel()
        with self._log.open("a") as file:
            print(step, *rows, file=file)
        return {name: x[rows] for name, x in make_batch(step).items()}


def panel(ema, step: int, folder: Path) -> dict[str, float]:
    return {"w": float(ema["layers"][0]["w"].sum())}


def main(workdir: Path, steps: int, seconds: float, port: int, process: int, processes: int) -> None:
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    batch = Rows(workdir / f"rows-{process}.txt", seconds)
    cfg = LoopConfig(steps=steps, log_every=1, save_every=1000, panel_every=4, prefetch=1, mesh="data=4,fsdp=2")
    run(make_task(batch, panel=panel), workdir, cfg)


if __name__ == "__main__":
    folder, steps, seconds, *numbers = sys.argv[1:]
    main(Path(folder), int(steps), float(seconds), *(int(x) for x in numbers))
