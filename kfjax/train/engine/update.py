"""The update of a training step: gradients, optimiser, average of the weights; steps that are not finite are skipped.

A task that minimises one loss is `make_step(gradients_of(loss), ...)`. One that trains parts against each other calls
`apply_gradients` for each of them and `advance` at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kfjax.nn.module import Params
from kfjax.structs import TrainState

Metrics = dict[str, Any]
#: (parameters that train, all parameters, batch, key) -> ((what is minimised, figures), gradients by the first).
Gradients = Callable[[Params, Params, Any, jax.Array], tuple[tuple[jax.Array, Metrics], Params]]
#: (state, batch, key) -> (state, figures)
Step = Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]


def make_step(
    gradients: Gradients,
    tx: optax.GradientTransformation,
    trained: Callable[[Params], Params],
    ema_decay: float,
) -> Step:
    """The step of a task with one loss, for `Task.step`.

    Args:
      trained: all parameters -> those that train; the optimiser state is theirs. They alone are averaged.
      ema_decay: see `advance`.
    """

    def step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, Metrics]:
        own = trained(state.params)
        (loss, figures), grads = gradients(own, state.params, batch, key)
        new = apply_gradients(tx, grads, own, state.opt_state, loss)
        state = advance(state, new.params, new.opt_state, new.finite, ema_decay)
        return state, figures | {"gradient_norm": new.norm, "skipped": state.skipped}

    return step


def gradients_of(loss: Callable[[Params, Any, jax.Array], tuple[jax.Array, Metrics]]) -> Gradients:
    """Of (all parameters, batch, key) -> (what is minimised, figures)."""
    return jax.value_and_grad(lambda own, params, batch, key: loss(params | own, batch, key), has_aux=True)


class Applied(NamedTuple):
    """One optimiser step; where it is not `finite`, `advance` undoes it."""

    params: Any
    opt_state: Any
    finite: jax.Array  # bool [], the loss and the norm
    norm: jax.Array  # f32 [], of the gradients before they are clipped


def apply_gradients(
    tx: optax.GradientTransformation, grads: Params, params: Params, opt_state: Any, loss: jax.Array
) -> Applied:
    """Parameters and optimiser state after one step of `tx`."""
    norm = optax.tree.norm(grads)
    updates, opt_state = tx.update(grads, opt_state, params)
    return Applied(optax.apply_updates(params, updates), opt_state, jnp.isfinite(loss) & jnp.isfinite(norm), norm)


def advance(
    state: TrainState,
    params: Params,
    opt_state: Any,
    finite: jax.Array,
    ema_decay: float,
    *,
    copied: Collection[str] = (),
) -> TrainState:
    """The state after a step. One that is not finite changes nothing but `step` and `skipped`.

    Args:
      params: the new parameters of the parts that train; the others stay.
      ema_decay: of the average of these parts, after a warm-up: min(ema_decay, (1 + step) / (10 + step)).
      copied: of these parts those that are not averaged: their average is the parameters.
    """
    guarded = lambda new, old: jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    params = guarded(params, {name: state.params[name] for name in params})
    # EMA warm-up: the decay starts low, so that the average soon forgets the initial weights.
    decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
    new = {name: part for name, part in params.items() if name not in copied}
    old = {name: state.ema[name] for name in new}
    averaged = optax.incremental_update(new, old, jnp.where(finite, 1.0 - decay, 0.0))
    return TrainState(
        step=state.step + 1,
        params=state.params | params,
        opt_state=guarded(opt_state, state.opt_state),
        ema=state.ema | {name: params[name] for name in copied} | averaged,
        skipped=jnp.where(finite, 0, state.skipped + 1),
    )
