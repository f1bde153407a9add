"""Operations of a traced function: its matrix products and convolutions, with loops counted as often as they turn.

    operations(jax.make_jaxpr(forward)(*shapes))

A multiplication and the addition after it are two operations, as in `train.engine.flops`. XLA's own count of a compiled
program takes a loop's body once, and sees nothing of the libraries' kernels that a GPU's program calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def operations(jaxpr: ClosedJaxpr | Jaxpr, *, loops: int | None = None) -> float:
    """Operations of one run; of a conditional those of its longest branch.

    Args:
      loops: turns of a loop that an argument bounds.

    Raises:
      ValueError: such a loop, and `loops` is not given.
    """
    return sum(_of(equation, loops) for equation in _body(jaxpr).eqns)


def _of(equation: Any, loops: int | None) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel[axis] for axis in spec[1:])
    inner = [operations(part, loops=loops) for part in _inner(params)]
    turns = {"scan": params.get("length"), "while": loops}.get(name, 1)
    if turns is None:
        if sum(inner):
            raise ValueError("operations: got a loop around matrix products that an argument bounds; give `loops`")
        turns = 0
    return turns * (max(inner, default=0.0) if name == "cond" else sum(inner))


def _inner(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    """Functions that an equation calls."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield part


def _body(jaxpr: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
