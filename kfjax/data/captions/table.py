"""Captions of a table: read, fused in its order, written with all its other columns as they were."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

from kfjax.data import sources
from kfjax.data.captions.rules import Fuser, Texts
from kfjax.storage import disk

#: Column -> the field of `Texts` that it is. One of them at least must be there.
FIELDS = {"caption": "caption", "prompt": "caption", "audio_caption": "audio", "video_caption": "video", "tags": "tags"}
#: What tags in a cell are separated by.
_SEPARATORS = re.compile(r"[;|,/\n]")


def caption_table(table: Path, output: Path, fuse: Fuser) -> Counter[str]:
    """Write `table` to `output` with captions fused from its columns `FIELDS`.

    The column `caption` is filled, and added where there is none; nothing else changes. A clip of which nothing is
    said keeps an empty caption. A table of `kfjax clean` is asked for the rows that are kept alone.

    Returns:
      "rows", "captions" (how many have one now) and "changed" (how many another than before).

    Raises:
      ValueError: no such table, none of the columns; what the fuser raises.
    """
    if output.suffix.lower() not in sources.TABLES:
        raise ValueError(f"--output: got {output}, expected a file in {' or '.join(sources.TABLES)}; rename it")
    header, rows = sources.whole_table(table)
    names = [re.sub(r"[\s-]+", "_", name.strip().lower()) for name in header]
    if not FIELDS.keys() & set(names):
        raise ValueError(f"{table}: got the columns {', '.join(names)}, expected one of {', '.join(FIELDS)}; add it")
    place = next((names.index(name) for name in ("caption", "prompt") if name in names), None)
    if place is None:
        header, rows, place = [*header, "caption"], [[*cells, ""] for cells in rows], len(header)
    asked = [k for k, cells in enumerate(rows) if "kept" not in names or cells[names.index("kept")].strip() != "no"]
    before = [rows[k][place] for k in asked]
    made = fuse([_texts(names, rows[k]) for k in asked])
    for k, caption in zip(asked, made, strict=True):
        rows[k][place] = caption
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t" if output.suffix.lower() == ".tsv" else ",").writerows([header, *rows])
    disk.write_text(output, text.getvalue(), noted=False)
    changed = sum(old != new for old, new in zip(before, made, strict=True))
    return Counter(rows=len(rows), captions=sum(map(bool, made)), changed=changed)


def _texts(names: list[str], cells: list[str]) -> Texts:
    found: dict[str, str] = {}
    for name, cell in zip(names, cells, strict=False):
        if name in FIELDS and cell.strip():
            found.setdefault(FIELDS[name], cell.strip())
    tags = tuple(filter(None, map(str.strip, _SEPARATORS.split(found.pop("tags", "")))))
    return Texts(**found, tags=tags)
