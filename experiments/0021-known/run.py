"""Does training with known latents make a given sound, and a reference, heard?

    python -m experiments 0021                     # prepares, trains and measures; stop and go on at will
    python -m experiments 0021 --report            # tables of what there is

known and control: the built-in model's network after the same steps on the same scenes, with some latents given in half
of the noise draws, and in none. shipped: as it is. Ways: those of 0017/given.py, and MORE, which take from the film and
the caption what a reference of another kind has to stand against.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from experiments import ablation_data, harness
from experiments.ablations import steps

given = import_module("experiments.0017-long.given")
HERE = Path(__file__).parent
WEIGHTS = ("known", "control", "shipped")
#: Seconds -> share of the scenes that are trained on.
DURATIONS = {4.0: 0.4, 8.0: 0.4, 11.0: 0.2}
SHARDS, SEED = 4, 21
SAMPLING = {"steps": 5, "schedule": "sway"}
MORE = {
    "film": given.Way(base="film", caption=False),
    "film, reference": given.Way("reference", "film", caption=False),
    "caption": given.Way(base="caption", film=False),
    "caption, reference": given.Way("reference", "caption", film=False),
}
WAYS = given.WAYS | MORE
#: Guidance below the model's own -> ways. At 0 neither film nor caption counts.
LOWER = {0.0: {name: MORE[name] for name in ("caption", "caption, reference")}, 0.5: MORE, 1.0: MORE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, default=Path("runs/known"), help="for data and runs (default %(default)s)")
    add("--scenes", type=int, default=800, help="to train on (default %(default)s)")
    add("--asked", type=int, default=60, help="held-out scenes to measure (default %(default)s)")
    add("--weights", nargs="+", choices=WEIGHTS, default=WEIGHTS, help="which to train and measure (default: all)")
    add("--guidance", type=float, nargs="+", choices=LOWER, default=(), help="measure 22 scenes so instead")
    add("--output", type=Path, default=HERE, help="folder of what is measured (default: beside this file)")
    add("--report", action="store_true", help="measure nothing: tables of what there is")
    args = parser.parse_args()
    if not args.report:
        prepare(args.root, args.scenes)
        for name in args.weights:
            folder = harness.MODEL if name == "shipped" else trained(args.root, name)
            model = load(folder)
            for scale in args.guidance:
                path = args.output / f"{name}-guidance-{scale:g}.json"
                given.measure(model, path, 22, LOWER[scale], guidance=scale, **SAMPLING)
            if not args.guidance:
                given.measure(model, args.output / f"{name}.json", args.asked, WAYS, **SAMPLING)
    rows = {name: harness.read_json(args.output / f"{name}.json", []) for name in WEIGHTS}
    print("\n".join([*report({name: own for name, own in rows.items() if own}), "", *by_guidance(args.output)]))


def prepare(root: Path, scenes: int) -> None:
    """Render and encode what is trained on; what is there already is left alone."""
    from kfjax import pipeline, system
    from kfjax.data.encode import FeatureEncoder
    from kfjax.scenes import render_corpus

    pipeline.use_program_cache()
    if (root / "features" / "index.json").exists():
        return
    corpus = render_corpus(root / "scenes", scenes, seed=SEED, split="train", durations=DURATIONS, size=64)
    encoder = FeatureEncoder(system.load(pipeline.BUILT_IN), 16, stereo=False)
    ablation_data.encode(corpus, tuple(DURATIONS), root / "features", encoder, shards=SHARDS)


def trained(root: Path, name: str) -> Path:
    """The model directory of a run, trained where it is not yet."""
    spec, workdir = f"{HERE / 'config.py'}:{name}", root / "train" / name
    if not (workdir / "model").exists():
        harness.train(spec, workdir, f"data.corpora=(('{root / 'features'}', 1.0),)")
    if not (workdir / "model").exists():
        raise SystemExit(f"{workdir}: stopped at step {steps(workdir)}; run again to go on")
    return workdir / "model"


def load(folder: Path):
    """The model in a directory, with `ablation_data.plain_codec`."""
    from kfjax import pipeline, system

    base = system.load(folder)
    cfg = replace(base.cfg, codec=ablation_data.plain_codec(base.cfg.codec))
    params = {name: part for name, part in base.params.items() if name != "stereo"}
    return pipeline.Model(base._replace(cfg=cfg, params=params))


def report(rows: dict[str, list[dict]]) -> list[str]:
    """Tables of the weights that are measured, on the scenes that all of them have."""
    count = min(map(len, rows.values()))
    rows = {name: own[:count] for name, own in rows.items()}
    body = [[way, *(f"{mean(own, way, 'f1'):.3f} / {mean(own, way, 'timbre'):.2f}" for own in rows.values())]
            for way in WAYS]  # fmt: skip
    lines = [f"{count} scenes.", "", *harness.markdown(["onset F1 / timbre, dB", *rows], body), ""]
    ways = [name for name, way in WAYS.items() if way.given]
    for score, about in (("timbre", "timbre, less without it"), ("towards", "towards the reference, less without it")):
        asked = [way for way in ways if score == "timbre" or WAYS[way].given == "reference"]
        body = [[way, *(less(own, way, own, WAYS[way].base, score) for own in rows.values())] for way in asked]
        lines += [*harness.markdown([f"given: {about}, dB", *rows], body), ""]
    if {"known", "control"} <= rows.keys():
        scores = {"f1": 3, "timbre": 2, "towards": 2}
        body = [[way, *(less(rows["known"], way, rows["control"], way, *own) for own in scores.items())]
                for way in WAYS]  # fmt: skip
        lines += harness.markdown(["known less control", "onset F1", "timbre, dB", "towards the reference, dB"], body)
    return lines


def by_guidance(folder: Path) -> list[str]:
    """The table of what was measured at guidance below the model's own."""
    body = []
    for name in WEIGHTS:
        for scale, ways in LOWER.items():
            rows = harness.read_json(folder / f"{name}-guidance-{scale:g}.json", [])
            for way in ways if rows else ():
                if base := WAYS[way].given and WAYS[way].base:
                    far = [f"{mean(rows, key, 'towards'):.2f}" for key in (base, way)]
                    f1 = [f"{mean(rows, key, 'f1'):.3f}" for key in (base, way)]
                    body.append([name, f"{scale:g}", way, len(rows), *far, less(rows, way, rows, base, "towards"), *f1])
    without = "without", "with a reference"
    return harness.markdown(["weights", "guidance", "way", "scenes", *(f"dB from it {way}" for way in without), "less",
                             *(f"onset F1 {way}" for way in without)], body)  # fmt: skip


def mean(rows: list[dict], way: str, score: str) -> float:
    return float(np.mean([row[way][score] for row in rows if score in row[way]]))


def less(rows: list[dict], way: str, others: list[dict], other: str, score: str, digits: int = 2) -> str:
    """Mean paired difference ± the half interval of 95 %."""
    pairs = [(row[way][score], own[other][score]) for row, own in zip(rows, others, strict=True) if score in row[way]]
    return given.spread(np.array(pairs) @ [1, -1], digits)


if __name__ == "__main__":
    main()
