"""`report.html`: what was found, refused and why, on one page that needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

import numpy as np

from kfjax import media
from kfjax.data import remote
from kfjax.data.clean.measure import MEASURES, Measured
from kfjax.data.clean.tables import TEXTS, cell
from kfjax.data.clean.thresholds import DUPLICATE, UNUSABLE, CleanConfig, Limit
from kfjax.data.sources import Row
from kfjax.storage import disk

NAME = "report.html"
#: Excerpts whose measures are drawn: all of a small corpus, every second, fourth, ... of a larger one.
_DRAWN = 8192
_EXAMPLES = 4
_BINS = 48
_WIDTH, _HEIGHT = 360, 90
_SIDE = 192
_WHAT = {DUPLICATE: "like one that is kept already", UNUSABLE: "can't be read or measured"}
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #5b8def; --bad: #d9534f; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; } h3 { margin: 1.5rem 0 .5rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .9rem .15rem 0; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } .share { background: var(--bad); height: .7rem; }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); }
.cards.wide { grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); }
figure { border: 1px solid var(--line); border-radius: .4rem; margin: 0; padding: .6rem; overflow-wrap: anywhere; }
figure text { font-size: 11px; }
figure img, figure svg { display: block; width: 100%; } figcaption { font-size: .85rem; margin-top: .3rem; }
.why { color: var(--bad); } small { opacity: .7; }
"""


class Page:
    """Collects what the page shows, excerpt by excerpt, in memory that does not grow with them."""

    def __init__(self, cfg: CleanConfig):
        self.cfg = cfg
        self._numbers = [name for name in MEASURES if name not in TEXTS]
        self._count, self._step = 0, 1
        self._drawn = np.empty((_DRAWN, len(self._numbers)))
        self._rows = 0
        self._examples: defaultdict[str, list[tuple]] = defaultdict(list)

    def add(self, row: Row, one: Measured, refused: Mapping[str, str]) -> None:
        """The next excerpt of the table, and why it is refused."""
        if self._count % self._step == 0:
            values = (one.measures.get(name) for name in self._numbers)
            self._drawn[self._rows] = [value if isinstance(value, int | float) else math.nan for value in values]
            self._rows += 1
            if self._rows == _DRAWN:
                self._rows, self._step = _DRAWN // 2, 2 * self._step
                self._drawn[: self._rows] = self._drawn[::2].copy()
        self._count += 1
        if refused:  # those whose digests are the largest: a sample, and always the same
            order = hashlib.sha256(f"{row.id} {one.start_seconds}".encode(errors="replace")).digest()
            for name in refused:
                push = heapq.heappush if len(self._examples[name]) < _EXAMPLES else heapq.heappushpop
                push(self._examples[name], (order, self._count, row, one, refused))

    def write(self, folder: Path, counts: Counter[str]) -> None:
        """The page, of all that was added. `counts` are those of `run.clean`."""
        disk.write_text(folder / NAME, "".join(self._parts(counts)), noted=False)

    def _parts(self, counts: Counter[str]) -> Iterator[str]:
        total = counts["excerpts"]
        yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>kfjax clean</title><style>{_STYLE}</style>'
        yield f"<h1>{counts['kept']} of {total} excerpts kept</h1>"
        yield "<h2>Refused</h2><table><tr><th>because of</th><th>limit</th><th>excerpts</th><th>share</th></tr>"
        for name in (*self.cfg.thresholds, DUPLICATE, UNUSABLE):
            share = counts[name] / max(1, total)
            limit = said(self.cfg.thresholds[name]) if name in self.cfg.thresholds else _WHAT[name]
            yield (
                f'<tr><td>{name}</td><td>{limit}</td><td class="n">{counts[name]}</td><td class="n">{share:.1%}</td>'
                f'<td><div class="share" style="width:{16 * share:.2f}rem"></div></td></tr>'
            )
        yield "</table><p>An excerpt that fails several counts for each of them.</p><h2>Measures</h2>"
        if self._step > 1:
            yield f"<p>Of every {self._step}th excerpt.</p>"
        yield '<div class="cards wide">'
        drawn = self._drawn[: self._rows]
        for name, values in zip(self._numbers, drawn.T, strict=True):
            yield _distribution(name, values[np.isfinite(values)], len(values), self.cfg.thresholds.get(name, Limit()))
        yield "</div><h2>Examples of what is refused</h2>"
        for name in (*self.cfg.thresholds, DUPLICATE, UNUSABLE):
            if name in self._examples:
                cards = (_card(*example[2:]) for example in sorted(self._examples[name], key=lambda one: one[1]))
                yield f'<h3>{name}</h3><div class="cards">{"".join(cards)}</div>'
        yield "</html>\n"


def said(limit: Limit) -> str:
    """ "least 0.5 and most 1"."""
    return " and ".join(f"{key} {value:g}" for key, value in vars(limit).items() if math.isfinite(value))


def _distribution(name: str, values: np.ndarray, total: int, limit: Limit) -> str:
    empty = f"; not measured in {total - len(values)} of {total}" if len(values) < total else ""
    edges = [edge for edge in (limit.least, limit.most) if math.isfinite(edge)]
    caption = f"<figcaption><b>{name}</b> {said(limit)}<br><small>{escape(MEASURES[name])}{empty}</small></figcaption>"
    if not len(values):
        return f"<figure>{caption}</figure>"
    low, high = min([*np.quantile(values, [0.002]), *edges]), max([*np.quantile(values, [0.998]), *edges])
    low, high = (low - 0.5, high + 0.5) if high - low < 1e-9 else (low, high)
    count, _ = np.histogram(np.clip(values, low, high), _BINS, (low, high))
    bar = _WIDTH / _BINS
    heights = np.where(count > 0, np.maximum(1.0, _HEIGHT * count / count.max()), 0)
    bars = "".join(
        f'<rect x="{i * bar:.1f}" y="{_HEIGHT - height:.1f}" width="{bar - 1:.1f}" height="{height:.1f}"/>'
        for i, height in enumerate(heights)
        if height
    )
    lines = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}" stroke="var(--bad)" stroke-width="2"/>'
        for x in ((edge - low) / (high - low) * _WIDTH for edge in edges)
    )
    ends = "".join(
        f'<text x="{x}" y="{_HEIGHT + 14}" text-anchor="{anchor}" fill="currentColor">{_short(value)}</text>'
        for x, anchor, value in ((0, "start", low), (_WIDTH, "end", high))
    )
    box = f'viewBox="-2 0 {_WIDTH + 4} {_HEIGHT + 18}"'
    drawing = f'<svg {box} role="img" aria-label="{name}"><g fill="var(--bar)">{bars}</g>{lines}{ends}</svg>'
    return f"<figure>{drawing}{caption}</figure>"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _card(row: Row, one: Measured, refused: Mapping[str, str]) -> str:
    why = "<br>".join(escape(cell(reason)) for reason in refused.values())
    where = f"{escape(cell(row.id))}<br><small>{one.seconds:g} s from {one.start_seconds:g}</small>"
    return f'<figure>{_drawn(row, one)}<figcaption>{where}<br><span class="why">{why}</span></figcaption></figure>'


def _drawn(row: Row, one: Measured) -> str:
    """A frame of the excerpt's middle, or its waveform; nothing of what can't be read."""
    if one.problem:
        return ""
    try:
        with remote.fetched(row) as here:
            if here.video is not None:
                return _frame(here.video, one)
            wave = media.read_audio(here.sound, 8000, 1, one.seconds, one.start_seconds)[:, 0]
    except (ValueError, OSError):  # it is gone since
        return ""
    peaks = [float(np.abs(part).max(initial=0)) for part in np.array_split(wave, 120)]
    bars = "".join(
        f'<rect x="{3 * i}" y="{45 - 45 * peak:.1f}" width="2" height="{max(1, 90 * peak):.1f}"/>'
        for i, peak in enumerate(peaks)
    )
    return f'<svg viewBox="0 0 360 90" role="img" aria-label="waveform"><g fill="var(--bar)">{bars}</g></svg>'


def _frame(video: Path, one: Measured) -> str:
    from PIL import Image

    info, spec = media.probe(video), media.FrameSpec(10.0, _SIDE, "stretch")
    middle = min(one.start_seconds + one.seconds / 2, info.seconds - 0.2)
    (frames,), _ = media.read_frames(video, [spec], start_seconds=max(0.0, middle), duration_seconds=0.1)
    scale = _SIDE * 1.5 / max(info.width, info.height)
    size = (max(1, round(info.width * scale)), max(1, round(info.height * scale)))
    file = io.BytesIO()
    Image.fromarray(frames[0]).resize(size).save(file, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
