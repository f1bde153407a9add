"""Files that survive a crash whole, and whose damage is noticed.

    commit(temporary, folder / "model.safetensors")         # renamed once it is on the disk; its digest is noted
    with checked(digests(folder / "model.safetensors")):    # CheckpointError if a bit of it is not as it was written
        ...

Digests are SHA-256, which processors compute at a gigabyte a second. They stand in the file `SHA256SUMS` of the same
folder or one above, as `sha256sum` writes it, so that `sha256sum -c SHA256SUMS` checks them too. A file that is not
named there is not checked: earlier versions wrote none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

SUMS = "SHA256SUMS"
ADVICE = f"copy or export it again; if you changed it yourself, remove its line from {SUMS}"

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class CheckpointError(ValueError):
    """Weights or a training state that could not be written, or are not as they were written."""


def replace(temporary: Path, path: Path) -> None:
    """Rename a file or folder, replacing a file. On return it is on the disk; a crash leaves the old one or the new."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return once a file's data, or a folder's names, are on the disk."""
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
    with _alone(path.parent):
        noted = _read_sums(path.parent)
        if noted.pop(path.name, digest) != digest:
            _write_sums(path.parent, noted)
        replace(temporary, path)
        _write_sums(path.parent, noted | {path.name: digest})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time, so that none overwrites a digest that another has just noted.

    The lock is on the folder itself and leaves no file. Some network file systems lock nothing.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def write_text(path: Path, text: str, *, noted: bool = True) -> None:
    """A small file, atomically; its digest is noted, unless not `noted`."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        (commit if noted else replace)(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sign(folder: Path, files: Iterable[Path]) -> None:
    """Write the folder's `SHA256SUMS` anew, of these files below it."""
    _write_sums(folder, {str(path.relative_to(folder)): digest_of(path) for path in sorted(files)})


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
