"""Where training clips come from: a folder or a table becomes rows, and a row the excerpts it is cut into."""
from __future__ import annotations

import csv
import difflib
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kfjax import media

SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac")
COLUMNS = ("video", "audio", "caption", "start", "seconds")
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
    problem: str = ""  # what is wrong with it, as far as the source shows

    @property
    def sound(self) -> Path:
        return self.audio or self.video


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
    other), and optionally caption, start and seconds (the part of the clip to take). Empty cells are left out.

    Raises:
      ValueError: no such source, nothing in it, unknown columns. A bad cell is the affair of its row.
    """
    source = Path(source)
    if source.is_dir():
        return _from_folder(source)
    if not source.is_file() or source.suffix.lower() != ".csv":
        what = "no such file or folder" if not source.exists() else "is no folder and no table"
        raise ValueError(f"{source}: {what}; give a folder of videos and sounds, or a .csv with {', '.join(COLUMNS)}")
    return _from_table(source)


def digest(rows: Iterable[Row]) -> str:
    """Short hash of everything in the rows but where the files lie."""
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
    left, start = _available(row), row.start_seconds
    made = []
    while fitting := [seconds for seconds in buckets if seconds <= left + SHORT_SECONDS]:
        made.append(Cut(row, start, max(fitting)))
        start, left = start + max(fitting), left - max(fitting)
    if not made:
        there = f"{max(0.0, left):.2f} seconds are there"
        raise ValueError(f"{row.sound}: {there}, the shortest excerpt is {min(buckets):g}; add a smaller --seconds")
    return made, max(0.0, left)


def _available(row: Row) -> float:
    """Seconds of the row that have both what is seen and what is heard, as far as the files' headers tell."""
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
    lines = table_lines(table, COLUMNS, needed=("video", "audio"))
    return [_from_line(line, table.parent, uses) for line in lines]


def table_lines(table: Path, columns: Sequence[str], *, needed: tuple[str, str]) -> list[dict[str, str]]:
    """Lines of a CSV file with a header, by column.

    Args:
      columns: all that it may have.
      needed: it has one of these at least.

    Raises:
      ValueError: not such a table, or an empty one.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            found, lines = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: is not a CSV file in UTF-8 ({error}); export it again") from error
    header = ", ".join(columns)
    unknown = [column for column in found if column not in columns]
    if unknown:
        near = difflib.get_close_matches(unknown[0], columns, n=1)
        advice = f"did you mean {near[0]}?" if near else f"expected {header}"
        raise ValueError(f"{table}: got a column {unknown[0]!r}; {advice}")
    if not lines or not set(needed) & set(found):
        first, second = needed
        raise ValueError(f"{table}: got no {first} and no {second}, expected rows under a header ({header}); fill it")
    return lines


def _from_line(line: dict[str, str], folder: Path, uses: Counter[str]) -> Row:
    cells = {column: (line.get(column) or "").strip() for column in COLUMNS}
    name = cells["video"] or cells["audio"] or "row without a file"
    uses[name] += 1
    row = Row(
        id=name if uses[name] == 1 else f"{name}#{uses[name]}",  # appended lines rename nothing
        video=folder / cells["video"] if cells["video"] else None,
        audio=folder / cells["audio"] if cells["audio"] else None,
        caption=cells["caption"],
    )
    if None in line:  # what DictReader calls the cells beyond the header's
        return row._replace(problem=f"got more cells than columns: {line[None]}; put captions with commas in quotes")
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
