"""Conditional flow matching on straight paths (paper eq. 1): x0 is noise at t = 0, x1 data at t = 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kfjax.module import AnyArray
from kfjax.structs import Posterior

Samples = Float[AnyArray, "b n d"]


def interpolate(x0: Samples, x1: Samples, t: Float[AnyArray, " b"]) -> tuple[Samples, Samples]:
    """The point x_t = (1 - t) x0 + t x1 and the velocity x1 - x0 that the network must predict there."""
    t = t[:, None, None]
    return (1 - t) * x0 + t * x1, x1 - x0


def expected_velocity(x: Samples, t: Float[AnyArray, " b"], posterior: Posterior) -> Float[Array, "b n d"]:
    """E[x1 - x0 | x_t] where x1 is Gaussian with the codec's posterior: the training target without its noise.

    Regressing on it has the same minimum as regressing on x1 - x0 (the tower rule), with less variance: what the
    codec itself does not know (a channel whose posterior is its prior carries nothing) no longer drowns the rest.
    With std = 0 it is x1 - x0.
    """
    t = t[:, None, None]
    mean, variance = jnp.asarray(posterior.mean), jnp.square(posterior.std)
    surprise = (x - t * mean) / (t * t * variance + jnp.square(1 - t) + 1e-12)
    return mean + (t * variance - (1 - t)) * surprise


def sample_times(key: jax.Array, count: int, *, start: float = 0.0) -> Float[Array, " b"]:
    """Logit-normal(0, 1) times: the middle of the path is seen most. A share `start` of them is uniform in [0, 0.1).

    What holds for the whole excerpt, as a caption does, is soon told by x itself: the mean over time of a noisy x says
    it at t = 0.1 already. Only before that does the network need the condition, and logit-normal times come there once
    in seventy draws; yet sampling begins there, and goes on from what was chosen.
    """
    middle = jax.nn.sigmoid(jax.random.normal(key, (count,), jnp.float32))
    if not start:
        return middle
    early, chosen = jax.random.uniform(jax.random.fold_in(key, 1), (2, count), jnp.float32)
    return jnp.where(chosen < start, 0.1 * early, middle)


def loss(predicted: Samples, velocity: Samples) -> Float[Array, " b"]:
    """Mean squared error over tokens and channels, one value per sample, in float32."""
    return jnp.mean(jnp.square(predicted.astype(jnp.float32) - velocity.astype(jnp.float32)), (1, 2))
