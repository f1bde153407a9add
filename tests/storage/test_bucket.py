"""Objects in a bucket by the methods of a path, and what a user is told when the store does not do as it should."""

import pickle
import sys
from pathlib import Path

import pytest

from kfjax import command
from kfjax.storage import bucket, disk
from kfjax.storage.bucket import BucketError, BucketPath
from tests.tiny import buckets


@pytest.mark.parametrize("text", ["gs://b/a/c", "GS://b/a/c", "gs:/b/a/c", Path("gs://b/a/c")])
def test_one_place_decides_what_a_path_is(text, tmp_path):
    path = disk.path(text)
    assert disk.in_bucket(path) and str(path) == "gs://b/a/c" and path.scheme == "gs"
    assert str(path.parent / "d.x") == "gs://b/a/d.x" and path.name == "c" and path.with_suffix(".z").name == "c.z"
    assert pickle.loads(pickle.dumps(path)) == path and path.resolve() is path
    assert str(path.relative_to(path.parent)) == "c"
    assert not disk.in_bucket(disk.path(tmp_path)) and disk.path(tmp_path) == tmp_path
    with pytest.raises(command.AddressError, match="got https://b/a, which is an address"):
        disk.path("https://b/a")


def test_objects_by_the_methods_of_a_path(in_bucket, tmp_path):
    one, two = in_bucket / "one", in_bucket / "in" / "two.txt"
    assert not in_bucket.exists() and one.found() is None and not list(in_bucket.iterdir()) and in_bucket.below() == {}
    one.put(b"1")
    disk.write_text(two, "zwei\n", noted=False)
    assert in_bucket.is_dir() and not in_bucket.is_file() and one.is_file() and not one.is_dir() and in_bucket.exists()
    assert list(in_bucket.iterdir()) == [in_bucket / "in", one] and disk.sizes(in_bucket) == {"in/two.txt": 5, "one": 1}
    assert disk.glob(in_bucket, "i*", "*.txt") == [two]
    assert list(in_bucket.glob("*.txt")) == [] == disk.glob(one, "*", "*")
    assert list(in_bucket.glob("o*")) == [one] and list((in_bucket / "in").glob("two.t?t")) == [two]
    assert one.read_bytes() == b"1" and two.read_text() == "zwei\n" and disk.size_of(two) == 5
    before = one.found()
    one.put(b"2")
    assert one.found() != before
    assert not one.create(b"3") and one.read_bytes() == b"2" and (in_bucket / "new").create(b"3")
    (tmp_path / "file").write_bytes(b"4" * 300_000)
    one.upload(tmp_path / "file")
    one.download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"4" * 300_000
    one.unlink()
    assert not one.exists()
    one.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=str(one)):
        one.read_bytes()


def test_a_folder_is_uploaded_with_what_makes_it_whole_last(gs, google, tmp_path):
    for name in ("config.json", "a", "in/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (gs / "stale").put(b"")
    bucket.upload_folder(tmp_path, gs, last="config.json")
    assert disk.sizes(gs) == {"a": 1, "config.json": 11, "in/b": 4}
    (tmp_path / "a").write_text("changed")
    google.seen.clear()
    bucket.upload_folder(tmp_path, gs, last="config.json")
    changing = [line for line in google.seen if not line.startswith("GET")]
    assert changing[1].startswith("DELETE") and "config.json" in changing[1]  # until the end nobody takes it for whole
    assert not disk.unfinished(gs) and (gs / "a").read_text() == "changed" and (gs / "config.json").is_file()


def test_files_with_digests(gs):
    disk.write_text(gs / "a", "one")
    disk.write_text(gs / "b", "two")
    assert (gs / disk.SUMS).read_text().count("\n") == 2


def test_a_store_that_fails_now_and_then_is_asked_again(gs, google, tmp_path, monkeypatch):
    buckets.impatient(monkeypatch)
    google.fail_every = 5
    for k in range(8):
        (gs / str(k)).put(bytes(1000))
        assert (gs / str(k)).read_bytes() == bytes(1000)
    google.calm()
    google.cut = 1
    assert (gs / "0").read_bytes() == bytes(1000)
    google.cut = 1
    (gs / "0").download(tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size == 1000 and google.cut == 0


@pytest.mark.parametrize(
    "status, told",
    [
        (401, r"the store refuses \(Invalid Credentials, 401\); log in \(gcloud auth application-default login\)"),
        (403, r"the store refuses \(Forbidden: "),
        (503, r"the store does not answer as it should \(.*503\), after several tries; run again to go on"),
    ],
)
def test_a_store_that_fails_for_good_is_told_in_one_line(gs, google, monkeypatch, capsys, status, told):
    buckets.impatient(monkeypatch)
    google.status = status
    for ask in (gs.read_bytes, gs.exists, gs.check_bucket, gs.below, lambda: gs.put(b""), lambda: gs.create(b"")):
        with pytest.raises(BucketError, match=f"^{gs}: {told}"):
            ask()
    assert command.run(lambda _: gs.put(b""), []) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_such_bucket(gs):
    with pytest.raises(BucketError, match="gs://no-such-bucket/a: there is no bucket no-such-bucket; make it, or"):
        BucketPath("gs://no-such-bucket/a").check_bucket()
    with pytest.raises(BucketError, match="got no bucket's name, expected gs://BUCKET/FOLDER"):
        BucketPath("gs://").check_bucket()


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with (
        buckets.environment(),
        pytest.raises(BucketError, match=r"gs://: gcsfs is not installed; pip install '.\[gcs\]'"),
    ):
        BucketPath("gs://a/b").read_bytes()


def test_no_name_leads_out_of_a_folder(monkeypatch):
    class Store:
        def find(self, path, detail):
            names = ("a/b", "a/../../../c", "../d", "e..f", "/g")
            return {f"bucket/run/{name}": {"size": 1, "etag": "1"} for name in names}

    monkeypatch.setattr(bucket.BucketPath, "_store", lambda self: Store())
    assert sorted(bucket.BucketPath("gs://bucket/run").below()) == ["a/b", "e..f"]
