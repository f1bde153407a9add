"""What is measured already, on the disk: a database (SQLite) beside the tables, for one run at a time.

It holds the source's rows of this run, in order, and of all runs what was measured, by key. A key is of a row's files
as they are (size, time of change), its part of them and the settings, so that nothing is measured twice, and what has
changed is. A killed run leaves it whole, and its size is no matter of memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from kfjax import command
from kfjax.data import remote
from kfjax.data.clean.measure import Measured
from kfjax.data.clean.measures import speech
from kfjax.data.clean.thresholds import CleanConfig
from kfjax.data.sources import Row

NAME = "measured.sqlite"
#: Raised when a measure changes: what was measured before does not count.
VERSION = 10
#: Rows that are noted at once.
_AT_ONCE = 1000


def key_of(row: Row, cfg: CleanConfig) -> str:
    """Of all that decides a row's measures, the caption and the files' folder left out."""
    stamps = [remote.stamp(path) for path in (row.video, row.audio)]
    networks = sorted({*speech.available(), *cfg.networks.names})
    settings = [VERSION, cfg.seconds, cfg.shortest_seconds, cfg.span_cuts, networks]
    said = [settings, row.id, row.start_seconds, row.seconds, row.problem, stamps]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def to_text(row: Row) -> str:
    """A row on one line, for `from_text`."""
    video, audio = (path and str(path) for path in (row.video, row.audio))
    seconds = row.seconds if math.isfinite(row.seconds) else None
    return json.dumps([row.id, video, audio, row.caption, row.start_seconds, seconds, row.problem])


def from_text(text: str) -> Row:
    """The row."""
    name, video, audio, caption, start_seconds, seconds, problem = json.loads(text)
    video, audio = (path and _located(path) for path in (video, audio))
    return Row(name, video, audio, caption, start_seconds, math.inf if seconds is None else seconds, problem)


def _located(path: str) -> Any:
    return remote.Address(path) if remote.is_address(path) else Path(path)


class Store:
    """Opened, and closed at a `with` block's end.

    Every method raises ValueError where the disk is full or the file is damaged; opening it, where another run is at
    work.
    """

    def __init__(self, folder: Path):
        self.path = folder / NAME
        with self._checked():
            self._base = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            try:
                for line in (
                    "PRAGMA locking_mode = EXCLUSIVE",
                    "PRAGMA journal_mode = WAL",
                    "PRAGMA synchronous = NORMAL",
                    "CREATE TABLE IF NOT EXISTS measured (key BLOB PRIMARY KEY, excerpts TEXT NOT NULL)",
                    "CREATE TABLE IF NOT EXISTS source (place INTEGER PRIMARY KEY, key BLOB, row TEXT NOT NULL)",
                    "DELETE FROM source",
                ):
                    self._base.execute(line)
                if not self._number():
                    self._base.execute(f"PRAGMA user_version = {1 + secrets.randbelow(2**31 - 1)}")
                #: Tells this output from all others, wherever it lies.
                self.number = self._number()
            except BaseException:
                self._base.close()
                raise

    def _number(self) -> int:
        return self._base.execute("PRAGMA user_version").fetchone()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._base.close()

    def set_source(self, rows: Iterable[tuple[str, Row]]) -> int:
        """Note the rows of this run, with their keys, in order; returns how many."""
        place = 0
        waiting = []
        for place, (key, row) in enumerate(rows, 1):
            waiting.append((place, bytes.fromhex(key), to_text(row)))
            if len(waiting) == _AT_ONCE:
                self._note(waiting)
                waiting = []
        self._note(waiting)
        return place

    def _note(self, rows: Sequence[tuple]) -> None:
        with self._checked():
            self._base.execute("BEGIN")
            self._base.executemany("INSERT INTO source VALUES (?, ?, ?)", rows)
            self._base.execute("COMMIT")

    def missing(self) -> int:
        """How many of the source's rows are not measured yet."""
        query = "SELECT count(DISTINCT key) FROM source WHERE key NOT IN (SELECT key FROM measured)"
        with self._checked():
            return self._base.execute(query).fetchone()[0]

    def todo(self) -> Iterator[tuple[str, Row]]:
        """(key, row) of those, in order. What is added meanwhile may be among them."""
        place, query = 0, (
            "SELECT place, key, row FROM source WHERE place > ? AND key NOT IN (SELECT key FROM measured) "
            "ORDER BY place LIMIT 1000"
        )  # fmt: skip
        while True:
            with self._checked():
                found = self._base.execute(query, (place,)).fetchall()
            if not found:
                return
            place = found[-1][0]
            yield from ((key.hex(), from_text(text)) for key, text in {key: text for _, key, text in found}.items())

    def add(self, key: str, excerpts: Sequence[Measured]) -> None:
        """Keep what was measured of a row, from now on."""
        with self._checked():
            values = bytes.fromhex(key), json.dumps(excerpts)
            self._base.execute("INSERT OR REPLACE INTO measured VALUES (?, ?)", values)

    def table(self) -> Iterator[tuple[Row, Measured]]:
        """Every excerpt of this run's source, in order. All have to be measured."""
        query = "SELECT row, excerpts FROM source LEFT JOIN measured USING (key) ORDER BY place"
        with self._checked():
            for row, excerpts in self._base.execute(query):
                yield from ((from_text(row), Measured(*one)) for one in json.loads(excerpts))

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise ValueError(
                    f"{self.path.parent}: another run is at work there; wait, or give another --output"
                ) from None
            advice = "make room and run again" if "full" in str(error) else "delete it, or give another --output"
            raise ValueError(f"{self.path}: {command.quoted(str(error))}; {advice}") from error
