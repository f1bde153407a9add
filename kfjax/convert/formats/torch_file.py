"""PyTorch's own files (`torch.save`), read and written without PyTorch.

Since version 1.6 such a file is an uncompressed zip archive: `<root>/data.pkl` describes the object,
`<root>/data/<key>` holds the bytes of one storage, `<root>/byteorder` says how they lie. No other record is looked at.
Older files are read by `torch_legacy`.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kfjax.command import quoted
from kfjax.convert.formats import torch_legacy, torch_pickle

#: Storages begin at multiples of this many bytes, so that they can be used where they are mapped.
ALIGNMENT = 64
#: Of a zip archive: some 200,000 records, which take fifteenfold in memory.
MAX_DIRECTORY_BYTES = 16 * 2**20


def read(path: Path) -> Any:
    """The object in a torch file: nested dicts, lists and tuples of plain values, with tensors as numpy arrays.

    The file is mapped into memory and arrays are read-only views of it: values are read when they are used. Those of
    a file from before version 1.6 are read at once.

    Raises:
      ValueError: not such a file, damaged, of the other byte order, TorchScript, or one that names code to run
        (nothing of it is run); the message does not name the file.
    """
    data = np.memmap(path, np.uint8, mode="r")
    if bytes(data[:1]) == torch_legacy.FIRST_BYTE:
        return torch_legacy.read(path)
    try:
        with _ShortReads(path) as file, zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OSError) as error:
        raise ValueError(f"it is cut off, or a damaged zip archive ({quoted(str(error))})") from None
    return _archived(data, entries)


class _ShortReads(io.FileIO):
    """A file of which no large piece is read, as the directory of a hostile archive is."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = max(0, os.fstat(self.fileno()).st_size - self.tell())
        if size > MAX_DIRECTORY_BYTES:
            raise ValueError(f"it is a zip archive with a directory of {size} bytes, expected {MAX_DIRECTORY_BYTES} "
                             "at most")  # fmt: skip
        return super().read(size)


def _archived(data: np.ndarray, entries: Mapping[str, zipfile.ZipInfo]) -> Any:
    root = _root(entries)

    def record(name: str) -> np.ndarray:
        if f"{root}/{name}" not in entries:
            raise ValueError(f"record {quoted(name)} is missing")
        return _stored(data, entries[f"{root}/{name}"])

    order = bytes(record("byteorder")[:16]) if f"{root}/byteorder" in entries else b"little"
    if order != sys.byteorder.encode():
        raise ValueError(f"byte order {quoted(order)}, expected {sys.byteorder!r}")
    program = record("data.pkl")
    if program.size > torch_pickle.MAX_BYTES:
        raise ValueError(f"its data.pkl has {program.size} bytes, expected {torch_pickle.MAX_BYTES} at most")
    return torch_pickle.loads(bytes(program), lambda key, size: record(f"data/{key}"))


def _root(entries: Collection[str]) -> str:
    roots = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1 or "/" in roots[0]:
        some = ", ".join(quoted(name) for name in list(entries)[:3])
        raise ValueError(f"a zip archive ({some}, …) with {len(roots)} data.pkl, expected one in the one folder at its "
                         "top")  # fmt: skip
    if f"{roots[0]}/constants.pkl" in entries:
        raise ValueError("a TorchScript program, expected tensors (torch.jit.load opens it)")
    return roots[0]


def _stored(data: np.ndarray, entry: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of one record, where they lie in the archive."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
        raise ValueError(f"record {quoted(entry.filename)} is compressed or encrypted, expected it plain")
    header = bytes(data[entry.header_offset : entry.header_offset + 30])
    if len(header) < 30 or not header.startswith(b"PK\3\4"):
        raise ValueError(f"record {quoted(entry.filename)} does not lie where the archive says")
    start = entry.header_offset + 30 + sum(struct.unpack_from("<HH", header, 26))  # its name and extra fields
    if start + entry.file_size > data.size:
        raise ValueError(f"record {quoted(entry.filename)} is cut off")
    return data[start : start + entry.file_size]


def write(path: Path, state: Mapping[str, np.ndarray], inside: str = "") -> None:
    """Write a state dict that `torch.load(path, weights_only=True)` returns as an ordered dict of CPU tensors.

    With `inside`, it returns a dict that holds that one under this key.

    Values, of the dtypes in `torch_pickle.STORAGES`, are written one by one in C order; arrays that share memory
    become separate tensors.
    """
    records = {"data.pkl": torch_pickle.dumps(state, inside), "byteorder": sys.byteorder.encode()}
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in records.items():
            archive.writestr(_aligned(f"archive/{name}", file.tell(), len(data)), data)
        for index, value in enumerate(state.values()):
            data = np.asarray(value, order="C").reshape(-1).view(np.uint8)
            archive.writestr(_aligned(f"archive/data/{index}", file.tell(), data.size), data.data)
        archive.writestr(_aligned("archive/version", file.tell(), 2), b"3\n")


def _aligned(name: str, offset: int, size: int) -> zipfile.ZipInfo:
    """The header of a record of `size` bytes that is written at `offset`, padded so that its bytes are aligned."""
    entry = zipfile.ZipInfo(name)  # dated 1980: the same state makes the same file
    long = 20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0  # the field that zipfile adds for long records
    padding = -(offset + 30 + len(name) + long + 4) % ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)  # the field that torch pads with
    return entry
