"""Captions of tables: all other columns stay, and what was made is read by `kfjax extract`."""

import csv
import errno

import pytest

from kfjax import command
from kfjax.data import sources
from kfjax.data.captions.rules import RuleFuser, Texts
from kfjax.data.captions.table import caption_table
from kfjax.storage import disk


def write(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_users_table(tmp_path):
    table = write(tmp_path / "in.csv", ("Video", "start", "audio caption", "video_caption", "tags"),
                  ("a.mp4", "1.5", "barking", "a dog runs in a park", "Dog; Wind"),
                  ("bé, c.mp4", "", "", "", "Bell|Church_bell"), ("d.mp4", "", "", "", ""))  # fmt: skip
    out = tmp_path / "out.csv"
    counts = caption_table(table, out, RuleFuser())
    made = ["a dog barking in a park, with wind", "bell", ""]
    assert read(out) == [[*cells, caption] for cells, caption in zip(read(table), ["caption", *made], strict=True)]
    assert counts == {"rows": 3, "captions": 2, "changed": 2}
    rows = sources.read_rows(out)
    assert [row.caption for row in rows] == made and rows[0].start_seconds == 1.5


def test_a_table_of_clean(tmp_path):
    """Only rows that are kept are asked for; measures stay as they are."""
    table = write(tmp_path / "clips.csv", ("path", "caption", "start_seconds", "kept", "mos"),
                  ("a.wav", "Rain.", "0", "yes", "3.100"), ("b.wav", "Wind.", "10", "no", ""))  # fmt: skip
    asked = []

    def fuse(clips):
        asked.extend(clips)
        return ["heavy rain"]

    assert caption_table(table, tmp_path / "out.tsv", fuse)["changed"] == 1
    assert asked == [Texts(caption="Rain.")]
    text = (tmp_path / "out.tsv").read_text()
    assert text.splitlines()[1:] == ["a.wav\theavy rain\t0\tyes\t3.100", "b.wav\tWind.\t10\tno\t"]
    assert [row.caption for row in sources.read_rows(tmp_path / "out.tsv")] == ["heavy rain"]


def test_a_table_of_clean_in_parquet(tmp_path):
    """Its kept rows are read, with their new captions, by what reads the table that it was."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"path": ["a.wav", "b.wav"], "caption": ["Rain.", "Wind."], "kept": [True, False], "mos": [3.1, None]}
    parquet.write_table(pa.table(columns), tmp_path / "clips.parquet")
    counts = caption_table(tmp_path / "clips.parquet", tmp_path / "out.parquet", RuleFuser())
    assert counts == {"rows": 2, "captions": 1, "changed": 1}
    made = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert made == columns | {"caption": ["rain", "Wind."]}
    assert [row.caption for row in sources.read_rows(tmp_path / "out.parquet")] == ["rain"]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_what_can_not_be_written_is_named(tmp_path, monkeypatch, name):
    pytest.importorskip("pyarrow")
    table = write(tmp_path / "in.csv", ("audio", "caption"), ("a.wav", "rain"))
    with pytest.raises(OSError) as missing:
        caption_table(table, tmp_path / "none" / name, RuleFuser())
    assert command.reason(missing.value).startswith(f"{tmp_path / 'none' / name}: No such file or directory; check")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "replace", full)
    with pytest.raises(OSError) as refused:
        caption_table(table, tmp_path / name, RuleFuser())
    assert command.reason(refused.value) == f"{tmp_path / name}: No space left on device; make room and run again"
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize("cell, caption", [
    ("Dog; Wind", "dog and wind"), ("Bell|Church_bell\nWind", "bell and wind"), ("Dog, Wind", "dog and wind"),
    ("Domestic animals, pets; Gush", "domestic animals, pets and gush"), ("clang / clatter", "clang / clatter"),
])  # fmt: skip
def test_tags_are_parted_by_commas_only_where_nothing_else_does(tmp_path, cell, caption):
    table = write(tmp_path / "t.csv", ("audio", "tags"), ("a.wav", cell))
    caption_table(table, tmp_path / "out.csv", RuleFuser())
    assert read(tmp_path / "out.csv")[1][2] == caption


def test_in_place(tmp_path):
    table = write(tmp_path / "t.csv", ("audio", "prompt"), ("a.wav", "A Bell rings. "))
    caption_table(table, table, RuleFuser())
    assert read(table) == [["audio", "prompt"], ["a.wav", "a Bell rings"]]


@pytest.mark.parametrize("rows, message", [
    ([("video", "start"), ("a.mp4", "1")], "got the columns video, start, expected one of caption, prompt"),
    ([("video", "caption")], "got no rows"),
    ([("video", "caption"), ("a.mp4",)], "row 2: got 1 cells for 2 columns"),
])  # fmt: skip
def test_bad_tables(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        caption_table(write(tmp_path / "t.csv", *rows), tmp_path / "out.csv", RuleFuser())
    assert not (tmp_path / "out.csv").exists()


def test_bad_names(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv: got no table"):
        caption_table(tmp_path / "none.csv", tmp_path / "out.csv", RuleFuser())
    with pytest.raises(ValueError, match=r"--output: got .*out\.txt, expected a file in \.csv, \.tsv, \.parquet"):
        caption_table(tmp_path / "none.csv", tmp_path / "out.txt", RuleFuser())
