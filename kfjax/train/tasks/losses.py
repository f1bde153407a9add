"""The scalar losses of the codec's training. Every one states its reduction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kfjax.structs import Posterior

#: A discriminator's output: one map of patch scores for every scale.
Scores = Sequence[Float[Array, "b ..."]]


def mse(got: Float[Array, "*shape"], expected: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Mean square difference over all elements."""
    return jnp.mean(jnp.square(got - expected))


def kl(posterior: Posterior) -> Float[Array, ""]:
    """KL(posterior ‖ N(0, 1)) in nats: summed over channels, mean over batch and time."""
    mean, std = posterior
    per_channel = 0.5 * (jnp.square(mean) + jnp.square(std) - 1) - jnp.log(std)
    return jnp.mean(jnp.sum(per_channel, -1))


def kl_margin(posterior: Posterior, margin: float) -> Float[Array, ""]:
    """max(0, KL - margin): the first `margin` nats are free (`kl` states the reduction)."""
    return jax.nn.relu(kl(posterior) - margin)


def total(terms: Iterable[Array]) -> Array:
    """The sum of one or more arrays."""
    first, *rest = terms
    return sum(rest, first)


def hinge_discriminator(real: Scores, fake: Scores) -> Float[Array, ""]:
    """Hinge loss of a discriminator: mean over patches and batch of each scale, then over scales (paper eq. 6).

    The equation as printed compares with the input; it means D(input), as here.
    """
    losses = [jnp.mean(jax.nn.relu(1 - r)) + jnp.mean(jax.nn.relu(1 + f)) for r, f in zip(real, fake, strict=True)]
    return total(losses) / len(losses)


def hinge_generator(fake: Scores) -> Float[Array, ""]:
    """-D(fake): mean over patches and batch of each scale, then over scales."""
    return -total(jnp.mean(f) for f in fake) / len(fake)


def r1(discriminator: Callable[[Float[Array, "b f m"]], Scores], real: Float[Array, "b f m"]) -> Float[Array, ""]:
    """R1 penalty (paper eq. 7): squared gradient of the scores at real mels, mean over all input elements.

    The score that is differentiated is the sum over patches of all scales: with patches much smaller than the mel,
    the penalty then measures one patch's slope and does not change with the excerpt's length.
    """
    gradient = jax.grad(lambda x: sum(jnp.sum(score) for score in discriminator(x)))(real)
    return jnp.mean(jnp.square(gradient))
