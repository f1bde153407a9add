"""One ArrayRecord file of features: written under a temporary name, read from this machine's disk or out of a bucket.

A file in a bucket is written here first and uploaded. What is read is a copy (`kfjax.storage.cache`), or, where there
is no room for copies, the range of a record. ArrayRecord's library reads no ranges of objects; but a record that is
stored alone and uncompressed stands in the file as it is, except that the format under it (riegeli) has a header of
24 bytes wherever 64 KiB begin. So the file's writer looks up where its records went, and notes it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from kfjax.command import install
from kfjax.data.shards.json_files import read_json
from kfjax.storage import cache, disk
from kfjax.storage.bucket import BucketPath
from kfjax.storage.lock import BucketLock

_BLOCK, _HEADER = 2**16, 24
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


class RecordFile:
    """One ArrayRecord file that is being written, under a temporary name; leaves none behind."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.temporary, self.count, self.shapes = path, disk.beside(path), 0, None
        options = "group_size:1,uncompressed"  # a record is one read
        self._written: list[tuple[bytes, int, int]] = []  # of each record how it begins, its length and checksum
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
        self._written.append((record[:64], len(record), zlib.crc32(record)))
        self._try(self._writer.write, record)

    def close(self) -> None:
        """All that was written is in the temporary file."""
        self._try(self._writer.close)

    def places(self) -> list[tuple[int, int, int]]:
        """Of each record where it begins and ends in the closed file, and its CRC-32; empty if laid out otherwise."""
        contents, at, found = _contents(self.temporary.read_bytes(), 0), 0, []
        for head, length, checksum in self._written:
            at = contents.find(head, at)
            if at < 0 or zlib.crc32(contents[at : at + length]) != checksum:
                return []
            found.append((_in_file(at), _in_file(at + length - 1) + 1, checksum))
            at += length
        return found

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


def noted_places(path: BucketPath) -> list[tuple[int, int, int]]:
    """`RecordFile.places` of a file, from the note of its shard; empty where an earlier version wrote that."""
    note = read_json(path.parents[1] / "shards" / f"{path.stem}.json")
    return next(b for b in note["buckets"] if f"{b['seconds']:g}s" == path.parent.name).get("records", [])


def read_range(path: BucketPath, place: tuple[int, int, int]) -> bytes:
    """The record at one of `RecordFile.places`.

    Raises:
      BucketError: the store refuses or does not answer.
      CheckpointError: the object is not what it was when it was written.
    """
    begin, end, checksum = place
    for _ in range(cache.TRIES):
        record = _contents(path.read_bytes(begin, end), begin)
        if zlib.crc32(record) == checksum:
            return record
    raise disk.CheckpointError(f"{path} is damaged (bytes {begin} to {end} are not those noted); extract it again")


def _contents(data: bytes, start: int) -> bytes:
    """A stretch of a file that begins at `start`, without the headers of blocks in it."""
    view, end, pieces = memoryview(data), start + len(data), []
    for block in range(start // _BLOCK * _BLOCK, end, _BLOCK):
        pieces.append(view[max(block + _HEADER - start, 0) : min(block + _BLOCK, end) - start])
    return b"".join(pieces)


def _in_file(at: int) -> int:
    """Where in the file that byte of its contents is."""
    block, rest = divmod(at, _BLOCK - _HEADER)
    return block * _BLOCK + _HEADER + rest


def array_record() -> ModuleType:
    try:
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled
    except ModuleNotFoundError as missing:
        raise ValueError(f"features: got no package {missing.name}; {install('data')}") from missing
    return array_record_module
