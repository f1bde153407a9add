"""Measuring a source in processes, and the tables of what was found.

A journal (JSON, a line for each row of the source) takes what is measured as soon as it is there. A line's key is of
the row's files as they are (size, time of change), its part of them and the settings, so that nothing is measured
twice, and what has changed is. An incomplete last line, left by a killed run, is cut off. Tables are written whole.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import IO

from kfjax import command
from kfjax.data import sources
from kfjax.data.clean import speech
from kfjax.data.clean.measure import MEASURES, Measured, measure_row
from kfjax.data.clean.thresholds import CleanConfig, judge
from kfjax.data.sources import Row
from kfjax.storage import disk

JOURNAL, SIDE_TABLE, CLIPS = "journal.jsonl", "measures.csv", "clips.csv"
#: Columns of both tables before their own. `audio`: the sound's file where it is not in `path`.
PLACE = ("path", "audio", "caption", "start_seconds", "seconds")
#: Raised when a measure changes: what was measured before does not count.
VERSION = 2
#: Rows of the source that are handed to the processes ahead of the one that is waited for, for each process.
_AHEAD = 4


def clean(
    source: str | Path, output: str | Path, cfg: CleanConfig, *, workers: int | None = None, dry_run: bool = False
) -> Counter[str]:
    """Measure the excerpts of a source, write `measures.csv`, filter them into `clips.csv`; called again, go on.

    Args:
      source: a folder of videos and sounds, or a table (`sources.read_rows`).
      output: folder for the tables; the source's own folder would do, but a folder apart is clearer.
      workers: processes. Default: one a core.
      dry_run: write no `clips.csv`, say what each threshold would do.

    Returns:
      "kept" and "excerpts", and of each measure, "duplicate" and "unusable" how many excerpts it refuses.

    Raises:
      ValueError: nothing to clean, another run is at work in the folder.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers: got {workers}, expected at least 1")
    rows, folder = [*map(_nameable, sources.read_rows(source))], command.local_path(output)
    folder.mkdir(parents=True, exist_ok=True)
    keys = [_key(row, cfg) for row in rows]
    with _opened(folder / JOURNAL) as journal:
        known = _read(journal)
        wanted = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        for key, found in _measured(wanted, cfg, workers or os.cpu_count() or 1):
            known[key] = found
            _append(journal, key, found)
        table = [(row, one) for key, row in zip(keys, rows, strict=True) for one in known[key]]
        refused = list(judge([one for _, one in table], cfg))
        _write_side_table(folder / SIDE_TABLE, table)
        if not dry_run:
            _write_clips(folder / CLIPS, table, refused)
    return _counts(refused)


def _counts(refused: Sequence[Mapping[str, str]]) -> Counter[str]:
    counts = Counter(name for found in refused for name in found)
    return counts + Counter({"excerpts": len(refused), "kept": sum(not found for found in refused)})


def _nameable(row: Row) -> Row:
    """The row, with a problem if a table can't hold its paths."""
    for path in (row.video, row.audio):
        if path is not None and _cell(str(path)) != str(path):
            name = _cell(path.name)
            return row._replace(problem=f"{name}: its path has characters that no table can hold; rename it")
    return row


def _key(row: Row, cfg: CleanConfig) -> str:
    """Of all that decides a row's measures, the caption and the files' folder left out."""
    stamps = []
    for path in (row.video, row.audio):
        try:
            stat = path.stat() if path is not None else None
        except OSError:
            stat = None
        stamps.append(stat and [stat.st_size, stat.st_mtime_ns])
    settings = [VERSION, cfg.seconds, cfg.shortest_seconds, sorted({*speech.available(), *cfg.networks.names})]
    said = [settings, row.id, row.start_seconds, row.seconds, row.problem, stamps]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _opened(path: Path) -> IO[bytes]:
    """The journal, to read and append, for this process alone until it is closed."""
    journal = path.open("a+b")
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        journal.close()
        raise ValueError(f"{path.parent}: another run is at work there; wait, or give another --output") from None
    except OSError:  # a file system that locks nothing
        pass
    return journal


def _read(journal: IO[bytes]) -> dict[str, list[Measured]]:
    """Key -> what was measured, of all complete lines; what follows them is cut off."""
    journal.seek(0)
    known, whole = {}, 0
    for line in journal:
        try:
            entry = json.loads(line) if line.endswith(b"\n") else {}
            known[entry["key"]] = [Measured(*one) for one in entry["excerpts"]]
        except (ValueError, KeyError, TypeError):
            break
        whole += len(line)
    journal.truncate(whole)
    return known


def _append(journal: IO[bytes], key: str, found: Sequence[Measured]) -> None:
    journal.write(json.dumps({"key": key, "excerpts": found}).encode() + b"\n")
    journal.flush()


def _measured(wanted: Mapping[str, Row], cfg: CleanConfig, workers: int) -> Iterator[tuple[str, list[Measured]]]:
    """(key, what was measured) of each row, in the order in which they are ready."""
    from tqdm import tqdm

    workers = min(workers, len(wanted))
    with tqdm(total=len(wanted), unit="clip", disable=None) as bar:
        for key, found in _here(wanted, cfg) if workers < 2 else _in_processes(wanted, cfg, workers):
            bar.update()
            yield key, found


def _all_of(row: Row, cfg: CleanConfig) -> list[Measured]:
    return list(measure_row(row, cfg.seconds, cfg.shortest_seconds, cfg.networks))


def _here(wanted: Mapping[str, Row], cfg: CleanConfig) -> Iterator[tuple[str, list[Measured]]]:
    for key, row in wanted.items():
        yield key, _all_of(row, cfg)


def _in_processes(wanted: Mapping[str, Row], cfg: CleanConfig, workers: int) -> Iterator[tuple[str, list[Measured]]]:
    """Where a process dies, those rows that were under way are measured again, each in a process of its own."""
    left = dict(wanted)
    while left:
        running: dict[Future, str] = {}
        pool = _pool(workers)
        try:
            todo = iter(list(left.items()))
            while True:
                while len(running) < _AHEAD * workers and (item := next(todo, None)):
                    running[pool.submit(_all_of, item[1], cfg)] = item[0]
                if not running:
                    break
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    found = done.result()
                    key = running.pop(done)
                    del left[key]
                    yield key, found
        except BrokenProcessPool:
            for key in running.values():
                yield key, _alone(left.pop(key), cfg)
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(row: Row, cfg: CleanConfig) -> list[Measured]:
    try:
        with _pool(1) as pool:
            return pool.submit(_all_of, row, cfg).result()
    except BrokenProcessPool:
        problem = f"{row.sound}: the process that measured it ended (damaged, or beyond the memory); leave it out"
        return [Measured(row.start_seconds, 0.0, problem, {})]


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _write_side_table(path: Path, table: Iterable[tuple[Row, Measured]]) -> None:
    header = (*PLACE, "problem", *MEASURES)
    _write(path, header, ([*_place(row, one), _cell(one.problem), *_values(one)] for row, one in table))


def _write_clips(path: Path, table: Iterable[tuple[Row, Measured]], refused: Iterable[Mapping[str, str]]) -> None:
    lines = (
        [*_place(row, one), "no" if found else "yes", _cell("; ".join(found.values())), *_values(one)]
        for (row, one), found in zip(table, refused, strict=True)
    )
    _write(path, (*PLACE, "kept", "reasons", *MEASURES), lines)


def _place(row: Row, one: Measured) -> list:
    video, audio = (None if path is None else _cell(str(path.absolute())) for path in (row.video, row.audio))
    times = [round(seconds, 3) for seconds in (one.start_seconds, one.seconds)]
    return [video or audio, audio if video else None, _cell(row.caption), *times]


def _values(one: Measured) -> list:
    return [one.measures.get(name) for name in MEASURES]


def _cell(text: str) -> str:
    """The text on one line, with what no table can hold written out."""
    bad = lambda c: unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if bad(c) else c for c in text)


def _write(path: Path, header: Sequence[str], lines: Iterable[Sequence]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *lines])
    disk.write_text(path, text.getvalue(), noted=False)
