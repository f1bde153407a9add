"""Digests beside the files: what `sha256sum` writes and checks, never one of another file, and no rename unsynced."""

import errno
import hashlib
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kfjax.storage import disk
from kfjax.storage.disk import CheckpointError
from tests.crash import killed_after


def made(folder, name, text):
    temporary = folder / "new"
    temporary.write_text(text)
    disk.commit(temporary, folder / name)
    return folder / name


def read(path):
    with disk.checked(disk.digests(path)):
        return path.read_text()


def test_the_file_is_that_of_sha256sum(tmp_path):
    made(tmp_path, "a", "one")
    made(tmp_path, "b c", "two")
    made(tmp_path, "a", "three")
    subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "SHA256SUMS").read_text().count("\n") == 2
    with (tmp_path / "SHA256SUMS").open("w") as sums:
        subprocess.run(["sha256sum", "--binary", "a"], cwd=tmp_path, check=True, stdout=sums)
    assert read(tmp_path / "a") == "three" and len(disk.digests(tmp_path / "a")) == 1


def test_writers_at_the_same_time_lose_no_digest(tmp_path):
    def write(k):
        (tmp_path / f"new{k}").write_text(str(k))
        disk.commit(tmp_path / f"new{k}", tmp_path / str(k))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(32)))
    assert len(disk.digests(tmp_path)) == 32
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*map(str, range(32)), disk.SUMS])


def test_damage_is_named_with_what_to_do(tmp_path):
    path = made(tmp_path, "a", "one")
    path.write_text("onf")
    with pytest.raises(CheckpointError, match=rf"{path} is damaged \(its SHA-256 is not .*\); copy or export it again"):
        read(path)
    with pytest.raises(ValueError, match="what a reader says"), disk.checked(disk.digests(path)):
        raise ValueError("what a reader says")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"a is damaged \(No such file or directory\); ask again"), \
            disk.checked(disk.digests(tmp_path), advice="ask again"):  # fmt: skip
        pass


def test_files_without_a_digest_are_read(tmp_path):
    path = made(tmp_path, "a", "one")
    (tmp_path / "b").write_text("by hand")
    assert read(tmp_path / "b") == "by hand"
    path.write_text("by hand")
    (tmp_path / "SHA256SUMS").unlink()
    assert read(path) == "by hand"


def test_a_damaged_list_is_named(tmp_path):
    made(tmp_path, "a", "one")
    sums = tmp_path / "SHA256SUMS"
    sums.write_bytes(sums.read_bytes().replace(b"  a", b"\xff a"))
    with pytest.raises(CheckpointError, match=r"SHA256SUMS is damaged \(line 1\); copy it again, or delete it"):
        read(tmp_path / "a")


@pytest.mark.parametrize("name", ["", "file"])
def test_one_at_a_time(tmp_path, name):
    """Through a folder, or a file that is there or not."""
    events = []

    def work():
        with disk.alone(tmp_path / name):
            events.append("in")
            one = len(events)
            time.sleep(0.05)
            assert len(events) == one
            events.append("out")

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert events == ["in", "out"] * 4 and (tmp_path / name).exists()


def test_what_could_not_be_written_is_named_and_nothing_is_left(tmp_path):
    for wrong, name in ((None, "a"), (str(tmp_path / "other"), "other")):
        with pytest.raises(OSError, match="No space") as refused, disk.writing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device", wrong)
        assert refused.value.filename == str(tmp_path / name) and list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError) as missing:
        disk.write_text(tmp_path / "none" / "a", "text")
    assert missing.value.filename == str(tmp_path / "none" / "a")


@pytest.mark.parametrize("survived", range(4))
def test_killed_between_any_two_renames_no_digest_is_of_another_file(tmp_path, monkeypatch, survived):
    made(tmp_path, "a", "one")
    made(tmp_path, "b", "two")
    with killed_after(survived, 3, monkeypatch):  # the old digest goes, the file comes, the new digest comes
        made(tmp_path, "a", "three")
    assert read(tmp_path / "a") == ("three" if survived >= 2 else "one")
    assert read(tmp_path / "b") == "two" and disk.digests(tmp_path / "b")
    assert len(disk.digests(tmp_path / "a")) == (survived in (0, 3))


def test_a_rename_is_on_the_disk_before_anything_else_happens(tmp_path, monkeypatch):
    done = []
    inode = lambda file: os.fstat(file).st_ino
    monkeypatch.setattr(os, "fsync", lambda file, real=os.fsync: (done.append(inode(file)), real(file)))
    monkeypatch.setattr(os, "replace", lambda *names, real=os.replace: (done.append("rename"), real(*names)))
    (tmp_path / "new").mkdir()
    folder = (tmp_path / "new").stat().st_ino
    disk.replace(tmp_path / "new", tmp_path / "old")
    assert done == [folder, "rename", tmp_path.stat().st_ino]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    disk.write_text(tmp_path / "a", "one")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.write_text(tmp_path / "a", "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SHA256SUMS", "a"] and read(tmp_path / "a") == "one"


def test_all_files_below_a_folder(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "deep").write_text("deep")
    disk.sign(tmp_path / "x", [tmp_path / "x" / "y" / "deep"])
    path = made(tmp_path, "a", "one")
    assert disk.digests(tmp_path) == {
        path: hashlib.sha256(b"one").hexdigest(),
        tmp_path / "x" / "y" / "deep": hashlib.sha256(b"deep").hexdigest(),
    }  # fmt: skip
