"""Where arrays live. Today: plain data parallelism, the batch split over every device, everything else replicated."""
from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """All devices on one axis named "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Place a host batch with its first axis split over "data".

    Raises:
      ValueError: the batch does not divide by the number of devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def place(x):
        x = np.asarray(x)
        if x.shape[0] % mesh.size:
            raise ValueError(f"batch of {x.shape[0]} on {mesh.size} devices: expected a multiple; change data.batch")
        return jax.device_put(x, sharding)

    return jax.tree.map(place, batch)
