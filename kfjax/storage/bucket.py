"""Objects in a bucket, `gs://` (Google Cloud Storage) or `s3://`, by the methods of `pathlib.Path` that kfjax uses.

fsspec reads and writes them, with gcsfs or s3fs under it, which repeat what fails for a while. What fails for good is
one `BucketError`. An object is there whole or not at all; folders are only prefixes of names, and nothing is renamed.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from kfjax.command import install, quoted

#: What reads a scheme -> the extra that brings it.
DRIVERS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
#: Name of an object that is there until a folder is whole.
UPLOADING = "UPLOADING"
#: Requests at a time.
STREAMS = 16
#: Libraries whose exceptions are the store's answers.
_STORES = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3"}
_LOGIN = {
    "gs": "log in (gcloud auth application-default login), or let this account read and write there",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), or let this account read and write there",
}
#: Where a store says no, as opposed to nothing.
_REFUSED = re.compile(
    r"\b40[13]\b|credential|forbidden|unauthori[sz]ed|access.?denied|permission|token|anonymous", re.IGNORECASE
)


class BucketError(ValueError):
    """A store that does not answer, or refuses."""


class Object(NamedTuple):
    """What a store says of an object; its version is another after every write."""

    size: int
    version: str


class BucketPath(Path if TYPE_CHECKING else PurePosixPath):
    """`gs://bucket/name` or `s3://bucket/name`: what kfjax itself keeps there, features, runs and models.

    A source's files, which are only read and may be on any file system of fsspec, are `kfjax.data.remote.Address`es.
    Every method that asks the store raises BucketError where it refuses or does not answer, and FileNotFoundError where
    an object is missing that should be read.
    """

    def __str__(self) -> str:
        return re.sub("^(gs|s3):/+", r"\1://", super().__str__())

    def __reduce__(self):
        return type(self), (str(self),)

    @property
    def scheme(self) -> str:
        """gs or s3."""
        return str(self).partition(":")[0]

    def resolve(self) -> BucketPath:
        """The path itself: there are no links."""
        return self

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there once an object is in it."""

    def exists(self) -> bool:
        """Whether it is an object, or the beginning of an object's name."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether it is an object."""
        return self.found() is not None

    def is_dir(self) -> bool:
        """Whether there are objects below it."""
        return next(self.iterdir(), None) is not None

    def found(self) -> Object | None:
        """What the store says of the object; None where there is none."""
        try:
            with self._told():
                return _object(info) if (info := self._store().info(str(self)))["type"] == "file" else None
        except FileNotFoundError:
            return None

    def below(self) -> dict[str, Object]:
        """Name relative to this folder -> what the store says, of all objects below it, by few requests.

        Names that would lead out of a folder with copies are left out.
        """
        start = f"{str(self).partition('://')[2]}/"
        try:
            with self._told():
                found: Mapping[str, Any] = self._store().find(str(self), detail=True)
        except FileNotFoundError:
            return {}
        named = ((name.removeprefix(start), info) for name, info in sorted(found.items()) if name != start[:-1])
        return {name: _object(info) for name, info in named if ".." not in name.split("/") and name[:1] != "/"}

    def iterdir(self) -> Iterator[BucketPath]:
        """Objects and folders right below it."""
        start = f"{str(self).partition('://')[2]}/"
        try:
            with self._told():
                names = self._store().ls(str(self), detail=False)
        except FileNotFoundError:
            return
        for name in sorted({name.removeprefix(start).rstrip("/") for name in names if name.startswith(start)} - {""}):
            yield self / name

    def glob(self, pattern: str) -> Iterator[BucketPath]:
        """Objects right below it whose names are like the pattern; only those that begin as it does are listed."""
        first = re.split(r"[*?[]", pattern)[0]
        start = f"{str(self).partition('://')[2]}/"
        try:
            with self._told():
                found = self._store().find(f"{self}/", prefix=first)
        except FileNotFoundError:
            return
        for name in sorted(name.removeprefix(start) for name in found):
            if "/" not in name and fnmatchcase(name, pattern):
                yield self / name

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """What is in the object, or from byte `start` to before `end`."""
        with self._told():
            return self._store().cat_file(str(self), start=start, end=end)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The object as text."""
        return self.read_bytes().decode(encoding, errors)

    def put(self, data: bytes) -> None:
        """Write the object, whole or not at all."""
        with self._told():
            self._store().pipe_file(str(self), data)

    def create(self, data: bytes) -> bool:
        """Write the object unless there is one, by the store's own precondition; whether it was written."""
        try:
            with self._told():
                self._store().pipe_file(str(self), data, mode="create")
        except FileExistsError:
            return False
        return True

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        try:
            with self._told():
                self._store().rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def upload(self, file: Path) -> None:
        """Write a file of this machine as the object, whole or not at all."""
        with self._told():
            self._store().put_file(str(file), str(self))

    def download(self, file: Path) -> None:
        """Write the object as a file of this machine."""
        with self._told():
            self._store().get_file(str(self), str(file))

    def check_bucket(self) -> None:
        """Raises BucketError if there is no such bucket, or it can't be listed."""
        if not (name := "".join(self.parts[1:2])):
            raise BucketError(f"{self}: got no bucket's name, expected {self.scheme}://BUCKET/FOLDER")
        try:
            with self._told():
                self._store().ls(f"{self.scheme}://{name}", detail=False)
        except FileNotFoundError:
            raise BucketError(f"{self}: there is no bucket {name}; make it, or check the name") from None

    def _store(self) -> Any:
        return _store(self.scheme)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what the libraries raise into one line."""
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None
        except (BucketError, FileExistsError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.filename is not None:  # of a file on this machine
                raise
            if not (isinstance(error, OSError) or is_answer(error)):
                raise
            raise BucketError(_line(self, error)) from error


def is_answer(error: BaseException) -> bool:
    """Whether an exception is a store's answer, or that there is none, in a library's words."""
    return type(error).__module__.partition(".")[0] in _STORES


def _line(path: BucketPath, error: Exception) -> str:
    """Got, and what to do."""
    said = quoted(" ".join(f"{error or type(error).__name__}".split()), 200)
    if _REFUSED.search(f"{type(error).__name__} {getattr(error, 'code', '')} {said}"):
        return f"{path}: the store refuses ({said}); {_LOGIN[path.scheme]}"
    return f"{path}: the store does not answer as it should ({said}), after several tries; run again to go on"


def _object(info: Mapping[str, Any]) -> Object:
    version = info.get("generation") or info.get("ETag") or info.get("etag") or info.get("mtime")
    return Object(int(info["size"]), str(version))


@functools.cache
def _store(scheme: str) -> Any:
    driver, extra = DRIVERS[scheme]
    os.environ.setdefault("EPATH_USE_TF", "false")  # orbax reads through the same library, not through TensorFlow
    try:
        import fsspec.config

        import_module(driver)
        # Other hosts write too: what was listed before does not count. For orbax's instances as well.
        for name in ("gs", "gcs", "s3"):
            fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
        store = fsspec.filesystem(scheme)
    except ImportError:
        raise BucketError(f"{scheme}://: {driver} is not installed; {install(extra)}") from None
    for name in (driver, "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they print tracebacks of what they raise
    return store


def s3_client() -> Any:
    """The client of S3 that s3fs reads and writes with, connected: botocore's, with its endpoint and region."""
    store = _store("s3")
    store.connect()
    return store.s3


def upload_folder(folder: Path, target: BucketPath, *, last: str) -> None:
    """Write all files below `folder` as objects below `target`.

    The object `last` makes it whole: an earlier one is deleted first, and it is written when all others are there.
    While they come the object `UPLOADING` is there too. Objects that have no file any more are deleted.
    """
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    stale = target.below().keys() - files.keys()
    (target / UPLOADING).put(b"")
    (target / last).unlink(missing_ok=True)
    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(lambda name: (target / name).upload(files[name]), files.keys() - {last}))
        list(pool.map(lambda name: (target / name).unlink(missing_ok=True), stale))
    (target / last).upload(files[last])
    (target / UPLOADING).unlink(missing_ok=True)
