"""Straight paths, the times at which they are seen, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np

from kfjax.flow import matching
from kfjax.structs import Posterior

interpolate, expected_velocity, with_known, loss = map(
    jax.jit, (matching.interpolate, matching.expected_velocity, matching.with_known, matching.loss)
)
sample_times = jax.jit(matching.sample_times, static_argnums=1, static_argnames="start")
sample_known = jax.jit(matching.sample_known, static_argnums=(1, 2, 3))


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


def test_the_loss_is_of_the_latents_that_are_not_known():
    rng = np.random.default_rng(0)
    predicted, velocity = rng.standard_normal((2, 3, 6, 4), dtype=np.float32)
    known = np.array([[True, False] * 3, [False] * 6, [False, False, False, True, True, True]])
    got = loss(predicted, velocity, known)
    other = np.where(known[..., None], 1e3, predicted)
    np.testing.assert_array_equal(loss(other, velocity, known), got)
    np.testing.assert_allclose(got[1], loss(predicted, velocity)[1], rtol=1e-6)
    np.testing.assert_allclose(got[2], loss(predicted[2:, :3], velocity[2:, :3])[0], rtol=1e-6)
    slope = jax.grad(lambda p: loss(p, velocity, known).sum())(predicted)
    np.testing.assert_array_equal(np.abs(slope).min(2) > 0, ~known)


def test_known_latents_are_read_as_data():
    x, latents = np.random.default_rng(0).standard_normal((2, 2, 3, 4), dtype=np.float32)
    known, t = np.array([[True, False, False], [False, False, True]]), np.array([0.25, 0.5], np.float32)
    seen, times = with_known(x, t, latents, known)
    np.testing.assert_array_equal(seen, np.where(known[..., None], latents, x))
    np.testing.assert_array_equal(times, np.float32([[1, 0.25, 0.25], [0.5, 0.5, 1]]))


def test_known_latents_are_prefixes_suffixes_spans_or_all_but_a_hole():
    count, latents = 20_000, 40
    masks = np.asarray(sample_known(jax.random.key(0), count, latents, 0.4))
    np.testing.assert_array_equal(sample_known(jax.random.key(0), count, latents, 0.4), masks)
    some = masks[masks.any(1)]
    assert abs(len(some) / count - 0.4) < 0.01
    changes = (some[:, 1:] != some[:, :-1]).sum(1)
    first, last = some[:, 0], some[:, -1]
    prefix, suffix = first & ~last, ~first & last
    assert (changes[prefix | suffix] == 1).all()
    # A span or a hole that reaches a border is a prefix or a suffix.
    assert 0.25 < prefix.mean() < 0.28 and 0.25 < suffix.mean() < 0.28
    span, hole = ~first & ~last, first & last
    assert (changes[span | hole] == 2).all() and 0.22 < span.mean() < 0.25 and 0.22 < hole.mean() < 0.25
    for size in (some[span].sum(1), latents - some[hole].sum(1)):
        assert size.min() == 2 and size.max() == 24  # 5 to 60 % of 40
        assert abs(size.mean() - 0.325 * latents) < 0.5
    assert not np.asarray(sample_known(jax.random.key(0), 100, latents, 0.0)).any()


def test_some_latents_are_left_to_learn_however_few_there_are():
    for latents in (2, 3, 10):
        masks = np.asarray(sample_known(jax.random.key(1), 2_000, latents, 1.0))
        assert masks.any(1).all() and not masks.all(1).any()


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
