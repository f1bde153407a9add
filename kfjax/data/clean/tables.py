"""The two tables of `kfjax clean`, as Parquet or CSV, written row by row and there when they are whole."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from kfjax.data import remote
from kfjax.data.clean import measure
from kfjax.data.clean.measure import MEASURES, Measured
from kfjax.data.sources import Row
from kfjax.storage import disk

FORMATS = ("parquet", "csv")
#: All measures of all excerpts; which are kept, and why the others are not. Each with its format's ending.
SIDE_TABLE, CLIPS = "measures", "clips"
PLACE = {
    "path": "the file",
    "audio": "the file of the sound, where it is another",
    "caption": "of the source's table",
    "start_seconds": "where the excerpt starts in the files",
    "seconds": "how long it is",
}
PROBLEM = {"problem": "why nothing could be measured; empty where it was"}
VERDICT = {"kept": "whether it passes all thresholds", "reasons": "each threshold that it fails"}
#: Columns of each table -> what they are.
COLUMNS = {SIDE_TABLE: PLACE | PROBLEM | MEASURES, CLIPS: PLACE | VERDICT | MEASURES}
#: Columns that hold text; `kept` is true or false, all others are numbers.
TEXTS = {"path", "audio", "caption", "problem", "reasons", *measure.TEXTS}
#: Rows of a group of a Parquet file, which are held as columns until they are written; and rows held as such before.
_GROUP, _AT_ONCE = 2048, 256


class Table(Protocol):
    """A table that is being written."""

    def write(self, cells: Sequence) -> None:
        """A row, a value or None for each column."""
        ...


@contextmanager
def writing(folder: Path, name: str, form: str) -> Iterator[Table]:
    """The table `name` in a folder, to write to. It replaces the one before at the block's end, if that is reached.

    Raises:
      ValueError: pyarrow is not there; no room on the disk.
    """
    path = folder / f"{name}.{form}"
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with (_parquet if form == "parquet" else _csv)(temporary, COLUMNS[name]) as table:
            yield table
        disk.replace(temporary, path)
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(f"{path}: can't be written ({error.strerror or error}); make room and run again") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _csv(path: Path, columns: Mapping[str, str]) -> Iterator[Table]:
    with path.open("w", newline="", encoding="utf-8") as file:
        yield _Csv(csv.writer(file), columns)


class _Csv:
    def __init__(self, writer: Any, columns: Mapping[str, str]):
        self._writer = writer
        writer.writerow(columns)

    def write(self, cells: Sequence) -> None:
        self._writer.writerow([("no", "yes")[cell] if isinstance(cell, bool) else cell for cell in cells])


@contextmanager
def _parquet(path: Path, columns: Mapping[str, str]) -> Iterator[Table]:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]  # of the extra `data`
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    kind = lambda name: pa.bool_() if name == "kept" else pa.string() if name in TEXTS else pa.float64()
    schema = pa.schema([pa.field(name, kind(name), metadata={"is": what}) for name, what in columns.items()])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        table = _Parquet(writer, schema)
        yield table
        table.flush()


class _Parquet:
    def __init__(self, writer: Any, schema: Any):
        self._writer, self._schema = writer, schema
        self._rows: list[Sequence] = []
        self._batches: list[Any] = []

    def write(self, cells: Sequence) -> None:
        self._rows.append(cells)
        if len(self._rows) == _AT_ONCE:
            self._gather()
            if len(self._batches) == _GROUP // _AT_ONCE:
                self.flush()

    def _gather(self) -> None:
        """Rows to columns, which take a tenth of their memory."""
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(self._schema)
        arrays = [pa.array(cells, field.type) for cells, field in zip(columns, self._schema, strict=True)]
        self._batches.append(pa.record_batch(arrays, schema=self._schema))
        self._rows = []

    def flush(self) -> None:
        """A group to the file."""
        import pyarrow as pa  # pyright: ignore[reportMissingImports]

        self._gather()
        self._writer.write_table(pa.Table.from_batches(self._batches, self._schema).combine_chunks())
        self._batches = []


def side_cells(row: Row, one: Measured) -> list:
    """A row of the side table."""
    return [*_place(row, one), cell(one.problem), *_values(one)]


def clip_cells(row: Row, one: Measured, refused: Mapping[str, str]) -> list:
    """A row of the table of clips; `refused`: why it is not kept (`thresholds.judge`)."""
    return [*_place(row, one), not refused, cell("; ".join(refused.values())), *_values(one)]


def _place(row: Row, one: Measured) -> list:
    video, audio = (None if path is None else cell(str(path)) for path in (row.video, row.audio))
    times = [round(seconds, 3) for seconds in (one.start_seconds, one.seconds)]
    return [video or audio, audio if video else None, cell(row.caption), *times]


def _values(one: Measured) -> list:
    return [one.measures.get(name) for name in MEASURES]


def nameable(row: Row) -> Row:
    """The row with whole paths, and with a problem if a table can't hold them."""
    for path in (row.video, row.audio):
        if path is not None and cell(str(path)) != str(path):
            name = cell(path.name)
            row = row._replace(problem=f"{name}: its path has characters that no table can hold; rename it")
    absolute = lambda path: path if path is None or isinstance(path, remote.Address) else path.absolute()
    return row._replace(video=absolute(row.video), audio=absolute(row.audio))


def cell(text: str) -> str:
    """The text on one line, with what no table can hold written out."""
    bad = lambda c: unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if bad(c) else c for c in text)
