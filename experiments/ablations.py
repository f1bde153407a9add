"""The trained ablations, experiments 0010 to 0014: their data, their runs, their tables and pictures.

    python experiments/ablations.py prepare --scenes runs/scenes     # features and held-out scenes, once (10 minutes)
    python experiments/ablations.py run                              # all that is not done yet; stop and go on at will
    python experiments/ablations.py run 0010-rope --process 0/2      # some of it; this is process 0 of 2
    python experiments/ablations.py collect                          # what the runs measured -> results.json
    python experiments/ablations.py table 0010-rope                  # results.json -> tables and plot.png

Runs whose configurations are equal are one run: the same three stand for the base in every experiment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Experiment:
    """What is compared, by what (see ablation_tables.MEASURES), on scenes of which lengths.

    The first variant is the one that the others are compared with.
    """

    name: str
    variants: tuple[str, ...]
    seconds: tuple[float, ...] = (4.0,)
    measures: tuple[str, ...] = ("f1", "loss")

    @property
    def folder(self) -> Path:
        return HERE / self.name


#: In the order in which they run.
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("0010-rope", ("aligned", "unscaled", "none"), (2.0, 4.0, 6.0)),
        Experiment("0012-sync-features", ("with", "without")),
        Experiment(
            "0011-duration",
            ("discrete", "fourier", "none"),
            (2.0, 4.0, 8.0, 13.0),
            ("f1", "late_f1", "last_db", "silent", "end_error_db"),
        ),
        Experiment("0013-conv-blocks", ("conv3", "linear")),
        Experiment("0014-joint-single", ("2to4", "3to1", "1to6")),
    )
}


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("prepare", "run", "collect", "table"))
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(EXPERIMENTS)} (all)")
    parser.add_argument("--root", type=Path, default=Path("runs/ablations"), help="default: %(default)s")
    parser.add_argument("--scenes", type=Path, default=Path("runs/scenes"), help="prepare: the corpus to train on")
    parser.add_argument("--process", default="0/1", metavar="I/N", help="run: every N-th run from I on")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.experiments) - EXPERIMENTS.keys()):
        parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(EXPERIMENTS)}")
    chosen = [EXPERIMENTS[name] for name in EXPERIMENTS if name in (args.experiments or EXPERIMENTS)]
    globals()[args.command](args, chosen)


def prepare(args: argparse.Namespace, _: list[Experiment]) -> None:
    import ablation_data

    ablation_data.prepare(args.scenes, args.root)


def run(args: argparse.Namespace, chosen: list[Experiment]) -> None:
    """Train and listen, run by run; seed after seed: a stop leaves comparisons of fewer seeds, not of fewer ways."""
    from kfjax import pipeline
    from kfjax.train.__main__ import main as train

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
        workdir = args.root / "train" / one.name
        start = time.monotonic()
        if steps(workdir) < one.config.loop.steps:
            paths = f"data.corpora=(('{args.root / 'features'}', 1.0),)"
            train([one.spec, "--workdir", str(workdir), "--set", paths])
        if steps(workdir) < one.config.loop.steps:
            raise SystemExit(f"{workdir}: stopped at step {steps(workdir)}; run again to go on")
        trained = time.monotonic()
        listen(one, workdir, args.root, sorted(seconds))
        took = f"{trained - start:.0f} s to train, {time.monotonic() - trained:.0f} s to listen"
        print(f"{one.experiment.name} {one.variant} seed {one.seed} ({one.name}): {took}", flush=True)


def listen(one: Run, workdir: Path, root: Path, seconds: Sequence[float]) -> None:
    """What is measured of a trained run, into its folder; lengths that are there already are left alone."""
    import ablation_data

    path = workdir / "scores.json"
    scores = json.loads(path.read_text()) if path.exists() else {}
    missing = [s for s in seconds if f"{s:g}" not in scores.get("lengths", {})]
    if not missing:
        return
    listener = ablation_data.Listener(one.config, workdir / "ema.safetensors", root)
    scores = {
        "parameters": listener.parameters,
        "loss": scores.get("loss") or listener.loss(),
        "lengths": scores.get("lengths", {}),
    }
    for length in missing:
        scores["lengths"][f"{length:g}"] = listener.scores(length)
        write_json(path, scores)


def collect(args: argparse.Namespace, chosen: list[Experiment]) -> None:
    """results.json of every experiment, of those runs that are done."""
    import ablation_data

    for experiment in chosen:
        runs, of = {}, [Run(experiment, variant, seed) for variant in experiment.variants for seed in SEEDS]
        for one in of:
            if found := measured(args.root / "train" / one.name, experiment):
                runs[f"{one.variant}-{one.seed}"] = found
        if runs:
            ceiling = ablation_data.ceiling(args.root, experiment.seconds)
            ceiling = {length: {"scenes": own["scenes"]} | only(own, experiment) for length, own in ceiling.items()}
            write_json(experiment.folder / "results.json", {"true sound": ceiling, "runs": runs})
        print(f"{experiment.name}: {len(runs)} of {len(of)} runs")


def measured(workdir: Path, experiment: Experiment) -> dict | None:
    """What an experiment needs of a run; None while that is not all there. Seconds: with start and compilation."""
    path, lengths = workdir / "scores.json", [f"{s:g}" for s in experiment.seconds]
    scores = json.loads(path.read_text()) if path.exists() else {"lengths": {}}
    if not scores["lengths"].keys() >= set(lengths):
        return None
    return {
        "parameters": scores["parameters"],
        "steps": steps(workdir),
        "seconds": round(log(workdir)[-1]["elapsed"]),
        "loss": scores["loss"],
        "lengths": {s: only(scores["lengths"][s], experiment) for s in lengths},
    }


def steps(workdir: Path) -> int:
    """How far the training in a folder is."""
    return log(workdir)[-1]["step"] if (workdir / "metrics.jsonl").exists() else 0


def log(workdir: Path) -> list[dict]:
    """The figures of a training, the start among them."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{"step": 0}, *(line for line in lines if line["kind"] == "train")]


def only(scores: dict, experiment: Experiment) -> dict:
    """The measures that the experiment looks at, and the floor of synchrony."""
    return {name: scores[name] for name in (*experiment.measures, "floor") if name in scores}


def table(_: argparse.Namespace, chosen: list[Experiment]) -> None:
    import ablation_tables

    for experiment in chosen:
        path = experiment.folder / "results.json"
        if not path.exists():
            raise SystemExit(
                f"{path}: is not there; python experiments/ablations.py run {experiment.name}, then collect"
            )
        results = json.loads(path.read_text())
        print(ablation_tables.tables(experiment, results))
        ablation_tables.plot(experiment, results, experiment.folder / "plot.png")


def write_json(path: Path, values: dict) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(values) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
