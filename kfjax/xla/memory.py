"""Memory of a compiled program, and the largest batch that fits, from the compiler's memory analysis."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

_SCALE = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
#: Of what the allocator has, what a program gets together: the rest is lost between its pieces.
_USABLE = 0.95


@dataclass(frozen=True)
class Memory:
    """Bytes on one chip. The state is donated: new values that lie where the old ones lay are `aliased`."""

    arguments: float
    outputs: float
    aliased: float
    temporaries: float
    program: float

    @classmethod
    def of(cls, compiled: Any) -> Memory:
        """As the compiler sets it apart."""
        used = compiled.memory_analysis()
        assert used is not None  # every backend of ours has it
        return cls(
            used.argument_size_in_bytes, used.output_size_in_bytes, used.alias_size_in_bytes, used.temp_size_in_bytes,
            used.generated_code_size_in_bytes,
        )  # fmt: skip

    @property
    def peak(self) -> float:
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.program


def refused(error: BaseException) -> tuple[float, float] | None:
    """(bytes needed, bytes there are) of a TPU compiler's refusal; None of any other error."""
    used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", str(error))
    return used and (float(used[1]) * _SCALE[used[2]], float(used[3]) * _SCALE[used[4]])


def limit_bytes(device: jax.Device) -> float | None:  # pyright: ignore[reportInvalidTypeForm]  # jax's class is a variable
    """What programs on a device can have of its memory; None where there is no limit, as on a CPU."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit and _USABLE * limit


def examples_that_fit(step: Callable[..., Any], arguments: tuple[Any, Any, Any], multiple_of: int, limit: float) -> int:
    """Of how many examples a batch would fit, where the one at hand does not: on the line through two compilations.

    Args:
      step: a jitted function of `arguments`: (state, batch, anything). They are looked at, not read: they may have been
        donated. The first axis of everything in the batch counts examples.
      multiple_of: what the number must divide by.
      limit: bytes on each device.

    Returns:
      0 where not even `multiple_of` would.
    """
    import jax

    state, batch, rest = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arguments)
    rows = jax.tree.leaves(batch)[0].shape[0]
    fewer = max(multiple_of, rows // 2 // multiple_of * multiple_of)
    resized = jax.tree.map(lambda x: x.update(shape=(fewer, *x.shape[1:])), batch)
    much, less = (_needed(step, state, some, rest) for some in (batch, resized))
    if fewer == rows or much <= less:
        return fewer if less <= limit and fewer < rows else 0
    fits = fewer + int((limit - less) / (much - less) * (rows - fewer))
    return max(0, min(fits, rows - 1) // multiple_of * multiple_of)


def _needed(step: Callable[..., Any], *arguments: Any) -> float:
    """Bytes on each device, also of a program that the compiler refuses."""
    try:
        return Memory.of(step.lower(*arguments).compile()).peak
    except RuntimeError as error:
        if (sizes := refused(error)) is None:
            raise
        return sizes[0]


def process_bytes() -> int:
    """Peak memory of this process; 0 if the system does not report it."""
    try:  # on Linux ru_maxrss begins at what the parent process held
        with open("/proc/self/status") as status:
            return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
