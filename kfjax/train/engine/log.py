"""The log of a run: a progress bar, one JSON object a line in metrics.jsonl, TensorBoard, wandb, a profile.

    with Log(workdir, LogConfig(), first=0, last=1000) as log:
        for step in range(1000):
            with log.waiting("data"):
                batch = next(batches)
            state, metrics = step_fn(state, batch, key)
            log.step(step + 1, metrics, work(batch))
            if (step + 1) % 20 == 0:
                log.metrics(step + 1)
            with log.waiting("save"):
                store.save(...)

Only process 0 writes; every process makes the same calls. In a bucket all of it is written anew, whole, at every
save, at the end, and once a minute: a run that is killed loses no line before its last checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kfjax.command import say
from kfjax.storage import disk
from kfjax.storage.bucket import BucketError
from kfjax.train.engine.throughput import Throughput, Wait, Work, memory
from kfjax.train.engine.trackers import TensorBoard, Wandb

#: Of a step's metrics, `NAME_count` says of how many examples NAME is the mean.
COUNT = "_count"
METRICS = "metrics.jsonl"
#: Between two uploads of the log to a bucket, besides those at saves.
PUSH_SECONDS = 60.0
_ON_THE_BAR = ("loss", "gradient_norm", "seconds_per_step", "mfu", "data_wait")


@dataclass(frozen=True)
class LogConfig:
    """Where a run's figures go besides metrics.jsonl.

    Attributes:
      tensorboard: also event files in WORKDIR/tensorboard.
      wandb: also the Weights & Biases project of this name; "" is none. WANDB_MODE=offline keeps it on this machine.
      profile: first and last step of a profile by jax.profiler in WORKDIR/profile; (0, 0) is none.

    Raises:
      ValueError: a profile that ends before it begins.
    """

    tensorboard: bool = False
    wandb: str = ""
    profile: tuple[int, int] = (0, 0)

    def __post_init__(self):
        first, last = self.profile
        if self.profile != (0, 0) and not 1 <= first <= last:
            raise ValueError(f"log.profile: got {first} to {last}, expected first and last step, counted from 1")


class Log:
    """The log of a run that goes from step `first` (done already) to step `last`.

    What metrics.jsonl has beyond `first` is cut: the run writes it again. So is an incomplete last line.

    Args:
      guard: called before an upload to a bucket; raises where this run may not write there any more.

    Attributes:
      folder: where files for the working folder are written: itself, or for a bucket one on this machine.

    Raises:
      ValueError: TensorBoard or wandb is asked for and not installed.
    """

    def __init__(
        self, workdir: str | Path, cfg: LogConfig, *, first: int, last: int, guard: Callable[[], None] = lambda: None
    ):
        self._first, self._last = first, last
        self._staged = disk.Staged(disk.path(workdir), guard)
        self.folder = self._staged.folder
        self._pushed = time.monotonic()
        self._path = self.folder / METRICS
        self._writes = jax.process_index() == 0
        self._start = time.monotonic()
        self._throughput = Throughput()
        self._since: list[dict[str, jax.Array]] = []
        self._compiled: set[Any] = set()
        self._profile = _Profile(self.folder / "profile", cfg.profile if self._writes else (0, 0))
        self._trackers: list[TensorBoard | Wandb] = []
        self._open = ExitStack()
        if self._writes and cfg.tensorboard:
            self._trackers.append(TensorBoard(self.folder / "tensorboard", first))
        if self._writes and cfg.wandb:
            self._trackers.append(Wandb(self.folder, cfg.wandb))

    def __enter__(self) -> Log:
        self._open.enter_context(self._staged)
        if self._writes:
            from tqdm import tqdm

            self.folder.mkdir(parents=True, exist_ok=True)
            self._staged.pull(METRICS)
            cut(self._path, self._first)
            self._bar = tqdm(total=self._last, initial=self._first, unit="step", dynamic_ncols=True, mininterval=5.0)
            for part in (self._bar, self._profile, *self._trackers):
                self._open.callback(part.close)
        self._profile.before(self._first + 1)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._open.__exit__(*raised)

    def flush(self) -> None:
        """On return everything logged is in the working folder. Raises BucketError if its store does not take it."""
        if self._writes:
            self._staged.push()
            self._pushed = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since this run began; an earlier one that it resumes does not count."""
        return time.monotonic() - self._start

    def waiting(self, what: Wait) -> AbstractContextManager[None]:
        """Times a block that delays the next step: see `Throughput.waiting`."""
        return self._throughput.waiting(what)

    @contextmanager
    def compiling(self, batch: Any) -> Iterator[None]:
        """Shows on the bar that a step compiles, where the batch has new shapes."""
        shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
        says = self._writes and shapes not in self._compiled
        self._compiled.add(shapes)
        if says:
            self._bar.set_description("compiling")
        yield
        if says:
            self._bar.set_description("")

    def step(self, done: int, metrics: Mapping[str, jax.Array], work: Work) -> None:
        """Step `done` was dispatched. Nothing is read from the device yet, unless the step had to be compiled."""
        if self._writes:
            self._since.append(dict(metrics))
            self._throughput.step(work, metrics)
            if self._profile.ends_with(done):
                jax.block_until_ready(metrics)
            with self._throughput.waiting("profile"):
                self._profile.after(done)
                self._profile.before(done + 1)

    def metrics(self, done: int) -> None:
        """Write the figures of step `done`, the last one given to `step`, and the rates of those since the last line.

        Means with a count (loss by timestep, by modality) are over all those steps: one step has few of each, and an
        empty one is left out. `skipped_steps` counts the non-finite ones among them.
        """
        if not self._writes:
            return
        steps = jax.device_get(self._since)
        self._since = []
        figures = _figures(steps) | self._throughput.figures() | memory()
        self._bar.update(done - self._bar.n)
        self._bar.set_postfix({name: f"{figures[name]:.4g}" for name in _ON_THE_BAR if name in figures})
        self.write(done, figures, "train")

    def write(self, step: int, figures: Mapping[str, float], kind: str, files: Sequence[Path] = ()) -> None:
        """One line; `kind` says where the figures are from. PNGs and WAVs among `files` go to the trackers too."""
        if not self._writes:
            return
        figures = {name: float(x) for name, x in figures.items()}
        finite = {name: x if math.isfinite(x) else None for name, x in figures.items()}  # JSON knows no NaN
        line = {"step": step, "kind": kind, "elapsed": round(self.elapsed(), 1), **finite}
        with self._path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        for tracker in self._trackers:
            tracker.write(step, {f"{kind}/{name}": x for name, x in figures.items()}, files)
        if time.monotonic() - self._pushed > PUSH_SECONDS:
            try:
                self.flush()
            except BucketError as error:  # a store that is away for a while ends no run before its next save
                self._pushed = time.monotonic()
                say(str(error))


@contextmanager
def compiling() -> Iterator[None]:
    """Shows it on the first process's stderr, in a line that is erased again."""
    from tqdm import tqdm

    with tqdm(desc="compiling", bar_format="{desc}", leave=False, disable=jax.process_index() > 0):
        yield


def entries(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Name -> what changes when it is written, of what lies in a folder; folders end in "/"."""
    if disk.in_bucket(folder):
        found: dict[str, list[Any]] = {}
        for name, stat in folder.below().items():
            first, slash, _ = name.partition("/")
            found.setdefault(first + slash, []).append(stat)
        return {name: tuple(stats) for name, stats in found.items()}
    if not folder.is_dir():
        return {}
    stats = {path.name + "/" * path.is_dir(): path.stat() for path in folder.iterdir()}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def cut(path: Path, step: int) -> None:
    """Drop the lines of a metrics.jsonl beyond `step`, and half ones."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(b"".join(kept))
        os.replace(temporary, path)


def _step_of(line: bytes) -> float:
    """The step of a whole line; infinity for anything else."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf


def _figures(steps: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """The last step's figures, with counted means and skipped steps over all of them."""
    last = {name: float(x) for name, x in steps[-1].items()}
    for name in [name for name in last if name + COUNT in last]:
        pairs = [(float(s[name]), float(s[name + COUNT])) for s in steps if name in s]
        pairs = [(value, count) for value, count in pairs if count and math.isfinite(value)]
        total = last[name + COUNT] = sum(count for _, count in pairs)
        if total:
            last[name] = sum(value * count for value, count in pairs) / total
        else:
            del last[name], last[name + COUNT]
    if "skipped" in last:
        last["skipped_steps"] = float(sum(s["skipped"] > 0 for s in steps))
    return last


class _Profile:
    """Traces of the steps of a window, which tools such as XProf and Perfetto read."""

    def __init__(self, folder: Path, window: tuple[int, int]):
        self._folder, (self._first, self._last) = folder, window
        self._step: jax.profiler.StepTraceAnnotation | None = None

    def before(self, step: int) -> None:
        if not self._first <= step <= self._last or self._step is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(str(self._folder))
        self._annotate(step)

    def _annotate(self, step: int) -> None:
        self._step = jax.profiler.StepTraceAnnotation("train", step_num=step)
        self._step.__enter__()

    def ends_with(self, step: int) -> bool:
        """The trace ends after `step`, which must be done by then."""
        return self._step is not None and step >= self._last

    def after(self, step: int) -> None:
        if self._step is None:
            return
        if self.ends_with(step):
            self.close()
        else:
            self._step.__exit__(None, None, None)
            self._annotate(step + 1)

    def close(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
            jax.profiler.stop_trace()
