"""Tables of experiment 15, from its results.json alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.comparison import compare, holm, student_p
from experiments.harness import markdown, said, spread

from .run import BOTH, CAPTION, CODEC, DEFAULT, OTHER, STEPS, TEXT, TIMED, TRUE, VIDEO, Cell

MEASURES = {
    "f1": "onset F1, mean", "pooled": "onset F1, pooled", "right": "right source",
    "chance": "probability of the source", "mel": "mel L1", "frechet": "Fréchet distance",
}  # fmt: skip
#: Of these, which differences are tested, and what a caption alone can be asked.
TESTED, OF_CAPTIONS = ("f1", "chance", "mel", "frechet"), ("right", "chance", "mel", "frechet")
DIGITS = {"frechet": 1}


def write(results, folder: Path) -> None:
    """Print the tables and keep them."""
    parts = [
        ("Steps and method", steps_table(results, STEPS)), ("Euler against Heun", pairs_table(results)),
        ("Guidance, both scales", scales_table(results, BOTH, "both")),
        ("Video scale, text at 3", scales_table(results, VIDEO, "video")),
        ("Text scale, video at 3", scales_table(results, TEXT, "text")),
        ("Caption alone", caption_table(results)), ("For comparison", references_table(results)),
    ]  # fmt: skip
    text = "\n".join(f"### {title}\n\n" + "\n".join(lines) + "\n" for title, lines in parts if lines)
    print(text)
    (folder / "tables.md").write_text(text)


def measured(results, cells: list[Cell]) -> list[Cell]:
    """Cells with as many seeds as the default."""
    seeds = results.cells[DEFAULT.name].keys()
    return [cell for cell in cells if results.cells.get(cell.name, {}).keys() >= seeds]


def by_seed(results, name: str, measure: str) -> np.ndarray:
    """One value a seed: the mean over the scenes that count."""
    if measure == "pooled":
        made, true = results.of(name, "detected").sum(1), sum(results.notes["true onsets"])
        return 2 * results.of(name, "matched").sum(1) / np.maximum(made + true, 1)
    values = results.of(name, measure)
    return values if values.ndim == 1 else np.nanmean(values, 1)


def shown(results, name: str, measure: str) -> str:
    return spread(by_seed(results, name, measure), DIGITS.get(measure, 3))


def p_values(results, pairs: list[tuple[str, str]], measure: str) -> list[float]:
    """Of paired differences over scenes (mean over seeds), adjusted for there being so many comparisons.

    Every scene has noise of its own, so the scenes' spread holds that of the noise. The Fréchet distance has no value
    for a scene: the pairs are the seeds.
    """
    found = []
    for a, b in pairs:
        a, b = (results.of(name, measure) for name in (a, b))
        if a.ndim == 1:
            found.append(student_p(a - b))
            continue
        counts = np.isfinite(a + b).all(0)
        found.append(compare(a[:, counts], b[:, counts]).p_scenes)
    return holm(found)


def ratio(results, cell: Cell) -> float:
    """Processor time of sampling, in the default's; cells differ by steps, method and branches alone."""
    times = results.notes["processor seconds"]
    alike = next((c for c in TIMED if c[:2] == cell[:2] and c.branches == cell.branches), None)
    if alike is None:
        return float("nan")
    return float(np.median(np.divide(times[alike.name], times[DEFAULT.name])))


def rows_of(results, cells: list[Cell], names: list[str], measures, baseline: str) -> list[list[str]]:
    """A row a cell: every measure, with p against the baseline behind those that are tested."""
    others = [cell for cell in cells if cell.name != baseline]
    p = {
        m: dict(zip(others, p_values(results, [(c.name, baseline) for c in others], m), strict=True))
        for m in measures
        if m in TESTED and others
    }
    body = []
    for cell, name in zip(cells, names, strict=True):
        row = [name]
        for measure in measures:
            value = shown(results, cell.name, measure)
            row.append(value if cell not in p.get(measure, {}) else f"{value} ({said(p[measure][cell])})")
        body.append(row)
    return body


def steps_table(results, cells: list[Cell]) -> list[str]:
    cells = measured(results, cells)
    names = [f"{cell.method} {cell.steps}" for cell in cells]
    body = [
        [row[0], cell.evaluations, f"{ratio(results, cell):.2f}", *row[1:]]
        for cell, row in zip(cells, rows_of(results, cells, names, MEASURES, DEFAULT.name), strict=True)
    ]
    return markdown(["method, steps", "evaluations", "time", *MEASURES.values()], body)


def pairs_table(results) -> list[str]:
    """Heun less Euler at equal numbers of evaluations."""
    cells, pairs = measured(results, STEPS), []
    for heun in (cell for cell in cells if cell.method == "heun"):
        pairs += [(heun, euler) for euler in cells if euler.method == "euler" and euler.steps == heun.evaluations]
    p = {m: p_values(results, [(a.name, b.name) for a, b in pairs], m) for m in TESTED if pairs}
    body = []
    for k, (heun, euler) in enumerate(pairs):
        change = lambda m, a=heun, b=euler: by_seed(results, a.name, m).mean() - by_seed(results, b.name, m).mean()
        cell = lambda m, k=k, change=change: f"{change(m):+.{DIGITS.get(m, 3)}f} ({said(p[m][k])})"
        body.append([str(euler.evaluations), *map(cell, TESTED)])
    return markdown(["evaluations", *(MEASURES[m] for m in TESTED)], body)


def scales_table(results, cells: list[Cell], varied: str) -> list[str]:
    cells = measured(results, cells)
    if len(cells) < 2:
        return []
    names = [f"{cell.text if varied == 'text' else cell.video:g}" for cell in cells]
    return markdown(["scale", *MEASURES.values()], rows_of(results, cells, names, MEASURES, DEFAULT.name))


def caption_table(results) -> list[str]:
    cells = measured(results, CAPTION)
    baseline = next((cell.name for cell in cells if cell.text == DEFAULT.text), None)
    if baseline is None:
        return []
    body = rows_of(results, cells, [f"{cell.text:g}" for cell in cells], OF_CAPTIONS, baseline)
    return markdown(["scale", *(MEASURES[m] for m in OF_CAPTIONS)], body)


def references_table(results) -> list[str]:
    return markdown(
        ["", *MEASURES.values()],
        [[name, *(shown(results, name, measure) for measure in MEASURES)] for name in (TRUE, CODEC, OTHER)],
    )
