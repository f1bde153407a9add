"""Sources of training clips: the rows of a folder or a table, and the excerpts of a row."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kfjax import media
from kfjax.command import AddressError, local_path
from kfjax.data import remote, tables
from kfjax.data.tables import Line

SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac")
COLUMNS = ("video", "audio", "caption", "start", "seconds")
#: What `kfjax caption` makes captions of; passed over elsewhere.
CAPTION_COLUMNS = ("audio_caption", "video_caption", "tags")
LIST = ".txt"
#: A recording of ten seconds often lasts 9.97: an excerpt may reach this far beyond its end.
SHORT_SECONDS = 0.1


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
      ValueError: no such source, nothing in it, no such table (`tables.lines`), where it is found. A bad value fails
        only its own row.
    """
    if remote.is_address(text := str(source)) and text.lower().endswith((*tables.SUFFIXES, LIST)):
        yield from _from_address(text)
        return
    source = local_path(source)
    suffix = source.suffix.lower()
    if source.is_dir():
        yield from _from_folder(source)
    elif source.is_file() and suffix in tables.SUFFIXES:
        yield from _from_table(source, source.parent)
    elif source.is_file() and suffix == LIST:
        yield from _from_list(source, source.parent)
    else:
        what = "no such file or folder" if not source.exists() else "is no folder and no table"
        kinds = f"a table ({', '.join(tables.SUFFIXES)}) with {', '.join(COLUMNS)}, or a list of paths ({LIST})"
        raise ValueError(f"{source}: {what}; give a folder of videos and sounds, {kinds}")


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


def _from_list(file: Path, folder: Path) -> Iterator[Row]:
    made = 0
    for line in filter(None, map(str.strip, tables.text_of(file).splitlines())):
        made += 1
        if tables.has_control(line):
            raise ValueError(f"{file}: path {made} has a control character; write the list again")
        try:
            yield _of_file(line, remote.located(line, folder))
        except AddressError as error:
            yield Row(line, None, Path(line), "", problem=str(error))
    if not made:
        raise ValueError(f"{file}: got a list without a path, expected one on each line; give another")


def _of_file(name: str, path: Path) -> Row:
    is_sound = path.suffix.lower() in SOUND_SUFFIXES
    return Row(name, None if is_sound else path, path if is_sound else None, "")


def _from_address(text: str) -> Iterator[Row]:
    """Of a list or a table on another file system."""
    address = remote.Address(text)
    read = _from_list if text.lower().endswith(LIST) else _from_table
    with remote.fetched_file(address) as file:
        try:
            yield from read(file, address.parent)
        except ValueError as error:
            raise ValueError(str(error).replace(str(file), text)) from error


def _from_table(table: Path, folder: Path) -> Iterator[Row]:
    same = {"prompt": "caption", "start_seconds": "start"}
    columns, needed = (*COLUMNS, *CAPTION_COLUMNS, "path", "kept"), ("video", "audio", "path")
    made = 0
    for line in tables.lines(table, columns, needed=needed, same=same, more_beside="kept"):
        if tables.is_kept(line.cells["kept"]):
            made += 1
            yield _from_line(line, folder)
    if not made:
        raise ValueError(f"{table}: got no row that is kept, expected one at least; clean again with other thresholds")


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
