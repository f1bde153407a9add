"""One training loop for every step: resume, run, log, look, save, stop cleanly.

A `Task` says what is trained; the loop owns time. Everything random comes from `fold_in(root key, step)` and batches
are a pure function of the step, so a resumed run is bit for bit the uninterrupted one.
"""
from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kfjax.checkpoint import StateStore, save_params
from kfjax.sharding import data_mesh, put_batch, replicated
from kfjax.structs import TrainState


class Task(NamedTuple):
    """What is trained.

    Attributes:
      init: key -> parameters (nested dict).
      init_opt: parameters -> optimiser state.
      step: (state, batch, key) -> (state, metrics); pure; counts `state.step` up, and `state.skipped` where it skips.
      batch: step number -> the global batch, numpy arrays whose first axis counts examples; pure, so that every
        process means the same batch. Where making all of it on every process would be a waste, the callable has a
        method `batch.runs(step, numbers, of)` as well: with that batch cut into `of` equal runs of rows, only the runs
        `numbers` (ascending, possibly with gaps), one after another. With several processes the loop calls it with
        `sharding.batch_runs(mesh)`; for all numbers it must give what `batch(step)` gives. Both are called ahead of
        time from a thread of the loop's, mostly with consecutive steps; after a resume with any step.
      panel: (averaged parameters, step, folder) -> figures; pictures and sounds go into the folder. Optional.
      export: (averaged parameters, workdir), at the end of a run; writes ema.safetensors where it is not given.
    """

    init: Callable[[jax.Array], Any]
    init_opt: Callable[[Any], Any]
    step: Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]
    batch: Callable[[int], Any]
    panel: Callable[[Any, int, Path], dict[str, float]] | None = None
    export: Callable[[Any, Path], None] | None = None


@dataclass(frozen=True)
class LoopConfig:
    """When the loop does what, in steps. `max_seconds` ends a run early and cleanly; 0 is no limit.

    Raises:
      ValueError: a number of steps below 1.
    """

    steps: int = 1000
    seed: int = 0
    log_every: int = 20
    save_every: int = 500
    panel_every: int = 1000
    max_skipped: int = 20
    max_seconds: float = 0.0
    prefetch: int = 2

    def __post_init__(self):
        counts = ("steps", "log_every", "save_every", "panel_every", "max_skipped", "prefetch")
        wrong = [f"{name} {getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if wrong:
            raise ValueError(f"loop: got {', '.join(wrong)}, expected 1 or more")


class Diverged(RuntimeError):
    """Too many non-finite steps in a row."""


def init_state(task: Task, key: jax.Array) -> TrainState:
    """Fresh state: EMA starts as the parameters."""
    params = task.init(key)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, task.init_opt(params), jax.tree.map(jnp.copy, params), zero)


def run(task: Task, workdir: str | Path, cfg: LoopConfig) -> TrainState:
    """Train until `cfg.steps`, resuming from `workdir` when it holds a checkpoint.

    SIGTERM and Ctrl-C save and return. Writes metrics.jsonl, checkpoints/, panels/ and the exported weights into
    `workdir`.

    Raises:
      Diverged: `cfg.max_skipped` non-finite steps in a row.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    mesh, root = data_mesh(), jax.random.key(cfg.seed)
    everywhere = replicated(mesh)
    with _Stop() as stop, StateStore(workdir / "checkpoints") as store:
        state = jax.jit(lambda: init_state(task, jax.random.fold_in(root, 0)), out_shardings=everywhere)()
        if (latest := store.latest()) is not None:
            state = store.restore(latest, state)
        step_fn = jax.jit(task.step, donate_argnums=0, out_shardings=everywhere)
        first = int(state.step)
        with _Prefetch(task.batch, first, cfg) as batches, _Log(workdir, cfg, first) as log:
            for step in range(first, cfg.steps):
                batch = put_batch(next(batches), mesh)
                state, metrics = step_fn(state, batch, jax.random.fold_in(root, step + 1))
                done = step + 1
                if done % cfg.log_every == 0 or done == cfg.steps:
                    log.metrics(done, metrics)
                    _check(state, cfg)
                if done % cfg.save_every == 0:
                    store.save(done, state)
                if task.panel and done % cfg.panel_every == 0:
                    log.write(done, task.panel(state.ema, done, workdir / "panels"), "panel")
                if stop.requested or (cfg.max_seconds and log.elapsed() > cfg.max_seconds):
                    break
        store.save(int(state.step), state)
    export = task.export or (lambda params, folder: save_params(folder / "ema.safetensors", params))
    export(state.ema, workdir)
    return state


def _check(state: TrainState, cfg: LoopConfig) -> None:
    if int(state.skipped) >= cfg.max_skipped:
        raise Diverged(
            f"{int(state.skipped)} non-finite steps in a row at step {int(state.step)}; lower the learning rate"
        )


class _Stop:
    """SIGTERM and SIGINT ask for a clean end after the current step."""

    def __enter__(self):
        self.requested = False
        try:
            self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread, as in notebooks and tests: nobody sends signals there
            self._old = {}
        return self

    def _ask(self, *_):
        self.requested = True

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)


class _Prefetch:
    """Batches of consecutive steps, made ahead of time in a thread."""

    def __init__(self, batch: Callable[[int], Any], first: int, cfg: LoopConfig):
        self._batch, self._next, self._last = batch, first, cfg.steps
        self._pool = ThreadPoolExecutor(1)
        self._queue = []
        for _ in range(cfg.prefetch):
            self._submit()

    def _submit(self):
        if self._next < self._last:
            self._queue.append(self._pool.submit(self._batch, self._next))
            self._next += 1

    def __next__(self):
        self._submit()
        return self._queue.pop(0).result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Log:
    """Progress on the terminal, one JSON object a line in metrics.jsonl."""

    def __init__(self, workdir: Path, cfg: LoopConfig, first: int):
        self._path, self._cfg, self._first = workdir / "metrics.jsonl", cfg, first
        self._start = self._mark = time.monotonic()
        self._marked_step = None

    def __enter__(self):
        from tqdm import tqdm

        self._bar = tqdm(total=self._cfg.steps, initial=self._first, unit="step", dynamic_ncols=True, mininterval=5.0)
        return self

    def __exit__(self, *_):
        self._bar.close()

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def metrics(self, step: int, metrics: dict[str, jax.Array]) -> None:
        values = {name: float(np.asarray(x)) for name, x in metrics.items()}
        now = time.monotonic()
        if self._marked_step is not None:
            values["seconds_per_step"] = (now - self._mark) / (step - self._marked_step)
        self._mark, self._marked_step = now, step
        self._bar.n = step
        self._bar.set_postfix({name: f"{x:.4g}" for name, x in list(values.items())[:3]})
        self.write(step, values, "train")

    def write(self, step: int, values: dict[str, float], kind: str) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, "elapsed": round(self.elapsed(), 1), **values}) + "\n")
