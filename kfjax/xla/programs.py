"""Programs that the next process need neither trace nor compile: what a function was compiled to lies on disk.

    @Program
    def power(x, *, exponent): ...         # arrays by position; whatever else the program depends on by keyword

    power(x, exponent=3)                   # compiled once, then read from the program cache

A file holds the shapes of what the program returns, as JSON, and XLA's own form of the compiled program: machine code,
trusted as much as what jax's compilation cache keeps in the same folder. It begins with a digest of itself and of all
that compiling depends on: versions, kfjax's sources, settings, processor, constants, shapes. A file that does not fit,
is cut short or can't be read is made anew.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxlib import xla_client

from kfjax.structs import Features, Given

#: What of jax's configuration changes what is traced or compiled.
_SETTINGS = (
    "jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion", "jax_default_device", "jax_optimization_level",
)  # fmt: skip
_FLAGS = "XLA_FLAGS", "LIBTPU_INIT_ARGS"
_STRUCTS = {struct.__name__: struct for struct in (Features, Given)}
_COMPILERS = ThreadPoolExecutor(3, "compiler")
#: What storing and loading may end in: they are no part of jax's public interface.
_REFUSED = jax.errors.JaxRuntimeError, AttributeError, TypeError
_DIGEST = hashlib.sha256().digest_size


class KeptProgram:
    """A compiled program that was kept, as a function of the leaves of its arguments."""

    def __init__(self, executable: Any, outputs: Any):
        self._executable = executable
        self._tree = jax.tree.structure(outputs)

    def __call__(self, *leaves: Any) -> Any:
        inputs = jax.device_put(leaves, self._executable.local_devices()[0])
        made = self._executable.execute_sharded(inputs).disassemble_into_single_device_arrays()
        return jax.tree.unflatten(self._tree, [array for (array,) in made])

    def memory_analysis(self) -> Any:
        """As `jax.stages.Compiled` has it."""
        return self._executable.get_compiled_memory_stats()


Compiled = jax.stages.Compiled | KeptProgram


class Begun(NamedTuple):
    """A program that is being compiled, or read.

    Attributes:
      outputs: shapes of what it returns.
      compiled: the program, as a function of the leaves of its arguments.
    """

    outputs: Any
    compiled: Future[Compiled]


class Program:
    """A function of arrays (by position) and constants (keyword-only), compiled for each combination it is met in."""

    def __init__(self, function: Callable):
        parameters = inspect.signature(function).parameters.values()
        constants = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        self.name = function.__name__
        self.jitted = jax.jit(function, static_argnames=constants)
        self._begun: dict[Any, Begun] = {}

    def __call__(self, *args: Any, **constants: Any) -> Any:
        return self.begin(*args, **constants).compiled.result()(*jax.tree.leaves(args))

    def begin(self, *args: Any, **constants: Any) -> Begun:
        """Start to compile what is called for `args`, arrays or `jax.ShapeDtypeStruct`s, in another thread."""
        leaves, tree = jax.tree.flatten(args)
        shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        settings = *(getattr(jax.config, name) for name in _SETTINGS), *map(os.environ.get, _FLAGS)
        known = tree, shapes, *sorted(constants.items()), settings
        if known not in self._begun:
            self._begun[known] = _begun(
                self.name, repr(known), partial(self._lower, tree, shapes, constants, bool(settings[0]))
            )
        return self._begun[known]

    def _lower(self, tree: Any, shapes: tuple, constants: dict[str, Any], x64: bool) -> jax.stages.Lowered:
        flat = lambda *leaves: self.jitted(*jax.tree.unflatten(tree, leaves), **constants)
        # What jax reads from its compilation cache lacks its code when it is stored again, so it must not know this.
        flat.__name__ = f"{self.name}_{secrets.token_hex(8)}"
        with jax.enable_x64(x64):  # which other threads do not know
            return jax.jit(flat, keep_unused=True).lower(*shapes)

    def forget(self) -> None:
        """Drop what is compiled; the next call makes or reads it anew."""
        self._begun.clear()


def folder() -> str | None:
    """Where jax keeps compiled programs; nothing where it keeps none."""
    return jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]  # jax's settings are dynamic


def kept(name: str, facts: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, or has returned in an earlier process with the same versions, sources and `facts`."""
    path = _path(name, facts)
    if (stored := _read(path)) is not None:
        return stored
    made = make()
    _write(path, made)
    return made


def _begun(name: str, facts: str, lower: Callable[[], jax.stages.Lowered]) -> Begun:
    """A program that is being read where it is kept, else compiled and then kept."""
    device = _device()
    path = _path(name, f"{facts}{_machine(device)}\n{_cores()}")
    if (stored := _read(path)) is not None:
        described, _, code = stored.partition(b"\n")
        outputs = _rebuilt(json.loads(described))
        return Begun(outputs, _COMPILERS.submit(_loaded, code, outputs, device, path, lower))
    lowered = lower()
    return Begun(lowered.out_info, _COMPILERS.submit(_compiled, lowered, path))


def _compiled(lowered: jax.stages.Lowered, path: Path | None) -> Compiled:
    compiled = lowered.compile()
    executable: Any = compiled.runtime_executable()
    with suppress(*_REFUSED):  # a backend whose programs can't be stored
        described = json.dumps(_described(lowered.out_info)).encode()
        _write(path, described + b"\n" + executable.client.serialize_executable(executable))
    return compiled


def _loaded(
    code: bytes, outputs: Any, device: Any, path: Path | None, lower: Callable[[], jax.stages.Lowered]
) -> Compiled:
    try:
        devices = xla_client.DeviceList((device,))
        return KeptProgram(device.client.deserialize_executable(code, executable_devices=devices), outputs)
    except _REFUSED:  # of another build of XLA
        return _compiled(lower(), path)


def _described(outputs: Any) -> Any:
    """Shapes in tuples and in structs of `_STRUCTS`, as JSON holds them."""
    if isinstance(outputs, tuple):
        assert type(outputs) in (tuple, *_STRUCTS.values())
        return {"type": type(outputs).__name__, "fields": [_described(field) for field in outputs]}
    return [outputs.shape, outputs.dtype.name]


def _rebuilt(described: Any) -> Any:
    if isinstance(described, dict):
        fields = [_rebuilt(field) for field in described["fields"]]
        return _STRUCTS[described["type"]](*fields) if described["type"] in _STRUCTS else tuple(fields)
    return jax.ShapeDtypeStruct(*described)


def _path(name: str, facts: str) -> Path | None:
    place = folder()
    if not place or "://" in place:  # nowhere, or on another machine
        return None
    return Path(place) / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:32]}.kept"


def _read(path: Path | None) -> bytes | None:
    """What was kept there, if it is whole and of the same versions."""
    with suppress(OSError):
        stored = path.read_bytes() if path else b""
        if stored[:_DIGEST] == _seal(stored[_DIGEST:]):
            return stored[_DIGEST:]
    return None


def _write(path: Path | None, made: bytes) -> None:
    if path is None:
        return
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    with suppress(OSError):  # a cache that can't be written to costs time, not the sound
        try:
            temporary.write_bytes(_seal(made) + made)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _seal(made: bytes) -> bytes:
    return hashlib.sha256(_versions() + hashlib.sha256(made).digest()).digest()


def _device() -> Any:
    """What programs run on."""
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return chosen if isinstance(chosen, jax.Device) else jax.devices(chosen)[0]


def _cores() -> int:
    """Cores that this process may use: XLA splits a CPU's work by their number, and each split rounds differently."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=8)
def _machine(device: Any) -> str:
    """What programs are compiled for: a CPU's instructions, an accelerator's kind and compiler."""
    lines = {
        platform.machine(),
        device.platform,
        device.device_kind,
        device.client.platform_version,
    }
    with suppress(OSError):
        cpus = Path("/proc/cpuinfo").read_text().splitlines()
        lines |= {line for line in cpus if line.startswith(("flags", "Features"))}
    return "\n".join(sorted(lines))


@lru_cache(maxsize=1)
def _versions() -> bytes:
    """Digest of kfjax's sources and of the versions of what they are traced with."""
    digest = hashlib.sha256(" ".join(version(name) for name in ("jax", "jaxlib", "flax", "numpy")).encode())
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(f"\n{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.digest()
