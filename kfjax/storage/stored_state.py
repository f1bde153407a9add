"""A training state on disk, read branch by branch into host memory: no device and no optimiser state is needed.

averaged = StoredState("run/checkpoints", 4000, "ema")
averaged["mmdit"]     # read now, and kept by nobody
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kfjax.nn.module import Params, flatten
from kfjax.storage import disk
from kfjax.storage.checkpoint import not_of_orbax, unflatten
from kfjax.storage.disk import CheckpointError
from kfjax.storage.orbax_bucket import temporary_path_class

#: orbax's name of what a checkpoint of one item holds.
_ITEM = "default"
#: What it writes last where there is no rename.
_COMMITTED = "commit_success.txt"


def steps(folder: str | Path) -> list[int]:
    """The complete checkpoints of a folder that `StateStore` wrote, ascending; what is half-written has other names."""
    folder = disk.path(folder)
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(int(path.name) for path in found if not disk.in_bucket(folder) or (path / _COMMITTED).is_file())


class StoredState(Mapping[str, Params]):
    """Name -> that part of the parameters, or of their average, at one step; read every time it is asked for.

    Whatever mesh wrote it, an array comes back whole, as NumPy's, in the dtype that was stored.

    Args:
      branch: "params" or "ema".

    Raises:
      CheckpointError: files are missing or damaged.
    """

    def __init__(self, folder: str | Path, step: int, branch: str):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").addFilter(not_of_orbax)
        self._ocp, self._path, self._branch = ocp, disk.path(folder).resolve() / str(step), branch
        noted = {} if disk.in_bucket(self._path) else disk.digests(self._path)  # the store has checksums of its own
        with disk.checked(noted, advice="give another --step"):
            self._tree = self._read(lambda: self._reader().metadata(self._item).item_metadata.tree[branch])

    def __getitem__(self, name: str) -> Params:
        wanted = {self._branch: {name: jax.tree.map(_numpy_like, self._tree[name])}}
        how = jax.tree.map(lambda _: self._ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = self._ocp.args.PyTreeRestore(wanted, restore_args=how, partial_restore=True)
        found = self._read(lambda: self._reader().restore(self._item, args=args))
        return unflatten(flatten(found[self._branch]))[name]

    @property
    def _item(self) -> Any:
        from etils import epath

        return epath.Path(str(self._path / _ITEM))

    def _reader(self) -> Any:
        how = temporary_path_class(self._path)
        return self._ocp.Checkpointer(self._ocp.PyTreeCheckpointHandler(), temporary_path_class=how)

    def _read(self, read: Any) -> Any:
        try:
            return read()
        except Exception as error:  # tensorstore has no type of its own for a missing file
            line = " ".join(str(error).split())[-200:]
            raise CheckpointError(f"{self._path} can't be read ({line}); give another --step") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)


def _numpy_like(stored: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(stored.shape, stored.dtype)
