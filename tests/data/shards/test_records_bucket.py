"""Features in buckets: batches are those of the same features on a disk, whatever fails in between."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kfjax.data.batches import FeatureInput
from kfjax.data.buckets import Buckets
from kfjax.data.shards import record_file, records
from kfjax.storage import cache, disk, lock
from tests.tiny import features
from tests.tiny.system import CONFIG

COUNTS = {1.0: 24}


def batches(path) -> FeatureInput:
    return FeatureInput(CONFIG, [(path, 1.0)], Buckets({1.0: 1.0}, batch_seconds=6.0, multiple_of=6, seed=0), seed=3)


def same(one, two):
    for a, b in zip((*one.posterior, one.features.clip), (*two.posterior, two.features.clip), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def test_batches_are_those_of_a_disk(in_bucket, tmp_path):
    here, there = (features.write(f / "x", CONFIG, COUNTS, shards=5) for f in (tmp_path, in_bucket))
    assert disk.sizes(here).keys() == disk.sizes(there).keys()
    assert records.is_done(there, 4, 5) and not records.is_done(there, 4, 6)
    one, two = batches(here), batches(str(there))
    for step in (0, 1, 7):
        same(one(step), two(step))
    assert not list((in_bucket / "x" / "shards").glob("*.lock"))


def test_a_host_fetches_what_it_reads_and_the_next_steps(gs, google, monkeypatch):
    fetched = lambda: set(google.downloads(gs, "array_record"))
    source = batches(features.write(gs / "x", CONFIG, COUNTS, shards=12))
    monkeypatch.setattr(source, "_ahead", 1)
    google.seen.clear()
    source.runs(0, (0,), 2)
    read = [place.record for step in (0, 1) for (place,) in source.places(step, (0, 1, 2))]
    wanted = {record // 2 for record in read}  # a shard has two
    while len(fetched()) < len(wanted):
        time.sleep(0.01)
    source.runs(0, (0,), 2)
    assert len(fetched()) == len(wanted) < 12


def test_without_room_for_copies_single_records_are_fetched(gs, google, tmp_path, monkeypatch):
    here, there = (features.write(f / "x", CONFIG, COUNTS, shards=3) for f in (tmp_path, gs))
    monkeypatch.setenv(cache.LIMIT, "0")
    one, two = batches(here), batches(there)
    google.seen.clear()
    for step in (0, 1, 9):
        same(one(step), two(step))
    assert len(google.downloads(gs, "array_record")) == 18  # as many requests as records
    assert not list((tmp_path / "cache").rglob("*.array_record"))
    google.cut = 2
    same(one(2), two(2))
    shard = there / "1s" / "00000-of-00003.array_record"
    shard.put(bytes(shard.found().size))
    with pytest.raises(ValueError, match=rf"{shard} is damaged \(bytes \d+ to \d+ are not those noted\)"):
        for step in range(4):
            two(step)


def test_with_less_room_than_there_are_shards_of_an_earlier_version(gs, tmp_path, monkeypatch):
    monkeypatch.setattr(record_file.RecordFile, "places", lambda self: [])
    here, there = (features.write(f / "x", CONFIG, COUNTS, shards=8) for f in (tmp_path, gs))
    largest = max(disk.sizes(there).values())
    monkeypatch.setenv(cache.LIMIT, str(3.5 * largest / 1e9))
    one, two = batches(here), batches(there)
    two._threads = ThreadPoolExecutor(1)
    for step in range(6):
        same(one(step), two(step))
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept <= 3.5 * largest


def test_a_shard_that_was_replaced_is_named(gs):
    there = features.write(gs / "x", CONFIG, COUNTS, shards=1)
    shard = there / "1s" / "00000-of-00001.array_record"
    data = shard.read_bytes()
    shard.put(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{shard} is damaged .its SHA-256 is not the one that was noted"):
        batches(there)(0)
    shard.put(data[:-1])
    with pytest.raises(ValueError, match=f"{there}: truncated or replaced: 1s/"):
        batches(there)


def test_two_processes_at_one_shard(gs, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.5)
    told = f"shards/00000-of-00001 is in use by process {os.getpid()} on .*; wait for it, or give every process its own"
    with records.ShardWriter(gs, 0, 1, "mark"), pytest.raises(ValueError, match=told):
        records.ShardWriter(gs, 0, 1, "mark").__enter__()


def test_a_shard_that_was_not_written_to_its_end_is_none(gs):
    with pytest.raises(KeyboardInterrupt), records.ShardWriter(gs, 0, 1, "mark") as shard:
        shard.add(1.0, features.example(CONFIG, 1.0, 0))
        raise KeyboardInterrupt
    assert disk.sizes(gs) == {} and not records.is_done(gs, 0, 1)
    with pytest.raises(ValueError, match=r"got no index\.json, expected features"):
        records.Folder(gs)


def test_no_such_bucket(gs):
    with pytest.raises(ValueError, match="there is no bucket no-such"):
        records.Folder("gs://no-such/x")


@pytest.mark.parametrize("sizes", [[70], [1], [65536 - 64, 3, 200_000, 65536], [65400 + k for k in range(0, 90, 7)]])
def test_a_record_is_found_wherever_blocks_begin(tmp_path, sizes):
    rng = np.random.default_rng(0)
    wanted = [rng.bytes(size) for size in sizes]
    with record_file.RecordFile(tmp_path / "a.array_record") as file:
        for record in wanted:
            file.write(record, {})
        file.close()
        data = file.temporary.read_bytes()
        for record, (begin, end, _) in zip(wanted, file.places(), strict=True):
            assert record_file._contents(data[begin:end], begin) == record


def test_a_file_leaves_nothing_behind(tmp_path):
    with record_file.RecordFile(tmp_path / "a.array_record") as file:
        file.write(b"one", {})
        file.close()
        assert file.temporary.is_file()
    assert not list(tmp_path.iterdir())
