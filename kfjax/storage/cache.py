"""Copies of a bucket's objects on this machine's disk, for libraries that read files.

    opened = fetch(shard, size=1000, digest="…")     # the file, downloaded unless it is here
    ahead([(next, 2000, "…")])                       # meanwhile
    folder = fetch_folder(BucketPath("gs://bucket/model"))

They lie in `cache_folder() / "buckets"`. What was not used for longest is deleted when there would be more than
KFJAX_BUCKET_GB gigabytes; without that variable they may fill four fifths of what the disk has free for them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from kfjax.storage.bucket import STREAMS, BucketError, BucketPath
from kfjax.storage.disk import CheckpointError, digest_of

LIMIT = "KFJAX_BUCKET_GB"
#: How often a copy that came damaged is fetched.
TRIES = 4
#: Age of a half-fetched copy that nobody is fetching any more: a day.
_LEFT_NS = 86400 * 10**9

_guard = threading.Lock()
_fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_promised: dict[str, int] = {}
#: Entry -> the open file by which this process holds it.
_kept: dict[Path, int] = {}
_gone: dict[str, Callable[[], None]] = {}
_pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="bucket")


def cache_folder() -> Path:
    """Where copies, public models and programs are kept: $KFJAX_CACHE, else kfjax/ in the user's cache folder."""
    if own := os.environ.get("KFJAX_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kfjax"


def fetch(
    path: BucketPath, *, size: int, digest: str = "", version: str = "", gone: Callable[[], None] | None = None
) -> Path:
    """The file that holds what the object holds.

    Args:
      size: of the object, in bytes.
      digest: its SHA-256, where it was noted.
      version: what tells it from one that was written before or later, where there is no digest; default: what the
        store says now.
      gone: called when the copy is about to be deleted; to close it, since only then its room is free.

    Raises:
      BucketError: the store does not answer or refuses; the disk has no room for the copy.
      CheckpointError: the object is not what it was when it was written.
    """
    if not (digest or version) and (found := path.found()):
        version = found.version
    key = _key(str(path), size, digest or version)
    with _fetching[key]:
        if gone is not None:
            _gone[key] = gone
        file = _folder() / key / path.name
        if not _touched(file.parent):
            with _Room(path, size) as temporary:
                _download(path, temporary / path.name, size, digest)
                _place(temporary, file.parent)
    return file


def fits(name: str, size: int) -> bool:
    """Whether there is room for copies of `size` bytes besides all that was said to fit before; `name`: of what."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    with _guard:
        _promised.pop(name, None)
        fit = sum(_promised.values()) + size <= _limit(folder, sum(_entries(folder).values()))
        _promised.update({name: size} if fit else {})
    return fit


def ahead(wanted: Iterable[tuple[BucketPath, int, str]]) -> None:
    """Begin to fetch (path, size, digest). What fails is fetched again, and fails, when it is asked for."""

    def attempt(path: BucketPath, size: int, digest: str) -> None:
        if threading.main_thread().is_alive():  # else the process ends, and would wait for all of them
            with suppress(ValueError, OSError):
                fetch(path, size=size, digest=digest)

    for each in wanted:
        _pool.submit(attempt, *each)


def fetch_folder(folder: BucketPath) -> Path:
    """A folder with copies of all objects below `folder`, as they are now. No process deletes it while this one lives.

    Raises:
      ValueError: there is nothing.
      BucketError: as `fetch`.
    """
    folder.check_bucket()
    found = folder.below()
    if not found:
        raise ValueError(f"{folder}: there is nothing; check the name")
    key = _key(str(folder), *(f"{name} {object.version}" for name, object in found.items()))
    place = _folder() / key / (folder.name or "bucket")
    with _fetching[key]:
        while not _held(place.parent):
            with _Room(folder, sum(object.size for object in found.values())) as temporary:
                get = lambda name: _download(folder / name, temporary / place.name / name, found[name].size, "")
                with ThreadPoolExecutor(STREAMS) as pool:
                    list(pool.map(get, found))
                _place(temporary, place.parent)
    return place


def local(path: Path) -> Path:
    """The path itself, or of an object or a folder in a bucket the copy."""
    if not isinstance(path, BucketPath):
        return path
    if (found := path.found()) is not None:
        return fetch(path, size=found.size, version=found.version)
    return fetch_folder(path)


def _key(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


def _folder() -> Path:
    return cache_folder() / "buckets"


def _touched(entry: Path) -> bool:
    """Whether it is there; it now counts as used."""
    try:
        os.utime(entry)
    except FileNotFoundError:
        return False
    return True


def _held(entry: Path) -> bool:
    """Whether it is there; it now counts as used, and is held until this process ends."""
    if (opened := _kept.pop(entry, None)) is None:
        try:
            opened = os.open(entry, os.O_RDONLY)
        except FileNotFoundError:
            return False
        with suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_SH)  # waits while it is being deleted
    found = _stat(entry) if _touched(entry) else None
    if found is None or not os.path.samestat(found, os.fstat(opened)):  # deleted, and perhaps fetched anew since
        os.close(opened)
        return found is not None and _held(entry)
    _kept[entry] = opened
    return True


def _deleted(entry: Path) -> bool:
    """Delete an entry, unless this process or another holds it."""
    if entry in _kept:
        return False
    try:
        opened = os.open(entry, os.O_RDONLY)
    except FileNotFoundError:  # another process has deleted it
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        return False
    except OSError:
        pass  # a file system without locks
    _gone.pop(entry.name, lambda: None)()
    shutil.rmtree(entry, ignore_errors=True)
    os.close(opened)
    return True


def _entries(folder: Path) -> dict[Path, int]:
    """Bytes of each, the one that was not used for longest first. Other processes add and delete some meanwhile."""
    there = sorted((stat.st_mtime_ns, path) for path in folder.iterdir() if (stat := _stat(path)))
    for changed, path in there:
        if path.name[0] == "." and time.time_ns() - changed > _LEFT_NS:  # by a process that was killed
            shutil.rmtree(path, ignore_errors=True)
    return {path: _bytes(path) for _, path in there if path.name[0] != "."}


def _bytes(entry: Path) -> int:
    files = (Path(folder, name) for folder, _, names in os.walk(entry) for name in names)
    return sum(stat.st_size for file in files if (stat := _stat(file)))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _place(temporary: Path, entry: Path) -> None:
    try:
        os.rename(temporary, entry)
    except OSError:
        if not entry.is_dir():  # else another process was faster
            raise


class _Room:
    """A temporary folder in the cache, with room for `size` bytes of `path`. Raises BucketError if there is none.

    What the cache holds is counted anew only when it seems full: there may be ten thousands of copies.
    """

    held: ClassVar[dict[Path, int]] = {}
    coming = 0  # bytes that are being fetched

    def __init__(self, path: BucketPath, size: int):
        self._path, self._size, self._folder = path, size, _folder()

    def __enter__(self) -> Path:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _guard:
                if not self._fits():
                    self._make_room()
                self._temporary = Path(tempfile.mkdtemp(dir=self._folder, prefix="."))
                _Room.coming += self._size
        except OSError as error:
            raise self._full(error) from error
        return self._temporary

    def _fits(self) -> bool:
        if (held := self.held.get(self._folder)) is None:
            held = self.held[self._folder] = sum(_entries(self._folder).values())
        return held + self.coming + self._size <= _limit(self._folder, held)

    def _make_room(self) -> None:
        entries = _entries(self._folder)
        held = self.held[self._folder] = sum(entries.values())
        for path, size in entries.items():
            if self._fits():
                return
            if _deleted(path):
                held = self.held[self._folder] = held - size
        if not self._fits():
            limit = _limit(self._folder, held)
            raise OSError(errno.ENOSPC, f"{self._size} bytes with {held + self.coming} in use, of {limit:.0f} at most")

    def _full(self, error: OSError) -> BucketError:
        return BucketError(f"{self._path}: no copy can be kept in {self._folder} ({error.strerror}); make room, raise "
                           f"{LIMIT}, or name another disk's folder as KFJAX_CACHE")  # fmt: skip

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        with _guard:
            _Room.coming -= self._size
            self.held[self._folder] += 0 if kind else self._size
        shutil.rmtree(self._temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise self._full(error) from error


def _limit(folder: Path, held: float) -> float:
    """Bytes that copies may take in the folder, where they take `held` of them now."""
    text = os.environ.get(LIMIT, "")
    try:
        return float(text) * 1e9 if text else 0.8 * (held + shutil.disk_usage(folder).free)
    except ValueError:
        raise ValueError(f"{LIMIT}: got {text!r}, expected a number of gigabytes") from None


def _download(path: BucketPath, file: Path, size: int, digest: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(TRIES):
        path.download(file)
        if (got := file.stat().st_size) != size:
            wrong = f"{got} of {size} bytes"
        elif digest and digest_of(file) != digest:
            wrong = "its SHA-256 is not the one that was noted"
        else:
            return
    raise CheckpointError(f"{path} is damaged ({wrong}); write it again")
