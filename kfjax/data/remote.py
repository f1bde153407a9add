"""Files on any file system of fsspec, by their address (`gs://bucket/a.mp4`), brought here to be read.

with fetched(row) as here:          # `here.video` and `here.audio` are files on this machine
    ...
"""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kfjax import command, media

if TYPE_CHECKING:
    from kfjax.data.sources import Row

#: Files that are kept after their use, for the next excerpt of the same.
_KEPT = 4


class Address(Path if TYPE_CHECKING else PurePosixPath):
    """`scheme://place/name` of a source's file, on any file system of fsspec.

    Declared as a `Path`, whose parts it has; `str` gives the address. It can't be opened: `fetched` gives a copy on
    this machine. What kfjax itself keeps in a bucket is a `kfjax.storage.bucket.BucketPath`.
    """

    def __str__(self) -> str:
        return re.sub(r"^([A-Za-z][\w+.-]+):/+", r"\1://", super().__str__())

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is not on this machine; `fetched` brings it here")


def is_address(text: str) -> bool:
    """Whether a text is an address of a file system other than this machine's and the web."""
    return bool(command.ADDRESS.match(text)) and not re.match(r"https?:", text, re.IGNORECASE)


def located(text: str, folder: Path) -> Path:
    """A path below `folder` (a folder or an `Address`) if the text is relative, or an `Address`. Stores know no "..":
    it is taken out of an `Address`.

    Raises:
      AddressError: an address on the web.
    """
    if is_address(text):
        return Address(text)
    path = command.local_path(text)
    if path.is_absolute():
        return path
    if not isinstance(folder, Address):
        return folder / path
    scheme, _, place = str(folder / path).partition("://")
    return Address(f"{scheme}://{posixpath.normpath(place)}")


def stamp(path: Path | None) -> list | None:
    """What changes when a file does: its size and time of change, or what its store says of it; None without one."""
    try:
        if not isinstance(path, Address):
            found = path.stat() if path is not None else None
            return found and [found.st_size, found.st_mtime_ns]
        info = _system(path).info(str(path))
    except Exception:  # of every store its own
        return None
    return [
        info.get("size"),
        *(str(info[key]) for key in ("etag", "ETag", "mtime", "updated", "created") if key in info),
    ]


@contextmanager
def fetched(row: Row) -> Iterator[Row]:
    """The row with its files on this machine; those fetched last are kept until the process ends, a few at most.

    Raises:
      MediaError: a file that can't be fetched.
    """
    with ExitStack() as stack:
        here = {
            name: stack.enter_context(fetched_file(path))
            for name, path in (("video", row.video), ("audio", row.audio))
            if isinstance(path, Address)
        }
        yield row._replace(**here) if here else row


def fetched_file(address: Address) -> AbstractContextManager[Path]:
    """A file on this machine with what is there at the address; as `fetched`."""
    return _CACHE.file(address)


class _Cache:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple, tuple[Path, threading.Lock]] = OrderedDict()
        self._used: dict[Path, int] = {}
        self._folder: tempfile.TemporaryDirectory | None = None

    @contextmanager
    def file(self, address: Address) -> Iterator[Path]:
        key = (str(address), str(stamp(address)))
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="kfjax-")
            new = Path(self._folder.name) / f"{os.urandom(8).hex()}{address.suffix}"
            path, fetching = self._files.setdefault(key, (new, threading.Lock()))
            self._files.move_to_end(key)
            self._used[path] = self._used.get(path, 0) + 1
        try:
            with fetching:
                if not path.exists():
                    _fetch(address, path)
            yield path
        finally:
            with self._lock:
                self._used[path] -= 1
                for old in [old for old, (file, _) in self._files.items() if not self._used[file]][:-_KEPT]:
                    file, _ = self._files.pop(old)
                    del self._used[file]
                    file.unlink(missing_ok=True)


_CACHE = _Cache()


def _fetch(address: Address, path: Path) -> None:
    temporary = path.with_suffix(".part")
    try:
        _system(address).get_file(str(address), str(temporary))
        temporary.replace(path)
    except Exception as error:  # of every store its own
        temporary.unlink(missing_ok=True)
        raise media.MediaError(f"{address}: can't be fetched ({_said(error)}); check it, or leave it out") from error


def _system(address: Address) -> Any:
    import fsspec

    return fsspec.filesystem(str(address).partition("://")[0].lower())


def _said(error: Exception) -> str:
    return command.quoted(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 200)
