"""Throughput of a run on a monotonic clock: rates, waiting, compiling.

Steps are dispatched without waiting for the device, so a rate needs a moment when everything dispatched is done: the
first step of every shape (it compiles) and `figures` are such moments, and rates hold between two of them.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

Wait = Literal["data", "save", "panel", "validation", "profile"]
#: Validation and panels: their time is not part of a step's time.
LOOKS: tuple[Wait, ...] = ("panel", "validation", "profile")


class Work(NamedTuple):
    """What one step does, on all devices together.

    Attributes:
      clips: examples of the batch.
      audio_seconds: of sound in the batch; 0 where it has none.
      flops: of the model's forward and backward pass (`flops.train_flops`); 0 where they are not counted.
    """

    clips: int
    audio_seconds: float = 0.0
    flops: float = 0.0


def count_clips(batch: Any) -> Work:
    """The work of a batch of unknown structure: the length of its first axis."""
    return Work(clips=int(jax.tree.leaves(batch)[0].shape[0]))


class Throughput:
    """Rates over the steps since the last figures, or since a compilation after them.

    Args:
      clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._known: set[Work] = set()
        self._compiling = self._saving = 0.0
        self._pending: Any = ()
        self._begin()

    def _begin(self) -> None:
        self._start = self._free = self._clock()
        self._steps, self._work = 0, Work(0)
        self._waits: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def waiting(self, what: Wait) -> Iterator[None]:
        """Count the time of the block as `what`.

        Waiting for data while the device still works on earlier steps costs nothing and is not counted.
        """
        start = self._clock()
        try:
            yield
        finally:
            self._free = self._clock()
            if what == "save":
                self._saving += self._free - start
            elif what != "data" or _done(self._pending):
                self._waits[what] += self._free - start

    def step(self, work: Work, pending: Any) -> None:
        """A step was dispatched; `pending` are some of its results. The first step of a `work` compiles."""
        self._pending = pending
        if work not in self._known:
            self._known.add(work)
            jax.block_until_ready(pending)
            self._compiling += self._clock() - self._free
            self._begin()
            return
        self._steps += 1
        done = self._work
        seconds, flops = done.audio_seconds + work.audio_seconds, done.flops + work.flops
        self._work = Work(done.clips + work.clips, seconds, flops)
        self._free = self._clock()

    def figures(self) -> dict[str, float]:
        """What was measured since the last call; rates are left out where no step came after a compilation.

        Returns:
          seconds_per_step, clips_per_second, audio_seconds_per_second, data_wait (share of that time in which the
          device was idle for want of a batch, at most), tflops_per_device, mfu (where the device's peak is known),
          compile_seconds (the compiled steps' run included), save_stall_seconds (in which saving held the run up).
        """
        jax.block_until_ready(self._pending)
        seconds = self._clock() - self._start - sum(self._waits[name] for name in LOOKS)
        figures = {}
        if self._steps:
            figures = {"seconds_per_step": seconds / self._steps, "clips_per_second": self._work.clips / seconds}
            if self._work.audio_seconds:
                figures["audio_seconds_per_second"] = self._work.audio_seconds / seconds
            if self._work.flops:
                figures |= _utilisation(self._work.flops, seconds)
            figures["data_wait"] = self._waits["data"] / seconds
        spent = {"compile_seconds": self._compiling, "save_stall_seconds": self._saving}
        self._compiling = self._saving = 0.0
        self._begin()
        return figures | {name: value for name, value in spent.items() if value}


def _done(pending: Any) -> bool:
    arrays = (leaf for leaf in jax.tree.leaves(pending) if isinstance(leaf, jax.Array))
    return all(leaf.is_ready() for leaf in arrays)  # pyright: ignore[reportAttributeAccessIssue]  # undeclared


def _utilisation(flops: float, seconds: float) -> dict[str, float]:
    from kfjax.train.engine.flops import chip, mfu

    devices, kind = jax.device_count(), jax.devices()[0].device_kind
    figures = {"tflops_per_device": flops / seconds / devices / 1e12}
    return figures | {"mfu": mfu(flops, seconds, devices, kind)} if chip(kind) else figures


def memory() -> dict[str, float]:
    """host_gib: resident memory of this process (on Linux; elsewhere its peak), without grain's workers.

    device_peak_gib: the most that the first device held, where it tells.
    """
    statm = Path("/proc/self/statm")
    if statm.exists():
        held = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    else:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {"host_gib": held / 2**30} | ({} if device is None else {"device_peak_gib": device / 2**30})
