"""Programs that the next process need not trace: what a function was traced to lies on disk.

    @Program
    def power(x, *, exponent): ...         # arrays by position; whatever else the program depends on by keyword

    power(x, exponent=3)                   # traced once, then read from the program cache

A file holds what `jax.export` serialises: StableHLO, no code of Python's. It begins with a digest of itself and of all
that tracing depends on: versions, kfjax's sources, settings, platform, constants, shapes. A file that does not fit, is
cut short or can't be read is made anew. Its compiled form lies beside it, in jax's own compilation cache.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export

from kfjax.structs import Features, Given

export.register_namedtuple_serialization(Features, serialized_name="kfjax.structs.Features")
export.register_namedtuple_serialization(Given, serialized_name="kfjax.structs.Given")

#: What of jax's configuration changes what is traced.
_SETTINGS = (
    "jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion", "jax_default_device",
)  # fmt: skip
_COMPILERS = ThreadPoolExecutor(3, "compiler")
_DIGEST = hashlib.sha256().digest_size


class Begun(NamedTuple):
    """A program that is being compiled.

    Attributes:
      outputs: shapes of what it returns.
      compiled: the program, as a function of the leaves of its arguments.
    """

    outputs: Any
    compiled: Future[jax.stages.Compiled]


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
        device = jax.devices()[0]
        settings = *(getattr(jax.config, name) for name in _SETTINGS), device.platform, device.device_kind
        known = tree, shapes, *sorted(constants.items()), settings
        if known not in self._begun:
            flat = jax.jit(lambda *leaves: self.jitted(*jax.tree.unflatten(tree, leaves), **constants))
            traced = kept(self.name, repr(known), lambda: bytes(export.export(flat)(*shapes).serialize()))
            lowered = jax.jit(export.deserialize(bytearray(traced)).call).lower(*shapes)
            self._begun[known] = Begun(lowered.out_info, _COMPILERS.submit(lowered.compile))
        return self._begun[known]

    def forget(self) -> None:
        """Drop what is compiled; the next call makes or reads it anew."""
        self._begun.clear()


def folder() -> str | None:
    """Where jax keeps compiled programs; nothing where it keeps none."""
    return jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]  # jax's settings are dynamic


def kept(name: str, facts: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, or has returned in an earlier process with the same versions, sources and `facts`."""
    place = folder()
    if not place or "://" in place:  # nowhere, or on another machine
        return make()
    path = Path(place) / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:32]}.kept"
    sealed = lambda made: hashlib.sha256(_versions() + hashlib.sha256(made).digest()).digest() + made
    with suppress(OSError):
        stored = path.read_bytes()
        if stored == sealed(stored[_DIGEST:]):
            return stored[_DIGEST:]
    made = make()
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    with suppress(OSError):  # a cache that can't be written to costs time, not the sound
        try:
            temporary.write_bytes(sealed(made))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return made


@lru_cache(maxsize=1)
def _versions() -> bytes:
    """Digest of kfjax's sources and of the versions of what they are traced with."""
    digest = hashlib.sha256(" ".join(version(name) for name in ("jax", "jaxlib", "flax", "numpy")).encode())
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"\n{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.digest()
