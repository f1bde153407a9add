"""Sampling: integrate the velocity from noise (t = 0) to data (t = 1) under classifier-free guidance.

The guided velocity is a weighted sum of conditional branches, evaluated in one batched pass:

    v = v(∅,∅) + s_v [v(V,∅) - v(∅,∅)] + s_t [v(V,T) - v(V,∅)] - s_n [v(V,T_neg) - v(V,∅)]

s_v = s_t = s with s_n = 0 is ordinary guidance. Which branches exist is static (`Guidance.branches`); their weights,
the schedule and the noise are traced, so changing them compiles nothing anew. Latents that are given (a sound to go on
from, a hole to fill, a reference) are `Known`: the others are sampled around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from kfjax.flow.matching import interpolate, with_known
from kfjax.nn.module import AnyArray
from kfjax.structs import Features, Known, Noise, Schedule

MAX_SCALE = 100.0  # of guidance; `making.limits` has the same
Branch = Literal["full", "empty", "video", "negative"]
Method = Literal["euler", "heun"]
KnownAs = Literal["clean", "renoised"]
ScheduleKind = Literal["uniform", "sway"]
FEW_STEPS = 10  # fewer are not uniform, unless told
T = TypeVar("T")
Times = Float[Array, " b"] | Float[Array, "b n"]  # of each example, or of each of its latents
Velocity = Callable[[Float[Array, "b n d"], Times], Float[Array, "b n d"]]


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
            if not 0 <= (scale := getattr(self, name)) <= MAX_SCALE:
                raise ValueError(f"{name} guidance: got {scale}, expected a number from 0 to {MAX_SCALE:g}")

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


def guided(
    velocity: Velocity,
    weights: Real[AnyArray, " g"],
    interval: Float[AnyArray, "2"] | None = None,
    branches: tuple[Branch, ...] = (),
    known: Known | None = None,
    known_as: KnownAs = "clean",
) -> Velocity:
    """The weighted sum over branches of one batched call. `velocity` takes [g * b, ...].

    Args:
      interval: times t in [from, to) in which the weights hold; before and after, the branch "full" alone counts
        (Kynkäänniemi et al., arXiv 2404.07724). None: they always hold.
      branches: names of the weights; needed with an interval, and with what is known.
      known, known_as: see `sample`.
    """
    count = weights.shape[0]

    def call(x, t):
        if known is None:
            seen = jnp.tile(x, (count, 1, 1)), jnp.tile(t, count)
        else:
            seen = _seen(x, t, known, [known_as if branch != "empty" else "renoised" for branch in branches])
        v = velocity(*seen).astype(jnp.float32).reshape(count, *x.shape)
        if interval is None:
            return jnp.einsum("g,gbnd->bnd", weights, v)
        plain = jnp.array([branch == "full" for branch in branches], jnp.float32)
        inside = (interval[0] <= t) & (t < interval[1])
        return jnp.einsum("bg,gbnd->bnd", jnp.where(inside[:, None], weights[None], plain[None]), v)

    return call


def noise_of(noise: Noise, shape: tuple[int, int]) -> Float[Array, "b n d"]:
    """Standard normal noise of shape [n, d] for each example: its own, in whatever batch it is drawn."""
    keys = jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed), number))(*map(jnp.asarray, noise))
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def schedule(steps: int, kind: ScheduleKind | None = None, guided: tuple[float, float] | None = None) -> Schedule:
    """All steps from noise to data.

    Args:
      kind: "uniform" or "sway", see `Schedule`. Default: sway where there are fewer than 10 steps.
      guided: times t in [from, to) in which guidance acts. Default: always.
    """
    kind = kind or ("sway" if steps < FEW_STEPS else "uniform")
    return Schedule.whole(steps, {"uniform": 0.0, "sway": -1.0}[kind], guided)


def sample(
    network: Callable[[Float[AnyArray, "b n d"], Times, T], Float[AnyArray, "b n d"]],
    conditions: T,
    x: Float[AnyArray, "b n d"],
    weights: Real[AnyArray, " g"],
    schedule: Schedule,
    method: Method = "euler",
    *,
    branches: tuple[Branch, ...] = (),
    known: Known | None = None,
    known_as: KnownAs = "clean",
) -> Float[Array, "b n d"]:
    """Latents after the schedule's steps from `x`; `x` is noise where they begin with step 0.

    Args:
      network: velocity of (x, t, conditions), in the precision of its conditions.
      conditions: made from `branch_features`; every leaf leads with the branches' examples, [g * b, ...].
      weights: of the branches.
      branches: their names; needed where the schedule limits guidance.
      known: latents that are given; they are in the result as they are.
      known_as: how the network sees them: "clean", with a time of 1 of their own, or "renoised" to the time of the
        others, as weights need that were trained with one time for all. The branch "empty" sees them renoised either
        way, as if they were not given: guidance then follows them as it follows video and text.
    """
    dtype = jax.tree.leaves(conditions)[0].dtype
    evaluate = lambda x, t: network(x.astype(dtype), t, conditions)
    interval = None if schedule.guided is None else jnp.asarray(schedule.guided)
    made = integrate(guided(evaluate, weights, interval, branches, known, known_as), x, schedule, method)
    return made if known is None else jnp.where(known.mask[..., None], known.latents, made)


def integrate(
    velocity: Velocity,
    x: Float[AnyArray, "b n d"],
    schedule: Schedule,
    method: Method = "euler",
) -> Float[Array, "b n d"]:
    """x after the schedule's steps, of which all lead from noise at t = 0 to data at t = 1. State in float32.

    Several calls for a part of the steps each, one after the other, give what one call for all of them does.
    heun averages the velocity at both ends of each step: two evaluations a step, second order.
    """
    steps, first, taken, sway = map(jnp.asarray, schedule[:4])
    size, first = 1.0 / steps.astype(jnp.float32), jnp.broadcast_to(first, x.shape[:1])

    def times(i):
        """Of step i of each example: where it begins, and how long it is."""
        u, after = i * size, (i + 1) * size
        swayed = lambda u: u + sway * (jnp.cos(jnp.pi / 2 * u) - 1 + u)
        uniform = sway == 0
        return jnp.where(uniform, u, swayed(u)), jnp.where(uniform, size, swayed(after) - swayed(u))

    def step(i, x):
        t, length = times(first + i)
        v = velocity(x, t)
        length = length[:, None, None]
        if method == "heun":
            end = jnp.minimum(t + length[:, 0, 0], 1.0)
            v = (v + velocity(x + length * v, end)) / 2
        return x + length * v

    return jax.lax.fori_loop(jnp.int32(0), taken.astype(jnp.int32), step, x.astype(jnp.float32))


def _seen(
    x: Float[AnyArray, "b n d"], t: Float[AnyArray, " b"], known: Known, ways: Sequence[KnownAs]
) -> tuple[Float[Array, "r n d"], Float[Array, " r"] | Float[Array, "r n"]]:
    """x and t as the network sees them in every branch, one after the other, with what is known in its place."""
    noised, _ = interpolate(jnp.asarray(known.noise), jnp.asarray(known.latents), t)
    renoised = jnp.where(known.mask[..., None], noised, x), t
    if "clean" not in ways:
        return jnp.tile(renoised[0], (len(ways), 1, 1)), jnp.tile(t, len(ways))
    clean = with_known(x, t, jnp.asarray(known.latents), jnp.asarray(known.mask))
    renoised = renoised[0], jnp.broadcast_to(t[:, None], clean[1].shape)
    points, times = zip(*({"clean": clean, "renoised": renoised}[way] for way in ways), strict=True)
    return jnp.concatenate(points), jnp.concatenate(times)
