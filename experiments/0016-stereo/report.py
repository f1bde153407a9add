"""Table and plot of experiment 16, from its results.json alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from run import COHERENT, COPIED, INDEPENDENT, SEPARATE, TRUE, WAYS

from kfjax import plot as pictures
from kfjax.evals.statistics import compare, holm, mean_and_deviation
from kfjax.plot import BLUE

MEASURES = {
    "correlation": "level difference against position, correlation", "error": "level difference, error, dB",
    "coherence": "coherence of the ears", "lost": "sum: level lost, dB", "comb": "sum: comb, dB",
    "mel": "sum: mel L1, natural log",
}  # fmt: skip
TESTED = ("error", "coherence", "lost", "comb", "mel")
#: Way, what it is compared with: where things stand, and what vocoding the ears apart costs.
AGAINST = ((SEPARATE, COHERENT), (COPIED, COHERENT), (INDEPENDENT, COHERENT))
NAMES = {
    COHERENT: "Mono2Stereo, one waveform panned", SEPARATE: "Mono2Stereo, each ear vocoded", COPIED: "mono, copied",
    INDEPENDENT: "two independent sounds", TRUE: "true sound",
}  # fmt: skip
GREY = "#999999"


def write(results, folder: Path) -> None:
    """Print the table and keep it beside the plot."""
    text = "\n".join(table(results)) + "\n"
    print(text)
    (folder / "tables.md").write_text(text)
    plot(results, folder / "stereo.png")


def differences(results, name: str) -> list[list[np.ndarray]]:
    """Seed -> scene -> level differences at its events, dB."""
    return [[np.array(events, float) for events in own["difference"]] for _, own in sorted(results.cells[name].items())]


def positions(results) -> np.ndarray:
    return np.concatenate([np.array(own, float) for own in results.notes["positions"]])


def correlations(results, name: str) -> np.ndarray:
    """Of each seed, over the events of all scenes; 0 where the ears are equal, for they tell nothing."""
    at, found = positions(results), []
    for scenes in differences(results, name):
        heard = np.concatenate(scenes)
        found.append(float(np.corrcoef(at, heard)[0, 1]) if heard.std() > 1e-6 else 0.0)
    return np.array(found)


def errors(results, name: str) -> np.ndarray:
    """[seeds, scenes]: mean distance of the level difference from the true sound's, dB; NaN without a lone event."""
    true = differences(results, TRUE)[0]
    error = lambda own, real: np.abs(own - real).mean() if len(real) else np.nan
    return np.array([list(map(error, scenes, true)) for scenes in differences(results, name)])


def values(results, name: str, measure: str) -> np.ndarray:
    """[seeds, scenes], or [seeds] for the correlation."""
    if measure == "correlation":
        return correlations(results, name)
    return errors(results, name) if measure == "error" else results.of(name, measure)


def by_seed(results, name: str, measure: str) -> np.ndarray:
    found = values(results, name, measure)
    return found if found.ndim == 1 else np.nanmean(found, 1)


def p_values(results, measure: str) -> dict[str, float]:
    """Way -> p of its paired difference from the way it is compared with, over scenes, adjusted for three of them."""
    found = []
    for a, b in AGAINST:
        a, b = (values(results, name, measure) for name in (a, b))
        counts = np.isfinite(a + b).all(0)
        found.append(compare(a[:, counts], b[:, counts]).p_scenes)
    return dict(zip((way for way, _ in AGAINST), holm(found), strict=True))


def table(results) -> list[str]:
    """Mean over scenes ± deviation over seeds; p against the first row in brackets."""
    p = {measure: p_values(results, measure) for measure in TESTED}
    lines = [f"| | {' | '.join(MEASURES.values())} |", "|" + "---|" * (len(MEASURES) + 1)]
    for name in (*WAYS, TRUE):
        row = [NAMES[name]]
        for measure in MEASURES:
            mean, deviation = mean_and_deviation(by_seed(results, name, measure))
            cell = f"{mean:.3f}" + ("" if np.isnan(deviation) else f" ± {deviation:.3f}")
            chance = p.get(measure, {}).get(name)
            row.append(cell if chance is None else f"{cell} ({'p < 0.001' if chance < 0.001 else f'p = {chance:.2g}'})")
        lines.append(f"| {' | '.join(row)} |")
    return lines


def plot(results, path: Path) -> None:
    """Above, level difference against position for each way; below, what the sum loses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    above, below = figure.subfigures(2, 1)
    for ax, name in zip(above.subplots(1, 4, sharey=True), (COHERENT, SEPARATE, INDEPENDENT, TRUE), strict=True):
        at, scenes = positions(results), differences(results, name)
        for own in scenes:
            ax.scatter(at, np.concatenate(own), s=9, color=BLUE, alpha=0.45, linewidths=0)
        r = correlations(results, name).mean()
        ax.set_title(f"{NAMES[name].replace(', ', chr(10))}\ncorrelation {r:.2f}", fontsize=10)
        ax.set(xlim=(-1.1, 1.1), xticks=(-1, 0, 1), xlabel="position, left to right")
        ax.grid(alpha=0.3)
        if name == COHERENT:
            ax.set_ylabel("right over left, dB")
    for ax, measure in zip(below.subplots(1, 4), ("coherence", "lost", "comb", "mel"), strict=True):
        stats = [mean_and_deviation(by_seed(results, name, measure)) for name in WAYS]
        mean, deviation = np.array(stats).T
        ax.bar(range(4), mean, yerr=np.nan_to_num(deviation), capsize=3, color=[BLUE, BLUE, GREY, GREY],
               hatch=["", "//", "", "//"], edgecolor="white")  # fmt: skip
        ax.set_xticks(range(4), WAYS, rotation=35, ha="right", fontsize=10)
        ax.set_title(MEASURES[measure].replace(": ", ":\n"), fontsize=10)
        ax.grid(axis="y", alpha=0.3)
    pictures.save(figure, path)
