"""Files of `torch.save` from before version 1.6 (2020), as PANNs' are: pickles one after the other, then the values.

A magic number, a version, the writer's byte order and sizes, the object, the keys of its storages; then, for every key
in that order, the number of values as eight bytes and the values. PyTorch still reads and, when asked, writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from kfjax.command import quoted
from kfjax.convert.formats import torch_pickle

#: A pickle's; zip archives begin with another.
FIRST_BYTE = b"\x80"
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
#: Instructions of each of the pickles at the head.
HEAD_STEPS = 1000


def read(path: Path) -> Any:
    """The object in such a file: as `torch_pickle.loads`; tensors are views of storages that are read once.

    Raises:
      ValueError: another kind of pickle, damaged, cut off, of the other byte order, or one that names code to run
        (nothing of it is run).
    """
    storages: dict[str, np.ndarray] = {}
    taken = 0
    # Unlike an open file, a mapped one gives what there is when a damaged pickle asks for too much.
    with path.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as file:
        _check_head(file)

        def reserve(key: str, wanted: int) -> np.ndarray:
            nonlocal taken
            if key not in storages:
                taken += wanted
                if taken > len(file):  # before memory is asked for
                    raise ValueError(f"storage {quoted(key)} and those before it are larger than the file")
                storages[key] = np.empty(wanted, np.uint8)
            return storages[key]

        found = torch_pickle.loads(file, reserve)
        _fill(file, storages)
    return found


def _check_head(file: mmap) -> None:
    magic, version, system = (torch_pickle.loads(file, _no_storage, steps=HEAD_STEPS) for _ in range(3))
    if magic != MAGIC:
        raise ValueError("a pickle of something else")
    if version != VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError(f"version {quoted(version)} with {quoted(system)}, expected {VERSION}, little-endian")


def _no_storage(key: str, size: int) -> np.ndarray:
    raise ValueError("a tensor in the head of the file")


def _fill(file: mmap, storages: Mapping[str, np.ndarray]) -> None:
    keys = torch_pickle.loads(file, _no_storage, steps=HEAD_STEPS + 4 * len(storages))
    whole = isinstance(keys, list) and len(keys) == len(storages) and all(isinstance(key, str) for key in keys)
    if not whole or set(keys) != storages.keys():
        raise ValueError("the file does not list the storages that its tensors name")
    for key in keys:
        storage, count = storages[key], int.from_bytes(file.read(8), "little")
        if storage.size not in (count, 2 * count, 4 * count, 8 * count):
            raise ValueError(f"storage {quoted(key)} holds {count} values, expected {storage.size} bytes of them")
        data = file.read(storage.size)
        if len(data) != storage.size:
            raise ValueError(f"storage {quoted(key)} is cut off")
        storage[:] = np.frombuffer(data, np.uint8)
