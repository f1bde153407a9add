"""The update of a training step: AdamW, the average of the weights, steps that are skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.structs import TrainState
from kfjax.train.engine.optim import OptimConfig, make_optimizer
from kfjax.train.engine.update import advance, apply_gradients, gradients_of, make_step

PARAMS = {"a": {"w": jnp.array([1.0, -2.0])}, "b": {"v": jnp.array([3.0])}}


def state_of(opt_state=(), step: int = 0, skipped: int = 0) -> TrainState:
    """Its averages are half the parameters."""
    average = jax.tree.map(lambda x: x / 2, PARAMS)
    return TrainState(jnp.int32(step), PARAMS, opt_state, average, jnp.int32(skipped))


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_one_step_is_adamw():
    params, grads = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([0.1, 0.2])}
    tx = make_optimizer(OptimConfig(learning_rate=0.1, warmup=0.0, weight_decay=0.5))
    new = apply_gradients(tx, grads, params, tx.init(params), jnp.array(1.0))
    # Adam's first step is the gradient's sign; weight decay is decoupled.
    np.testing.assert_allclose(new.params["w"], [1.0 - 0.1 * (1 + 0.5), -2.0 - 0.1 * (1 - 1.0)], rtol=1e-5)
    assert bool(new.finite) and float(new.norm) == pytest.approx(np.hypot(0.1, 0.2))


@pytest.mark.parametrize("step, decay", [(0, 0.1), (5, 0.4), (10**6, 0.75)])
def test_the_average_of_what_trains_follows_quickly_at_first(step, decay):
    new = {"a": {"w": jnp.array([5.0, 6.0])}}
    after = advance(state_of(step=step, skipped=2), new, (), jnp.array(True), 0.75)
    assert_equal(after.params, PARAMS | new)
    np.testing.assert_allclose(
        after.ema["a"]["w"], decay * PARAMS["a"]["w"] / 2 + (1 - decay) * new["a"]["w"], rtol=1e-5
    )
    assert_equal(after.ema["b"], state_of().ema["b"])
    assert (int(after.step), int(after.skipped)) == (step + 1, 0)


def test_a_part_that_is_copied_is_not_averaged():
    new = jax.tree.map(lambda x: x + 1, PARAMS)
    after = advance(state_of(), new, (), jnp.array(True), 0.5, copied=("b",))
    assert_equal(after.ema["b"], new["b"])
    assert np.abs(after.ema["a"]["w"] - new["a"]["w"]).max() > 0.1


@pytest.mark.parametrize("loss, gradient", [(np.nan, 0.1), (np.inf, 0.1), (1.0, np.nan), (1.0, np.inf)])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(loss, gradient):
    tx = make_optimizer(OptimConfig(learning_rate=0.1, warmup=0.0))
    own = lambda params: {"a": params["a"]}

    def gradients(new, params, batch, key):
        return (jnp.asarray(batch), {}), {"a": {"w": jnp.array([0.5, gradient])}}

    before = state_of(tx.init(own(PARAMS)), step=3, skipped=1)
    after, figures = jax.jit(make_step(gradients, tx, own, 0.9))(before, loss, jax.random.key(0))
    assert_equal(after, before._replace(step=jnp.int32(4), skipped=jnp.int32(2)))
    assert int(figures["skipped"]) == 2 and not np.isfinite([loss, figures["gradient_norm"]]).all()


def test_the_gradient_is_of_what_trains_alone():
    loss = lambda params, batch, key: (jnp.sum(params["a"]["w"] ** 2 * params["b"]["v"] * batch), {"seen": batch})
    (value, figures), grads = gradients_of(loss)({"a": PARAMS["a"]}, PARAMS, jnp.array(2.0), jax.random.key(0))
    assert float(value) == 30.0 and float(figures["seen"]) == 2.0
    assert_equal(grads, {"a": {"w": jnp.array([12.0, -24.0])}})
