"""Measures of a corpus's clips, from the table that `kfjax clean CORPUS --output CORPUS/clean` leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from kfjax.data import tables
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.clean.measure import MEASURES

FOLDER = "clean"
#: Tables in it, the first that is there.
TABLES = ("measures.parquet", "measures.csv", "clips.parquet", "clips.csv")
COLUMNS = ("path", "audio", "start_seconds", *MEASURES)


def measured(folder: Path, clips: Iterable[ClipRecord]) -> Iterator[ClipRecord]:
    """The clips, each with the cells of the excerpt that starts where it does: of its video's and its sound's file.

    Raises:
      ValueError: as `tables.lines`.
    """
    cells = _cells(folder / FOLDER)
    for clip in clips:
        there = [cells.get(_place(path, clip.start_seconds), {}) for path in (clip.video, clip.audio) if path]
        yield clip._replace(measures=tuple({name: cell for part in there for name, cell in part.items()}.items()))


def _cells(folder: Path) -> dict[tuple[str, int], dict[str, str]]:
    """(file, start) -> measure -> its cell, where it has one."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for table in [folder / name for name in TABLES if (folder / name).is_file()][:1]:
        for _, cells in tables.lines(table, COLUMNS, needed=("path", "audio"), more_beside="path"):
            made = {name: cells[name] for name in MEASURES if cells[name]}
            for path in filter(None, (cells["path"], cells["audio"])):
                found[_place(path, float(cells["start_seconds"] or 0))] = made
    return found


def _place(path: str, start_seconds: float) -> tuple[str, int]:
    return path, round(100 * start_seconds)  # a record holds 32 bits, a table three digits
