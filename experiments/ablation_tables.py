"""The ablations' tables and pictures, from results.json alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kfjax import plot as pictures
from kfjax.evals.statistics import Comparison, compare, holm, mean_and_deviation

if TYPE_CHECKING:
    from ablations import Experiment

#: What a measure is called. "loss" is one number a run, the others one a scene.
MEASURES = {
    "f1": "onset F1 (±50 ms)",
    "late_f1": "onset F1, second half",
    "last_db": "last quarter's level, dB over the truth",
    "silent": "share of silence, over the truth's",
    "end_error_db": "error of the last 250 ms' level, dB",
    "loss": "held-out loss",
}


class Row(NamedTuple):
    """One variant under one measure; `comparison` with the first variant, None for itself or without a common seed."""

    measure: str
    length: str
    variant: str
    values: list[float]
    comparison: Comparison | None


def tables(experiment: Experiment, results: dict) -> str:
    """Markdown: what was measured, then what it cost. p is adjusted for the comparisons under one measure (Holm)."""
    lines = [
        "| measure | scenes | variant | mean ± deviation (seeds) | difference | p scenes | p seeds | p, Holm |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for measure in experiment.measures:
        rows = list(measured(experiment, results, measure))
        compared = [row for row in rows if row.comparison]
        adjusted = dict(zip(map(id, compared), holm([row.comparison.p for row in compared]), strict=True))
        for row in rows:
            lines.append(
                f"| {MEASURES[measure]} | {row.length} | {row.variant} | {spread(row.values)} | "
                f"{differing(row.comparison, adjusted.get(id(row)))} |"
            )
        if measure != "loss":
            lines += [
                f"| {MEASURES[measure]} | {length} s | *{name}* | {value:.3f} | | | | |"
                for length, name, value in bounds(results, measure)
            ]
    return "\n".join([*lines, "", *costs(experiment, results)])


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


def spread(values: list[float]) -> str:
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.3f} ± {deviation:.3f} ({len(values)})"


def differing(comparison: Comparison | None, adjusted: float | None) -> str:
    if comparison is None:
        return "| | |"
    p = [comparison.p_scenes, comparison.p_seeds, adjusted]
    return " | ".join([f"{comparison.difference:+.3f} ± {comparison.deviation:.3f}", *map(chance, p)])


def chance(p: float) -> str:
    return "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def costs(experiment: Experiment, results: dict) -> list[str]:
    lines = ["| variant | parameters | steps | seconds of training (by seed) |", "|---|---|---|---|"]
    for variant in experiment.variants:
        runs = [one for name, one in sorted(results["runs"].items()) if name.rpartition("-")[0] == variant]
        if runs:
            seconds = ", ".join(str(one["seconds"]) for one in runs)
            lines.append(f"| {variant} | {runs[0]['parameters']:,} | {runs[0]['steps']} | {seconds} |")
    return lines


def plot(experiment: Experiment, results: dict, path: Path) -> None:
    """A panel a measure: every seed a dot, their mean a bar."""
    from matplotlib.figure import Figure

    count = len(experiment.measures)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(7.2, 0.5 + 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, measure in zip(axes, experiment.measures, strict=False):
        draw(ax, list(measured(experiment, results, measure)), experiment.variants)
        ax.set_title(MEASURES[measure], fontsize=7)
        if measure != "loss":
            limits(ax, results, measure, len(experiment.variants))
    for ax in axes[count:]:
        ax.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), fontsize=8, ncols=len(named), loc="outside upper center", frameon=False)
    pictures.save(figure, path)


def draw(ax, rows: list[Row], variants: tuple[str, ...]) -> None:
    """Variants side by side; lengths beside one another with a gap."""
    lengths = list(dict.fromkeys(row.length for row in rows))
    place = lambda row: lengths.index(row.length) * (len(variants) + 1) + variants.index(row.variant)
    colours = [f"C{k}" for k in range(len(variants))]
    for row in rows:
        x, colour = place(row), colours[variants.index(row.variant)]
        ax.bar(x, np.mean(row.values), width=0.8, color=colour, alpha=0.35, label=row.variant)
        ax.scatter([x + 0.15 * (k - 1) for k in range(len(row.values))], row.values, s=12, color=colour, zorder=3)
    centres = [k * (len(variants) + 1) + (len(variants) - 1) / 2 for k in range(len(lengths))]
    ax.set_xticks(centres, lengths, fontsize=7)
    ax.tick_params(axis="y", labelsize=7)
    values = [value for row in rows for value in row.values]
    if rows[0].measure == "loss":
        margin = 0.3 * (max(values) - min(values)) + 1e-3
        ax.set_ylim(min(values) - margin, max(values) + margin)


def limits(ax, results: dict, measure: str, variants: int) -> None:
    """Ceiling and floor as dashes over each length's bars."""
    lengths = list(results["true sound"])
    for length, name, value in bounds(results, measure):
        x = lengths.index(length) * (variants + 1)
        ax.hlines(value, x - 0.5, x + variants - 0.5, color="black", linestyle="--", linewidth=0.8)
        ax.annotate(name, (x - 0.5, value), xytext=(0, 2), textcoords="offset points", fontsize=5)
    if "f1" in measure:
        ax.set_ylim(0, 1.08)
