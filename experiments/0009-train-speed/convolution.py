"""Convolutions along time in three ways, on the shapes of a model: XLA's own, one matrix product a tap, one for all.

    python experiments/0009-train-speed/convolution.py [--config configs/flow.py] [--batch 4] [--processor] [--step]

All ways run in turn in one process, so that their ratios hold on a busy machine too. --step adds the whole training
step of the network on features, with its blocks looped over and written out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from stopwatch import Call, both_ways, compiled, medians, seconds

from kfjax import config as strict
from kfjax import layers
from kfjax.generators.mmdit.mmdit import MMDiTConfig
from kfjax.rates import lengths

ROOT = Path(__file__).resolve().parents[2]
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
    cfg: MMDiTConfig, tokens: int, batch: int, dtype: str, *, rounds: int, least: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Seconds of every shape by way, with gradients and forward alone; one row each, what decides comes first."""
    for passes in ("both", "forward"):
        for shape in shapes(cfg):
            x = jax.random.normal(jax.random.key(0), (batch, tokens, shape.inputs), dtype)
            kernel = jax.random.normal(jax.random.key(1), (shape.taps, shape.inputs, shape.outputs), dtype)
            taken = medians(seconds({how: _call(how, passes, x, kernel) for how in WAYS}, rounds, least, clock))
            flops = (1 if passes == "forward" else 3) * 2 * batch * tokens * shape.taps * shape.inputs * shape.outputs
            yield {"shape": shape._asdict(), "passes": passes, "flops": flops, "seconds": taken}


def _call(how: layers.Convolution, passes: str, x: jax.Array, kernel: jax.Array) -> Call:
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
    ways = " | ".join(f"{how}, ms" for how in WAYS)
    return [f"| convolution | taps | in, out | passes | {ways} |", "|" + "---|" * (4 + len(WAYS)), *map(line, rows)]


def line(row: dict[str, Any]) -> str:
    shape, taken = row["shape"], row["seconds"]
    cells = [f"{taken[how] * 1e3:.3f} ({taken[how] / taken['library']:.2f})" for how in WAYS]
    size = f"{shape['inputs']}, {shape['outputs']}"
    return f"| {shape['name']} | {shape['taps']} | {size} | {row['passes']} | {' | '.join(cells)} |"


def steps(spec: str, batch: int, excerpt_seconds: float, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of the network's whole training step, by way and by whether its blocks are looped over."""
    from step import Trainer, changed

    runs = {}
    platform = jax.default_backend()
    before = layers.CONVOLUTION[platform]
    for loop in (False, True):
        for how in WAYS:
            layers.CONVOLUTION[platform] = how
            trainer = Trainer(changed(spec, unroll=not loop), excerpt_seconds)
            trainer.program(batch)
            name = f"{how}, {'looped over' if loop else 'written out'}"
            runs[name] = lambda trainer=trainer: trainer.run(batch)
    layers.CONVOLUTION[platform] = before
    return medians(seconds(runs, rounds, 0.0, clock))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs/flow.py"), help="of task flow (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8.0, help="of an excerpt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processor", action="store_true", help="time of the processors, which others may use too")
    parser.add_argument("--step", action="store_true", help="the training step too")
    args = parser.parse_args()

    from kfjax.system import SystemConfig
    from kfjax.train.config import load_config

    config = load_config(args.config)
    system = strict.from_dict(SystemConfig, config.system.to_dict(), where="config.system")
    dtype = config.step.to_dict().get("compute_dtype", "float32")
    tokens = lengths(args.seconds, system.rates).latents
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {args.batch} x {tokens} tokens, {dtype}", flush=True)
    print("\n".join(table([])), flush=True)
    rows, clock = [], time.process_time if args.processor else time.perf_counter
    for row in measure(system.mmdit, tokens, args.batch, dtype, rounds=args.rounds, least=0.1, clock=clock):
        rows.append(row)
        print(line(row), flush=True)
    print(f"fastest in training: {fastest(rows)}", flush=True)
    for name, taken in steps(args.config, args.batch, args.seconds, args.rounds, clock).items() if args.step else ():
        print(f"training step, {name}: {taken * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
