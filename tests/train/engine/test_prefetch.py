"""Batches on their way to the devices: in order, ahead of time, and of several processes each its own rows."""

import threading

import jax
import numpy as np
import pytest

from kfjax.train.engine import prefetch as feed
from kfjax.train.engine.prefetch import Feed, placed
from kfjax.xla.sharding import make_mesh

BATCH = {"x": np.arange(32.0, dtype=np.float32).reshape(16, 2), "flag": np.arange(16) % 3 == 0}


class Runs:
    """A batch that is made run by run; it notes what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, step):
        raise AssertionError("the whole batch is not wanted")

    def runs(self, step, numbers, of):
        self.asked.append((step, numbers, of))
        rows = np.arange(16).reshape(of, -1)[list(numbers)].ravel()
        return {name: x[rows] for name, x in BATCH.items()}


def test_batches_come_in_order_and_ahead_of_time():
    made, third = [], threading.Event()

    def batch(step):
        made.append(step)
        if step == 5:
            third.set()
        return {"x": np.full((8, 1), step, np.float32)}

    with Feed(batch, make_mesh({"data": 8}), 3, 7, ahead=2) as batches:
        assert float(next(batches)["x"][0, 0]) == 3
        assert third.wait(10)  # made while the loop works on its first one
        assert [float(next(batches)["x"][0, 0]) for _ in range(3)] == [4, 5, 6]
    assert made == [3, 4, 5, 6]


def test_what_goes_wrong_with_a_batch_reaches_the_loop():
    def batch(step):
        raise ValueError("shard 3 is missing")

    with Feed(batch, make_mesh({"data": 8}), 0, 9, ahead=2) as batches, pytest.raises(ValueError, match="shard 3"):
        next(batches)


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_with_several_processes_only_the_runs_held_are_made(axes, monkeypatch):
    """Told that it is one of two, a process still places the whole batch if it has all the devices."""
    mesh, runs = make_mesh(axes), Runs()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    of = 8 // axes.get("tensor", 1)
    for batch in (runs, lambda step: BATCH):
        got = placed(batch, 4, mesh)
        jax.tree.map(np.testing.assert_array_equal, got, BATCH)
    assert runs.asked == [(4, tuple(range(of)), of)]


def test_a_whole_batch_is_cut_into_what_a_process_holds():
    """The numbers may have gaps, as on a torus."""
    np.testing.assert_array_equal(feed._held(BATCH["x"], (1, 3), 8), BATCH["x"][[2, 3, 6, 7]])
    np.testing.assert_array_equal(feed._held(BATCH["x"], (0,), 1), BATCH["x"])
    with pytest.raises(ValueError, match="batch of 16: expected a multiple of 6"):
        feed._held(BATCH["x"], (0, 1), 6)
