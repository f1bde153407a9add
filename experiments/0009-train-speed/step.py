"""The generator's training step: the largest batch that fits, and how fast it goes.

A program tells what memory it needs once it is compiled, so most batches are tried without running them; what is
reported has run. Running out of memory, in the compiler or on the device, is a result like another.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.harness import in_turn, medians
from kfjax.data.batches import SyntheticInput
from kfjax.data.buckets import Buckets
from kfjax.plan import hlo as program
from kfjax.plan.plan import Planner, next_batch
from kfjax.plan.topology import find
from kfjax.train.config import load_config
from kfjax.train.engine.flops import train_flops
from kfjax.train.engine.loop import init_state
from kfjax.train.tasks import make as tasks
from kfjax.xla.memory import Memory
from kfjax.xla.sharding import put_batch, replicated, shard_init

from .roofline import Card, roofline


def changed(spec: str, **network: Any) -> ConfigDict:
    """A flow config whose network trains alone, on random features, with some of the network's settings changed."""
    config = load_config(spec).copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.system.mmdit.update(network)
        alone = {"train_encoders": False, "stereo_weight": 0.0, "align_weight": 0.0, "caption_weight": 0.0}
        config.step.update(alone | {"sound_weight": 0.0})
        config.data.synthetic = True
    return config


class Trainer:
    """A training step of one config, for any batch of excerpts of one length; it keeps one state for all of them.

    The model is copied to every device at hand; `rows`, and all figures, are those of one of them.

    Args:
      options: of the compiler.
    """

    def __init__(self, config: ConfigDict, excerpt_seconds: float, options: dict[str, Any] | None = None):
        self.planner = Planner(config, "", find("here"), seconds=excerpt_seconds)
        self._task, _ = tasks.make_task(config)
        self._seconds, self._options = excerpt_seconds, options
        self._programs: dict[int, jax.stages.Compiled] = {}
        self.forget()

    def program(self, rows: int) -> jax.stages.Compiled:
        """The step for a batch of `rows`, compiled once."""
        if rows not in self._programs:
            self._programs[rows] = self.planner.lower(rows)[0].compile(self._options)
        return self._programs[rows]

    def needs(self, rows: int) -> float:
        """Bytes of memory for a batch of `rows`."""
        return Memory.of(self.program(rows)).peak

    def run(self, rows: int) -> jax.Array:
        """One step on a batch of `rows`; its loss."""
        mesh = self.planner.mesh
        with jax.set_mesh(mesh):
            if self._state is None:
                start = lambda: init_state(self._task, jax.random.key(0))
                self._state = shard_init(start, mesh)()
            if self._rows != rows:
                one = Buckets({self._seconds: 1.0}, batch_seconds=1.0, multiple_of=self.planner.rows(rows), seed=0)
                self._batch = None
                self._batch = put_batch(SyntheticInput(self.planner.system, one, seed=0)(0), mesh)
                self._rows = rows
            state, self._state = self._state, None  # it is donated: lost, if the step fails
            key = jax.device_put(jax.random.key(1), replicated(mesh))
            self._state, figures = self.program(rows)(state, self._batch, key)
        return figures["loss"]

    def forget(self) -> None:
        """Free what lies on the device."""
        self._batch = self._state = None
        self._rows = 0
        gc.collect()

    def flops(self, rows: int, *, hardware: bool = False) -> float:
        """Operations of the model; `hardware`: with what is computed again in the backward pass."""
        system = self.planner.system
        again = hardware and system.mmdit.remat in (True, "blocks")
        return train_flops(system.mmdit, self.planner.lengths, system.text_tokens, rows, hardware=again)


def out_of_memory(error: Exception) -> bool:
    return any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory"))


def attempt(run: Callable[[], Any]) -> Any:
    """The result of `run`, None where the device's memory, or the compiler's, does not suffice."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:  # jax's own errors are RuntimeErrors
        if not (isinstance(error, MemoryError) or out_of_memory(error)):
            raise
        return None


def search(trainer: Trainer, capacity: float, most: int, go_on: Callable[[], bool]) -> Iterator[tuple[int, float]]:
    """Batches and the bytes they need (infinite: none says how many), the largest that fits looked for by compiling."""
    tried: dict[int, float] = {}
    while go_on() and (rows := next_batch(tried, capacity)) is not None:
        rows = min(rows, most)
        if rows in tried:
            return
        needed = attempt(lambda rows=rows: trainer.needs(rows))
        tried[rows] = 1.01 * capacity if needed is None else needed
        yield rows, math.inf if needed is None else needed


def measure(
    trainer: Trainer, capacity: float, card: Card, most: int, rounds: int, go_on: Callable[[], bool]
) -> dict[str, Any]:
    """Figures of the largest batch that runs, and all batches that were tried."""
    tried = dict(search(trainer, capacity, most, go_on))
    fits = sorted((rows for rows, needed in tried.items() if needed <= capacity), reverse=True)
    for rows in fits:
        taken = attempt(lambda rows=rows: _timed(trainer, rows, rounds))
        if taken is not None:
            return _figures(trainer, rows, tried[rows], taken, card) | {"tried": _gib(tried)}
        trainer.forget()
        tried[rows] = math.inf
    return {"batch": 0, "tried": _gib(tried)}


def _timed(trainer: Trainer, rows: int, rounds: int) -> tuple[float, float]:
    """(seconds a step, loss of the last one)"""
    taken = medians(in_turn({"step": lambda: trainer.run(rows)}, rounds, 1.0))["step"]
    return taken, float(np.asarray(trainer.run(rows)))


def _figures(trainer: Trainer, rows: int, needed: float, timed: tuple[float, float], card: Card) -> dict[str, Any]:
    """`roofline` of the step, whose operations are the model's own; bytes and bound are those of the whole program."""
    taken, loss = timed
    flops = trainer.flops(rows)
    try:
        moved = program.traffic_bytes(trainer.program(rows).as_text())
    except ValueError:  # a compiler that does not note how often its loops turn
        moved = needed
    known = roofline(trainer.flops(rows, hardware=True), moved, taken, card)
    return known | {
        "batch": rows,
        "loss": loss if math.isfinite(loss) else None,
        "planned_gib": needed / 2**30,
        "clips_per_second": rows / taken,
        "flops": flops,
        "tflops": flops / taken / 1e12,
        "of_matmul": flops / taken / card.flops_per_second,
    }


def _gib(tried: dict[int, float]) -> dict[str, float | None]:
    """For JSON: memory in GiB, null where it did not fit and nothing says how much it needs."""
    return {str(rows): needed / 2**30 if math.isfinite(needed) else None for rows, needed in sorted(tried.items())}
