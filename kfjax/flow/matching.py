"""Conditional flow matching on straight paths (paper eq. 1): x0 is noise at t = 0, x1 data at t = 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kfjax.nn.module import AnyArray
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


def sample_known(key: jax.Array, count: int, latents: int, share: float) -> Bool[Array, "b n"]:
    """Masks of latents that are given (True), for training on `with_known`. No mask has all of them.

    A share of the masks has, equally often, a prefix, a suffix, a span, or all but a hole; the others are empty.
    Prefix, suffix, span and hole are 5 to 60 % of the length, uniform, and at least one latent.
    """
    some, kind, length, place = jax.random.split(key, 4)
    part = jax.random.uniform(length, (count,), jnp.float32, 0.05, 0.6)
    size = jnp.clip(jnp.round(part * latents), 1, latents - 1)
    start = jnp.floor(jax.random.uniform(place, (count,), jnp.float32) * (latents - size + 1))
    kind = jax.random.randint(kind, (count,), 0, 4)
    start = jnp.select([kind == 0, kind == 1], [jnp.zeros_like(start), latents - size], start)[:, None]
    index = jnp.arange(latents, dtype=jnp.float32)[None]
    inside = (start <= index) & (index < start + size[:, None])
    return (inside ^ (kind == 3)[:, None]) & jax.random.bernoulli(some, jnp.float32(share), (count,))[:, None]


def with_known(
    x: Samples, t: Float[AnyArray, " b"], latents: Samples, known: Bool[AnyArray, "b n"]
) -> tuple[Float[Array, "b n d"], Float[Array, "b n"]]:
    """The point and the times that the network reads where latents are known: they are data, with a time of 1."""
    return jnp.where(known[..., None], latents, x), jnp.where(known, 1.0, t[:, None])


def loss(predicted: Samples, velocity: Samples, known: Bool[AnyArray, "b n"] | None = None) -> Float[Array, " b"]:
    """Mean squared error over channels and the tokens that are not known, one value per sample, in float32."""
    error = jnp.square(predicted.astype(jnp.float32) - velocity.astype(jnp.float32))
    if known is None:
        return jnp.mean(error, (1, 2))
    return jnp.where(known, 0.0, error.mean(2)).sum(1) / jnp.maximum((~known).sum(1), 1)
