"""The first non-finite tensor of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kfjax.nn.module import flatten
from kfjax.structs import TrainState

#: (state, batch) -> (what the step minimises over `state.params`, its terms by name), the key of the step bound.
Objective = Callable[[TrainState, Any], tuple[jax.Array, dict[str, jax.Array]]]


def culprit(tree: Any) -> str | None:
    """The first tensor of a nested dict (or other tree) that is not finite, or None.

    One compiled program on the device counts for all tensors; with several processes each must call it. Integers,
    booleans and keys are passed over.

    Returns:
      Its path and what is wrong, e.g. "mmdit/single/audio/qkv/kernel: 12 of 4096 are NaN (0.293 %)".
    """
    leaves = {name: leaf for name, leaf in flatten(tree).items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    if not leaves:
        return None
    # Every process reads all of the counts, so they must lie whole everywhere.
    meshes = [x.sharding.mesh for x in leaves.values() if isinstance(getattr(x, "sharding", None), NamedSharding)]
    whole = NamedSharding(meshes[0], PartitionSpec()) if meshes else None
    counts = np.asarray(jax.jit(_census, out_shardings=whole)(list(leaves.values())))
    for (name, leaf), (nan, infinite) in zip(leaves.items(), counts, strict=True):
        found = {"NaN": nan, "infinite": infinite}
        kinds = [f"{n:.0f} of {leaf.size} are {kind} ({100 * n / leaf.size:.3g} %)" for kind, n in found.items() if n]
        if kinds:
            return f"{name}: {', '.join(kinds)}"
    return None


def _census(leaves: list[jax.Array]) -> jax.Array:
    """How many numbers of each leaf are NaN and how many infinite. float32 [leaves, 2]"""
    # float32 counts no large number exactly, but never loses the first one; int32 overflows.
    count = lambda mask: mask.sum(dtype=jnp.float32)
    return jnp.stack([jnp.stack([count(jnp.isnan(x)), count(jnp.isinf(x))]) for x in leaves])


def blame(
    step: Callable[..., tuple[Any, ...]], state: TrainState, batch: Any, *rest: Any, objective: Objective | None = None
) -> str | None:
    """What is not finite in a step, the first of: parameters, optimiser state, batch, terms of the loss, gradients.

    It runs the step once more. A skipped step leaves the parameters as they were, so this finds what the step found.

    Args:
      step: (state, batch, *rest) -> (state, metrics, ...), as compiled for training; where it donates the state, the
        state is used up.
      objective: what the step differentiates; with it the gradients are looked at tensor by tensor, without it only
        what the step reports of them.

    Returns:
      The stage and `culprit`'s words for the first such tensor there, or None where all is finite.
    """
    for stage, tree in _stages(step, state, batch, rest, objective):
        if (found := culprit(tree)) is not None:
            return f"{stage}: {found}"
    return None


def _stages(step, state: TrainState, batch: Any, rest: tuple, objective: Objective | None) -> Iterator[tuple[str, Any]]:
    """In the order of cause and effect; each is computed only when those before it are finite."""
    yield "parameters", state.params
    yield "optimiser state", state.opt_state
    yield "batch", batch
    if objective is not None:
        value = lambda params, state, batch: objective(state._replace(params=params), batch)
        (total, terms), gradients = jax.jit(jax.value_and_grad(value, has_aux=True))(state.params, state, batch)
        yield "terms of the loss", terms
        yield "loss", {"total": total}
        yield "gradients", gradients
    yield "figures of the step", step(state, batch, *rest)[1]
