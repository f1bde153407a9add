"""Sources of training clips: the rows of a folder or a table, and the excerpts of a row."""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kfjax import media
from kfjax.command import AddressError, local_path

SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac")
COLUMNS = ("video", "audio", "caption", "start", "seconds")
#: What `kfjax caption` makes captions of; passed over elsewhere.
CAPTION_COLUMNS = ("audio_caption", "video_caption", "tags")
#: Endings of tables, and what may separate their cells, the likeliest first.
TABLES, DELIMITERS = (".csv", ".tsv"), (",", ";", "\t")
#: Columns of free text, which may have commas in it.
TEXTS = ("caption", "prompt", "negative_prompt", "audio_caption", "video_caption", "tags")
#: A recording of ten seconds often lasts 9.97: an excerpt may reach this far beyond its end.
SHORT_SECONDS = 0.1


class Row(NamedTuple):
    """A clip with sound. `id` is unique in its source and stays when the source is read again."""

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
    """The rows of a folder (all videos and sounds in and below it, by name) or of a CSV file.

    A table has the columns video or audio (paths, relative to the table) or both (pictures of one, sound of the
    other), and optionally caption, start and seconds (the part of the clip to take). Empty cells are left out. Of a
    table of `kfjax clean` (`path`, `start_seconds`, `kept` and measures), the rows that are kept.

    Raises:
      ValueError: no such source, nothing in it, no such table (`table_lines`). A bad value fails only its own row.
    """
    source = local_path(source)
    if source.is_dir():
        return _from_folder(source)
    if not source.is_file() or source.suffix.lower() not in TABLES:
        what = "no such file or folder" if not source.exists() else "is no folder and no table"
        raise ValueError(f"{source}: {what}; give a folder of videos and sounds, or a .csv with {', '.join(COLUMNS)}")
    return _from_table(source)


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
    infos = [media.probe(path) for path in (row.video, row.audio) if path is not None]
    if row.video is not None and not infos[0].has_video:
        raise media.MediaError(f"{row.video}: has sound but no picture; name it in the column audio")
    if not infos[-1].has_audio:
        raise media.MediaError(f"{row.sound}: has no sound; nothing can be learnt from it")
    return min(min(info.seconds for info in infos) - row.start_seconds, row.seconds)


def _from_folder(folder: Path) -> list[Row]:
    paths = sorted(path for path in folder.rglob("*") if media.is_clip(path, media.FILM_SUFFIXES + SOUND_SUFFIXES))
    if not paths:
        kinds = " ".join(media.FILM_SUFFIXES + SOUND_SUFFIXES)
        raise ValueError(f"{folder}: got a folder without a video or sound, expected files in {kinds}; give another")
    is_sound = lambda path: path.suffix.lower() in SOUND_SUFFIXES
    return [
        Row(path.relative_to(folder).as_posix(), None if is_sound(path) else path, path if is_sound(path) else None, "")
        for path in paths
    ]


def _from_table(table: Path) -> list[Row]:
    uses: Counter[str] = Counter()
    same = {"prompt": "caption", "start_seconds": "start"}
    columns, needed = (*COLUMNS, *CAPTION_COLUMNS, "path", "kept"), ("video", "audio", "path")
    lines = table_lines(table, columns, needed=needed, same=same, more_beside="kept")
    kept = [line for line in lines if line.cells["kept"] != "no"]
    if not kept:
        raise ValueError(f"{table}: got no row that is kept, expected one at least; clean again with other thresholds")
    return [_from_line(line, table.parent, uses) for line in kept]


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
    text = _text(table)
    delimiter = _delimiter(text, {*columns, *(same or {})})
    records = [(row, cells) for row, cells in _records(table, text, delimiter) if any(map(str.strip, cells))]
    (_, header), *full = records or [(1, [])]
    places = _places(table, header, full, columns, same or {}, more_beside)
    if not full or not set(needed) & places.keys():
        first, second, *_ = needed
        listed = ", ".join(columns)
        raise ValueError(f"{table}: got no {first} and no {second}, expected rows under a header ({listed}); fill it")
    for row, cells in full:
        _check_cells(f"{table}: row {row}", cells, len(header), delimiter)
        _check_commas(f"{table}: row {row}", cells, header, places)
    blank = dict.fromkeys(columns, "")
    return [Line(row, blank | {name: cells[i].strip() for name, i in places.items()}) for row, cells in full]


def whole_table(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table as they stand, whatever its columns are; rows that are empty are left out.

    Raises:
      ValueError: no table, no rows; a row as `table_lines` refuses it.
    """
    if not table.is_file() or table.suffix.lower() not in TABLES:
        raise ValueError(f"{table}: got no table, expected a file in {' or '.join(TABLES)}; give another")
    text = _text(table)
    delimiter = _delimiter(text, {*COLUMNS, *CAPTION_COLUMNS, "path", "kept", "prompt"})
    (_, header), *rows = [line for line in _records(table, text, delimiter) if any(map(str.strip, line[1]))] or [
        (1, [])
    ]
    if not rows:
        raise ValueError(f"{table}: got no rows, expected some under a header; fill it")
    for row, cells in rows:
        _check_cells(f"{table}: row {row}", cells, len(header), delimiter)
    return header, [cells for _, cells in rows]


def _text(table: Path) -> str:
    content = table.read_bytes()
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{table}: is not a CSV file in UTF-8 ({error}); save it as CSV in UTF-8") from error


def _delimiter(text: str, names: Iterable[str]) -> str:
    """The delimiter: the one that finds most of the names in the first line."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    known = lambda delimiter: len({_plain(cell) for cell in first.replace('"', "").split(delimiter)} & set(names))
    return max(DELIMITERS, key=known)


def _plain(name: str) -> str:
    """The name of a column, without capitals and with underscores for spaces."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _records(table: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(row, cells) of a table's text, from row 1 on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    row = 0
    try:
        for row, cells in enumerate(reader, 1):
            yield row, cells
    except csv.Error as error:
        raise ValueError(f"{table}: row {row + 1}: {error}; close its quotes, and double those within a text") from None


def _places(
    table: Path,
    header: list[str],
    records: Sequence[tuple[int, list[str]]],
    columns: Sequence[str],
    same: Mapping[str, str],
    more_beside: str,
) -> dict[str, int]:
    """Which column stands where. Raises ValueError for one that is unknown or there twice."""
    places: dict[str, int] = {}
    more = bool(more_beside) and more_beside in map(_plain, header)
    for i, written in enumerate(header):
        name = _plain(written)
        name = name if name in columns else same.get(name, name)
        if not name or re.fullmatch(r"unnamed:_\d+", name):
            cells = {cells[i].strip() for _, cells in records if len(cells) > i}
            if cells <= {""} or (i == 0 and all(cell.isdecimal() for cell in cells)):
                continue
            raise ValueError(f"{table}: column {i + 1} has cells and no name in the first row; name it or delete it")
        if name not in columns and more:
            continue
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            advice = f"did you mean {near[0]}?" if near else f"expected {', '.join(columns)} in the first row"
            raise ValueError(f"{table}: got a column {written.strip()[:60]!r}; {advice}")
        if name in places:
            raise ValueError(f"{table}: got the columns {header[places[name]]!r} and {written!r}, expected one {name}")
        places[name] = i
    return places


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


def _from_line(line: Line, folder: Path, uses: Counter[str]) -> Row:
    cells = line.cells
    if path := cells["path"]:
        cells = cells | {"audio" if Path(path).suffix.lower() in SOUND_SUFFIXES else "video": path}
    name = cells["video"] or cells["audio"] or "row without a file"
    uses[name] += 1
    row = Row(
        id=name if uses[name] == 1 else f"{name}#{uses[name]}",  # appended lines rename nothing
        video=folder / cells["video"] if cells["video"] else None,
        audio=folder / cells["audio"] if cells["audio"] else None,
        caption=cells["caption"],
    )
    if row.video is None and row.audio is None:
        return row._replace(problem="got neither video nor audio, expected at least one; correct the table")
    try:
        for column in ("video", "audio"):
            local_path(cells[column])
    except AddressError as error:
        return row._replace(problem=str(error))
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
