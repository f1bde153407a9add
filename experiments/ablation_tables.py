"""What the ablations compare, and their tables, from results.json alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.comparison import Comparison, compare, holm
from experiments.harness import ROOT, markdown, spread

#: What a measure is called. "loss" is one number a run, the others one a scene.
MEASURES = {
    "f1": "onset F1 (±50 ms)",
    "late_f1": "onset F1, second half",
    "last_db": "last quarter's level, dB over the truth",
    "silent": "share of silence, over the truth's",
    "end_error_db": "error of the last 250 ms' level, dB",
    "loss": "held-out loss",
}


@dataclass(frozen=True)
class Experiment:
    """What is compared, by what (see MEASURES), on scenes of which lengths.

    The first variant is the one that the others are compared with.
    """

    name: str
    variants: tuple[str, ...]
    seconds: tuple[float, ...] = (4.0,)
    measures: tuple[str, ...] = ("f1", "loss")

    @property
    def folder(self) -> Path:
        return ROOT / "experiments" / self.name


#: In the order in which they run.
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("0010-rope", ("aligned", "unscaled", "none"), (2.0, 4.0, 6.0)),
        Experiment("0012-sync-features", ("with", "without")),
        Experiment("0011-duration", ("discrete", "fourier", "none"), (2.0, 4.0, 8.0, 13.0),
                   ("f1", "late_f1", "last_db", "silent", "end_error_db")),
        Experiment("0013-conv-blocks", ("conv3", "linear")),
        Experiment("0014-joint-single", ("2to4", "3to1", "1to6")),
    )
}  # fmt: skip


class Row(NamedTuple):
    """One variant under one measure; `comparison` with the first variant, None for itself or without a common seed."""

    measure: str
    length: str
    variant: str
    values: list[float]
    comparison: Comparison | None


def tables(experiment: Experiment, results: dict) -> str:
    """Markdown: what was measured, then what it cost. p is adjusted for the comparisons under one measure (Holm)."""
    body = []
    for measure in experiment.measures:
        rows = list(measured(experiment, results, measure))
        compared = [row for row in rows if row.comparison]
        adjusted = dict(zip(map(id, compared), holm([row.comparison.p for row in compared]), strict=True))
        for row in rows:
            own = f"{spread(row.values)} ({len(row.values)})"
            body.append([MEASURES[measure], row.length, row.variant, own, *differing(row, adjusted)])
        if measure != "loss":
            for length, name, value in bounds(results, measure):
                body.append([MEASURES[measure], f"{length} s", f"*{name}*", value, *[""] * 4])
    header = [
        "measure",
        "scenes",
        "variant",
        "mean ± deviation (seeds)",
        "difference",
        "p scenes",
        "p seeds",
        "p, Holm",
    ]
    return "\n".join([*markdown(header, body), "", *costs(experiment, results)])


def measured(experiment: Experiment, results: dict, measure: str) -> Iterator[Row]:
    """Rows of one measure, length by length."""
    for length in ["4"] if measure == "loss" else [f"{s:g}" for s in experiment.seconds]:
        scores = {variant: by_seed(results, variant, length, measure) for variant in experiment.variants}
        base = scores[experiment.variants[0]]
        for variant, own in scores.items():
            if not own:
                continue
            common = sorted(own.keys() & base.keys()) if variant != experiment.variants[0] else []
            comparison = compare(*(np.array([side[s] for s in common]) for side in (own, base))) if common else None
            yield Row(measure, f"{length} s", variant, [float(np.mean(own[s])) for s in sorted(own)], comparison)


def by_seed(results: dict, variant: str, length: str, measure: str) -> dict[int, list[float]]:
    """seed -> a value a scene; scenes that the measure says nothing of (None) are left out."""
    found = {}
    for name, one in results["runs"].items():
        kind, _, seed = name.rpartition("-")
        if kind == variant:
            values = [one["loss"]] if measure == "loss" else one["lengths"][length][measure]
            found[int(seed)] = [value for value in values if value is not None]
    return found


def bounds(results: dict, measure: str) -> Iterator[tuple[str, str, float]]:
    """(length, name, value): the true sound through the codec, and every sound taken for another scene's."""
    for length, own in results["true sound"].items():
        yield length, "ceiling", mean_of(own[measure])
        if measure == "f1":
            floors = [value for one in results["runs"].values() for value in one["lengths"][length]["floor"]]
            yield length, "floor", mean_of(floors)


def mean_of(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def differing(row: Row, adjusted: dict[int, float]) -> list[str]:
    if (one := row.comparison) is None:
        return [""] * 4
    chance = lambda p: "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
    p = one.p_scenes, one.p_seeds, adjusted[id(row)]
    return [f"{one.difference:+.3f} ± {one.deviation:.3f}", *map(chance, p)]


def costs(experiment: Experiment, results: dict) -> list[str]:
    body = []
    for variant in experiment.variants:
        if runs := [one for name, one in sorted(results["runs"].items()) if name.rpartition("-")[0] == variant]:
            seconds = ", ".join(str(one["seconds"]) for one in runs)
            body.append([variant, f"{runs[0]['parameters']:,}", runs[0]["steps"], seconds])
    return markdown(["variant", "parameters", "steps", "seconds of training (by seed)"], body)
