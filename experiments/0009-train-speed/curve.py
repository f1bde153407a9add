"""A loss curve by kfjax's own training loop: metrics.jsonl and a picture of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from experiments.harness import train_log
from kfjax import plot
from kfjax.storage import disk
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
        disk.write_text(metrics, Path(workdir, "metrics.jsonl").read_text(), noted=False)
    lines = train_log(metrics, "train")
    draw(lines, output / "curve.png", f"{spec}, {batch} x {excerpt_seconds:g} s")
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


def draw(lines: list[dict[str, Any]], path: Path, title: str) -> None:
    """Loss and gradient norm by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    steps = [line["step"] for line in lines]
    for ax, name in zip(figure.subplots(2, sharex=True), ("loss", "gradient_norm"), strict=True):
        ax.plot(steps, [line[name] for line in lines], linewidth=0.8)
        ax.set(ylabel=name.replace("_", " "))
    figure.axes[1].set(xlabel="step", yscale="log")
    figure.suptitle(title)
    plot.save(figure, path)
