"""Captions of a table: read, fused in its order, written with all its other columns as they were."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from kfjax.data import tables
from kfjax.data.captions.rules import Fuser, Texts

#: Column -> the field of `Texts` that it is. One of them at least must be there.
FIELDS = {"caption": "caption", "prompt": "caption", "audio_caption": "audio", "video_caption": "video", "tags": "tags"}


def caption_table(table: Path, output: Path, fuse: Fuser) -> Counter[str]:
    """Write `table` to `output` with captions fused from its columns `FIELDS`.

    The column `caption` is filled, and added where there is none; nothing else changes (`tables.write_column`). A clip
    of which nothing is said has an empty caption. Of a table of `kfjax clean` only the rows that are kept get one. Tags
    are separated by semicolons, bars or line breaks; by commas where there are none of these.

    Returns:
      "rows", "captions" (how many got one) and "changed" (how many another than before).

    Raises:
      ValueError: no such table, none of the columns; what the fuser raises.
    """
    tables.check_suffix(output)
    whole = tables.whole(table)
    names = [tables.plain(name) for name in whole.header]
    if not FIELDS.keys() & set(names):
        raise ValueError(f"{table}: got the columns {', '.join(names)}, expected one of {', '.join(FIELDS)}; add it")
    place = next((names.index(name) for name in ("caption", "prompt") if name in names), None)
    before = ["" if place is None else cells[place] for cells in whole.rows]
    kept = names.index("kept") if "kept" in names else None
    asked = [k for k, cells in enumerate(whole.rows) if kept is None or tables.is_kept(cells[kept])]
    captions = dict(zip(asked, fuse([_texts(names, whole.rows[k]) for k in asked]), strict=True))
    made = [captions.get(k, own) for k, own in enumerate(before)]
    tables.write_column(output, whole, "caption" if place is None else whole.header[place], made)
    changed = sum(old != new for old, new in zip(before, made, strict=True))
    return Counter(rows=len(whole.rows), captions=sum(map(bool, captions.values())), changed=changed)


def _texts(names: list[str], cells: list[str]) -> Texts:
    found: dict[str, str] = {}
    for name, cell in zip(names, cells, strict=True):
        if name in FIELDS and cell.strip():
            found.setdefault(FIELDS[name], cell.strip())
    tags = found.pop("tags", "")
    parted = re.split(r"[;|\n]" if re.search(r"[;|\n]", tags) else ",", tags)  # names of labels have commas in them
    return Texts(**found, tags=tuple(filter(None, map(str.strip, parted))))
