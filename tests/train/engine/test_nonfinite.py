"""The first tensor that is not finite, and the stage of a step that it is in."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from kfjax.train.engine.loop import init_state
from kfjax.train.engine.nonfinite import blame, culprit
from kfjax.xla.sharding import data_mesh, put_batch, replicated
from tests.tiny.task import make_batch, make_task


def good():
    return {"a": jnp.ones((4, 8)), "b": {"ids": jnp.arange(3), "key": jax.random.key(0), "kernel": np.ones((2, 3))}}


def test_nothing_is_wrong():
    assert culprit(good()) is None
    assert culprit({}) is None and culprit({"ids": np.arange(3)}) is None


@pytest.mark.parametrize("bad, words", [
    ([np.nan], "1 of 6 are NaN (16.7 %)"),
    ([-np.inf, np.inf], "2 of 6 are infinite (33.3 %)"),
    ([np.nan, np.inf, np.nan], "2 of 6 are NaN (33.3 %), 1 of 6 are infinite (16.7 %)"),
])  # fmt: skip
def test_the_first_is_named_with_its_share(bad, words):
    tree = good() | {"z": np.full(5, np.nan)}
    tree["b"]["kernel"].flat[: len(bad)] = bad
    assert culprit(tree) == f"b/kernel: {words}"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_other_floats(dtype):
    assert culprit({"x": jnp.array([1, jnp.nan], dtype)}) == "x: 1 of 2 are NaN (50 %)"


def test_one_bad_number_in_a_large_sharded_tensor():
    mesh = data_mesh()
    x = np.zeros((8, 3_000_000), np.float32)
    x[5, 1_234_567] = np.inf
    place = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    tree = {"fine": place(np.ones((16, 2))), "x": place(x), "host": np.ones(3)}
    assert culprit(tree) == "x: 1 of 24000000 are infinite (4.17e-06 %)"


def poisoned(where: str):
    """(task, state, batch) of which one part is not finite."""
    task = make_task()
    make = jax.jit(partial(init_state, task), out_shardings=replicated(data_mesh()))
    state, batch = make(jax.random.key(0)), make_batch(0)
    if where == "parameters":
        state.params["b"] = state.params["b"].at[1].set(jnp.nan)
    if where == "batch":
        batch["y"][3, 1] = np.inf
    if where == "terms":
        batch["y"][3, 1] = 1e30
    return task, state, put_batch(batch, data_mesh())


@pytest.mark.parametrize("where, words", [
    ("parameters", "parameters: b: 1 of 2 are NaN (50 %)"),
    ("batch", "batch: y: 1 of 32 are infinite (3.12 %)"),
    ("terms", "figures of the step: gradient_norm: 1 of 1 are infinite (100 %)"),
    ("nothing", None),
])  # fmt: skip
def test_the_stage_of_a_step(where, words):
    task, state, batch = poisoned(where)
    step = jax.jit(task.step, donate_argnums=0)
    assert blame(step, state, batch, jax.random.key(1)) == words


def objective(state, batch):
    """Finite, with a gradient that is not where the first column of w is zero."""
    params = state.params
    norm = jnp.sqrt(jnp.square(params["layers"][0]["w"]).sum(0)).sum()
    return norm + jnp.square(params["b"]).sum(), {"norm": norm, "size": jnp.log(batch["x"].sum() * 0 + 1)}


def test_a_gradient_is_named():
    task, state, batch = poisoned("nothing")
    state.params["layers"][0]["w"] = state.params["layers"][0]["w"].at[:, 0].set(0)
    words = "gradients: layers/0/w: 3 of 6 are NaN (50 %)"
    assert blame(jax.jit(task.step), state, batch, jax.random.key(1), objective=objective) == words


def test_a_term_of_the_loss_is_named():
    task, state, batch = poisoned("nothing")
    bad = lambda *args: (objective(*args)[0], objective(*args)[1] | {"align": jnp.log(-1.0)})
    words = "terms of the loss: align: 1 of 1 are NaN (100 %)"
    assert blame(jax.jit(task.step), state, batch, jax.random.key(1), objective=bad) == words
