"""Files that survive a crash whole, and whose damage is noticed.

    commit(temporary, folder / "model.safetensors")         # renamed once it is on the disk; its digest is noted
    with checked(digests(folder / "model.safetensors")):    # CheckpointError if a bit of it is not as it was written
        ...

Digests are SHA-256, which processors compute at a gigabyte a second. They stand in the file `SHA256SUMS` of the same
folder or one above, as `sha256sum` writes it, so that `sha256sum -c SHA256SUMS` checks them too. A file that is not
named there is not checked: earlier versions wrote none.

A path is one on this machine, or a `BucketPath`: `path` decides. In a bucket an object is whole or not there, so that
what is written here first is uploaded where on a disk it is renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from os import PathLike
from pathlib import Path
from typing import TypeGuard

from kfjax import command
from kfjax.storage.bucket import STREAMS, UPLOADING, BucketError, BucketPath

SUMS = "SHA256SUMS"
ADVICE = f"copy or export it again; if you changed it yourself, remove its line from {SUMS}"

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class CheckpointError(ValueError):
    """Weights or a training state that could not be written, or are not as they were written."""


def path(text: str | PathLike) -> Path:
    """The path that a text names: on this machine, or in a bucket. The `type` of an argument that may be either.

    A `BucketPath` has the methods of `Path` that kfjax uses, and is declared as one.

    Raises:
      AddressError: any other address.
    """
    text = os.fspath(text)
    return BucketPath(text[:2].lower() + text[2:]) if command.in_bucket(text) else command.local_path(text)


def in_bucket(path: object) -> TypeGuard[BucketPath]:
    """Whether a path is a bucket's."""
    return isinstance(path, BucketPath)


def beside(path: Path) -> Path:
    """Where to write what will become `path`: in its folder; for a bucket among this machine's temporary files."""
    folder = Path(tempfile.gettempdir()) if in_bucket(path) else path.parent
    return folder / f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"


def replace(temporary: Path, path: Path) -> None:
    """Rename a file or folder, replacing a file. On return it is on the disk; a crash leaves the old one or the new.

    Into a bucket the file is uploaded.
    """
    if in_bucket(path):
        path.upload(temporary)
        temporary.unlink()
        return
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def unfinished(folder: Path) -> bool:
    """Whether it is the beginning of an upload that broke off, which may be written over."""
    return in_bucket(folder) and (folder / UPLOADING).is_file()


def sync(path: Path) -> None:
    """Return once a file's data, or a folder's names, are on the disk; what is in a bucket always is."""
    if in_bucket(path):
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def commit(temporary: Path, path: Path) -> None:
    """`replace`, and note the file's digest in its folder's `SHA256SUMS`.

    In between it has none, so that a crash never leaves a digest of another file.
    """
    digest = digest_of(temporary)
    with alone(path.parent):
        noted = _read_sums(path.parent)
        if noted.pop(path.name, digest) != digest:
            _write_sums(path.parent, noted)
        replace(temporary, path)
        _write_sums(path.parent, noted | {path.name: digest})


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process, and one thread of it, at a time: the others wait. Inside the block it can't be asked for again.

    So that none overwrites what another has just noted, nor makes what another is making.

    Args:
      path: what is locked: a folder; or a file, which is made and stays. A network file system locks files between
        hosts, but no folders, and some lock nothing. No bucket does.
    """
    if in_bucket(path):
        yield
        return
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextmanager
def writing(path: Path, *, noted: bool = True) -> Iterator[Path]:
    """A file to write to, which becomes `path` at the block's end, if that is reached; its digest is noted, unless not
    `noted`.

    Raises:
      OSError: it can't be written; `path` is named, not the temporary file.
    """
    temporary = beside(path)
    try:
        yield temporary
        (commit if noted else replace)(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, noted: bool = True) -> None:
    """A small file, as `writing`."""
    with writing(path, noted=noted) as temporary:
        temporary.write_text(text, encoding="utf-8")


class Staged:
    """Files that grow or are written by libraries: `folder` is `target` itself, or for a bucket a temporary folder.

    `push` uploads what changed there since the last time, every file whole. A context manager: the end of the block
    does too, and deletes a temporary folder; if the block has failed, what it raised counts, not what the store says.

    Args:
      guard: called before an upload; raises where this process may not write there any more.
    """

    def __init__(self, target: Path, guard: Callable[[], None] = lambda: None):
        self._target, self._guard, self._seen = target, guard, dict[Path, tuple[int, int]]()
        self.folder = Path(tempfile.mkdtemp(prefix="kfjax-")) if in_bucket(target) else target

    def names(self) -> set[str]:
        """Of all files of `target`, relative to it, whether they are here or not."""
        return set(sizes(self._target))

    def pull(self, name: str) -> None:
        """Fetch a file of `target`, if it is there, to go on with it."""
        if in_bucket(self._target) and (self._target / name).is_file():
            (self._target / name).download(self.folder / name)

    def pull_all(self, wanted: Callable[[str], bool]) -> None:
        """Fetch the files of `target` whose names, relative to it, are wanted; not those that are here in that size."""
        if not in_bucket(self._target):
            return
        found, target = self._target.below(), self._target
        names = [name for name, there in found.items() if wanted(name) and size_of(self.folder / name) != there.size]

        def fetch(name: str) -> None:
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with writing(file, noted=False) as temporary:
                (target / name).download(temporary)
            self._seen[file] = _changed(file)

        with ThreadPoolExecutor(STREAMS) as pool:
            list(pool.map(fetch, names))

    def push(self) -> None:
        """Raises BucketError if the store refuses or does not answer, and what `guard` raises."""
        if not in_bucket(self._target):
            return
        self._guard()
        for file in sorted(file for file in self.folder.rglob("*") if file.is_file()):
            if self._seen.get(file) != (now := _changed(file)):
                (self._target / str(file.relative_to(self.folder))).upload(file)
                self._seen[file] = now

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if not (kind and issubclass(kind, BucketError)):  # else it would wait as long again
                with suppress(BucketError) if kind else nullcontext():
                    self.push()
        finally:
            if in_bucket(self._target):
                shutil.rmtree(self.folder, ignore_errors=True)


def _changed(file: Path) -> tuple[int, int]:
    """What is another after every write."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def sign(folder: Path, files: Iterable[Path]) -> None:
    """Write the folder's `SHA256SUMS` anew, of these files below it."""
    _write_sums(folder, {str(path.relative_to(folder)): digest_of(path) for path in sorted(files)})


def glob(folder: Path, folders: str, files: str) -> list[Path]:
    """Files of such names in folders of such names right below it; of a bucket only these names are listed."""
    inner = [path for path in folder.iterdir() if path.match(folders)] if folder.is_dir() else []
    return [path for each in inner for path in each.glob(files)]


def size_of(path: Path) -> int | None:
    """Of a file, in bytes; None where there is none."""
    if in_bucket(path):
        return found.size if (found := path.found()) else None
    return path.stat().st_size if path.is_file() else None


def sizes(folder: Path) -> dict[str, int]:
    """Name relative to the folder -> bytes, of all files below it."""
    if in_bucket(folder):
        return {name: found.size for name, found in folder.below().items()}
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def digests(path: Path) -> dict[Path, str]:
    """File -> the digest noted of it: of a file, if there is one, or of all files below a folder.

    Raises:
      CheckpointError: a damaged `SHA256SUMS`.
    """
    if not path.is_dir():
        noted = _read_sums(path.parent)
        return {path: noted[path.name]} if path.name in noted else {}
    sums = {folder: _read_sums(folder) for folder in sorted(found.parent for found in path.rglob(SUMS))}
    return {folder / name: digest for folder, noted in sums.items() for name, digest in noted.items()}


@contextmanager
def checked(expected: Mapping[Path, str], *, advice: str = ADVICE) -> Iterator[None]:
    """Compares files with their digests while the block reads them.

    Args:
      advice: what to do with a damaged file.

    Raises:
      CheckpointError: at the block's end, where a file is not as it was written. What the block itself raises comes
        first: of a file that was changed by hand it says more.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        running = [pool.submit(_check, path, digest, advice) for path, digest in expected.items()]
        yield
        for check in running:
            check.result()


def _check(path: Path, digest: str, advice: str) -> None:
    try:
        wrong = digest_of(path) != digest and f"its SHA-256 is not the one in {SUMS}"
    except OSError as error:
        wrong = error.strerror
    if wrong:
        raise CheckpointError(f"{path} is damaged ({wrong}); {advice}")


def digest_of(path: Path, kind: str = "sha256") -> str:
    """A file's digest in hexadecimal; `kind`: as `hashlib` calls it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if not path.is_file():
        return {}
    noted = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise CheckpointError(f"{path} is damaged (line {number}); copy it again, or delete it: files are not "
                                  "checked then")  # fmt: skip
        noted[found[2]] = found[1]
    return noted


def _write_sums(folder: Path, noted: Mapping[str, str]) -> None:
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(noted.items()))
    write_text(folder / SUMS, text, noted=False)
