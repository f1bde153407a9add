"""What the experiments share: results that hold what they were made by, trainings from a config, tables, timing."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import kfjax
from experiments.comparison import mean_and_deviation
from kfjax.storage import disk

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "kfjax" / "assets" / "model"
Scores = dict[str, Any]


# --- results.json ---


def plain(value: Any, digits: int = 4) -> Any:
    """For JSON: named tuples as dicts, arrays as lists, floats rounded, null for what is not finite."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain(part, digits) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(part, digits) for part in value]
    if isinstance(value, float | np.floating):
        return round(float(value), digits) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def made() -> dict[str, Any]:
    """What a results.json says of how it was made: the command, and versions."""
    versions = {"kfjax": kfjax.__version__} | {name: version(name) for name in ("jax", "jaxlib", "numpy")}
    return {"command": " ".join([sys.argv[0], *map(shlex.quote, sys.argv[1:])]), "versions": versions}


def write_json(path: Path, values: Any) -> None:
    """Atomically; every list of numbers on one line."""
    text = re.sub(r"\[([^\[\]{}]*)\]", lambda found: f"[{' '.join(found[1].split())}]", json.dumps(values, indent=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, text + "\n", noted=False)


def read_json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


class Results:
    """Cell -> seed -> name of a score -> its value, or its values for every scene. A stopped run goes on.

    Args:
      path: of the file; read where it exists.
      settings: what all cells share; None: those of the file.

    Raises:
      ValueError: the file holds cells of other settings; no settings and no file.
    """

    def __init__(self, path: Path, settings: dict | None = None):
        self.path = path
        found = read_json(path, {})
        if settings is None and not found:
            raise ValueError(f"{path}: no such file, expected measured results; run the experiment first")
        if settings is not None and found and found["settings"] != settings:
            raise ValueError(f"{path}: holds cells of {found['settings']}, expected {settings}; give another --output")
        self.settings: dict = found["settings"] if settings is None else settings
        self.cells: dict[str, dict[str, Scores]] = found.get("cells", {})
        #: Anything else: the scenes, how long things took.
        self.notes: dict = found.get("notes", {})

    def has(self, cell: str, seed: int) -> bool:
        return str(seed) in self.cells.get(cell, {})

    def put(self, cell: str, seed: int, scores: Scores) -> None:
        """Keep a cell and write the file."""
        self.cells.setdefault(cell, {})[str(seed)] = plain(scores)
        self.write()

    def of(self, cell: str, score: str) -> np.ndarray:
        """[seeds, scenes], or [seeds] for a score of the whole; NaN where a scene does not count."""
        return np.array([own[score] for _, own in sorted(self.cells[cell].items())], float)

    def write(self) -> None:
        whole = {"settings": self.settings, "notes": plain(self.notes), "cells": self.cells}
        write_json(self.path, {"made": made()} | whole)


# --- runs ---


def train(spec: str | Path, workdir: Path, *settings: str) -> Path:
    """`kfjax train` with settings KEY=VALUE: resumes, and does nothing where the run is complete; its folder."""
    from kfjax.train.__main__ import main as kfjax_train

    kfjax_train([str(spec), "--workdir", str(workdir), *(["--set", *settings] if settings else [])])
    return workdir


def train_log(path: Path, *kinds: str) -> list[dict]:
    """The lines of a metrics.jsonl, all or those of some kinds ("train"); [] where there is none."""
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [line for line in lines if not kinds or line["kind"] in kinds]


def held_out(folder: Path | None, plan, size: int):
    """The corpus in `folder`, else one rendered for a `SceneProtocol`, of which each has a folder of its own."""
    from kfjax.scenes import Corpus, render_corpus
    from kfjax.scenes.evaluation import CORPUS_SEED

    if folder is not None and (folder / "corpus.json").exists():
        return Corpus(folder)
    folder = folder or ROOT / "runs" / f"heldout-{plan.scenes}x{plan.seconds:g}-{size}"
    count = int(sum(plan.durations.values()))
    return render_corpus(folder, count, seed=CORPUS_SEED, split="heldout", durations=plan.durations, size=size)


def struck(bucket, most: int | None = None) -> list[int]:
    """Rows of the first scenes in which something is struck: those that have a synchrony."""
    from kfjax.scenes.scores import struck_times

    return [row for row in range(len(bucket)) if struck_times(bucket.scene(row))][:most]


def on_scenes(
    module: str, about: str, measure: Callable[[argparse.Namespace], None], argv: Sequence[str] | None
) -> None:
    """`main` of an experiment on sampled scenes: measure what results.json lacks, unless only a report is asked for,
    and write the report of what there is.

    Args:
      module: `__name__` of its run.py; the report.py beside it has `write(results, folder)`.
      about: its docstring.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n\n")[0])
    add = parser.add_argument
    add("--model", type=Path, default=MODEL, help="model directory (default: the built-in model)")
    add("--corpus", type=Path, help="folder of held-out scenes; rendered if missing (default: runs/heldout-…)")
    add("--seconds", type=float, default=2.5, help="of the scenes (default %(default)s)")
    add("--scenes", type=int, default=24, help="the corpus' first in which something is struck (default %(default)s)")
    add("--seeds", type=int, default=3, help="of the noise (default %(default)s)")
    add("--output", type=Path, default=Path(sys.modules[module].__file__).with_name("results.json"))
    add("--report", action="store_true", help="measure nothing: tables and plots of what there is")
    args = parser.parse_args(argv)
    if not args.report:
        measure(args)
    report = importlib.import_module(f"{module.rpartition('.')[0]}.report")
    report.write(Results(args.output), args.output.parent)


# --- tables ---


def markdown(header: Iterable[Any], body: Iterable[Iterable[Any]]) -> list[str]:
    """A table; floats to three decimals. [] without rows."""
    cell = lambda value: f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
    line = lambda cells: "|" + "".join(f" {text} |" if text else " |" for text in map(cell, cells))
    header, body = list(header), list(body)
    return [line(header), "|" + "---|" * len(header), *map(line, body)] if body else []


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± deviation over seeds; the mean alone of one."""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f}" + ("" if np.isnan(deviation) else f" ± {deviation:.{digits}f}")


def said(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


# --- timing ---


class Took(NamedTuple):
    """Seconds of one call. On a busy machine elapsed time says little; processor time, of all threads, holds."""

    elapsed: float
    processor: float


def in_turn(runs: Mapping[str, Callable[[], Any]], rounds: int, least: float = 0.0) -> dict[str, list[Took]]:
    """Time of one call of each function in every round, all in turn; the first call, which compiles, does not count.

    Args:
      least: of a round, in seconds; short functions are called as often as that takes, and awaited once.
    """
    calls = {}
    for name, run in runs.items():
        _took(run, 1)
        calls[name] = math.ceil(max(1.0, min(200.0, least / max(1e-6, _took(run, 1).elapsed)))) if least else 1
    taken: dict[str, list[Took]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(_took(run, calls[name]))
    return taken


def _took(run: Callable[[], Any], calls: int) -> Took:
    import jax

    start = time.perf_counter(), time.process_time()
    for _ in range(calls):
        last = run()
    jax.block_until_ready(last)
    return Took((time.perf_counter() - start[0]) / calls, (time.process_time() - start[1]) / calls)


def medians(taken: Mapping[str, Sequence[Took]], clock: str = "elapsed") -> dict[str, float]:
    return {name: statistics.median(getattr(one, clock) for one in rounds) for name, rounds in taken.items()}


def use_threads(count: int) -> None:
    """Of PyTorch and XLA, which has no option of its own; before either is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not count as processor time
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    import torch

    torch.set_num_threads(count)


def beside_torch(
    name: str, theirs: Callable[[], np.ndarray], ours: Callable[[], np.ndarray], rounds: int, *, per: int = 1, **more
) -> None:
    """Print median seconds of both, and of `more`, in turn, and our ratio; their results must agree before that.

    Args:
      per: how many steps a call makes; seconds are of one.
    """
    want, got = theirs(), ours()
    far = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    print(f"{name}: {list(got.shape)}, relative difference {far:.1e}")
    if not far < 1e-4:
        raise SystemExit("the two do not agree")
    taken = in_turn({"PyTorch eager": theirs, "kfjax": ours} | more, rounds)
    by_clock = {clock: medians(taken, clock) for clock in Took._fields}
    body = [[way, *(by_clock[clock][way] / per for clock in Took._fields)] for way in taken]
    pairs = list(zip(taken["kfjax"], taken["PyTorch eager"], strict=True))
    body.append(["ratio", *(statistics.median(our[k] / their[k] for our, their in pairs) for k in range(2))])
    print("\n".join(markdown(["seconds", *Took._fields], body)))


def scene_film(seed: int, seconds: float, recipe: str):
    """A held-out scene, and its film as the built-in's encoders see it."""
    from kfjax.scenes import make_scene
    from kfjax.structs import Video

    scene = make_scene(seed, duration_seconds=seconds, split="heldout", recipe=recipe)
    frames = scene.frames((64, 64))
    at = np.ceil(np.arange(int(8 * seconds)) / 8 * scene.fps - 1e-6).astype(int)
    return scene, Video(frames[np.minimum(at, len(frames) - 1)], frames, float(seconds))


def spectral_shape(wave: np.ndarray, rate: int) -> np.ndarray:
    """Mean spectrum of [t, 2] in 40 bands, dB about its mean: loud moments count most."""
    from kfjax.metrics.reconstruction import log_mel

    level = 10 * np.log10(np.exp(2 * log_mel(wave, rate, bands=40)).mean(1) + 1e-9)
    return level - level.mean()
