"""Table of experiment 16, from its results.json alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.comparison import compare, holm
from experiments.harness import markdown, said, spread

from .run import COHERENT, COPIED, INDEPENDENT, SEPARATE, TRUE, WAYS

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


def write(results, folder: Path) -> None:
    """Print the table and keep it."""
    text = "\n".join(table(results)) + "\n"
    print(text)
    (folder / "tables.md").write_text(text)


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
    body = []
    for name in (*WAYS, TRUE):
        row = [NAMES[name]]
        for measure in MEASURES:
            cell, chance = spread(by_seed(results, name, measure)), p.get(measure, {}).get(name)
            row.append(cell if chance is None else f"{cell} ({said(chance)})")
        body.append(row)
    return markdown(["", *MEASURES.values()], body)
