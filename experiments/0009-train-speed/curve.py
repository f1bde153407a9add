"""A loss curve by kfjax's own training loop: metrics.jsonl and a picture of it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kfjax.train.config import apply, complete, load_config
from kfjax.train.engine import loop
from kfjax.train.tasks import make as tasks


def train(
    spec: str, output: Path, *, steps: int, batch: int, excerpt_seconds: float, network: dict[str, Any],
    features: str = "", max_seconds: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Train for some steps; metrics.jsonl and curve.png go into `output`.

    The loop keeps its state in a temporary folder, which 1.5B needs 31 GB for; nothing of it stays.

    Args:
      network: settings of the network that are changed.
      features: a folder of `kfjax extract`; random numbers without.
      max_seconds: of training; it then ends early.
    """
    config = load_config(spec)
    complete(config)
    with config.unlocked(), config.ignore_type():
        config.system.mmdit.update(network)
    data = [f"data.corpora=(({features!r}, 1.0),)"] if features else ["data.synthetic=True"]
    once = f"loop.save_every={steps + 1}"  # at the end alone
    for setting in (
        f"loop.steps={steps}", "loop.log_every=1", once, f"loop.max_seconds={max_seconds}",
        f"data.batch_seconds={excerpt_seconds * batch}", "data.batch_multiple=0",
        f"data.buckets=(({excerpt_seconds}, 1.0),)", *data,
    ):  # fmt: skip
        apply(config, setting)
    task, settings = tasks.make_task(config)
    output.mkdir(parents=True, exist_ok=True)
    metrics = output / "metrics.jsonl"
    with tempfile.TemporaryDirectory(dir=output, prefix="run-") as workdir:
        # The weights are not wanted, so neither is their export.
        loop.run(task._replace(export=lambda params, folder: None), workdir, settings)
        shutil.copyfile(Path(workdir, "metrics.jsonl"), metrics.with_suffix(".tmp"))
        os.replace(metrics.with_suffix(".tmp"), metrics)
    draw(metrics, output / "curve.png", f"{spec}, {batch} x {excerpt_seconds:g} s")
    lines = read(metrics)
    rates = [line["clips_per_second"] for line in lines if "clips_per_second" in line]
    tenth = max(1, len(lines) // 10)
    mean = lambda part: sum(line["loss"] for line in part) / len(part)
    return {
        "steps": len(lines),
        "first": mean(lines[:tenth]),
        "last": mean(lines[-tenth:]),
        "skipped": sum(line["skipped_steps"] for line in lines),
        "clips_per_second": sorted(rates)[len(rates) // 2] if rates else None,
        "data": features or "random numbers",
    }


def read(metrics: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in metrics.read_text().splitlines())
    return [line for line in lines if line["kind"] == "train"]


def draw(metrics: Path, path: Path, title: str) -> None:
    """Loss and gradient norm by step, as metrics.jsonl has them."""
    from matplotlib.figure import Figure

    lines = read(metrics)
    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    steps = [line["step"] for line in lines]
    upper.plot(steps, [line["loss"] for line in lines], linewidth=0.8)
    upper.set(ylabel="loss", title=title)
    lower.plot(steps, [line["gradient_norm"] for line in lines], linewidth=0.8)
    lower.set(ylabel="gradient norm", xlabel="step", yscale="log")
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=120)
    os.replace(temporary, path)
