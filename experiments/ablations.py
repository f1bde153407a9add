"""The trained ablations, experiments 0010 to 0014: their data, their runs, their tables.

    python -m experiments ablations prepare --scenes runs/scenes  # features and held-out scenes, once (10 minutes)
    python -m experiments ablations run                           # all that is not done yet; stop and go on at will
    python -m experiments 0010 run --process 0/2                  # some of it; this is process 0 of 2
    python -m experiments ablations collect                       # what the runs measured -> results.json
    python -m experiments 0010 table                              # results.json -> tables

Runs whose configurations are equal are one run: the same three stand for the base in every experiment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from experiments import ablation_data, ablation_tables, harness
from experiments.ablation_tables import EXPERIMENTS, Experiment

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """One training of one variant."""

    experiment: Experiment
    variant: str
    seed: int

    @property
    def spec(self) -> str:
        return f"{self.experiment.folder / 'config.py'}:{self.variant}-{self.seed}"

    @cached_property
    def config(self):
        from kfjax.train.config import load_config

        return load_config(self.spec)

    @property
    def name(self) -> str:
        """The same for equal configurations, whichever experiment they come from."""
        return hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def main(argv: Sequence[str] | None = None) -> None:
    commands = {"prepare": prepare, "run": run, "collect": collect, "table": table}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=commands)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(EXPERIMENTS)} (all)")
    parser.add_argument("--root", type=Path, default=Path("runs/ablations"), help="default: %(default)s")
    parser.add_argument("--scenes", type=Path, default=Path("runs/scenes"), help="prepare: the corpus to train on")
    parser.add_argument("--process", default="0/1", metavar="I/N", help="run: every N-th run from I on")
    args = parser.parse_intermixed_args(argv)
    if unknown := sorted(set(args.experiments) - EXPERIMENTS.keys()):
        parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(EXPERIMENTS)}")
    commands[args.command](
        args, [EXPERIMENTS[name] for name in EXPERIMENTS if name in (args.experiments or EXPERIMENTS)]
    )


def prepare(args: argparse.Namespace, _: list[Experiment]) -> None:
    ablation_data.prepare(args.scenes, args.root)


def run(args: argparse.Namespace, chosen: list[Experiment]) -> None:
    """Train and listen, run by run; seed after seed: a stop leaves comparisons of fewer seeds, not of fewer ways."""
    from kfjax import pipeline

    pipeline.use_program_cache()
    os.environ["TQDM_DISABLE"] = "1"
    process, processes = map(int, args.process.split("/"))
    unique = {}  # a run of several experiments is theirs together
    for experiment in chosen:
        for seed in SEEDS:
            for variant in experiment.variants:
                one = Run(experiment, variant, seed)
                unique.setdefault(one.name, (one, set()))[1].update(experiment.seconds)
    for one, seconds in list(unique.values())[process::processes]:
        workdir, start = args.root / "train" / one.name, time.monotonic()
        if steps(workdir) < one.config.loop.steps:
            harness.train(one.spec, workdir, f"data.corpora=(('{args.root / ablation_data.FEATURES}', 1.0),)")
        if steps(workdir) < one.config.loop.steps:
            raise SystemExit(f"{workdir}: stopped at step {steps(workdir)}; run again to go on")
        trained = time.monotonic()
        listen(one, workdir, args.root, sorted(seconds))
        took = f"{trained - start:.0f} s to train, {time.monotonic() - trained:.0f} s to listen"
        print(f"{one.experiment.name} {one.variant} seed {one.seed} ({one.name}): {took}", flush=True)


def listen(one: Run, workdir: Path, root: Path, seconds: Sequence[float]) -> None:
    """What is measured of a trained run, into its folder; lengths that are there already are left alone."""
    path = workdir / "scores.json"
    scores = harness.read_json(path, {"lengths": {}})
    missing = [s for s in seconds if f"{s:g}" not in scores["lengths"]]
    if not missing:
        return
    listener = ablation_data.Listener(one.config, workdir / "ema.safetensors", root)
    scores |= {"parameters": listener.parameters, "loss": scores.get("loss") or listener.loss()}
    for length in missing:
        scores["lengths"][f"{length:g}"] = listener.scores(length)
        harness.write_json(path, scores)


def collect(args: argparse.Namespace, chosen: list[Experiment]) -> None:
    """results.json of every experiment, of those runs that are done."""
    for experiment in chosen:
        runs, of = {}, [Run(experiment, variant, seed) for variant in experiment.variants for seed in SEEDS]
        for one in of:
            if found := measured(args.root / "train" / one.name, experiment):
                runs[f"{one.variant}-{one.seed}"] = found
        if runs:
            ceiling = ablation_data.ceiling(args.root, experiment.seconds)
            ceiling = {length: {"scenes": own["scenes"]} | only(own, experiment) for length, own in ceiling.items()}
            found = {"made": harness.made(), "true sound": ceiling, "runs": runs}
            harness.write_json(experiment.folder / "results.json", found)
        print(f"{experiment.name}: {len(runs)} of {len(of)} runs")


def measured(workdir: Path, experiment: Experiment) -> dict | None:
    """What an experiment needs of a run; None while that is not all there. Seconds: with start and compilation."""
    lengths = [f"{s:g}" for s in experiment.seconds]
    scores = harness.read_json(workdir / "scores.json", {"lengths": {}})
    if not scores["lengths"].keys() >= set(lengths):
        return None
    return {
        "parameters": scores["parameters"],
        "steps": steps(workdir),
        "seconds": round(harness.train_log(workdir / "metrics.jsonl", "train")[-1]["elapsed"]),
        "loss": scores["loss"],
        "lengths": {s: only(scores["lengths"][s], experiment) for s in lengths},
    }


def steps(workdir: Path) -> int:
    """How far the training in a folder is."""
    return [0, *(line["step"] for line in harness.train_log(workdir / "metrics.jsonl", "train"))][-1]


def only(scores: dict, experiment: Experiment) -> dict:
    """The measures that the experiment looks at, and the floor of synchrony."""
    return {name: scores[name] for name in (*experiment.measures, "floor") if name in scores}


def table(_: argparse.Namespace, chosen: list[Experiment]) -> None:
    for experiment in chosen:
        path = experiment.folder / "results.json"
        if not path.exists():
            raise SystemExit(f"{path}: is not there; run and collect {experiment.name} first")
        results = json.loads(path.read_text())
        print(ablation_tables.tables(experiment, results))
