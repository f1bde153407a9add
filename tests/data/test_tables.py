"""Parquet is read as CSV is, by every command. The reader of CSV is tested with its rows, in test_sources.py."""

import csv
import os

import pytest

from kfjax.commands import jobs
from kfjax.commands.jobs import Job
from kfjax.data import tables
from kfjax.data.sources import read_rows

pa = pytest.importorskip("pyarrow", reason="no pyarrow: pip install '.[data]'")
from pyarrow import parquet  # noqa: E402


def write(path, /, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


def test_rows_of_parquet(tmp_path):
    table = write(
        tmp_path / "t.parquet", path=["a.mp4", "b.wav", "c.wav"], start_seconds=[1.5, None, 0.0],
        kept=[True, True, False], caption=[" rain ", None, "wind"], measures=[1, 2, 3],
    )  # fmt: skip
    one, other = read_rows(table)
    assert (one.video, one.caption, one.start_seconds) == (tmp_path / "a.mp4", "rain", 1.5)
    assert (other.audio, other.caption, other.start_seconds) == (tmp_path / "b.wav", "", 0.0)


def test_lists_are_texts_and_the_index_of_pandas_is_passed_over(tmp_path):
    table = write(tmp_path / "t.parquet", audio=["a.wav"], tags=[["Dog", "Wind"]], **{"__index_level_0__": [7]})
    (line,) = tables.lines(table, ("audio", "tags"), needed=("video", "audio"))
    assert line == (2, {"audio": "a.wav", "tags": "Dog; Wind"})


def test_jobs_of_parquet(tmp_path):
    table = write(tmp_path / "t.parquet", prompt=["rain", "wind"], seed=[3, None], duration=[2.5, 1.0])
    made = jobs.from_table(table, Job(None, "", "", None, 0), tmp_path / "out", audio_only=False)
    assert [(job.prompt, job.seed, job.duration) for job in made] == [("rain", 3, 2.5), ("wind", 0, 1.0)]


@pytest.mark.parametrize("columns, message", [
    ({"audio": ["a\0.wav"]}, r"t.parquet: row 2: has a control character"),
    ({"audio": ["a.wav", "b.wav"], "caption": ["x", "\x1b[2J"]}, r"t.parquet: row 3: has a control character"),
    ({"licence": ["mine"]}, "got a column 'licence'"),
    ({"Audio": [{"bytes": b"RIFF", "path": "a.wav"}]}, "column 'Audio' holds struct<.*>, expected texts or numbers"),
    ({"audio": [b"RIFF"]}, "column 'audio' holds binary, expected texts or numbers; export it so"),
    ({"caption": ["rain"]}, "got no video and no audio"),
    ({"audio": pa.array([], pa.string())}, "got no video and no audio"),
])  # fmt: skip
def test_parquet_that_is_none(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        read_rows(write(tmp_path / "t.parquet", **columns))


def test_a_file_that_is_no_parquet(tmp_path):
    for content in (b"", b"video\na.mp4\n", b"PAR1" * 9):
        (tmp_path / "t.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=r"t\.parquet: is no readable Parquet file .*; make it again"):
            read_rows(tmp_path / "t.parquet")
        with pytest.raises(ValueError, match=r"t\.parquet: is no readable Parquet file"):
            tables.whole(tmp_path / "t.parquet")


def test_a_column_is_written_and_the_others_keep_their_types(tmp_path):
    table = tables.whole(
        write(tmp_path / "t.parquet", path=["a", "b"], caption=[None, "x"], kept=[True, False], n=[1, 2])
    )
    tables.write_column(tmp_path / "new.parquet", table, "caption", ["rain", "x"])
    made = parquet.read_table(tmp_path / "new.parquet")
    assert made.schema.types == [pa.string(), pa.string(), pa.bool_(), pa.int64()]
    assert made.to_pydict() == {"path": ["a", "b"], "caption": ["rain", "x"], "kept": [True, False], "n": [1, 2]}
    tables.write_column(tmp_path / "new.csv", table, "tags", ["t", "u"])
    with (tmp_path / "new.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["path", "caption", "kept", "n", "tags"], ["a", "", "yes", "1", "t"], ["b", "x", "no", "2", "u"],
        ]  # fmt: skip
    tables.write_column(tmp_path / "again.parquet", tables.whole(tmp_path / "new.csv"), "tags", ["v", "w"])
    assert parquet.read_table(tmp_path / "again.parquet").to_pylist()[1] == {
        "path": "b", "caption": "x", "kept": "no", "n": "2", "tags": "w",
    }  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["again.parquet", "new.csv", "new.parquet", "t.parquet"]
