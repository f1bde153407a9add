"""Work of compiled functions: operations and bytes, and which of the two is the limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Card(NamedTuple):
    """What the device was measured to do: bfloat16 operations of a large matrix product, bytes of a large copy."""

    flops_per_second: float
    bytes_per_second: float


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Callable[[], Any], float]:
    """(the function on these arguments, compiled, bytes that it reads and writes as XLA counts them).

    Where XLA gives no count: arguments, results and twice the temporaries.
    """
    program = jax.jit(function).lower(*args).compile()
    counted = (program.cost_analysis() or {}).get("bytes accessed", 0.0)
    used = program.memory_analysis()
    stored = used.argument_size_in_bytes + used.output_size_in_bytes + 2 * used.temp_size_in_bytes
    return lambda: program(*args), float(counted or stored)


def both_ways(function: Callable[..., Any], *args: jax.Array) -> tuple[Callable[..., Any], jax.Array]:
    """(forward and backward pass as one function of what comes back and `args`, something that may come back).

    function(*args) must be one array.
    """
    result = jax.eval_shape(function, *args)

    def run(back, *args):
        y, gradients = jax.vjp(function, *args)
        return y, gradients(back)

    return run, jax.random.normal(jax.random.key(0), result.shape, result.dtype)


def roofline(flops: float, size: float, taken: float, card: Card) -> dict[str, Any]:
    """Figures of a function of `flops` operations that moves `size` bytes in `taken` seconds.

    intensity: operations a byte. bound: what a perfect program of the same bytes would wait for, and of_bound: the
    share of that program's speed that was reached. of_matmul: share of the card's rate in a large matrix product.
    """
    least = {"compute": flops / card.flops_per_second, "memory": size / card.bytes_per_second}
    bound = max(least, key=least.__getitem__)
    return {
        "seconds": taken, "flops": flops, "bytes": size, "tflops": flops / taken / 1e12,
        "of_matmul": flops / taken / card.flops_per_second, "intensity": flops / size, "bound": bound,
        "of_bound": least[bound] / taken,
    }  # fmt: skip
