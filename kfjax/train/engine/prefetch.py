"""Prefetching: batches are made ahead of time in a thread and put on the devices; each process makes its own rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from kfjax.xla.sharding import batch_runs, put_batch


class Feed:
    """Iterates over the batches of steps `first` to `last` - 1, placed on `mesh`. A context manager.

    Args:
      batch: as `Task.batch`.
      ahead: how many batches are made before they are asked for.
    """

    def __init__(self, batch: Callable[[int], Any], mesh: Mesh, first: int, last: int, *, ahead: int):
        self._batch, self._mesh, self._next, self._last = batch, mesh, first, last
        self._pool = ThreadPoolExecutor(1)
        self._queue: deque[Future] = deque()
        for _ in range(ahead):
            self._submit()

    def _submit(self) -> None:
        if self._next < self._last:
            self._queue.append(self._pool.submit(placed, self._batch, self._next, self._mesh))
            self._next += 1

    def __next__(self) -> Any:
        self._submit()
        return self._queue.popleft().result()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def placed(batch: Callable[[int], Any], step: int, mesh: Mesh) -> Any:
    """The global batch of `step` on the mesh; of several processes each makes what its own devices hold.

    Raises:
      ValueError: the batch does not divide over the mesh.
    """
    if jax.process_count() == 1:
        return put_batch(batch(step), mesh)
    numbers, of = batch_runs(mesh)
    if (runs := getattr(batch, "runs", None)) is not None:
        return put_batch(runs(step, numbers, of), mesh)
    return put_batch(jax.tree.map(lambda x: _held(np.asarray(x), numbers, of), batch(step)), mesh)


def _held(x: np.ndarray, numbers: Sequence[int], of: int) -> np.ndarray:
    if len(x) % of:
        raise ValueError(f"batch of {len(x)}: expected a multiple of {of} on this mesh; give it another size")
    runs = x.reshape(of, len(x) // of, *x.shape[1:])
    return runs[list(numbers)].reshape(-1, *x.shape[1:])
