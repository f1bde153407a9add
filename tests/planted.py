"""A gradient that is not finite where the loss is: only the objective of a task tells which tensor's."""

import jax
import jax.numpy as jnp

from kfjax.nn import module
from kfjax.storage.checkpoint import unflatten
from kfjax.train.engine.nonfinite import blame


@jax.custom_vjp
def nan_gradient(x):
    return x


nan_gradient.defvjp(lambda x: (x, None), lambda _, slope: (jnp.full_like(slope, jnp.nan),))


def plant(monkeypatch, network: type, path: str) -> None:
    """From now on the gradient of `network`'s parameter at `path` is NaN."""
    bind = module.bind

    def spoiled(cls, cfg, params):
        if cls is network:
            flat = module.flatten(params)
            params = unflatten(flat | {path: nan_gradient(flat[path])})
        return bind(cls, cfg, params)

    monkeypatch.setattr(module, "bind", spoiled)


def blamed(objective, state, batch) -> str | None:
    """What `blame` says of a step that is itself fine."""
    fine = lambda state, batch: (state, {"loss": jnp.zeros(())})
    return blame(fine, state, batch, objective=lambda state, batch: objective(state, batch, jax.random.key(1)))
