"""Report of an evaluation: report.md with our figures, published ones and the protocol; files.csv; plots."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kfjax import media, plot
from kfjax.evals.benchmarks import BenchmarkExample
from kfjax.evals.measures import COLUMNS, SAMPLE_RATE_HZ, Figures, Pair
from kfjax.evals.published import CODECS, PUBLISHED
from kfjax.media import FrameSpec
from kfjax.metrics.onsets import detect_onsets, merge_close, onset_f1
from kfjax.storage import disk

#: Figures that published tables have, in their order.
FIELD = ("fd_panns", "kl_panns", "is_panns", "ib", "desync_seconds", "clap", "sdr_db", "mcd_db")
#: Those of the published table of codecs.
OF_CODECS = ("mel_l1", "stft", "lsd_db", "mcd_db", "si_sdr_db", "sdr_db", "pesq")
_SHOWN = 20  # names of a list before it is cut
_FRAME = FrameSpec(25.0, 160, "crop")


def write(folder: Path, results: Mapping[str, Any], figures: Mapping[str, Figures], pictures: Sequence[Path]) -> None:
    """report.md and files.csv; each appears only when complete."""
    disk.write_text(folder / "files.csv", _table_of_files(figures), noted=False)
    written = text(results, [path.relative_to(folder).as_posix() for path in pictures])
    disk.write_text(folder / "report.md", written, noted=False)


def text(results: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """The report in Markdown, of what results.json holds."""
    protocol, scores = results["protocol"], results["scores"]
    lines = [f"# {results['target']} on {protocol['benchmark']}", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in protocol.items()]
    lines += [f"- {line}" for line in _matching(results["matching"])]
    lines += ["", "## Figures", "", *_scores(scores)]
    if results["unavailable"]:
        lines += ["", "Not measured:", ""]
        lines += [f"- {group}: {reason}" for group, reason in results["unavailable"].items()]
    if "scenes" in results:
        lines += ["", "## Against the scenes' ground truth", "", *_scenes(results["scenes"])]
    lines += ["", "## Beside published figures", "", *published(results["key"], results["target"], scores)]
    if pictures:
        lines += ["", "## Pictures", "", *(f"![{Path(name).stem}]({name})" for name in pictures)]
    return "\n".join(lines) + "\n"


def rows(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    line = lambda cells: f"| {' | '.join(cells)} |"
    return [line(header), "|" + "---|" * len(header), *map(line, body)]


class Drawn(NamedTuple):
    """The clips that pictures show, from the best to the worst: each alone, and together in one of their onsets."""

    alone: list[Pair]
    together: list[Pair]


def drawn(pairs: Sequence[Pair], figures: Mapping[str, Figures], most: int) -> Drawn:
    """`most` clips alone, and up to twelve together; of `most` 0 none."""
    ranked = _ranked(pairs, figures)
    spread = lambda count: [ranked[k] for k in dict.fromkeys(map(round, np.linspace(0, len(ranked) - 1, count)))]
    return Drawn(*(spread(min(count, len(ranked))) for count in (most, 12))) if most > 0 else Drawn([], [])


def pictures(folder: Path, shown: Drawn) -> list[Path]:
    """Generated beside true sound of some clips, and a raster of the onsets of some."""
    if not shown.alone:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    raster = [
        _onsets(example, media.read_audio(path, SAMPLE_RATE_HZ), example.sound(SAMPLE_RATE_HZ))
        for example, path in shown.together
    ]
    made = [folder / f"{example.name}.png" for example, _ in shown.alone]
    for target, pair in zip(made, shown.alone, strict=True):
        _draw_pair(target, *pair)
    seconds = max(example.seconds for example, _ in shown.together)
    plot.raster(folder / "onsets.png", raster, seconds, title="onsets, from best to worst")
    return [*made, folder / "onsets.png"]


def _draw_pair(target: Path, example: BenchmarkExample, path: Path) -> None:
    true, wave = example.sound(SAMPLE_RATE_HZ), media.read_audio(path, SAMPLE_RATE_HZ)
    frames = plot.strip(example.frames([_FRAME])[0]) if example.has_video else None
    plot.comparison(
        target, wave[: len(true)], SAMPLE_RATE_HZ, true=true, frames=frames, marks=example.times or (),
        onsets=[_onsets(example, wave[: len(true)], true)], positions=example.positions,
        title=f"{example.name}: {example.caption}".removesuffix(": "),
    )  # fmt: skip


def _onsets(example: BenchmarkExample, made: np.ndarray, true: np.ndarray) -> plot.Onsets:
    times = np.asarray(detect_onsets(true, SAMPLE_RATE_HZ) if example.times is None else example.times)
    times = times[merge_close(times, 0.05)]
    heard = detect_onsets(made[: len(true)], SAMPLE_RATE_HZ)
    return plot.Onsets(example.name, times, heard, onset_f1(heard, times).pairs)


def _ranked(pairs: Sequence[Pair], figures: Mapping[str, Figures]) -> list[Pair]:
    """From the best to the worst: by onsets where they were measured and something is struck, else by name."""
    score = lambda pair: figures[pair[0].name].get("onset_f1", math.nan)
    known = [pair for pair in pairs if not math.isnan(score(pair))]
    return sorted(known, key=lambda pair: (-score(pair), pair[0].name)) or list(pairs)


def _matching(matching: Mapping[str, Any]) -> list[str]:
    lines = [f"clips measured: {matching['measured']}"]
    for name, what in (("missing", "clips without a generated sound"), ("extra", "generated files of no clip"),
                       ("unreadable", "clips that can't be read or made")):  # fmt: skip
        if listed := matching[name]:
            more = f" and {len(listed) - _SHOWN} more, in results.json" if len(listed) > _SHOWN else ""
            lines.append(f"{what}: {len(listed)} ({', '.join(listed[:_SHOWN])}{more})")
    return lines


def _scores(scores: Mapping[str, Any]) -> list[str]:
    body = []
    for name, column in COLUMNS.items():
        if (score := scores.get(name)) is not None:
            true = scores.get(f"true_{name}")
            figures = _number(score), "" if true is None else _number(true), str(score["count"])
            body.append([f"{column.title} {column.better}".strip(), *figures])
    note = "Means; ± is the standard error over clips (of the inception score, the deviation over its splits)."
    return [*rows(["", "generated", "true sound", "clips"], body), "", note]


def _scenes(scenes: Mapping[str, Any]) -> list[str]:
    kinds = ("generated", "ceiling", "floor")
    lines, body = [], []
    for name, label in (("synchrony", "onsets within ±50 ms, mean F1"), ("pooled", "the same, all onsets pooled"),
                        ("space", "level difference of the channels against position, correlation"),
                        ("meaning", "right source of single-source scenes")):  # fmt: skip
        if name in scenes:
            body.append([label, *(_number(scenes[name][kind]) for kind in kinds)])
    lines += [*rows(["", *kinds], body), "", "Ceiling: the true sound. Floor: the sound generated for the next scene."]
    if "recipes" in scenes:
        lines += ["", *rows(["mean F1 of", *kinds], [[f"{name} ({own['scenes']})", *(_number(own[k]) for k in kinds)]
                                                     for name, own in scenes["recipes"].items()])]  # fmt: skip
    return lines


def published(key: str, target: str, scores: Mapping[str, Any]) -> list[str]:
    """Published rows above ours; a figure that a row lacks is left empty."""
    if key not in PUBLISHED:
        return ["Nobody has published figures on these clips.", *(_codecs(target, scores) if key == "folder" else [])]
    cell = lambda value: "" if value is None else f"{value:.4g}"
    header = ["", *(f"{COLUMNS[name].title} {COLUMNS[name].better}" for name in FIELD), "source"]
    body = [[row.system, *(cell(row.figures.get(name)) for name in FIELD), row.source] for row in PUBLISHED[key]]
    own = [scores[name]["value"] if name in scores else None for name in FIELD]
    body.append([f"**{target}**", *map(cell, own), "this report"])
    note = (
        "Figures of other sources were made by their protocols: compare clips, seconds and networks before ranks. "
        "FD falls with the number of clips: that of a part is not that of the whole."
    )
    return [*rows(header, body), "", note]


def _codecs(target: str, scores: Mapping[str, Any]) -> list[str]:
    """Published codecs above ours: what is compared with one's own sounds may be what a codec makes of them."""
    if not any(name in scores for name in OF_CODECS):
        return []
    cell = lambda value: "" if value is None else f"{value:.4g}"
    header = ["", "", *(f"{COLUMNS[name].title} {COLUMNS[name].better}" for name in OF_CODECS)]
    body = [[task, row.system, *(cell(row.figures.get(name)) for name in OF_CODECS)]
            for task, published_rows in CODECS.items() for row in published_rows]  # fmt: skip
    own = [scores[name]["value"] if name in scores else None for name in OF_CODECS]
    body.append(["these clips", f"**{target}**", *map(cell, own)])
    note = f"If these are a codec's: {CODECS['music'][0].source}, 500 clips a task, by the authors' own programs."
    return ["", *rows(header, body), "", note]


def _number(value: Any) -> str:
    """A figure, or one with its error, as printed."""
    if isinstance(value, Mapping):
        error = value["error"]
        return _number(value["value"]) + ("" if error is None else f" ± {_number(error)}")
    return "-" if value is None else f"{value:.3f}"


def _table_of_files(figures: Mapping[str, Figures]) -> str:
    measured = next(iter(figures.values()))
    names = [name for column in COLUMNS for name in (column, f"true_{column}") if name in measured]
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["clip", *names])
    for clip, own in figures.items():
        table.writerow([clip, *("" if math.isnan(own[name]) else f"{own[name]:.4f}" for name in names)])
    return file.getvalue()
