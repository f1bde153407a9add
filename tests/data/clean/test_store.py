"""What is measured stays, whatever ends the run."""

import os
import subprocess
import sys

import pytest

from kfjax.data import remote
from kfjax.data.clean.measure import Measured
from kfjax.data.clean.store import NAME, Store, from_text, key_of, to_text
from kfjax.data.clean.thresholds import CleanConfig
from kfjax.data.sources import Row

CFG = CleanConfig(10.0, 1.0, 0.2)


def rows(tmp_path, count):
    return [Row(f"{i}", tmp_path / f"{i}.mp4", None, "") for i in range(count)]


def test_rows_and_their_measures_come_back(tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff\xfe.wav")
    given = [
        Row("a", tmp_path / "ü 1.mp4", None, "a bell", 1.5, 3.0),
        Row("b", None, odd, "", problem="bad"),
        Row("c", remote.Address("memory://x/y.mp4"), None, ""),
    ]
    assert [from_text(to_text(row)) for row in given] == given
    keys = [key_of(row, CFG) for row in given]
    with Store(tmp_path) as store:
        assert store.set_source(zip(keys, given, strict=True)) == 3 == store.missing()
        store.add(keys[1], [Measured(0.0, 1.0, "", {"fps": 1.0}), Measured(1.0, 1.0, "bad", {})])
        assert [key for key, _ in store.todo()] == [keys[0], keys[2]]
    with Store(tmp_path) as store:  # another run, in another order
        store.set_source([(keys[1], given[1])])
        assert not store.missing() and not list(store.todo())
        assert list(store.table()) == [
            (given[1], Measured(0.0, 1.0, "", {"fps": 1.0})), (given[1], Measured(1.0, 1.0, "bad", {})),
        ]  # fmt: skip


def test_outputs_are_told_apart_wherever_they_lie(tmp_path):
    """Two hosts may have theirs at the same path, and one may be moved."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()

    def number(name):
        with Store(tmp_path / name) as store:
            return store.number

    one, two = number("one"), number("two")
    (tmp_path / "one").rename(tmp_path / "moved")
    assert one == number("moved") != two and one and two


def test_a_kill_loses_nothing_that_was_added(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from kfjax.data.clean.store import Store\n"
        "store = Store(Path(sys.argv[1])); [store.add(f'{i:032x}', []) for i in range(50)]; os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -9
    with Store(tmp_path) as store:
        given = [(f"{i:032x}", row) for i, row in enumerate(rows(tmp_path, 60))]
        store.set_source(given)
        assert [key for key, _ in store.todo()] == [key for key, _ in given[50:]]


def test_a_full_disk_is_one_line(tmp_path):
    with Store(tmp_path) as store:
        store._base.execute("PRAGMA max_page_count = 20")
        with pytest.raises(ValueError, match=r"disk is full; make room and run again"):
            store.set_source((f"{i:032x}", row) for i, row in enumerate(rows(tmp_path, 5000)))


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / NAME).write_bytes(b"no database at all" * 100)
    with pytest.raises(ValueError, match=r"not a database; delete it, or give another --output"):
        Store(tmp_path)
