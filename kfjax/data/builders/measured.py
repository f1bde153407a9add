"""Measures of a corpus's clips, from the table that `kfjax clean CORPUS --output CORPUS/clean` leaves."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.clean.measure import MEASURES

FOLDER = "clean"
#: Tables in it, the first that is there.
TABLES = ("measures.parquet", "measures.csv", "clips.parquet", "clips.csv")


def measured(folder: Path, clips: Iterable[ClipRecord]) -> Iterator[ClipRecord]:
    """The clips, each with the cells of the excerpt that starts where it does: of its video's and its sound's file."""
    cells = _cells(folder / FOLDER)
    for clip in clips:
        there = [cells.get(_place(path, clip.start_seconds), {}) for path in (clip.video, clip.audio) if path]
        yield clip._replace(measures=tuple({name: cell for part in there for name, cell in part.items()}.items()))


def _cells(folder: Path) -> dict[tuple[str, int], dict[str, str]]:
    """(file, start) -> measure -> its cell, where it has one."""
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if not tables:
        return {}
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in _rows(tables[0]):
        made = {name: str(row[name]) for name in MEASURES if row.get(name) not in (None, "")}
        for path in filter(None, (row.get("path"), row.get("audio"))):
            found[_place(str(path), float(row.get("start_seconds") or 0))] = made
    return found


def _place(path: str, start_seconds: float) -> tuple[str, int]:
    return path, round(100 * start_seconds)  # a record holds 32 bits, a table three digits


def _rows(table: Path) -> list[Mapping]:
    if table.suffix == ".parquet":
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]  # of those who wrote one

        return parquet.read_table(table).to_pylist()
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
