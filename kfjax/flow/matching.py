"""Conditional flow matching on straight paths (paper eq. 1): x0 is noise at t = 0, x1 data at t = 1."""
from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def interpolate(
    x0: Float[Array, "b n d"], x1: Float[Array, "b n d"], t: Float[Array, " b"]
) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
    """The point x_t = (1 - t) x0 + t x1 and the velocity x1 - x0 that the network must predict there."""
    t = t[:, None, None]
    return (1 - t) * x0 + t * x1, x1 - x0


def sample_times(key: jax.Array, count: int) -> Float[Array, " b"]:
    """Logit-normal(0, 1) times: the middle of the path, where the choice is made, is seen most."""
    return jax.nn.sigmoid(jax.random.normal(key, (count,)))


def loss(predicted: Float[Array, "b n d"], velocity: Float[Array, "b n d"]) -> Float[Array, " b"]:
    """Mean squared error over tokens and channels, one value per sample, in float32."""
    return jnp.mean(jnp.square(predicted.astype(jnp.float32) - velocity.astype(jnp.float32)), (1, 2))
