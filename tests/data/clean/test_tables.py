"""Tables are written in groups, and hold no more than one."""

import tracemalloc

import numpy as np
import pytest

from kfjax.data.clean import report, tables
from kfjax.data.clean.measure import MEASURES, Measured
from kfjax.data.clean.thresholds import CleanConfig, Limit, judge
from kfjax.data.sources import Row

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed; pip install '.[data]'")


def measured(count):
    """Rows with a value for each measure."""
    rng = np.random.default_rng(0)
    numbers = [name for name in MEASURES if name not in tables.TEXTS]
    for i in range(count):
        measures = dict(zip(numbers, rng.uniform(size=len(numbers)).tolist(), strict=True))
        marks = {name: rng.bytes(32).hex() for name in ("sound_fingerprint", "picture_fingerprint")}
        yield Measured(float(i), 10.0, "", measures | marks)


@pytest.mark.parametrize("count", [0, 4, 5, 8, 17])
def test_groups_are_whole_and_in_order(tmp_path, monkeypatch, count):
    monkeypatch.setattr(tables, "_AT_ONCE", 2)
    monkeypatch.setattr(tables, "_GROUP", 8)
    row = Row("a", tmp_path / "a.mp4", None, "a bell")
    with tables.writing(tmp_path, tables.CLIPS, "parquet") as table:
        for one in measured(count):
            table.write(tables.clip_cells(row, one, {}))
    file = pq.ParquetFile(tmp_path / "clips.parquet")
    assert file.read(["start_seconds"]).to_pydict()["start_seconds"] == list(range(count))
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert [size for size in sizes if size] == [8] * (count // 8) + [count % 8] * bool(count % 8)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Of all that filtering holds: the rest of a group, what the page shows, the fingerprints (0.25 KB a row)."""
    row, cfg = Row("a", tmp_path / "a.mp4", None, ""), CleanConfig(10.0, 1.0, 0.2, {"mos": Limit(least=0.3)})

    def peak(count):
        tracemalloc.start()
        page = report.Page(cfg)
        with tables.writing(tmp_path, tables.CLIPS, "parquet") as table:
            for one, refused in zip(measured(count), judge(measured(count), cfg), strict=True):
                table.write(tables.clip_cells(row, one, refused))
                page.add(row, one, refused)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(2500) - peak(500) < 2000 * 1000, "bytes"
