"""Does training on joined and composed excerpts help films of several events, and 12 s?

    python -m experiments 0020                                  # prepares, trains and measures; stop and go on at will
    python -m experiments 0020 --report                         # tables of what there is

plain: scenes of one recipe, of 4 and 8 s. joined: a quarter of the examples are two to four of them, latents one after
the other, without picture. composed: a quarter are two scenes one after the other or side by side, or one event
repeated, composed before encoding, with picture. both: a quarter of each. No film of several events is ever trained on
as such. Films: see FILMS. Every way has the same scenes of 4 and 8 s, seeds and noise; those of 2 s are joined alone.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

from experiments import ablation_data, harness
from experiments.ablations import steps
from experiments.comparison import compare, holm
from kfjax.scenes import Corpus, render_corpus

HERE = Path(__file__).parent
WAYS = ("plain", "joined", "composed", "both")
#: Seconds -> share of the scenes that are trained on: those of 2 s are joined alone.
DURATIONS = {2.0: 0.25, 4.0: 0.5, 8.0: 0.25}
SHARDS = 4
films = import_module("experiments.0020-composed.films")
#: What is asked -> (what renders it, seconds).
FILMS: dict[str, tuple[Callable, float]] = {
    "one event, 8 s": (films.single, 8.0),
    "two at once, 8 s": (films.several, 8.0),
    "two in a row, 8 s": (films.in_a_row, 8.0),
    "one event, 12 s": (films.single, 12.0),
}
SEEDS = {"plain": 20, "composed": 21, "heldout": 22}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, default=Path("runs/composed"), help="for data and runs (default %(default)s)")
    add("--scenes", type=int, default=2400, help="to train on; a third as many composed ones (default %(default)s)")
    add("--asked", type=int, default=32, help="films of a kind in which something is struck (default %(default)s)")
    add("--steps", type=int, default=600, help="of training (default %(default)s)")
    add("--seeds", type=int, default=3, help="of training (default %(default)s)")
    add("--output", type=Path, default=HERE / "results.json")
    add("--report", action="store_true", help="measure nothing: tables of what there is")
    args = parser.parse_args()
    if not args.report:
        measure(args)
    print("\n".join(tables(harness.Results(args.output))))


def measure(args: argparse.Namespace) -> None:
    """All that results.json lacks; seed after seed: a stop leaves fewer seeds, not fewer ways."""
    settings = {name: getattr(args, name) for name in ("scenes", "asked", "steps")}
    results = harness.Results(args.output, settings)
    prepare(args.root, args.scenes)
    asked = {name: held_out(args.root, name, args.asked) for name in FILMS}
    results.notes["films"] = {name: rows for name, (_, rows) in asked.items()}
    os.environ["TQDM_DISABLE"] = "1"
    for seed in range(args.seeds):
        for way in WAYS:
            if all(results.has(f"{way}: {name}", seed) for name in FILMS):
                continue
            listener = ablation_data.Listener(*trained(args, way, seed), args.root)
            for name, (bucket, rows) in asked.items():
                results.put(f"{way}: {name}", seed, listener.heard(bucket, rows))
            print(f"{way}, seed {seed}: done", flush=True)


def prepare(root: Path, scenes: int) -> None:
    """Render and encode what is trained on; what is there already is left alone."""
    from kfjax import pipeline, system
    from kfjax.data.encode import FeatureEncoder

    pipeline.use_program_cache()
    encoder = FeatureEncoder(system.load(pipeline.BUILT_IN), 16, stereo=False)
    for name, make, count, durations in (
        ("plain", films.single, scenes, DURATIONS),
        ("composed", films.composed, scenes // 3, {4.0: 2.0, 8.0: 1.0}),
    ):
        folder = root / f"scenes-{name}"
        corpus = render_corpus(folder, count, seed=SEEDS[name], split="train", durations=durations, make=make)
        ablation_data.encode(corpus, tuple(corpus.buckets), root / f"features-{name}", encoder, shards=SHARDS)


def held_out(root: Path, name: str, asked: int):
    """A bucket of films, and which of them are asked."""
    make, seconds = FILMS[name]
    folder = root / "heldout" / name.replace(", ", "-").replace(" ", "-")
    corpus: Corpus = render_corpus(
        folder, 2 * asked, seed=SEEDS["heldout"], split="heldout", durations={seconds: 1.0}, make=make
    )
    bucket = corpus.buckets[seconds]
    return bucket, harness.struck(bucket, asked)


def trained(args: argparse.Namespace, way: str, seed: int):
    """Config and weights of a run, trained where it is not yet."""
    from kfjax.train.config import load_config

    spec, workdir = f"{HERE / 'config.py'}:{way}-{seed}", args.root / "train" / f"{way}-{seed}"
    config = load_config(spec)
    corpora = tuple((str(args.root / Path(path).name), weight) for path, weight in config.data.corpora)
    decay = min(config.optim.decay_steps, args.steps // 2)
    harness.train(spec, workdir, f"data.corpora={corpora!r}", f"loop.steps={args.steps}", f"optim.decay_steps={decay}")
    if (done := steps(workdir)) < args.steps:
        raise SystemExit(f"{workdir}: stopped at step {done}; run again to go on")
    return config, workdir / "ema.safetensors"


def tables(results: harness.Results) -> list[str]:
    """Onset F1 of each way and films, and its difference from plain; p is adjusted for all of them (Holm)."""
    f1 = {cell: results.of(cell, "f1") for cell in results.cells}
    plain = {cell: f1.get(f"plain: {cell.partition(': ')[2]}") for cell in f1 if not cell.startswith("plain")}
    pairs = {
        cell: compare(f1[cell], own) for cell, own in plain.items() if own is not None and own.shape == f1[cell].shape
    }
    adjusted = dict(zip(pairs, holm([pair.p for pair in pairs.values()]), strict=True))
    body = []
    for name in FILMS:
        for cell in (f"{way}: {name}" for way in WAYS):
            if cell in f1:
                pair = pairs.get(cell)
                apart = "" if pair is None else f"{pair.difference:+.3f}"
                if pair is not None and np.isfinite(pair.deviation):  # of one seed there is none
                    apart += f" ± {pair.deviation:.3f}"
                chance = harness.said(adjusted[cell]) if pair else ""
                body.append([name, cell.partition(":")[0], harness.spread(list(f1[cell].mean(1))), apart, chance])
        if floors := [float(np.mean(results.of(f"{way}: {name}", "floor"))) for way in WAYS if f"{way}: {name}" in f1]:
            body.append([name, "*another film's*", float(np.mean(floors)), "", ""])
    return harness.markdown(["films", "trained on", "onset F1 (±50 ms)", "more than plain", "p, Holm"], body)


if __name__ == "__main__":
    main()
