"""Where arrays live: meshes of devices, which axis of which parameter is split over them, where batches go.

    mesh = make_mesh(PRESETS["v6e-64"])
    state = shard_init(init, mesh)(key)                    # no device ever holds a whole parameter matrix
    shardings = param_shardings(state, mesh)               # for the step's out_shardings
    with jax.set_mesh(mesh):                               # `gathered` and `pin` read the mesh from here
        state, metrics = step(state, put_batch(batch, mesh), key)

Every mesh has four axes. "data" holds copies of the model, across slices where there are several; "fsdp" splits
parameters, optimiser state and averages, and the batch with them; "context" splits the tokens of one example;
"tensor" splits the feed-forward layers' inner width. Models know no axis of it: a table of rules names the exceptions
by path, everything else follows one default; a block calls `gathered` on its parameters and `pin` on its tokens.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "context", "tensor")
BATCH_AXES = ("data", "fsdp")  # every device of a context or tensor group sees the same examples

Rules = Sequence[tuple[str, PartitionSpec]]

#: Path pattern -> how the last axes are split; the first match counts, leading axes (layers, taps) stay whole.
#: The inner width is a multiple of 256 in every size; 17 and 23 heads would not split, so attention stays whole.
RULES: Rules = (
    (r"(^|/)w[13]/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"(^|/)w2/kernel$", PartitionSpec("tensor", "fsdp")),
)
#: Modules made by `module.stack`: axis 0 of their parameters counts layers and is what the scan walks along.
STACKED = r"(^|/)(joint|single|blocks|fine|coarse)/(?!\d)"
#: Tables of which rows are looked up: to split the sum of their gradients would take an all-to-all of the rows.
LOOKED_UP = r"(^|/)duration/(start|total)$"
#: A matrix of fewer numbers than this that does not divide lies whole on every device; a larger one is refused.
SMALL = 2**20


@dataclass(frozen=True)
class Preset:
    """How a machine is divided. `data` counts copies of the model in all slices together.

    Raises:
      ValueError: a size below 1; slices that do not divide `data`.
    """

    name: str
    data: int = 1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1
    slices: int = 1

    def __post_init__(self):
        if min(*self.axes.values(), self.slices) < 1:
            raise ValueError(f"{self.name}: got {self.axes}, slices {self.slices}; expected sizes of 1 or more")
        if self.data % self.slices:
            raise ValueError(
                f"{self.name}: data {self.data} over {self.slices} slices: expected a multiple of {self.slices}, "
                "since only data goes across slices"
            )

    @property
    def axes(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def devices(self) -> int:
        return math.prod(self.axes.values())

    def shrunk(self, devices: int = 8) -> Preset:
        """The same kind of mesh on few devices, for tests: the largest axis is halved until it fits.

        Raises:
          ValueError: halving does not lead to that number of devices.
        """
        small = self
        while small.devices > devices:
            axis = max(AXES, key=lambda a: getattr(small, a) // (small.slices if a == "data" else 1))
            size = getattr(small, axis)
            if size % 2 or (axis == "data" and size // 2 % small.slices):
                break
            small = replace(small, **{axis: size // 2})
        if small.devices != devices:
            raise ValueError(
                f"{self.name} of {self.devices} devices on {devices}: halving ends at {small.devices}; "
                f"expected {self.devices} divided by a power of two, and at least {self.slices} slices"
            )
        return small


#: v5p-256 is a 4x4x8 torus of 128 chips: its name counts cores, of which a v5p chip has two.
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("8xh100", fsdp=8),
        Preset("8xh200", fsdp=8),
        Preset("v5e-8", fsdp=8),
        Preset("v5e-16", fsdp=16),
        Preset("v5e-64", fsdp=64),
        Preset("v5e-256", data=4, fsdp=64),
        Preset("2xv5e-256", data=8, fsdp=64, slices=2),
        Preset("v6e-8", fsdp=8),
        Preset("v6e-64", fsdp=64),
        Preset("v6e-256", data=4, fsdp=64),
        Preset("2xv6e-256", data=8, fsdp=64, slices=2),
        Preset("v5p-64", fsdp=32),
        Preset("v5p-128", fsdp=64),
        Preset("v5p-256", data=2, fsdp=64),
        Preset("2xv5p-256", data=4, fsdp=64, slices=2),
    )
}


def devices() -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]  # jax's class is a variable
    """Those of the backend that jax chooses, or that JAX_PLATFORMS names; every command asks here first.

    Raises:
      ValueError: it does not start.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # jax asserts where a plugin that was asked for is missing
        why = str(error).partition(" (set JAX_PLATFORMS")[0] or "it is not installed"
        asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]  # jax's settings are dynamic
        name = f"JAX_PLATFORMS={asked}" if asked else "jax"
        raise ValueError(
            f"{name}: got no device to compute on, expected a backend that starts ({why}); unset JAX_PLATFORMS, or "
            "install that backend"
        ) from None


def training_hangs(platform: str) -> str:
    """Why training never ends on devices of this platform with the jax that is installed; "" where it does.

    jaxlib 0.11 computes an FFT on a CPU in a thread of a pool, and that thread waits for tasks in the same pool: with
    an FFT in every thread nothing goes on.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if platform != "cpu" or not jax.__version__.startswith("0.11.") or "xla_cpu_multi_thread_eigen=false" in flags:
        return ""
    return (
        f"jax {jax.__version__} on a CPU waits for ever in training, in its FFT; pip install 'jax>=0.12,<0.13', or set "
        "XLA_FLAGS=--xla_cpu_multi_thread_eigen=false before jax starts"
    )


def make_mesh(axes: Preset | Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:  # pyright: ignore[reportInvalidTypeForm]  # jax's class is a variable
    """The four-axis mesh over `devices` (default: all).

    Axes left out of a mapping have size 1. With several slices, each slice holds neighbouring indices of "data"; where
    the devices do not say which slice they are in, as fake ones, they are cut into equal runs.

    Raises:
      ValueError: an unknown axis; a product that is not the number of devices.
    """
    preset = axes if isinstance(axes, Preset) else _preset(axes)
    devices = list(jax.devices() if devices is None else devices)
    if preset.devices != len(devices):
        raise ValueError(_misfit(preset, len(devices)))
    shape, slices = tuple(preset.axes.values()), preset.slices
    if slices > 1 and len({getattr(d, "slice_index", 0) for d in devices}) > 1:
        inside = (shape[0] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)
    else:
        # 2 x 64 on a 4x4x8 torus cuts through a physical axis.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _preset(axes: Mapping[str, int]) -> Preset:
    if unknown := sorted(set(axes) - set(AXES)):
        raise ValueError(f"mesh axes {', '.join(unknown)}: expected some of {', '.join(AXES)}")
    return Preset("mesh", **axes)


def _misfit(preset: Preset, count: int) -> str:
    asked = " x ".join(f"{axis} {size}" for axis, size in preset.axes.items() if size > 1) or "one device"
    fits = []
    for axis, size in preset.axes.items():
        other = preset.devices // size
        if count % other == 0 and not (axis == "data" and count // other % preset.slices):
            fits.append(f"{axis} {count // other}")
    advice = f"with the other axes kept, {' or '.join(fits)} would" if fits else f"expected a product of {count}"
    return f"{preset.name}: {asked} = {preset.devices} devices does not fit {count}: {advice}"


def data_mesh() -> Mesh:
    """All devices on one axis named "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over "data" and "fsdp", the others whole."""
    return NamedSharding(mesh, PartitionSpec(_present(BATCH_AXES, mesh.shape)))


def batch_runs(mesh: Mesh) -> tuple[tuple[int, ...], int]:
    """(numbers, of): a global batch is cut into `of` equal runs of rows; this process's devices hold those `numbers`.

    Several processes hold the same run where a context or tensor group spans them; on a torus the numbers of a process
    may have gaps.
    """
    of = math.prod(mesh.shape[axis] for axis in _present(BATCH_AXES, mesh.shape))
    held = batch_sharding(mesh).addressable_devices_indices_map((of,)).values()
    return tuple(sorted({_first_row(index) for index in held})), of


def _first_row(index: tuple[slice, ...] | None) -> int:
    """Of what lies on a device that this process addresses."""
    assert index is not None
    return index[0].start or 0


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Place a batch with its first axis split over the devices (see `batch_sharding`).

    Args:
      batch: with one process the global batch; with several the rows of this process's `batch_runs`, in their order.

    Raises:
      ValueError: the batch does not divide by the number of devices that take a part of it.
    """
    sharding = batch_sharding(mesh)
    numbers, of = batch_runs(mesh)

    def place(x):
        x = np.asarray(x)
        if x.shape[0] % len(numbers):
            raise ValueError(
                f"batch of {x.shape[0] * of // len(numbers)} on {mesh.size} devices: expected a multiple of {of}; "
                "change data.batch"
            )
        rows = x.shape[0] // len(numbers)
        here = {number * rows: x[i * rows : (i + 1) * rows] for i, number in enumerate(numbers)}
        shape = (rows * of, *x.shape[1:])
        return jax.make_array_from_callback(shape, sharding, lambda index: here[_first_row(index)])

    return jax.tree.map(place, batch)


def param_shardings(shapes: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """Where every leaf of a tree of parameters lives: a tree of NamedSharding of the same structure.

    The whole training state may be given: moments and averages end in their parameter's path, so they lie where it
    does. Matrices are split by the first rule that matches their path, else over "fsdp" along the largest axis that
    divides; vectors and scalars lie whole everywhere. Axes that the mesh lacks are left out.

    Args:
      shapes: leaves with a `shape`.

    Raises:
      ValueError: matrices that do not divide, all of them, with what would.
    """
    flat, structure = jax.tree_util.tree_flatten_with_path(shapes)
    refused: list[str] = []
    specs = []
    for key, leaf in flat:
        path = _path(key)
        try:
            specs.append(NamedSharding(mesh, _spec(path, leaf.shape, mesh.shape, rules)))
        except ValueError as error:
            refused.append(str(error))
    if refused:
        raise ValueError("parameters do not divide over the mesh:\n  " + "\n  ".join(refused))
    return jax.tree.unflatten(structure, specs)


def _path(key: tuple) -> str:
    # In a state of nnx every variable adds a last part of its own.
    return jax.tree_util.keystr(key, simple=True, separator="/").removesuffix("/value")


def _spec(path: str, shape: tuple[int, ...], mesh: Mapping[str, int], rules: Rules) -> PartitionSpec:
    first = int(re.search(STACKED, path) is not None)
    free = len(shape) - first  # axes that may be split
    if free < 2:
        return PartitionSpec()
    spec = next((spec for pattern, spec in rules if re.search(pattern, path) and len(spec) <= free), None)
    if spec is None:
        return _largest(path, shape, first, mesh)
    whole = (None,) * (len(shape) - len(spec))
    kept = [axis if axis in mesh else None for axis in spec]
    for size, axis in zip(shape[len(whole) :], kept, strict=True):
        if axis and size % mesh[axis]:
            raise ValueError(_indivisible(path, shape, axis, mesh[axis], [size]))
    return PartitionSpec(*whole, *kept) if any(kept) else PartitionSpec()


def _largest(path: str, shape: tuple[int, ...], first: int, mesh: Mapping[str, int]) -> PartitionSpec:
    parts = mesh.get("fsdp", 1)
    fits = [i for i in range(first, len(shape)) if shape[i] % parts == 0]
    if not fits and math.prod(shape) >= SMALL:
        raise ValueError(_indivisible(path, shape, "fsdp", parts, shape[first:]))
    if not fits or parts == 1:
        return PartitionSpec()
    best = max(fits, key=lambda i: (shape[i], i))
    return PartitionSpec(*(("fsdp" if i == best else None) for i in range(len(shape))))


def _indivisible(path: str, shape: tuple[int, ...], axis: str, parts: int, sizes: Sequence[int]) -> str:
    would = sorted({math.gcd(size, 2**20) for size in sizes})[-1]
    return f"{path} {list(shape)}: {axis} {parts} divides none of {list(sizes)}; {axis} {would} would"


def shard_init(init: Callable[..., Any], mesh: Mesh, rules: Rules = RULES) -> Callable[..., Any]:
    """`init`, compiled to leave every leaf where `param_shardings` puts it; no device makes more than its own part.

    Random numbers are those of one device: jax draws every element from its index. Arrays on the host that `init`
    holds, such as a stored model's weights, go to the devices in parts; as constants of the program they would make it
    larger than the 2 GB that a program may have.
    """

    def sharded(*args):
        closed, shapes = jax.make_jaxpr(init, return_shape=True)(*args)
        where, structure = jax.tree.flatten(param_shardings(shapes, mesh, rules))
        goes = {id(out): sharding for out, sharding in zip(closed.jaxpr.outvars, where, strict=True)}
        holders = zip(closed.jaxpr.constvars, closed.consts, strict=True)
        held = [_in_parts(x, goes.get(id(holder), replicated(mesh))) for holder, x in holders]
        run = lambda held, *flat: jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, held))(*flat)
        return jax.tree.unflatten(structure, jax.jit(run, out_shardings=where)(held, *jax.tree.leaves(args)))

    return sharded


def _in_parts(x: Any, sharding: NamedSharding) -> Any:
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def gathered(params: Any, rules: Rules = RULES) -> Any:
    """Parameters as a layer uses them: whole along "fsdp", still split along "tensor"; called where a block begins.

    Without it the compiler may as well split the activations' channels as the parameters are split, or gather the
    activations of the whole batch for a weight's gradient. With it the forward pass gathers one block's weights, and
    the backward pass sums its gradients. Stacked leaves are left alone: the block in the scan gathers its own.
    Cast to bfloat16 before, and half as much is sent. A block in a scan needs `jax.checkpoint` around it, with
    `regather` or a stricter policy. Outside of `with jax.set_mesh(mesh)`, and on one device, this does nothing.
    """
    mesh = _mesh_in_use()
    if mesh is None:
        return params

    def gather(key, leaf):
        path = _path(key)
        if re.search(STACKED, path):
            return leaf
        split = _spec(path, leaf.shape, mesh.shape, rules)
        whole = PartitionSpec(*(None if a == "fsdp" else a for a in split))
        return _gather(leaf, whole, whole if re.search(LOOKED_UP, path) else split)

    return jax.tree_util.tree_map_with_path(gather, params)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: jax.Array, whole: PartitionSpec, summed: PartitionSpec) -> jax.Array:
    """`x` lying as `whole` says, its gradient as `summed`."""
    return jax.lax.with_sharding_constraint(x, whole)


def _gather_forward(x: jax.Array, whole: PartitionSpec, summed: PartitionSpec) -> tuple[jax.Array, None]:
    return jax.lax.with_sharding_constraint(x, whole), None


def _gather_backward(whole: PartitionSpec, summed: PartitionSpec, _: None, g: jax.Array) -> tuple[jax.Array]:
    # The constraint's own transpose would ask for the whole gradient on every device: twice the bytes of its part.
    return (jax.lax.with_sharding_constraint(g, summed),)


_gather.defvjp(_gather_forward, _gather_backward)


def scattered(params: Any, rules: Rules = RULES) -> Any:
    """Gradients, or parameters in another precision, lying as `param_shardings` lays the parameters themselves.

    Without it a sum of gradients may stay whole on every device, and parameters may be gathered before they are cast.
    Outside of `with jax.set_mesh(mesh)`, and on one device, this does nothing.
    """
    mesh = _mesh_in_use()
    if mesh is None:
        return params
    put = lambda key, x: jax.lax.with_sharding_constraint(x, _spec(_path(key), x.shape, mesh.shape, rules))
    return jax.tree_util.tree_map_with_path(put, params)


def axis_size(axis: str) -> int:
    """Devices along an axis of the mesh that is set; 1 where none is, or it has no such axis."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def regather(primitive: Any, *_: Any, **__: Any) -> bool:
    """Policy of `jax.checkpoint`: save everything but gathered weights, which the backward pass gathers again.

    Without it the whole weights of every block wait for the backward pass on every device.
    """
    return primitive.name != "sharding_constraint"


def pin(x: jax.Array, letters: str) -> jax.Array:
    """Fix where an activation lives, at the border of a block: pin(x, "b n h").

    b is split over "data" and "fsdp", n over "context", where it divides; every other letter stays whole. Outside of
    `with jax.set_mesh(mesh)`, and on one device, this does nothing.

    Raises:
      ValueError: as many letters as axes are expected.
    """
    axes = letters.split()
    if len(axes) != x.ndim:
        raise ValueError(f"pin: got {x.ndim} axes, expected {len(axes)} for {letters!r}")
    mesh = _mesh_in_use()
    if mesh is None:
        return x
    split = {"b": BATCH_AXES, "n": ("context",)}
    spec = []
    for letter, size in zip(axes, x.shape, strict=True):
        names = _present(split[letter], mesh.shape) if letter in split else ()
        spec.append(names if names and size % math.prod(mesh.shape[a] for a in names) == 0 else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def _mesh_in_use() -> AbstractMesh | None:
    """The mesh that is set, where it has several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def _present(axes: Sequence[str], mesh: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(axis for axis in axes if axis in mesh)
