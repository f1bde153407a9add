"""Training speed of the 1.5B model on one accelerator: checks, rates of the card, parts, convolutions, the whole step.

    python -m experiments 0009/gpu --output runs/train-speed [--only STAGE ...]
    python -m experiments 0009/gpu --output runs/train-speed --curve [--steps 300] [--features FOLDER]
    python -m experiments 0009/gpu --output runs/train-speed --small          # tiny sizes, on a CPU too

Every stage is a process of its own with a time limit, so that one that hangs or runs out of memory costs the others
nothing; what it has measured is in OUTPUT/results.json at once. All of it takes less than nine minutes; --curve,
which uses what the first call found, as long again at most. The table is printed at the end, --table prints it anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import in_turn, made, markdown, medians, read_json, write_json

COMMAND = [sys.executable, "-m", "experiments", "0009/gpu"]  # of a stage
#: Stage -> seconds it may take, its start included; in this order, since the step uses what the others found. It may
#: have what they leave.
STAGES = {"checks": 60.0, "card": 40.0, "convolution": 90.0, "parts": 90.0, "step": 420.0}
CURVE = {"curve": 530.0}
TOTAL = 530.0
#: Of the device's memory, what a step may need as planned: there are holes between what lies in it.
MARGIN = 0.97


class Size(NamedTuple):
    """What is measured. `least`: seconds of a measurement of a short function; `most`: largest batch tried."""

    config: str = "configs/flow.py:1.5b"
    seconds: float = 10.0
    matmul: int = 8192
    copied: int = 2**31
    batch: int = 32
    most: int = 1024
    rounds: int = 5
    least: float = 0.1
    remats: tuple[str, ...] = ("none", "dots", "blocks")
    memory_bytes: float = 0.0  # the device's, where it tells none
    compiler: dict[str, Any] | None = None  # its options for the step


SMALL = Size(
    "configs/flow.py:features-runlocal", 1.0, 128, 2**20, batch=2, most=4, rounds=1, least=0.0, remats=("none",),
    memory_bytes=2.0**30, compiler={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)  # fmt: skip


class Run(NamedTuple):
    """What a stage gets: sizes, options, earlier stages' results, a way to keep its own, and the time it has left."""

    size: Size
    args: argparse.Namespace
    results: dict[str, Any]
    save: Callable[[Any], None]
    left: Callable[[], float]


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.stage:
        run_stage(args.stage, args)
        return 0
    stages = CURVE if args.curve else {name: limit for name, limit in STAGES.items() if name in args.only}
    slack = 10 if args.small else 1  # it is about what works; the machine may be busy
    ends = time.monotonic() + slack * TOTAL
    for name, limit in () if args.table else stages.items():
        launch(name, min(slack * limit, ends - time.monotonic()), args)
    results = read(args.output)
    print("\n".join(report(results)))
    return 0 if all(one["ended"] == "done" for one in results["stages"].values()) and passed(results) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="for results.json, metrics.jsonl and curve.png")
    add("--small", action="store_true", help="tiny sizes, to see that it works")
    add("--config", default="", help="of task flow (default: configs/flow.py:1.5b)")
    add("--only", nargs="+", choices=list(STAGES), default=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    add("--curve", action="store_true", help="the loss curve, and nothing else")
    add("--steps", type=int, default=300, help="of the curve")
    add("--batch", type=int, default=0, help="of the curve (default: the fastest that was found)")
    add("--features", default="", metavar="FOLDER", help="of kfjax extract, for the curve (default: random numbers)")
    add("--table", action="store_true", help="print the table of what is there")
    add("--stage", choices=[*STAGES, *CURVE], help=argparse.SUPPRESS)
    add("--limit", type=float, default=600.0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def launch(name: str, limit: float, args: argparse.Namespace) -> None:
    """Run a stage in a process of its own, for `limit` seconds at most, and note how it ended."""
    start = time.monotonic()
    if limit < 1:
        note(args.output, name, "not begun: no time left", 0.0)
        return
    given = [*sys.argv[1:], "--stage", name, "--limit", str(limit)]
    # Programs are kept: a second call, for what the first had no time for, goes on from there.
    defaults = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", "JAX_COMPILATION_CACHE_DIR": str(args.output / "programs")}
    environment = defaults | os.environ
    process = subprocess.Popen([*COMMAND, *given], env=environment, start_new_session=True)
    try:
        code = process.wait(limit)
        ended = "done" if code == 0 else f"failed with exit code {code}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        ended = f"stopped at its limit of {limit:.0f} s"
        for left in args.output.glob("run-*"):  # the curve's state
            shutil.rmtree(left)
    note(args.output, name, ended, time.monotonic() - start)


def run_stage(name: str, args: argparse.Namespace) -> None:
    """One stage, in this process."""
    ends = time.monotonic() + args.limit
    size = SMALL if args.small else Size()
    size = size._replace(config=args.config or size.config)

    def save(found: Any) -> None:
        write(args.output, read(args.output) | {name: found})

    functions = {"checks": checks, "card": card, "convolution": convolutions, "parts": parts, "step": steps}
    (functions | {"curve": curve})[name](Run(size, args, read(args.output), save, lambda: ends - time.monotonic()))


# --- stages ---


def checks(run: Run) -> None:
    from .checks import run as all_checks

    done = []
    for one in all_checks():
        done.append(one._asdict())
        run.save(done)


def card(run: Run) -> None:
    """The rates that all else is compared with: a square matrix product in bfloat16, and a copy."""
    import jax
    import jax.numpy as jnp

    n, device = run.size.matmul, jax.devices()[0]
    a, b = (jax.random.normal(jax.random.key(seed), (n, n), jnp.bfloat16) for seed in range(2))
    x = jnp.zeros(run.size.copied // 4, jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    runs = {"matmul": lambda: product(a, b), "copy": lambda: copy(x)}
    taken = medians(in_turn(runs, run.size.rounds, 10 * run.size.least))
    run.save({
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "config": run.size.config,
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit") or run.size.memory_bytes,
        "matmul": n,
        "flops_per_second": 2 * n**3 / taken["matmul"],
        "bytes_per_second": 2 * x.nbytes / taken["copy"],
    })  # fmt: skip


def convolutions(run: Run) -> None:
    from .convolution import fastest, measure

    system, size, _, dtype = _model(run)
    rows = []
    for row in measure(system.mmdit, size.latents, run.size.batch, dtype, rounds=run.size.rounds, least=run.size.least):
        rows.append(row)
        run.save({"rows": rows, "fastest": fastest(rows)})


def parts(run: Run) -> None:
    from .parts import fastest_attention, measure

    system, size, rates, dtype = _model(run)
    rows, batch = [], run.size.batch
    _choose(run)
    for row in measure(
        system.mmdit, size, system.text_tokens, batch, dtype, rates, rounds=run.size.rounds, least=run.size.least
    ):
        rows.append(row)
        run.save({"rows": rows, "batch": batch, "attention": fastest_attention(rows)})


def steps(run: Run) -> None:
    """The largest batch of each way to remember activations, by the fastest layers; then the best by the usual ones."""
    from .step import Trainer, changed, measure

    _, _, rates, _ = _model(run)
    usual, chosen = _choose(run)
    capacity, done = MARGIN * run.results["card"]["memory_bytes"], []

    def one(remat: str, layers: dict[str, str], share: float) -> None:
        start = run.left()
        go_on = lambda: run.left() > start * (1 - share)
        config = changed(run.size.config, remat=remat, unroll=False)
        trainer = Trainer(config, run.size.seconds, run.size.compiler)
        found = measure(trainer, capacity, rates, run.size.most, min(3, run.size.rounds), go_on)
        trainer.forget()
        done.append({"remat": remat, "layers": dict(layers)} | found)
        run.save(done)

    for position, remat in enumerate(run.size.remats):
        one(remat, chosen, 0.8 / (len(run.size.remats) + (chosen != usual) - position))
    if chosen != usual and (best := fastest_step(done)):
        _set(usual)
        one(best["remat"], usual, 0.5)


def curve(run: Run) -> None:
    from .curve import train

    _choose(run)
    best = fastest_step(run.results.get("step", ()))
    # The loop holds some batches more.
    batch = run.args.batch or (max(1, int(0.9 * best["batch"])) if best else run.size.batch)
    network = {"remat": best["remat"]} if best else {}
    run.save(train(
        run.size.config, run.args.output, steps=run.args.steps, batch=batch, excerpt_seconds=run.size.seconds,
        network=network, features=run.args.features, max_seconds=0.75 * run.left(),
    ))  # fmt: skip


def _model(run: Run):
    """(system, lengths of an excerpt, the card's rates, the dtype that computes)"""
    from kfjax import config as strict
    from kfjax.rates import lengths
    from kfjax.system import SystemConfig

    from .roofline import Card
    from .step import changed

    config = changed(run.size.config)
    system = strict.from_dict(SystemConfig, config.system.to_dict(), where="config.system")
    if "card" not in run.results:
        raise SystemExit(f"{run.args.output} has no rates of the card; run the stage card before the others")
    rates = Card(run.results["card"]["flops_per_second"], run.results["card"]["bytes_per_second"])
    return system, lengths(run.size.seconds, system.rates), rates, config.step.to_dict().get("compute_dtype", "float32")


def _choose(run: Run) -> tuple[dict[str, str], dict[str, str]]:
    """(the layers that kfjax uses on this platform, those that were measured to be fastest); sets the latter."""
    import jax

    from kfjax.nn import layers

    platform = jax.default_backend()
    usual = {"convolution": layers.CONVOLUTION[platform], "attention": layers.ATTENTION[platform]}
    measured = {
        "convolution": run.results.get("convolution", {}).get("fastest"),
        "attention": run.results.get("parts", {}).get("attention"),
    }
    chosen = usual | {name: how for name, how in measured.items() if how}
    _set(chosen)
    return usual, chosen


def _set(ways: dict[str, str]) -> None:
    import jax

    from kfjax.nn import layers

    platform = jax.default_backend()
    layers.CONVOLUTION[platform], layers.ATTENTION[platform] = ways["convolution"], ways["attention"]


# --- results ---


def read(output: Path) -> dict[str, Any]:
    return read_json(output / "results.json", {"stages": {}})


def write(output: Path, results: dict[str, Any]) -> None:
    write_json(output / "results.json", results | {"made": made()})


def note(output: Path, name: str, ended: str, taken: float) -> None:
    results = read(output)
    results["stages"][name] = {"ended": ended, "seconds": round(taken, 1)}
    write(output, results)
    print(f"{name}: {ended}, {taken:.0f} s", flush=True)


def passed(results: dict[str, Any]) -> bool:
    """No check has failed, and the loss of every step that ran was finite."""
    ran = [one for one in results.get("step", ()) if one["batch"]]
    return all(one["ok"] for one in results.get("checks", ())) and all(one["loss"] is not None for one in ran)


def fastest_step(done: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    ran = [one for one in done if one["batch"]]
    return max(ran, key=lambda one: one["clips_per_second"]) if ran else None


def report(results: dict[str, Any]) -> list[str]:
    """All that is there, in Markdown."""
    lines = []
    if known := results.get("card"):
        lines += [
            f"{known['device']}, jax {known['jax']}: a bfloat16 matrix product of {known['matmul']}^3 at "
            f"{known['flops_per_second'] / 1e12:.2f} TFLOP/s, a copy at {known['bytes_per_second'] / 1e9:.0f} GB/s.",
            "",
        ]  # fmt: skip
    if found := results.get("checks"):
        shown = lambda got: "not finite" if got is None else f"{got:.1e}"
        body = ([o["name"], shown(o["got"]), f"{o['limit']:g}", "ok" if o["ok"] else "FAILED"] for o in found)
        lines += [*markdown(["check", "difference", "at most", ""], body), ""]
    if found := results.get("step"):
        lines += [*_steps_table(found), ""]
    if found := results.get("parts"):
        from .parts import table as parts_table

        best = fastest_step(results.get("step", ()))
        step = best and best["seconds"] * found["batch"] / best["batch"]
        lines += [f"Parts, batch {found['batch']}.", "", *parts_table(found["rows"], step), ""]
    if found := results.get("convolution"):
        from .convolution import table as convolution_table

        lines += [*convolution_table(found["rows"]), "", f"Fastest in training: {found['fastest']}.", ""]
    if found := results.get("curve"):
        lines.append(f"Loss of {found['steps']} steps on {found['data']}: {found['first']:.3f} to {found['last']:.3f}.")
    return lines


def _steps_table(found: Sequence[dict[str, Any]]) -> list[str]:
    header = [
        "remembered", "convolution, attention", "largest batch", "s a step", "clips/s", "TFLOP/s",
        "of the matmul rate", "memory planned, GiB", "bound by", "of that bound", "loss",
    ]  # fmt: skip
    body = []
    for one in found:
        row = [one["remat"], ", ".join(one["layers"].values())]
        if one["batch"]:
            row += [
                one["batch"], one["seconds"], f"{one['clips_per_second']:.1f}", f"{one['tflops']:.1f}",
                f"{100 * one['of_matmul']:.0f} %", f"{one['planned_gib']:.1f}", one["bound"],
                f"{100 * one['of_bound']:.0f} %", "not finite" if one["loss"] is None else one["loss"],
            ]  # fmt: skip
        body.append(row if one["batch"] else [*row, "none ran", *[""] * 8])
    return markdown(header, body)
