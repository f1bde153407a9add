"""Machines to compile for without having them: chips, how they are joined, what of their memory a program may use."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kfjax.command import install

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Topology:
    """Chips to compile for.

    Attributes:
      name: that of its mesh in `sharding.PRESETS` too, but for "here".
      kind: of `flops.CHIPS`.
      shape: in the words of the compiler, "v6e:8x8"; for GPUs slices x hosts x chips.
      slices: tori that only a network joins.
    """

    name: str
    platform: Literal["tpu", "cuda", "here"]
    kind: str = ""
    shape: str = ""
    slices: int = 1

    @property
    def extra(self) -> str:
        """Of kfjax, with which the compiler is installed."""
        return {"tpu": "plan", "cuda": "cuda", "here": ""}[self.platform]


TOPOLOGIES = {
    topology.name: topology
    for topology in (
        Topology("v5e-8", "tpu", "v5e", "v5e:2x4"),
        Topology("v5e-16", "tpu", "v5e", "v5e:4x4"),
        Topology("v5e-64", "tpu", "v5e", "v5e:8x8"),
        Topology("v5e-256", "tpu", "v5e", "v5e:16x16"),
        Topology("2xv5e-256", "tpu", "v5e", "v5e:16x16", slices=2),
        Topology("v6e-8", "tpu", "v6e", "v6e:2x4"),
        Topology("v6e-64", "tpu", "v6e", "v6e:8x8"),
        Topology("v6e-256", "tpu", "v6e", "v6e:16x16"),
        Topology("2xv6e-256", "tpu", "v6e", "v6e:16x16", slices=2),
        Topology("v5p-64", "tpu", "v5p", "v5p:2x4x4"),
        Topology("v5p-128", "tpu", "v5p", "v5p:4x4x4"),
        Topology("v5p-256", "tpu", "v5p", "v5p:4x4x8"),
        Topology("2xv5p-256", "tpu", "v5p", "v5p:4x4x8", slices=2),
        Topology("8xh100", "cuda", "H100", "1x1x8"),
        Topology("h200", "cuda", "H200", "1x1x1"),
        Topology("8xh200", "cuda", "H200", "1x1x8"),
        Topology("here", "here"),  # this machine's own devices
    )
}
#: Of a GPU: name, bytes of memory, bytes a second; the rest is the same silicon.
_HOPPER = {
    "H100": ("NVIDIA H100 80GB HBM3", 84978434048, 3350000000000),
    "H200": ("NVIDIA H200", 150121545728, 4800000000000),
}


def gpu_description(kind: str) -> str:
    """What XLA must know of an SXM module with compute capability 9.0 to compile for it, without one.

    Sources: NVIDIA's data sheets; CUDA's table of compute capabilities; bytes of memory as the driver reports them.
    """
    name, memory, bandwidth = _HOPPER[kind]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: {memory} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 }} registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
device_description_str: "{name}"
"""


def find(name: str) -> Topology:
    """The topology of that name.

    Raises:
      ValueError: none of that name; it lists what there is.
    """
    if name not in TOPOLOGIES:
        raise ValueError(f"--topology: got {name}, expected one of {', '.join(TOPOLOGIES)}")
    return TOPOLOGIES[name]


def leave_chips_alone(topology: Topology) -> None:
    """Settings that jax reads when it starts: compiling for other chips must neither wait for those here nor take them.

    No effect once jax has been imported.
    """
    if topology.platform == "here" or "jax" in sys.modules:
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # without the chips nothing can be read back from it
    # libtpu: several processes may load it, and it need not ask the cloud which TPU this is.
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}


def devices(topology: Topology) -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]  # jax's class is a variable
    """Devices to compile for; but for "here" they can run nothing.

    Raises:
      ValueError: the compiler for them is not installed.
    """
    from jax.experimental import topologies

    from kfjax.xla import sharding

    if topology.platform == "here":
        return sharding.devices()
    try:
        if topology.platform == "cuda":
            target = gpu_description(topology.kind)
            described = topologies.get_topology_desc(platform="cuda", topology=topology.shape, target_config=target)
        else:
            slices = {"num_slices": topology.slices} if topology.slices > 1 else {}
            described = topologies.get_topology_desc(platform="tpu", topology_name=topology.shape, **slices)
    except (NotImplementedError, RuntimeError) as error:
        if not isinstance(error, NotImplementedError) and "not installed" not in str(error):
            raise
        brings = f"{install(topology.extra)} brings it"
        raise ValueError(f"{topology.name}: no compiler for {topology.kind} is installed; {brings}") from error
    return list(described.devices)
