"""Feature records: what is written is read, at once and without copies; what is not whole is refused in one line."""

import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest

from kfjax.data.shards import records
from kfjax.data.shards.records import BFLOAT16, Example, Folder, ShardWriter, pack, parse, write
from kfjax.structs import Given, StereoMels
from tests.crash import killed_after

MARK = "0123456789abcdef"
LENGTHS = {1.0: (8, 16, 44), 2.0: (16, 40, 87)}


def example(index: int, seconds: float = 1.0, *, has_video: bool = True, has_text: bool = True) -> Example:
    rng = np.random.default_rng((index, int(seconds)))
    v, s, n = LENGTHS[seconds]
    array = lambda *shape: rng.standard_normal(shape).astype(BFLOAT16)
    return Example(
        id=f"clip {index}.mp4@0+{seconds:g}", clip=array(v, 6), sync=array(s, 4), text=array(5, 3),
        given=Given(np.arange(5) < 1 + index % 5, 0.0, seconds, has_video, has_text), mean=array(n, 2), std=array(n, 2),
    )  # fmt: skip


def assert_same(got: Example, want: Example):
    got, want = (one._asdict() | one.given._asdict() for one in (got, want))
    for name in got.keys() - {"given"}:
        assert np.array_equal(got[name], want[name]), name


@pytest.fixture
def folder(tmp_path):
    """Two buckets in three shards; the last one has nothing of 2 s."""
    buckets = {1.0: [example(i) for i in range(7)], 2.0: [example(i, 2.0) for i in range(2)]}
    return write(tmp_path / "features", buckets, MARK, shards=3)


def ids(folder) -> dict[float, list[str]]:
    return {seconds: [parse(record).id for record in bucket] for seconds, bucket in Folder(folder).buckets.items()}


def test_a_record_is_its_example():
    record = pack(example(3), MARK)
    got = parse(record)
    assert_same(got, example(3))
    for name in ("clip", "sync", "text", "mean", "std"):
        array = getattr(got, name)
        assert array.dtype == BFLOAT16 and not array.flags.owndata and not array.flags.writeable
    assert got.given.has_video is True and isinstance(got.given.seconds_total, float)


def test_any_precision_is_rounded_to_bfloat16():
    exact = np.linspace(-3, 3, 44 * 2, dtype=np.float32).reshape(44, 2)
    np.testing.assert_array_equal(parse(pack(example(0)._replace(mean=exact), MARK)).mean, exact.astype(BFLOAT16))


@pytest.mark.parametrize(("has_video", "hidden"), [(False, ("clip", "sync")), (True, ("text",))])
def test_what_a_mask_hides_is_not_stored(has_video, hidden):
    one = example(0, has_video=has_video, has_text=not has_video)
    assert len(pack(one, MARK)) < len(pack(example(0), MARK))
    got = parse(pack(one, MARK))
    zeros = {name: np.zeros_like(getattr(one, name)) for name in hidden}
    assert_same(got, one._replace(**zeros))
    assert all(getattr(got, name).dtype == BFLOAT16 for name in hidden)


def test_stereo_is_stored_of_stereo_recordings_alone():
    plain, rng = example(0), np.random.default_rng(0)
    mels = rng.integers(0, 256, (88, 6), np.uint8), rng.integers(-127, 128, (88, 6), np.int8)
    both, mono = (plain._replace(stereo=StereoMels(*mels, np.asarray(there))) for there in (True, False))
    sizes = [len(pack(one, MARK)) for one in (both, mono, plain)]
    assert sizes[0] - sizes[1] == 2 * -(-88 * 6 // 64) * 64 and 0 < sizes[1] - sizes[2] <= 192  # the header's
    got = parse(pack(both, MARK)).stereo
    assert got.there is True and [x.dtype for x in got[:2]] == [np.uint8, np.int8]
    for one, want in zip(got[:2], mels, strict=True):
        np.testing.assert_array_equal(one, want)
    got = parse(pack(mono, MARK)).stereo
    assert got.there is False and got.mono.shape == (88, 6) and not got.mono.any() and not got.ratio.any()
    assert parse(pack(plain, MARK)).stereo is None  # and so are records of earlier versions


def _with_header(change) -> bytes:
    record = pack(example(0), MARK)
    end = 8 + struct.unpack_from("<I", record, 4)[0]
    header = json.dumps(change(json.loads(record[8:end]))).encode()
    start = -(-end // 64) * 64
    data = b"KFX1" + struct.pack("<I", len(header)) + header
    return data + bytes(-len(data) % 64) + record[start:]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "record: begins with b'', expected b'KFX1'"),
        (b"TFRecord" * 9, "record: begins with b'TFRe'"),
        (pack(example(0), MARK)[:100], "record: its header is damaged"),
        (pack(example(0), MARK)[:-400], "record: its header does not describe it"),
        (_with_header(lambda h: h | {"schema": 2}), "got features of schema 2, expected 1; extract them again"),
        (_with_header(lambda h: h | {"arrays": {}}), "does not describe it"),
        (_with_header(lambda h: h | {"arrays": h["arrays"] | {"mean": ["object", [1], 0]}}), "does not describe it"),
        (_with_header(lambda h: h | {"arrays": h["arrays"] | {"mean": ["bfloat16", [-1], 0]}}), "not describe it"),
        (_with_header(lambda h: h | {"arrays": h["arrays"] | {"mean": ["bfloat16", [1], -9]}}), "not describe it"),
        (_with_header(lambda h: h | {"arrays": h["arrays"] | {"mean": ["bool", [44, 2], 0]}}), "mean is bool, expect"),
        (_with_header(lambda h: h | {"arrays": h["arrays"] | {"clip": ["bool", [8, 6], None]}}), "clip is bool"),
        (_with_header(lambda h: h | {"arrays": h["arrays"] | {"text_mask": ["bfloat16", [2], 0]}}), "expected bool"),
        (_with_header(lambda h: [h]), "record: its header is damaged"),
    ],
)
def test_a_damaged_record_is_refused(record, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(record)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["clip", "sync", "text", "mean", "std"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])  # the last is infinite as bfloat16
def test_what_is_not_finite_is_neither_written_nor_read(name, value, monkeypatch):
    array = np.array(getattr(example(0), name), np.float32)
    array[1, 1] = value
    wrong = example(0)._replace(**{name: array})
    with pytest.raises(ValueError, match=rf"clip 0.mp4@0\+1: got NaN or infinite values in {name}; leave it out"):
        pack(wrong, MARK)
    with monkeypatch.context() as patch:
        patch.setattr(records, "not_finite", lambda _: [])  # as earlier versions
        record = pack(wrong, MARK)
    with pytest.raises(ValueError, match=f"record: got NaN or infinite values in {name}; extract the features again"):
        parse(record)
    largest = np.where(np.isfinite(array) & (np.abs(array) < 1e38), array, np.float32(3.3895314e38))
    assert np.isfinite(getattr(parse(pack(example(0)._replace(**{name: largest}), MARK)), name)).all()


def test_what_a_mask_hides_may_be_anything():
    hidden = example(0, has_video=False)._replace(clip=np.full((8, 6), np.nan))
    assert not parse(pack(hidden, MARK)).clip.any()


def test_renames_are_on_the_disk_before_the_shard_counts(tmp_path, monkeypatch):
    """Files first, then their folders, then the note and its folder."""
    synced = []
    path_of = lambda file: os.path.relpath(os.readlink(f"/proc/self/fd/{file}"), tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file, real=os.fsync: (synced.append(path_of(file)), real(file)))
    with ShardWriter(tmp_path, 0, 1, MARK) as shard:
        shard.add(1.0, example(0))
    name = "00000-of-00001"
    assert [re.sub(r"[0-9-]+\.tmp", "tmp", path) for path in synced] == [
        f"1s/{name}.array_record.tmp",
        "1s",
        ".",
        f"shards/{name}.json.tmp",
        "shards",
    ]


def test_a_folder_has_buckets_of_records(folder):
    opened = Folder(folder, fingerprint=MARK)
    assert opened.fingerprint == MARK and list(opened.buckets) == [1.0, 2.0]
    assert opened.shapes[2.0]["clip"] == (16, 6) and opened.shapes[1.0]["mean"] == (44, 2)
    one, two = opened.buckets.values()
    assert (len(one), len(two)) == (7, 2)
    order = [0, 3, 6, 1, 4, 2, 5]  # shard after shard
    for place, index in enumerate(order):
        assert_same(parse(one[place]), example(index))
    assert_same(parse(two[np.int64(1)]), example(1, 2.0))
    for index in (-1, 7):
        with pytest.raises(IndexError):
            one[index]


def test_a_bucket_goes_to_another_process(folder):
    bucket = Folder(folder).buckets[1.0]
    assert bucket[0]  # opens a file, which does not pickle
    assert pickle.loads(pickle.dumps(bucket))[4] == bucket[4]


def test_readers_touch_no_accelerator(folder):
    code = (
        "import sys; from kfjax.data.shards.records import Folder, parse; "
        f"assert len(parse(Folder({str(folder)!r}).buckets[1.0][0]).id); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_features_of_other_encoders_are_refused(folder):
    with pytest.raises(ValueError, match=f"got features of encoders {MARK}, expected those of beef; extract them"):
        Folder(folder, fingerprint="beef")


def test_a_shard_of_other_encoders_is_refused(folder, tmp_path):
    other = write(tmp_path / "other", {1.0: [example(i) for i in range(7)]}, MARK[::-1], shards=3)
    name = "1s/00001-of-00003.array_record"
    shutil.copy(other / name, folder / name)
    bucket = Folder(folder).buckets[1.0]
    assert_same(parse(bucket[0]), example(0))
    with pytest.raises(ValueError, match=f"{name}: got features of encoders {MARK[::-1]}, expected those of {MARK}"):
        bucket[3]


def test_missing_and_truncated_shards_are_named(folder):
    names = [f"1s/0000{k}-of-00003.array_record" for k in (0, 2)]
    size = (folder / names[0]).stat().st_size
    os.truncate(folder / names[0], 70_000)
    with pytest.raises(ValueError, match=rf"truncated or replaced: {names[0]} \(70000 of {size} bytes\)"):
        Folder(folder)
    (folder / names[1]).unlink()
    with pytest.raises(ValueError, match=f"1 of 5 files are missing: {names[1]}; copy them again"):
        Folder(folder)


def test_damage_inside_a_shard_is_found_when_it_is_read(folder):
    bucket = Folder(folder).buckets[1.0]
    path = bucket.shards[0].path
    data = bytearray(path.read_bytes())
    place = data.index(b"KFX1", data.index(b"KFX1") + 1) + 500  # in the second record
    data[place : place + 50] = bytes(50)
    path.write_bytes(data)
    assert_same(parse(bucket[0]), example(0))
    with pytest.raises(ValueError, match=r"00000-of-00003.array_record: record 1 is damaged") as caught:
        bucket[1]
    assert "\n" not in str(caught.value)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(ValueError, match=r"00000-of-00003.array_record: got no records, expected 3; copy or extract"):
        Folder(folder).buckets[1.0][0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "got an unfinished extraction, expected features; run kfjax extract to its end"),
        ("{", "index.json: is no JSON"),
        ("[]", "index.json: got list, expected a JSON object"),
        ('{"schema": 2}', "got features of schema 2, expected 1"),
        ('{"schema": 1, "fingerprint": "f", "buckets": [{}]}', "index.json: is damaged .*seconds"),
    ],
)
def test_an_index_that_is_not_one(folder, text, message):
    path = folder / "index.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Folder(folder)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"nothing: got no index.json, expected features"):
        Folder(tmp_path / "nothing")


def test_an_index_needs_all_shards_of_one_extraction(folder, tmp_path):
    (folder / "shards/00001-of-00003.json").unlink()
    with pytest.raises(ValueError, match="1 of 3 shards are missing: 00001-of-00003; extract them too"):
        records.write_index(folder)
    with ShardWriter(folder, 1, 3, "other"):
        pass
    with pytest.raises(ValueError, match=r"encoders .*, expected those of one extraction"):
        records.write_index(folder)
    with pytest.raises(ValueError, match="got no shards"):
        records.write_index(tmp_path)


def test_examples_of_a_bucket_have_one_shape(tmp_path):
    with pytest.raises(ValueError, match=r"got shapes .* expected those of its first example"), \
            ShardWriter(tmp_path, 0, 1, MARK) as shard:  # fmt: skip
        shard.add(1.0, example(0))
        shard.add(1.0, example(0, 2.0))
    assert not list(tmp_path.rglob("*.array_record*")) and not records.is_done(tmp_path, 0, 1)


def test_killed_between_any_two_renames_a_shard_is_made_anew(tmp_path, monkeypatch):
    """Each time something else is left behind; never does it count, and the second attempt replaces it."""

    def make(folder):
        with ShardWriter(folder, 0, 1, MARK) as shard:
            for index in range(3):
                shard.add(1.0, example(index))
                shard.add(2.0, example(index, 2.0))

    for survived in range(4):
        folder = tmp_path / str(survived)
        with killed_after(survived, 3, monkeypatch):  # two files and the note
            make(folder)
        assert records.is_done(folder, 0, 1) == (survived == 3)
        assert len([path for path in folder.rglob("*.array_record") if path.is_file()]) == min(survived, 2)
        make(folder)
        records.write_index(folder)
        assert ids(folder) == {s: [example(i, s).id for i in range(3)] for s in (1.0, 2.0)}
        assert not list(folder.rglob("*.array_record*.tmp")) and not list(folder.rglob("*.lock"))


def test_a_shard_has_one_writer(tmp_path):
    with ShardWriter(tmp_path, 0, 1, MARK) as shard:
        with pytest.raises(ValueError, match="shards/00000-of-00001: is being written by another process; wait for"), \
                ShardWriter(tmp_path, 0, 1, MARK):  # fmt: skip
            raise AssertionError
        shard.add(1.0, example(0))
    assert records.is_done(tmp_path, 0, 1)


def test_a_shard_whose_file_is_gone_is_not_done(folder):
    assert records.is_done(folder, 0, 3)
    (folder / "2s/00000-of-00003.array_record").unlink()
    assert not records.is_done(folder, 0, 3)


@pytest.mark.parametrize("bytes_left", [1000, 200_000])
def test_no_room_on_the_disk(tmp_path, bytes_left):
    """As far as the library says anything, one line is said; what was written is taken away."""
    big = example(0)._replace(clip=np.ones((8, 60_000), BFLOAT16))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        with pytest.raises(ValueError, match=r"can't be written .*; make room and run again") as caught, \
                ShardWriter(tmp_path, 0, 1, MARK) as shard:  # fmt: skip
            shard.add(1.0, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert not records.is_done(tmp_path, 0, 1) and not list(tmp_path.rglob("*.array_record*"))


def test_without_the_library(folder, tmp_path, monkeypatch):
    opened = Folder(folder)
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    for use in (lambda: ShardWriter(tmp_path, 0, 1, MARK), lambda: opened.buckets[1.0][0]):
        with pytest.raises(ValueError, match=r"got no package array_record\.python; pip install '\.\[data\]'"):
            use()
