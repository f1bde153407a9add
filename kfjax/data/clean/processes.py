"""Rows measured in processes of this machine; a file that ends its process costs itself only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Self

from kfjax.data import remote
from kfjax.data.clean import store
from kfjax.data.clean.measure import Measured, measure_row
from kfjax.data.clean.thresholds import CleanConfig
from kfjax.data.sources import Row

#: Rows that are handed to the processes ahead of the one that is waited for, for each process.
_AHEAD = 4
Task = tuple[str, Row]


def measured(key: str, row: Row, cfg: CleanConfig) -> list[Measured]:
    """All excerpts of a row, measured, `key` being that of its files as they should be."""
    try:
        with remote.fetched(row) as here:
            found = list(measure_row(here, cfg.seconds, cfg.shortest_seconds, cfg.networks, span_cuts=cfg.span_cuts))
    except ValueError as error:
        found = [Measured(row.start_seconds, 0.0, str(error), {})]
    if store.key_of(row, cfg) != key:
        problem = f"{row.sound}: changed while it was measured; run again when it is complete"
        return [Measured(row.start_seconds, 0.0, problem, {})]
    return found


class Processes:
    """Processes that measure, started when they are needed, ended at a `with` block's end.

    Args:
      workers: how many. 0: none, rows are measured in this process, and one that ends it ends all.
    """

    def __init__(self, workers: int, cfg: CleanConfig):
        self.workers, self.cfg = workers, cfg
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End them; what is under way is waited for."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def measured(self, tasks: Iterable[Task]) -> Iterator[tuple[str, list[Measured]]]:
        """(key, what was measured) of each row, in the order in which they are ready.

        Where a process dies, those rows that were under way are measured again, each in a process of its own.
        """
        if not self.workers:
            yield from ((key, measured(key, row, self.cfg)) for key, row in tasks)
            return
        running: dict[Future, Task] = {}
        todo, task = iter(tasks), None
        while True:
            self._pool = self._pool or _pool(self.workers)
            try:
                while len(running) < _AHEAD * self.workers and (task := task or next(todo, None)):
                    running[self._pool.submit(measured, *task, self.cfg)] = task
                    task = None
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    found = done.result()
                    yield running.pop(done)[0], found
            except BrokenProcessPool:
                self.close()
                for key, row in running.values():
                    yield key, _alone(key, row, self.cfg)
                running.clear()


def _alone(key: str, row: Row, cfg: CleanConfig) -> list[Measured]:
    try:
        with _pool(1) as pool:
            return pool.submit(measured, key, row, cfg).result()
    except BrokenProcessPool:
        problem = f"{row.sound}: the process that measured it ended (damaged, or beyond the memory); leave it out"
        return [Measured(row.start_seconds, 0.0, problem, {})]


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """Every core has a process: with as many threads in each, BLAS's wait for one another more than they compute."""
    import scipy.linalg  # noqa: F401  # what it brings is limited only once it is loaded
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    _end_with_parent()


def _end_with_parent() -> None:
    """Without it the processes of a run that is killed wait for ever: each keeps the queue of the others open."""
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()
