"""The optimiser: the paper's schedule by hand, clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kfjax.train.engine.optim import OptimConfig, inverse_lr, make_optimizer

CFG = OptimConfig(learning_rate=0.1)


@pytest.mark.parametrize("step, want", [
    (0, 1e-4 * 0.01),  # 1 - 0.99
    (1, 1e-4 * (1 - 0.9801) * (1 + 1e-6) ** -0.5),
    (99, 1e-4 * (1 - 0.99**100)),
    (10**6, 1e-4 / np.sqrt(2)),
    (3 * 10**6, 1e-4 / 2),
    (10**11, 1e-6),  # the floor
])  # fmt: skip
def test_the_schedule_is_equation_8(step, want):
    assert float(inverse_lr(OptimConfig())(step)) == pytest.approx(want, rel=2e-4)


def test_the_warm_up_multiplies_the_floor_too():
    schedule = inverse_lr(OptimConfig(learning_rate=1e-9, final_learning_rate=1e-6, warmup=0.5))
    assert [float(schedule(t)) for t in range(3)] == pytest.approx([0.5e-6, 0.75e-6, 0.875e-6])


def test_a_run_of_known_length_decays_to_the_floor():
    cfg = OptimConfig(learning_rate=1e-3, final_learning_rate=1e-5, warmup=0.0, decay_steps=100, total_steps=400)
    rates = [float(inverse_lr(cfg)(t)) for t in (0, 299, 300, 350, 375, 400, 500)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4, 2.5e-4, 1e-5, 1e-5], rel=1e-3)


def test_the_schedule_is_the_same_traced():
    schedule, steps = inverse_lr(OptimConfig()), np.array([0, 10, 5000, 2_000_000])
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(steps), [float(schedule(t)) for t in steps], rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    cfg = OptimConfig(weight_decay=0.0)
    tx, params = make_optimizer(cfg), {"a": jnp.zeros(3), "b": jnp.zeros(1)}
    update = lambda grads: tx.update(grads, tx.init(params), params)[1][1][0].mu
    small, large = {"a": jnp.full(3, 0.3), "b": jnp.zeros(1)}, {"a": jnp.array([0.0, 300, 0]), "b": jnp.full(1, 400.0)}
    np.testing.assert_allclose(update(small)["a"], 0.1 * 0.3, rtol=1e-5)
    np.testing.assert_allclose(update(large)["a"], [0, 0.06, 0], rtol=1e-5)
    np.testing.assert_allclose(update(large)["b"], [0.08], rtol=1e-5)


def test_the_defaults_are_the_papers():
    assert (CFG.b1, CFG.b2, CFG.weight_decay, CFG.clip_norm) == (0.9, 0.95, 1e-6, 1.0)
    assert (CFG.gamma, CFG.power, CFG.warmup) == (1e6, 0.5, 0.99)
    assert isinstance(make_optimizer(CFG), optax.GradientTransformation)
