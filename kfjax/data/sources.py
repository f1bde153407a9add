"""Sources of training clips: the rows of a folder or a table, and the excerpts of a row."""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from kfjax import media
from kfjax.command import AddressError, local_path
from kfjax.data import remote

SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac")
COLUMNS = ("video", "audio", "caption", "start", "seconds")
#: What `kfjax caption` makes captions of; passed over elsewhere.
CAPTION_COLUMNS = ("audio_caption", "video_caption", "tags")
#: Endings of tables, and what may separate their cells, the likeliest first.
TABLES, DELIMITERS = (".csv", ".tsv"), (",", ";", "\t")
PARQUET, LISTS = ".parquet", (".txt",)
#: Columns of free text, which may have commas in it.
TEXTS = ("caption", "prompt", "negative_prompt", "audio_caption", "video_caption", "tags")
#: A recording of ten seconds often lasts 9.97: an excerpt may reach this far beyond its end.
SHORT_SECONDS = 0.1


#: Rows of a Parquet file that are held at a time.
_PARQUET_ROWS = 4096


class Row(NamedTuple):
    """A clip with sound. `id` is unique in its source (`read_rows`) and stays when the source is read again. A path may
    be a `remote.Address`."""

    id: str
    video: Path | None  # where the pictures are; None: sound alone
    audio: Path | None  # where the sound is; None: in the video
    caption: str
    start_seconds: float = 0.0
    seconds: float = math.inf  # how much of the clip, from its start
    problem: str = ""  # an error that the source itself shows

    @property
    def sound(self) -> Path:
        path = self.audio or self.video
        assert path is not None  # a row has one of them
        return path


class Cut(NamedTuple):
    """An excerpt of a row: where it starts in the files and how long it is."""

    row: Row
    start_seconds: float
    seconds: float

    @property
    def id(self) -> str:
        return f"{self.row.id}@{self.start_seconds:g}+{self.seconds:g}"


def read_rows(source: str | Path) -> list[Row]:
    """The rows of a source (`iter_rows`); of those of a table that have the same files, the later ones are numbered.

    Raises:
      ValueError: as `iter_rows`.
    """
    uses: Counter[str] = Counter()
    rows = []
    for row in iter_rows(source):
        uses[row.id] += 1  # appended lines rename nothing
        rows.append(row if uses[row.id] == 1 else row._replace(id=f"{row.id}#{uses[row.id]}"))
    return rows


def iter_rows(source: str | Path) -> Iterator[Row]:
    """The rows of a folder (all videos and sounds in and below it, by name), a table or a list, one at a time.

    A table, .csv, .tsv or .parquet, has the columns video or audio (paths, relative to the table) or both (pictures of
    one, sound of the other), and optionally caption, start and seconds (the part of the clip to take). Empty cells are
    left out. Of a table of `kfjax clean` (`path`, `start_seconds`, `kept` and measures), the rows that are kept. A
    list, .txt, has a path on each line. Paths may be addresses of any file system of fsspec, and the table's or list's
    own too.

    Raises:
      ValueError: no such source, nothing in it, no such table (`table_lines`), where it is found. A bad value fails
        only its own row.
    """
    if remote.is_address(text := str(source)) and text.lower().endswith((*TABLES, PARQUET, *LISTS)):
        yield from _from_address(text)
        return
    source = local_path(source)
    suffix = source.suffix.lower()
    if source.is_dir():
        yield from _from_folder(source)
    elif source.is_file() and suffix in (*TABLES, PARQUET):
        yield from _from_table(source, source.parent)
    elif source.is_file() and suffix in LISTS:
        yield from _from_list(str(source), _text(source), source.parent)
    else:
        what = "no such file or folder" if not source.exists() else "is no folder and no table"
        raise ValueError(f"{source}: {what}; give a folder of videos and sounds, or a .csv with {', '.join(COLUMNS)}")


def digest(rows: Iterable[Row]) -> str:
    """Short hash of everything in the rows but the files' folders."""
    text = "\n".join(repr((row.id, row.caption, row.start_seconds, row.seconds)) for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cuts(row: Row, buckets: Sequence[float]) -> tuple[list[Cut], float]:
    """The row's excerpts, one after the other, each as long as the largest bucket that still fits; and the seconds at
    the end that are left out because none does.

    Raises:
      ValueError: files that can't be read (`media.MediaError`), no sound, less than the shortest bucket.
    """
    if row.problem:
        raise ValueError(row.problem)
    left, start = available_seconds(row), row.start_seconds
    made = []
    while fitting := [seconds for seconds in buckets if seconds <= left + SHORT_SECONDS]:
        made.append(Cut(row, start, max(fitting)))
        start, left = start + max(fitting), left - max(fitting)
    if not made:
        there = f"{max(0.0, left):.2f} seconds are there"
        raise ValueError(f"{row.sound}: {there}, the shortest excerpt is {min(buckets):g}; add a smaller --seconds")
    return made, max(0.0, left)


def available_seconds(row: Row) -> float:
    """Seconds of the row that have both what is seen and what is heard, according to the files' headers."""
    with remote.fetched(row) as here:
        infos = [media.probe(path) for path in (here.video, here.audio) if path is not None]
    if row.video is not None and not infos[0].has_video:
        raise media.MediaError(f"{row.video}: has sound but no picture; name it in the column audio")
    if not infos[-1].has_audio:
        raise media.MediaError(f"{row.sound}: has no sound; nothing can be learnt from it")
    return min(min(info.seconds for info in infos) - row.start_seconds, row.seconds)


def _from_folder(folder: Path) -> Iterator[Row]:
    made = 0
    for path in _files(folder):
        if media.is_clip(path, media.FILM_SUFFIXES + SOUND_SUFFIXES):
            made += 1
            yield _of_file(path.relative_to(folder).as_posix(), path)
    if not made:
        kinds = " ".join(media.FILM_SUFFIXES + SOUND_SUFFIXES)
        raise ValueError(f"{folder}: got a folder without a video or sound, expected files in {kinds}; give another")


def _files(folder: Path) -> Iterator[Path]:
    """All files in and below a folder, in the order of their paths."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(folder / entry.name)
        else:
            yield folder / entry.name


def _from_list(name: str, text: str, folder: Path) -> Iterator[Row]:
    made = 0
    for line in filter(None, map(str.strip, text.splitlines())):
        made += 1
        try:
            yield _of_file(line, remote.located(line, folder))
        except AddressError as error:
            yield Row(line, None, Path(line), "", problem=str(error))
    if not made:
        raise ValueError(f"{name}: got a list without a path, expected one on each line; give another")


def _of_file(name: str, path: Path) -> Row:
    is_sound = path.suffix.lower() in SOUND_SUFFIXES
    return Row(name, None if is_sound else path, path if is_sound else None, "")


def _from_address(text: str) -> Iterator[Row]:
    """Of a list or a table on another file system."""
    address = remote.Address(text)
    if text.lower().endswith(LISTS):
        yield from _from_list(text, remote.read_text(text), address.parent)
        return
    with remote.fetched_file(address) as table:
        try:
            yield from _from_table(table, address.parent)
        except ValueError as error:
            raise ValueError(str(error).replace(str(table), text)) from error


def _from_table(table: Path, folder: Path) -> Iterator[Row]:
    same = {"prompt": "caption", "start_seconds": "start"}
    columns, needed = (*COLUMNS, *CAPTION_COLUMNS, "path", "kept"), ("video", "audio", "path")
    lines = _parquet_lines if table.suffix.lower() == PARQUET else _csv_lines
    made = 0
    for line in lines(table, columns, needed=needed, same=same, more_beside="kept"):
        if line.cells["kept"] != "no":
            made += 1
            yield _from_line(line, folder)
    if not made:
        raise ValueError(f"{table}: got no row that is kept, expected one at least; clean again with other thresholds")


class Line(NamedTuple):
    """A row of a table: its number, the header being row 1, and its cells by column, stripped."""

    row: int
    cells: dict[str, str]


def table_lines(
    table: Path,
    columns: Sequence[str],
    *,
    needed: tuple[str, ...],
    same: Mapping[str, str] | None = None,
    more_beside: str = "",
) -> list[Line]:
    """The rows of a table with a header; every one has a cell for each of its columns.

    Accepted: UTF-8 and UTF-16 (with a byte order mark), commas, semicolons and tabs, capitals and spaces in names
    of columns, columns without a name that are empty or number the rows (pandas writes these), rows that are empty.

    Args:
      columns: all that it may have; those that it lacks are empty.
      needed: it has one of these at least.
      same: another name of a column -> the column.
      more_beside: in a table with this column, others may stand too, and are passed over.

    Raises:
      ValueError: not such a table, or an empty one; a row with more or fewer cells than the header, a quote that is
        not closed, a control character: the row is named.
    """
    return list(_csv_lines(table, columns, needed=needed, same=same, more_beside=more_beside))


def _csv_lines(
    table: Path,
    columns: Sequence[str],
    *,
    needed: tuple[str, ...],
    same: Mapping[str, str] | None = None,
    more_beside: str = "",
) -> Iterator[Line]:
    """`table_lines`, one at a time: of a table of any length one row is held."""
    encoding = _encoding(table)
    with table.open(encoding=encoding, newline="") as file:
        delimiter = _delimiter(_first_line(table, file), {*columns, *(same or {})})
        file.seek(0)
        records = ((row, cells) for row, cells in _records(table, file, delimiter) if any(map(str.strip, cells)))
        _, header = next(records, (1, []))
        places, nameless = _places(table, header, columns, same or {}, more_beside)
        seen: dict[int, set[bool]] = {}
        blank, row = dict.fromkeys(columns, ""), 0
        _check_needed(table, columns, needed, set(needed) & places.keys())
        for row, cells in records:
            _check_nameless(table, nameless, cells, seen)
            _check_cells(f"{table}: row {row}", cells, len(header), delimiter)
            _check_commas(f"{table}: row {row}", cells, header, places)
            yield Line(row, blank | {name: cells[i].strip() for name, i in places.items()})
        _check_needed(table, columns, needed, row)


def _check_needed(table: Path, columns: Sequence[str], needed: Sequence[str], found: object) -> None:
    if not found:
        first, second, *_ = needed
        listed = ", ".join(columns)
        raise ValueError(f"{table}: got no {first} and no {second}, expected rows under a header ({listed}); fill it")


def _parquet_lines(
    table: Path, columns: Sequence[str], *, needed: tuple[str, ...], same: Mapping[str, str], more_beside: str
) -> Iterator[Line]:
    """The same of a Parquet file. Numbers become texts, true and false "yes" and "no"."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]  # of the extra `data`
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    try:
        with pq.ParquetFile(table) as file:
            places, _ = _places(table, file.schema_arrow.names, columns, same, more_beside)
            _check_needed(table, columns, needed, set(needed) & places.keys() and file.metadata.num_rows)
            names = {file.schema_arrow.names[i]: name for name, i in places.items()}
            blank, row = dict.fromkeys(columns, ""), 0
            for batch in file.iter_batches(_PARQUET_ROWS, columns=list(names)):
                for values in batch.to_pylist():
                    row += 1
                    yield Line(row, blank | {names[key]: _as_text(value) for key, value in values.items()})
    except pa.ArrowException as error:
        raise ValueError(f"{table}: is no readable Parquet file ({error}); make it again") from error


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value).strip()


def _encoding(table: Path) -> str:
    with table.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def whole_table(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table as they stand, whatever its columns are; rows that are empty are left out.

    Raises:
      ValueError: no table, no rows; a row as `table_lines` refuses it.
    """
    if not table.is_file() or table.suffix.lower() not in TABLES:
        raise ValueError(f"{table}: got no table, expected a file in {' or '.join(TABLES)}; give another")
    with table.open(encoding=_encoding(table), newline="") as file:
        delimiter = _delimiter(_first_line(table, file), {*COLUMNS, *CAPTION_COLUMNS, "path", "kept", "prompt"})
        file.seek(0)
        lines = [line for line in _records(table, file, delimiter) if any(map(str.strip, line[1]))]
    (_, header), *rows = lines or [(1, [])]
    if not rows:
        raise ValueError(f"{table}: got no rows, expected some under a header; fill it")
    for row, cells in rows:
        _check_cells(f"{table}: row {row}", cells, len(header), delimiter)
    return header, [cells for _, cells in rows]


def _text(table: Path) -> str:
    with table.open(encoding=_encoding(table)) as file:
        return "".join(_decoded(table, file))


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
    known = lambda delimiter: len({_plain(cell) for cell in first.replace('"', "").split(delimiter)} & set(names))
    return max(DELIMITERS, key=known)


def _plain(name: str) -> str:
    """The name of a column, without capitals and with underscores for spaces."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _records(table: Path, file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(row, cells) of a table's text, from row 1 on."""
    reader = csv.reader(_decoded(table, file), delimiter=delimiter, strict=True)
    row = 0
    try:
        for row, cells in enumerate(reader, 1):
            yield row, cells
    except csv.Error as error:
        raise ValueError(f"{table}: row {row + 1}: {error}; close its quotes, and double those within a text") from None


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
    more = bool(more_beside) and more_beside in map(_plain, header)
    for i, written in enumerate(header):
        name = _plain(written)
        name = name if name in columns else same.get(name, name)
        if not name or re.fullmatch(r"unnamed:_\d+", name):
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
    if any(unicodedata.category(c) == "Cc" and c not in "\t\r\n" for cell in cells for c in cell):
        raise ValueError(f"{where}: has a control character; export the table again")
    for cell in cells:
        first, *later = cell.splitlines() or [""]
        if any(line.count(delimiter) >= columns - 1 for line in later):
            raise ValueError(f"{where}: the quote before {first[:60]!r} closes rows later; close it, or take it out")
    if len(cells) != columns:
        advice = "put texts with commas in quotes" if len(cells) > columns else "keep the commas of empty cells"
        raise ValueError(f"{where}: got {len(cells)} cells for {columns} columns, last {cells[-1][:60]!r}; {advice}")


def _check_commas(where: str, cells: list[str], header: list[str], places: Mapping[str, int]) -> None:
    """Raises ValueError for an unquoted text with a comma, which runs on into the next column."""
    texts = {places[name] for name in TEXTS if name in places}
    for i in texts & {i + 1 for i in texts}:
        if cells[i - 1] and cells[i][:1] == " " != header[i][:1]:
            shown = f"{cells[i - 1][-30:]},{cells[i][:30]}"
            raise ValueError(f"{where}: got {shown!r} in two columns; put a text with commas in quotes")


def _from_line(line: Line, folder: Path) -> Row:
    cells = line.cells
    if path := cells["path"]:
        cells = cells | {"audio" if Path(path).suffix.lower() in SOUND_SUFFIXES else "video": path}
    name = cells["video"] or cells["audio"] or "row without a file"
    try:
        video, audio = (remote.located(cells[key], folder) if cells[key] else None for key in ("video", "audio"))
    except AddressError as error:
        return Row(name, None, folder / name, cells["caption"], problem=str(error))
    row = Row(name, video, audio, cells["caption"])
    if row.video is None and row.audio is None:
        return row._replace(problem="got neither video nor audio, expected at least one; correct the table")
    for column, key, least in (("start", "start_seconds", 0.0), ("seconds", "seconds", 1e-3)):
        if cells[column]:
            value = _number(cells[column])
            if not least <= value < math.inf:
                problem = f"{column}: got {cells[column]!r}, expected a number of seconds; correct the table"
                return row._replace(problem=problem)
            row = row._replace(**{key: value})
    return row


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
