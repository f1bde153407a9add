"""Sampling: integrate the velocity from noise (t = 0) to data (t = 1) under classifier-free guidance.

The guided velocity is a weighted sum of conditional branches, evaluated in one batched pass:

    v = v(∅,∅) + s_v [v(V,∅) - v(∅,∅)] + s_t [v(V,T) - v(V,∅)] - s_n [v(V,T_neg) - v(V,∅)]

s_v = s_t = s with s_n = 0 is ordinary guidance. Which branches exist is static (`Guidance.branches`); their weights,
the number of steps and the noise are traced, so changing them compiles nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kfjax.limits import check_scale
from kfjax.structs import Features, Noise

Branch = Literal["full", "empty", "video", "negative"]
Method = Literal["euler", "heun"]
T = TypeVar("T")
Velocity = Callable[[Float[Array, "b n d"], Float[Array, " b"]], Float[Array, "b n d"]]


@dataclass(frozen=True)
class Guidance:
    """Scales of classifier-free guidance; 1 is plain conditional sampling, 0 ignores the condition.

    Attributes:
      video: s_v, how strongly the picture is followed.
      text: s_t, how strongly the prompt is followed.
      negative: s_n, how strongly the negative prompt is avoided; needs a negative prompt.
    """

    video: float = 4.5
    text: float = 4.5
    negative: float = 0.0

    def __post_init__(self):
        for name in ("video", "text", "negative"):
            check_scale(f"{name} guidance", getattr(self, name))

    def weights(self, has_video: bool = True) -> dict[Branch, float]:
        """Weight of every branch that contributes. Without video, v(V,∅) is v(∅,∅)."""
        weights: dict[Branch, float] = {
            "full": self.text,
            "empty": 1.0 - self.video,
            "video": self.video - self.text + self.negative,
            "negative": -self.negative,
        }
        if not has_video:
            weights["empty"] += weights.pop("video")
        return {branch: weight for branch, weight in weights.items() if weight != 0.0}


def branch_features(features: Features, branches: tuple[Branch, ...], negative: Features | None = None) -> Features:
    """Stack the branches along the batch: [branches * b, ...]. Presence masks make the difference.

    Raises:
      ValueError: the negative branch is asked for without negative features.
    """
    if "negative" in branches and negative is None:
        raise ValueError("negative guidance: got a scale above 0 and no negative prompt; give one, or a scale of 0")
    given, off = features.given, jnp.zeros_like(features.given.has_video)
    made = {
        "full": features,
        "empty": features._replace(given=given._replace(has_video=off, has_text=off)),
        "video": features._replace(given=given._replace(has_text=off)),
    }
    if negative is not None:
        words = given._replace(text_mask=negative.given.text_mask, has_text=negative.given.has_text)
        made["negative"] = features._replace(text=negative.text, given=words)
    parts = [made[branch] for branch in branches]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def guided(velocity: Velocity, weights: Float[Array, " g"]) -> Velocity:
    """The weighted sum over branches of one batched call. `velocity` takes [g * b, ...]."""
    branches = weights.shape[0]

    def call(x, t):
        v = velocity(jnp.tile(x, (branches, 1, 1)), jnp.tile(t, branches)).astype(jnp.float32)
        return jnp.einsum("g,gbnd->bnd", weights, v.reshape(branches, *x.shape))

    return call


def noise_of(noise: Noise, shape: tuple[int, int]) -> Float[Array, "b n d"]:
    """Standard normal noise of shape [n, d] for each example: its own, in whatever batch it is drawn."""
    keys = jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed), number))(*map(jnp.asarray, noise))
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def sample(
    network: Callable[[Float[Array, "b n d"], Float[Array, " b"], T], Float[Array, "b n d"]],
    conditions: T,
    x: Float[Array, "b n d"],
    weights: Float[Array, " g"],
    steps: Array | int,
    method: Method = "euler",
    first: Array | int = 0,
    last: Array | int | None = None,
) -> Float[Array, "b n d"]:
    """Latents at t = last / steps from `x` at t = first / steps; from noise to data without them.

    Args:
      network: velocity of (x, t, conditions), in the precision of its conditions.
      conditions: made from `branch_features`; every leaf leads with the branches' examples, [g * b, ...].
      weights: of the branches.
    """
    dtype = jax.tree.leaves(conditions)[0].dtype
    velocity = guided(lambda x, t: network(x.astype(dtype), t, conditions), weights)
    return integrate(velocity, x, steps, method, first, last)


def integrate(
    velocity: Velocity,
    x: Float[Array, "b n d"],
    steps: Array | int,
    method: Method = "euler",
    first: Array | int = 0,
    last: Array | int | None = None,
) -> Float[Array, "b n d"]:
    """x at t = 1, from noise at t = 0, in `steps` uniform steps (traced). State in float32.

    With `first` and `last` (traced) a part of it, from t = first / steps to t = last / steps; all the parts, one after
    the other, give what the whole does.

    heun averages the velocity at both ends of each step: two evaluations a step, second order.
    """
    size = 1.0 / jnp.asarray(steps, jnp.float32)

    def step(i, x):
        t = jnp.full((x.shape[0],), i * size, jnp.float32)
        v = velocity(x, t)
        if method == "heun":
            v = (v + velocity(x + size * v, jnp.minimum(t + size, 1.0))) / 2
        return x + size * v

    last = steps if last is None else last
    return jax.lax.fori_loop(jnp.int32(first), jnp.asarray(last, jnp.int32), step, x.astype(jnp.float32))
