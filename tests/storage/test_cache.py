"""Copies of objects on this machine's disk: fetched once, checked, and no more of them than there is room for."""

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kfjax.storage import cache
from kfjax.storage.bucket import BucketError
from kfjax.storage.disk import CheckpointError

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from kfjax.storage import cache
from kfjax.storage.bucket import BucketPath
print(cache.fetch_folder(BucketPath(sys.argv[1])), flush=True)
time.sleep(60)
"""


def made(path, data):
    path.put(data)
    return {"size": len(data), "digest": hashlib.sha256(data).hexdigest()}


def test_a_copy_is_fetched_once(gs, google):
    asked = made(gs / "a", b"one")
    google.seen.clear()
    with ThreadPoolExecutor(8) as pool:
        files = set(pool.map(lambda _: cache.fetch(gs / "a", **asked), range(8)))
    assert [file.read_bytes() for file in files] == [b"one"] and len(google.downloads(gs)) == 1
    asked = made(gs / "a", b"two")
    assert cache.fetch(gs / "a", **asked).read_bytes() == b"two"


def test_a_damaged_object_is_named(gs):
    asked = made(gs / "a", b"one")
    (gs / "a").put(b"onf")
    with pytest.raises(CheckpointError, match=rf"{gs}/a is damaged \(its SHA-256 is not the one that was noted\)"):
        cache.fetch(gs / "a", **asked)
    (gs / "a").put(b"o")
    with pytest.raises(CheckpointError, match=r"is damaged \(1 of 3 bytes\)"):
        cache.fetch(gs / "a", **asked)
    assert not list((cache.cache_folder() / "buckets").iterdir())  # nothing half is left


def test_without_a_digest_the_store_tells_which_one_it_is(gs):
    made(gs / "a", b"one")
    assert cache.fetch(gs / "a", size=3).read_bytes() == b"one"
    made(gs / "a", b"two")
    assert cache.fetch(gs / "a", size=3).read_bytes() == b"two"


def test_a_folder_stays_while_a_process_has_it(gs, monkeypatch):
    """Its own process and any other."""
    monkeypatch.setenv(cache.LIMIT, "2.5e-6")
    made(gs / "model" / "a", bytes(1000))
    words = [sys.executable, "-c", HOLDER, str(gs / "model")]
    with subprocess.Popen(
        words, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    ) as other:
        folder = Path(other.stdout.readline().strip())
        os.utime(folder.parent, ns=(0, 0))
        for name in "bc":  # there is room for one of them beside it
            cache.fetch(gs / name, **made(gs / name, name.encode() * 1000))
        assert folder.is_dir()
        other.kill()
    cache.fetch(gs / "d", **made(gs / "d", b"d" * 1000))
    assert not folder.is_dir()
    folder = cache.fetch_folder(gs / "model")
    os.utime(folder.parent, ns=(0, 0))
    cache.fetch(gs / "e", **made(gs / "e", b"e" * 1000))
    assert folder.is_dir()


def test_what_is_held_is_the_folder_that_is_there(gs, monkeypatch):
    """Deleted and fetched anew: before this process had its lock, and by hand while it had it."""
    made(gs / "model" / "a", b"one")
    folder = cache.fetch_folder(gs / "model")

    def anew(entry):
        shutil.copytree(entry, entry.with_name("copy"))
        shutil.rmtree(entry)
        entry.with_name("copy").rename(entry)

    def crossing(opened, how, real=fcntl.flock):
        monkeypatch.setattr(fcntl, "flock", real)
        anew(folder.parent)
        real(opened, how)

    held = lambda: os.path.samestat(os.fstat(cache._kept[folder.parent]), folder.parent.stat())
    anew(folder.parent)
    assert cache.fetch_folder(gs / "model") == folder and held()
    os.close(cache._kept.pop(folder.parent))
    monkeypatch.setattr(fcntl, "flock", crossing)
    assert cache.fetch_folder(gs / "model") == folder and held()


def test_what_was_not_used_for_longest_makes_room(gs, monkeypatch):
    monkeypatch.setenv(cache.LIMIT, "2.5e-6")  # of 1000 bytes each: two
    asked, gone = {name: made(gs / name, name.encode() * 1000) for name in "abc"}, []
    for k, name in enumerate("aba"):
        file = cache.fetch(gs / name, **asked[name], gone=lambda name=name: gone.append(name))
        os.utime(file.parent, ns=(k, k))
    there = cache.fetch(gs / "c", **asked["c"])
    assert gone == ["b"] and there.is_file() and file.is_file()
    with pytest.raises(BucketError, match=rf"{gs}/d: no copy can be kept in .* \(.* of 2500 at most\); make room"):
        cache.fetch(gs / "d", **made(gs / "d", bytes(3000)))


def test_another_process_takes_its_own_away_meanwhile(gs):
    """It was listed, and is gone when it is looked at; here a link to nothing."""
    folder = cache.cache_folder() / "buckets"
    folder.mkdir(parents=True)
    for name in (".being-fetched", "deleted"):
        (folder / name).symlink_to("nowhere")
    assert cache.fetch(gs / "a", **made(gs / "a", b"one")).read_bytes() == b"one"


def test_a_disk_that_fills_is_told_in_one_line(gs, monkeypatch):
    asked = made(gs / "a", b"one")

    def full(self, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(type(gs), "download", full)
    cache.ahead([(gs / "a", asked["size"], asked["digest"])])  # fails without a word
    with pytest.raises(BucketError, match=r"a: no copy can be kept in .*buckets \(No space left on device\); make"):
        cache.fetch(gs / "a", **asked)
    assert cache._Room.coming == 0


def test_read_ahead(gs, google):
    asked = made(gs / "a", b"one")
    google.seen.clear()
    cache.ahead([(gs / "a", asked["size"], asked["digest"])] * 3)
    assert cache.fetch(gs / "a", **asked).read_bytes() == b"one" and len(google.downloads(gs)) == 1


def test_a_folder_as_it_is_now(gs, google):
    made(gs / "model" / "config.json", b"{}")
    made(gs / "model" / "in" / "a", b"one")
    folder = cache.fetch_folder(gs / "model")
    assert folder.name == "model" and (folder / "in" / "a").read_bytes() == b"one"
    google.seen.clear()
    assert cache.local(gs / "model") == folder and not google.downloads(gs)
    made(gs / "model" / "in" / "a", b"two")
    assert (cache.fetch_folder(gs / "model") / "in" / "a").read_bytes() == b"two"
    assert cache.local(gs / "model" / "config.json").read_bytes() == b"{}"
    with pytest.raises(ValueError, match="nothing: there is nothing; check the name"):
        cache.fetch_folder(gs / "nothing")


def test_a_limit_that_is_no_number(gs, monkeypatch):
    monkeypatch.setenv(cache.LIMIT, "many")
    with pytest.raises(ValueError, match="KFJAX_BUCKET_GB: got 'many', expected a number of gigabytes"):
        cache.fetch(gs / "a", **made(gs / "a", b"one"))
