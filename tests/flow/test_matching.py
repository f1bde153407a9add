"""Straight paths, the times at which they are seen, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np

from kfjax.flow.matching import expected_velocity, interpolate, loss, sample_times
from kfjax.structs import Posterior


def test_paths_start_at_noise_and_end_at_data():
    x0, x1 = np.random.default_rng(0).standard_normal((2, 3, 5, 4), dtype=np.float32)
    xt, velocity = interpolate(x0, x1, np.array([0.0, 1.0, 0.25], np.float32))
    np.testing.assert_array_equal(xt[0], x0[0])
    np.testing.assert_array_equal(xt[1], x1[1])
    np.testing.assert_allclose(x0[2] + 0.25 * velocity[2], xt[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(velocity, x1 - x0)


def test_times_are_logit_normal():
    t = np.asarray(sample_times(jax.random.key(0), 20_000))
    assert t.min() > 0
    assert t.max() < 1
    logit = np.log(t / (1 - t))
    assert abs(logit.mean()) < 0.03
    assert abs(logit.std() - 1) < 0.03


def test_a_share_of_the_times_lies_at_the_start():
    t = np.asarray(sample_times(jax.random.key(0), 20_000, start=0.25))
    plain = np.asarray(sample_times(jax.random.key(0), 20_000))
    assert 0.25 < (t < 0.1).mean() < 0.27  # the logit-normal itself has 1.4 % there
    early = t[t < 0.1]
    assert abs(early.mean() - 0.05) < 2e-3 and early.min() < 1e-3
    assert np.array_equal(t[t >= 0.1], plain[t >= 0.1])  # the others are as without it


def test_loss_is_one_float32_value_a_sample():
    predicted = jnp.zeros((2, 5, 4), jnp.bfloat16)
    value = loss(predicted, jnp.stack([jnp.full((5, 4), 2.0), jnp.zeros((5, 4))]))
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, [4.0, 0.0])


def test_expected_velocity_of_a_certain_posterior_is_the_velocity():
    x0, x1 = np.random.default_rng(0).standard_normal((2, 3, 5, 4), dtype=np.float32)
    t = np.array([0.1, 0.5, 0.9], np.float32)
    xt, velocity = interpolate(x0, x1, t)
    np.testing.assert_allclose(expected_velocity(xt, t, Posterior(x1, 0 * x1)), velocity, rtol=1e-4, atol=1e-4)


def test_expected_velocity_is_the_mean_over_what_could_have_been():
    """Linear regression of many drawn velocities on their points has that slope and intercept."""
    mean, std, t = 0.7, 0.6, 0.3
    rng = np.random.default_rng(0)
    x0, x1 = rng.standard_normal(200_000), mean + std * rng.standard_normal(200_000)
    slope, intercept = np.polyfit((1 - t) * x0 + t * x1, x1 - x0, 1)
    x = np.linspace(-2, 2, 5, dtype=np.float32).reshape(1, 5, 1)
    got = expected_velocity(x, np.array([t], np.float32), Posterior(np.full_like(x, mean), np.full_like(x, std)))
    np.testing.assert_allclose(got, slope * x + intercept, atol=0.02)
