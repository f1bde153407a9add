"""One ArrayRecord file of features: written under a temporary name, read from this machine's disk.

A file in a bucket is written here first and uploaded; what is read is a copy (`kfjax.storage.cache`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from kfjax.command import install
from kfjax.storage import cache, disk
from kfjax.storage.lock import BucketLock

_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


class RecordFile:
    """One ArrayRecord file that is being written, under a temporary name; leaves none behind."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.temporary, self.count, self.shapes = path, disk.beside(path), 0, None
        options = "group_size:1,uncompressed"  # a record is one read
        self._writer = array_record().ArrayRecordWriter(str(self.temporary), options)

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.temporary.unlink(missing_ok=True)

    def write(self, record: bytes, shapes: Mapping[str, Any]) -> None:
        """Append a record, of an example of these shapes."""
        if self.shapes not in (None, shapes):
            raise ValueError(f"{self.path}: got shapes {shapes}, expected those of its first example, {self.shapes}")
        self.shapes, self.count = shapes, self.count + 1
        self._try(self._writer.write, record)

    def close(self) -> None:
        """All that was written is in the temporary file."""
        self._try(self._writer.close)

    def _try(self, function, *args) -> None:
        try:
            function(*args)
        except RuntimeError as error:  # all that the library raises
            raise ValueError(f"{self.path}: can't be written ({error}); make room and run again") from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the file while the block runs, or until the process ends, however it ends."""
    import fcntl

    advice = "wait for it, or give every process its own --process I/N"
    if disk.in_bucket(path):
        with BucketLock(path, str(path.with_suffix("")), advice):
            yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path.with_suffix('')}: is being written by another process; {advice}") from None
        except OSError:
            pass  # a network file system without locks
        try:
            yield
        finally:
            path.unlink()


def open_records(path: Path, count: int, *, size: int, digest: str, gone: Callable[[], None]) -> Any:
    """A reader of the file, which has so many records.

    Args:
      size, digest, gone: as `cache.fetch`, of a file in a bucket.

    Raises:
      ValueError: another number of records; as `cache.fetch`.
    """
    here = cache.fetch(path, size=size, digest=digest, gone=gone) if disk.in_bucket(path) else path
    reader = array_record().ArrayRecordReader(str(here), _RANDOM_ACCESS)
    if not reader.ok() or reader.num_records() != count:
        found = reader.num_records() if reader.ok() else "no"
        raise ValueError(f"{path}: got {found} records, expected {count}; copy or extract it again")
    return reader


def array_record() -> ModuleType:
    try:
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled
    except ModuleNotFoundError as missing:
        raise ValueError(f"features: got no package {missing.name}; {install('data')}") from missing
    return array_record_module
