"""Tables as people and programs write them: CSV (.csv, .tsv) and Parquet, row by row or whole."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from kfjax.command import quoted
from kfjax.storage import disk

PARQUET = ".parquet"
#: Endings of tables, and what may separate the cells of CSV, the likeliest first.
SUFFIXES, DELIMITERS = (".csv", ".tsv", PARQUET), (",", ";", "\t")
#: Columns of free text, which may have commas in it.
TEXTS = ("caption", "prompt", "negative_prompt", "audio_caption", "video_caption", "tags")

#: Rows of a Parquet file that are held at a time.
_PARQUET_ROWS = 4096
#: Columns that pandas makes of its index.
_INDEX = r"unnamed:_\d+|__index_level_\d+__"


class Line(NamedTuple):
    """A row of a table: its number, the header being row 1, and its cells by column, stripped."""

    row: int
    cells: dict[str, str]


def lines(
    table: Path,
    columns: Sequence[str],
    *,
    needed: tuple[str, ...],
    same: Mapping[str, str] | None = None,
    more_beside: str = "",
) -> Iterator[Line]:
    """The rows of a table with a header, one at a time; every one has a cell for each of its columns.

    Accepted in CSV: UTF-8 and UTF-16 (with a byte order mark), commas, semicolons and tabs, capitals and spaces in
    names of columns, columns without a name that are empty or number the rows (pandas writes these), rows that are
    empty. Of Parquet, numbers become texts, true and false "yes" and "no", and a list its items with "; " between them.

    Args:
      columns: all that it may have; those that it lacks are empty.
      needed: it has one of these at least.
      same: another name of a column -> the column.
      more_beside: in a table with this column, others may stand too, and are passed over.

    Raises:
      ValueError: not such a table, or an empty one, or bytes in its cells; a row with more or fewer cells than the
        header, a quote that is not closed, a control character: where it is reached, the row is named.
    """
    read = _parquet_lines if table.suffix.lower() == PARQUET else _csv_lines
    return read(table, columns, needed=needed, same=same or {}, more_beside=more_beside)


class Whole(NamedTuple):
    """All of a table, whatever its columns are."""

    header: list[str]
    rows: list[list[str]]  # of CSV without those that are empty
    arrow: Any = None  # the same as Parquet holds it; None of CSV


def whole(table: Path) -> Whole:
    """A table as it stands, cells as `lines` has them but those of CSV with their blanks.

    Raises:
      ValueError: no table, no rows; a row as `lines` refuses it.
    """
    if not table.is_file() or table.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{table}: got no table, expected a file in {', '.join(SUFFIXES)}; give another")
    found = _whole_parquet(table) if table.suffix.lower() == PARQUET else _whole_csv(table)
    if not found.rows:
        raise ValueError(f"{table}: got no rows, expected some under a header; fill it")
    return found


def write_column(output: Path, table: Whole, name: str, cells: Sequence[str]) -> None:
    """Write a table with a column of texts in place of that of this name, or behind the others.

    From Parquet to Parquet all other columns keep their types; CSV has the cells as `whole` reads them. Atomic.

    Raises:
      ValueError: another ending than `SUFFIXES`.
      OSError: no such folder, no room on the disk.
    """
    check_suffix(output)
    place = table.header.index(name) if name in table.header else len(table.header)
    header = [*table.header[:place], name, *table.header[place + 1 :]]
    if output.suffix.lower() == PARQUET:
        _write_parquet(output, table, header, place, cells)
        return
    rows = ([*own[:place], cell, *own[place + 1 :]] for own, cell in zip(table.rows, cells, strict=True))
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t" if output.suffix.lower() == ".tsv" else ",").writerows([header, *rows])
    disk.write_text(output, text.getvalue(), noted=False)


def check_suffix(output: Path) -> None:
    """Raises ValueError for a name that no table has."""
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output: got {output}, expected a file in {', '.join(SUFFIXES)}; rename it")


def is_kept(cell: str) -> bool:
    """Whether a row is kept, by its cell in the column `kept` of a table of `kfjax clean`, or of one made from it."""
    return cell.strip().lower() not in ("no", "false", "0", "0.0")


def plain(name: str) -> str:
    """The name of a column, without capitals and with underscores for spaces."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def encoding_of(file: Path) -> str:
    """UTF-8, or UTF-16 where a byte order mark says so."""
    with file.open("rb") as opened:
        return "utf-16" if opened.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def text_of(file: Path) -> str:
    """All of a list, a name or a path on each line. Raises ValueError where it is no text."""
    try:
        return file.read_text(encoding=encoding_of(file))
    except UnicodeError as error:
        raise ValueError(f"{file}: is no list in UTF-8 ({error}); save it in UTF-8") from error


def has_control(text: str) -> bool:
    """Whether there are control characters in it, tabs and ends of lines left out."""
    return any(unicodedata.category(c) == "Cc" and c not in "\t\r\n" for c in text)


def _csv_lines(
    table: Path, columns: Sequence[str], *, needed: tuple[str, ...], same: Mapping[str, str], more_beside: str
) -> Iterator[Line]:
    with table.open(encoding=encoding_of(table), newline="") as file:
        delimiter = _delimiter(_first_line(table, file), {*columns, *same})
        file.seek(0)
        records = ((row, cells) for row, cells in _records(table, file, delimiter) if any(map(str.strip, cells)))
        _, header = next(records, (1, []))
        places, nameless = _places(table, header, columns, same, more_beside)
        seen: dict[int, set[bool]] = {}
        blank, row = dict.fromkeys(columns, ""), 0
        _check_needed(table, columns, needed, set(needed) & places.keys())
        for row, cells in records:
            _check_nameless(table, nameless, cells, seen)
            _check_cells(f"{table}: row {row}", cells, len(header), delimiter)
            _check_commas(f"{table}: row {row}", cells, header, places)
            yield Line(row, blank | {name: cells[i].strip() for name, i in places.items()})
        _check_needed(table, columns, needed, row)


def _parquet_lines(
    table: Path, columns: Sequence[str], *, needed: tuple[str, ...], same: Mapping[str, str], more_beside: str
) -> Iterator[Line]:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]  # of the extra `data`

    with _parquet(table) as file:
        places, _ = _places(table, file.schema_arrow.names, columns, same, more_beside)
        _check_needed(table, columns, needed, set(needed) & places.keys() and file.metadata.num_rows)
        names = {file.schema_arrow.names[i]: name for name, i in places.items()}
        for name, kind in ((name, file.schema_arrow.field(name).type) for name in names):
            if pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                raise ValueError(f"{table}: column {name!r} holds {kind}, expected texts or numbers; export it so")
        blank, row = dict.fromkeys(columns, ""), 1
        for batch in file.iter_batches(_PARQUET_ROWS, columns=list(names)):
            for values in batch.to_pylist():
                row += 1
                cells = {names[key]: _as_text(value).strip() for key, value in values.items()}
                _check_controls(f"{table}: row {row}", cells.values())
                yield Line(row, blank | cells)


def _whole_parquet(table: Path) -> Whole:
    with _parquet(table) as file:
        arrow = file.read()
        columns = [map(_as_text, column.to_pylist()) for column in arrow.columns]
        rows = list(map(list, zip(*columns, strict=True)))
    for row, cells in enumerate(rows, 2):
        _check_controls(f"{table}: row {row}", cells)
    return Whole(arrow.column_names, rows, arrow)


def _whole_csv(table: Path) -> Whole:
    with table.open(encoding=encoding_of(table), newline="") as file:
        delimiter = _delimiter(_first_line(table, file), {*TEXTS, "video", "audio", "path", "kept"})
        file.seek(0)
        found = [line for line in _records(table, file, delimiter) if any(map(str.strip, line[1]))]
    (_, header), *rows = found or [(1, [])]
    for row, cells in rows:
        _check_cells(f"{table}: row {row}", cells, len(header), delimiter)
    return Whole(header, [cells for _, cells in rows])


@contextmanager
def _parquet(table: Path) -> Iterator[Any]:
    """A Parquet file to read (pyarrow.parquet.ParquetFile); ValueError for one that is damaged, where it is found."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    try:
        with pq.ParquetFile(table) as file:  # a folder's name that looks like a partition adds no column
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        shown = quoted(str(error), 200)
        raise ValueError(f"{table}: is no readable Parquet file ({shown}); make it again") from error


def _write_parquet(output: Path, table: Whole, header: Sequence[str], place: int, cells: Sequence[str]) -> None:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    made, column = table.arrow, pa.array(cells, pa.string())
    if made is None:
        columns = zip(*table.rows, strict=True)
        made = pa.table([pa.array(texts, pa.string()) for texts in columns], names=table.header)
    if place < len(table.header):
        made = made.set_column(place, made.schema.field(place).with_type(pa.string()), column)
    else:
        made = made.append_column(header[place], column)
    with disk.writing(output, noted=False) as temporary, temporary.open("wb") as file:
        pq.write_table(made, file, compression="zstd")


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(_as_text, value))
    return "" if value is None else str(value)


def _check_needed(table: Path, columns: Sequence[str], needed: Sequence[str], found: object) -> None:
    if not found:
        first, second, *_ = needed
        listed = ", ".join(columns)
        raise ValueError(f"{table}: got no {first} and no {second}, expected rows under a header ({listed}); fill it")


def _first_line(table: Path, file: TextIO) -> str:
    return next((line for line in _decoded(table, file) if line.strip()), "")


def _decoded(table: Path, file: TextIO) -> Iterator[str]:
    """The lines of a text file."""
    try:
        yield from map(str, file)  # without `map`, the file would be closed with this
    except UnicodeDecodeError as error:
        raise ValueError(f"{table}: is not a CSV file in UTF-8 ({error}); save it as CSV in UTF-8") from error


def _delimiter(first: str, names: Iterable[str]) -> str:
    """The delimiter: the one that finds most of the names in the first line."""
    known = lambda delimiter: len({plain(cell) for cell in first.replace('"', "").split(delimiter)} & set(names))
    return max(DELIMITERS, key=known)


def _records(table: Path, file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(row, cells) of a table's text, from row 1 on."""
    reader = csv.reader(_decoded(table, file), delimiter=delimiter, strict=True)
    row = 0
    try:
        for row, cells in enumerate(reader, 1):
            yield row, cells
    except csv.Error as error:
        said = quoted(str(error))
        raise ValueError(f"{table}: row {row + 1}: {said}; close its quotes, and double those within a text") from None


def _places(
    table: Path,
    header: list[str],
    columns: Sequence[str],
    same: Mapping[str, str],
    more_beside: str,
) -> tuple[dict[str, int], list[int]]:
    """Which column stands where, and those without a name. Raises ValueError for one that is unknown or there twice."""
    places: dict[str, int] = {}
    nameless = []
    more = bool(more_beside) and more_beside in map(plain, header)
    for i, written in enumerate(header):
        name = plain(written)
        name = name if name in columns else same.get(name, name)
        if not name or re.fullmatch(_INDEX, name):
            nameless.append(i)
            continue
        if name not in columns and more:
            continue
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            advice = f"did you mean {near[0]}?" if near else f"expected {', '.join(columns)} in the first row"
            raise ValueError(f"{table}: got a column {written.strip()[:60]!r}; {advice}")
        if name in places:
            raise ValueError(f"{table}: got the columns {header[places[name]]!r} and {written!r}, expected one {name}")
        places[name] = i
    return places, nameless


def _check_nameless(table: Path, nameless: Iterable[int], cells: list[str], seen: dict[int, set[bool]]) -> None:
    """Raises ValueError where a column without a name is not empty, nor the first one and numbers the rows.

    `seen`: of each such column whether cells so far were numbers.
    """
    for i in nameless:
        if len(cells) > i:
            cell = cells[i].strip()
            seen.setdefault(i, set()).add(bool(cell))
            if (cell and (i > 0 or not cell.isdecimal())) or len(seen[i]) > 1:
                raise ValueError(
                    f"{table}: column {i + 1} has cells and no name in the first row; name it or delete it"
                )


def _check_cells(where: str, cells: list[str], columns: int, delimiter: str) -> None:
    """Raises ValueError for what is no row of a table of so many columns."""
    _check_controls(where, cells)
    for cell in cells:
        first, *later = cell.splitlines() or [""]
        if any(line.count(delimiter) >= columns - 1 for line in later):
            raise ValueError(f"{where}: the quote before {first[:60]!r} closes rows later; close it, or take it out")
    if len(cells) != columns:
        advice = "put texts with commas in quotes" if len(cells) > columns else "keep the commas of empty cells"
        raise ValueError(f"{where}: got {len(cells)} cells for {columns} columns, last {cells[-1][:60]!r}; {advice}")


def _check_controls(where: str, cells: Iterable[str]) -> None:
    if any(map(has_control, cells)):
        raise ValueError(f"{where}: has a control character; export the table again")


def _check_commas(where: str, cells: list[str], header: list[str], places: Mapping[str, int]) -> None:
    """Raises ValueError for an unquoted text with a comma, which runs on into the next column."""
    texts = {places[name] for name in TEXTS if name in places}
    for i in texts & {i + 1 for i in texts}:
        if cells[i - 1] and cells[i][:1] == " " != header[i][:1]:
            shown = f"{cells[i - 1][-30:]},{cells[i][:30]}"
            raise ValueError(f"{where}: got {shown!r} in two columns; put a text with commas in quotes")


def published(
    path: Path,
    columns: Sequence[str],
    *,
    numbers: Sequence[str] = (),
    header: bool = False,
    comments: bool = False,
    delimiter: str = ",",
) -> Iterator[dict[str, Any]]:
    """Lines of a CSV file in UTF-8 as a corpus publishes it, with a header or without, by column; blanks after commas
    are no part of a cell.

    Args:
      columns: all of them in the file's order; with `header`, those that are needed, whatever others there are.
      numbers: those of them that become floats.
      header: the first line has the columns' names.
      comments: lines that begin with # are none of the table.
      delimiter: what stands between cells.

    Raises:
      ValueError: not such a table; the line's number is named.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        try:
            names = next(reader, []) if header else list(columns)
            if missing := [column for column in columns if column not in names]:
                shown = quoted(", ".join(names), 200) or "none"
                raise ValueError(f"{path}: got columns {shown}; {', '.join(missing)} is missing")
            for cells in reader:
                if not cells or (comments and cells[0].startswith("#")):
                    continue
                if len(cells) != len(names):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: got {len(cells)} cells, expected {len(names)} "
                        f"({', '.join(names)}); correct it, with quotes around text that has commas"
                    )
                row = dict(zip(names, cells, strict=True))
                if bad := [f"{row[column]!r} in {column}" for column in numbers if not _is_number(row[column])]:
                    raise ValueError(f"{path}, line {reader.line_num}: got {bad[0]}, expected a number; correct it")
                yield row | {column: float(row[column]) for column in numbers}
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: is no CSV file in UTF-8 ({quoted(str(error))}); download it again") from error


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
