"""Damaged tables: whatever bytes are lost or flipped, reading ends in rows or in one line."""

import csv
from pathlib import Path

import pytest

from kfjax.commands import jobs
from kfjax.data import sources, tables
from tests.damage import MEMORY, fuzz, read_copies

PROMPTS = ("rain on a roof, far away", 'a "soft" knock', "Schritte auf Kies; Wind", "", "two\nlines")


def steps(path, output):
    """Every reader of tables, with what is done to its rows before a file of theirs is opened."""
    table, job = Path(path), jobs.Job(None, "wind", "", None, 0)
    if table.suffix == ".txt":
        return (lambda: sources.read_rows(table),)
    return (
        lambda: sources.read_rows(table),
        lambda: jobs.from_table(table, job, Path(output), audio_only=True),
        lambda: tables.write_column(Path(output), whole := tables.whole(table), "caption", ["x"] * len(whole.rows)),
        lambda: list(tables.published(table, ["video", "caption", "start"], numbers=["start"], header=True)),
    )


def write(path, encoding="utf-8"):
    rows = [["video", "caption", "start", "seconds"]]
    rows += [[f"clips/{k}.mp4", PROMPTS[k % len(PROMPTS)], str(k / 2), "8"] for k in range(60)]
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name, encoding", [("t.csv", "utf-8"), ("t.tsv", "utf-16")])
def test_damaged_csv(tmp_path, name, encoding, count):
    write(tmp_path / name, encoding)
    assert_held(tmp_path, tmp_path / name, count)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_parquet(tmp_path, count):
    write(tmp_path / "t.csv")
    whole = tables.whole(tmp_path / "t.csv")
    tables.write_column(tmp_path / "t.parquet", whole, "caption", [row[1] for row in whole.rows])
    assert_held(tmp_path, tmp_path / "t.parquet", count)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_lists(tmp_path, count):
    (tmp_path / "t.txt").write_text("".join(f"clips/größe {k}.mp4\n" for k in range(60)))
    assert_held(tmp_path, tmp_path / "t.txt", count)


def assert_held(tmp_path, table, count):
    (tmp_path / "copies").mkdir()
    ends, problems, peak = fuzz("tests.data.test_tables_fuzz", table, tmp_path / "copies", count)
    assert not problems, "\n".join(problems)
    assert len(ends) == count and peak < MEMORY
    assert {end for one in ends for end in one} == {"read", "refused"}  # the damage is neither too much nor too little


if __name__ == "__main__":
    read_copies(steps)
