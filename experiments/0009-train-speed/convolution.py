"""Convolutions along time in three ways, on the shapes of a model: XLA's own, one matrix product a tap, one for all.

    python -m experiments 0009/convolution --processor     # at the built-in model's size

All ways run in turn in one process, so that their ratios hold on a busy machine too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from experiments.harness import in_turn, markdown, medians
from kfjax import config as strict
from kfjax.generators.mmdit.mmdit import MMDiTConfig
from kfjax.nn import layers
from kfjax.rates import lengths
from kfjax.system import SystemConfig
from kfjax.train.config import load_config

from .roofline import both_ways, compiled

BATCH, SECONDS = 4, 8.0
WAYS: tuple[layers.Convolution, ...] = ("library", "gemms", "unfolded")
PER_BLOCK = 4  # convolutions of an audio stream: out, w1, w2, w3


class Shape(NamedTuple):
    """A convolution of the network, and how often a block has it."""

    name: str
    taps: int
    inputs: int
    outputs: int
    times: int


def shapes(cfg: MMDiTConfig) -> list[Shape]:
    """The audio stream's convolutions; those of kernel 3 are in every block."""
    h, hidden = cfg.width, cfg.hidden
    return [
        Shape("w1, w3", 3, h, hidden, 2),
        Shape("w2", 3, hidden, h, 1),
        Shape("out", 3, h, h, 1),
        Shape("first w1", 7, h, hidden, 0),
    ]


def measure(
    cfg: MMDiTConfig, tokens: int, batch: int, dtype: str, *, rounds: int, least: float, clock: str = "elapsed"
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Seconds of every shape by way, with gradients and forward alone; one row each, what decides comes first."""
    for passes in ("both", "forward"):
        for shape in shapes(cfg):
            x = jax.random.normal(jax.random.key(0), (batch, tokens, shape.inputs), dtype)
            kernel = jax.random.normal(jax.random.key(1), (shape.taps, shape.inputs, shape.outputs), dtype)
            runs = {how: _call(how, passes, x, kernel) for how in WAYS}
            taken = medians(in_turn(runs, rounds, least), clock)
            flops = (1 if passes == "forward" else 3) * 2 * batch * tokens * shape.taps * shape.inputs * shape.outputs
            yield {"shape": shape._asdict(), "passes": passes, "flops": flops, "seconds": taken}


def _call(how: layers.Convolution, passes: str, x: jax.Array, kernel: jax.Array) -> Callable[[], Any]:
    convolve = lambda x, kernel: layers.convolve(x, kernel, how=how)
    if passes == "forward":
        return compiled(convolve, x, kernel)[0]
    both, back = both_ways(convolve, x, kernel)
    return compiled(both, back, x, kernel)[0]


def fastest(rows: list[dict[str, Any]]) -> str | None:
    """The way that takes least for a block's convolutions in training; None where not all of them were measured."""
    blocks = [row for row in rows if row["passes"] == "both" and row["shape"]["times"]]
    if sum(row["shape"]["times"] for row in blocks) < PER_BLOCK:
        return None
    total = {how: sum(row["shape"]["times"] * row["seconds"][how] for row in blocks) for how in WAYS}
    return min(total, key=total.__getitem__)


def table(rows: list[dict[str, Any]]) -> list[str]:
    body = []
    for row in rows:
        shape, taken = row["shape"], row["seconds"]
        cells = [f"{taken[how] * 1e3:.3f} ({taken[how] / taken['library']:.2f})" for how in WAYS]
        size = f"{shape['inputs']}, {shape['outputs']}"
        body.append([shape["name"], shape["taps"], size, row["passes"], *cells])
    return markdown(["convolution", "taps", "in, out", "passes", *(f"{how}, ms" for how in WAYS)], body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processor", action="store_true", help="time of the processors, which others may use too")
    args = parser.parse_args()

    config = load_config("configs/flow.py")
    system = strict.from_dict(SystemConfig, config.system.to_dict(), where="config.system")
    dtype = config.step.to_dict().get("compute_dtype", "float32")
    tokens = lengths(SECONDS, system.rates).latents
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {BATCH} x {tokens} tokens, {dtype}", flush=True)
    clock = "processor" if args.processor else "elapsed"
    rows = list(measure(system.mmdit, tokens, BATCH, dtype, rounds=5, least=0.1, clock=clock))
    print("\n".join([*table(rows), "", f"Fastest in training: {fastest(rows)}."]))
