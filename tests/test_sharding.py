"""Batches are split over all devices, everything else is everywhere."""
import jax
import numpy as np
import pytest

from kfjax.sharding import data_mesh, put_batch, replicated


def test_batches_are_split_over_the_devices():
    mesh = data_mesh()
    assert mesh.size == jax.device_count() == 8 and mesh.axis_names == ("data",)
    batch = {"x": np.arange(32.0).reshape(16, 2), "mask": np.ones(8, bool)}
    placed = put_batch(batch, mesh)
    jax.tree.map(np.testing.assert_array_equal, placed, batch)
    assert {shard.data.shape for shard in placed["x"].addressable_shards} == {(2, 2)}
    assert len(placed["x"].addressable_shards) == 8


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"batch of 6 on 8 devices: expected a multiple"):
        put_batch({"x": np.zeros((6, 2))}, data_mesh())


def test_replicated_means_whole_on_every_device():
    x = jax.device_put(np.arange(3.0), replicated(data_mesh()))
    assert x.is_fully_replicated and len(x.addressable_shards) == 8
