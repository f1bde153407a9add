"""The trained parts become one model directory, with a card that says what it is and what was measured.

    python -m experiments 0003/assemble --flow runs/flow --vae runs/vae/vae.safetensors \
        --vocoder runs/vocoder/vocoder.safetensors --tokenizer runs/tokenizer.json [--results results.json]

The generator comes from ema.safetensors of its run, or, while it still trains, from its newest checkpoint.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import orbax.checkpoint as ocp

from experiments import harness
from kfjax import config as strict
from kfjax import system
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.nn import module
from kfjax.nn.module import flatten
from kfjax.storage import disk
from kfjax.storage.checkpoint import load_params, unflatten
from kfjax.system import SystemConfig

from .card import model_card

MOST_MEGABYTES, DTYPE = 40, "float16"


def arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--flow", type=Path, required=True, help="working folder of the generator's training")
    add("--vae", type=Path, required=True)
    add("--vocoder", type=Path, required=True)
    add("--stereo", type=Path, help="weights of a training of Mono2Stereo alone; default: those of the generator's run")
    add("--tokenizer", type=Path, required=True)
    add("--checkpoint", action="store_true", help="take the newest checkpoint even where ema.safetensors exists")
    add("--before", type=int, default=0, help="steps of the runs that this one started from, for the card")
    add("--guidance", type=float, help="the model's default; else the config's")
    add("--steps", type=int)
    add("--negative", type=float)
    add("--results", type=Path, help="of 0003/evaluate, for the card")
    add("--output", type=Path, default=harness.MODEL)
    return parser.parse_args(argv)


def system_config(run: Path, args: argparse.Namespace):
    """The system of a run as it is shipped: blocks in a loop, which compiles faster, and the defaults asked for."""
    cfg = strict.from_dict(SystemConfig, json.loads((run / "config.json").read_text())["system"], where="config.system")
    own = {name: getattr(args, name) for name in ("guidance", "steps", "negative") if getattr(args, name) is not None}
    return replace(cfg, mmdit=replace(cfg.mmdit, unroll=False), defaults=replace(cfg.defaults, **own))


def trained_flow(folder: Path, checkpoint: bool):
    """(averaged parameters, step) of a run; what only helps training is among them.

    Raises:
      ValueError: nothing has been saved there.
    """
    weights = folder / "ema.safetensors"
    if weights.exists() and not checkpoint:
        return load_params(weights), harness.train_log(folder / "metrics.jsonl")[-1]["step"]
    saved = sorted((int(path.name), path) for path in (folder / "checkpoints").glob("*") if path.name.isdigit())
    if not saved:
        raise ValueError(f"{folder}: neither ema.safetensors nor a checkpoint there; train first")
    step, path = saved[-1]
    with disk.checked(disk.digests(path)):
        state = ocp.StandardCheckpointer().restore((path / "default").resolve())
    return unflatten(flatten(state["ema"])), step


def training_hours(folder: Path) -> float:
    """Hours of all sittings of a run: its clock starts again at every resume."""
    elapsed = [line["elapsed"] for line in harness.train_log(folder / "metrics.jsonl")]
    ends = [a for a, b in pairwise([*elapsed, 0.0]) if b < a]
    return sum(ends) / 3600


def main(argv=None) -> None:
    args = arguments(argv)
    # Mono2Stereo trains last, and its run knows the whole system.
    cfg = system_config(args.stereo.parent if args.stereo else args.flow, args)
    trained, step = trained_flow(args.flow, args.checkpoint)
    parts = cfg.parts()
    params = {name: part for name, part in trained.items() if name in parts}
    files = {name: getattr(args, name) for name in ("vae", "vocoder", "stereo") if getattr(args, name)}
    params |= {name: load_params(path, module.shapes(*parts[name])) for name, path in files.items()}
    facts = {
        "step": step,
        "before": args.before,
        "dtype": DTYPE,
        "parameters": {name: module.count(part) for name, part in params.items()},
        "hours": {"generator": training_hours(args.flow)}
        | {name: training_hours(path.parent) for name, path in files.items()},
    }
    results = json.loads(args.results.read_text()) if args.results else None
    built = system.System(cfg, params, Tokenizer.load(args.tokenizer, cfg.text_tokens))
    system.save(args.output, built, card=model_card(cfg, facts, results), dtype=DTYPE)
    system.load(args.output)  # every weight is there, of the right shape and finite
    size = sum(path.stat().st_size for path in args.output.iterdir()) / 1e6
    print(f"{args.output}: step {step}, {module.count(params) / 1e6:.1f} M parameters, {size:.1f} MB")
    if size > MOST_MEGABYTES:
        raise SystemExit(f"{size:.1f} MB is more than the {MOST_MEGABYTES} MB that the package may carry")
