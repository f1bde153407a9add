"""Guidance weighs only the branches that are needed; integration is exact where it should be and compiles once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.flow.sampler import Guidance, branch_features, guided, integrate, noise_of, sample, schedule
from kfjax.structs import Features, Given, Known, Noise, Schedule

NOISE = np.random.default_rng(0).standard_normal((2, 5, 4), dtype=np.float32)


def features(text=1.0):
    here = np.ones(2, bool)
    return Features(
        clip=np.full((2, 3, 6), 2.0),
        sync=np.full((2, 8, 5), 3.0),
        text=np.full((2, 4, 7), text),
        given=Given(np.ones((2, 4), bool), np.zeros(2), np.full(2, 8.0), here, here),
    )


@pytest.mark.parametrize(
    "guidance, has_video, branches",
    [
        (Guidance(1, 1), True, {"full": 1}),
        (Guidance(4.5, 4.5), True, {"full": 4.5, "empty": -3.5}),
        (Guidance(3, 5), True, {"full": 5, "empty": -2, "video": -2}),
        (Guidance(1, 5), True, {"full": 5, "video": -4}),
        (Guidance(4, 0), True, {"empty": -3, "video": 4}),
        (Guidance(0, 0), True, {"empty": 1}),
        (Guidance(4.5, 4.5, 2), True, {"full": 4.5, "empty": -3.5, "video": 2, "negative": -2}),
        (Guidance(3, 5), False, {"full": 5, "empty": -4}),
        (Guidance(3, 1), False, {"full": 1}),
        (Guidance(4.5, 4.5, 2), False, {"full": 4.5, "empty": -1.5, "negative": -2}),
    ],
)
def test_only_needed_branches_are_weighed(guidance, has_video, branches):
    assert guidance.weights(has_video) == branches
    assert sum(branches.values()) == pytest.approx(1)


def test_weights_are_the_formula():
    """v(∅,∅) + s_v [v(V,∅) - v(∅,∅)] + s_t [v(V,T) - v(V,∅)] - s_n [v(V,T_neg) - v(V,∅)]"""
    v = dict(zip(("full", "empty", "video", "negative"), np.random.default_rng(1).standard_normal(4), strict=True))
    s_v, s_t, s_n = 2.3, 5.1, 1.7
    got = sum(weight * v[branch] for branch, weight in Guidance(s_v, s_t, s_n).weights().items())
    by_video, by_text = v["video"] - v["empty"], v["full"] - v["video"]
    assert got == pytest.approx(v["empty"] + s_v * by_video + s_t * by_text - s_n * (v["negative"] - v["video"]))


def test_branches_differ_by_presence_only():
    made = branch_features(features(), ("full", "empty", "video", "negative"), features(text=-1.0))
    assert made.clip.shape == (8, 3, 6)
    np.testing.assert_array_equal(made.given.has_video.reshape(4, 2)[:, 0], [True, False, True, True])
    np.testing.assert_array_equal(made.given.has_text.reshape(4, 2)[:, 0], [True, False, False, True])
    np.testing.assert_array_equal(made.text.reshape(4, -1)[:, 0], [1, 1, 1, -1])
    assert (made.clip == 2).all()


def test_a_negative_scale_needs_a_negative_prompt():
    with pytest.raises(ValueError, match="no negative prompt"):
        branch_features(features(), ("full", "negative"))


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e9])
def test_senseless_scales_are_refused(value):
    with pytest.raises(ValueError, match="text guidance: got"):
        Guidance(text=value)


def test_one_call_evaluates_all_branches():
    seen = []

    def velocity(x, t):
        seen.append((x.shape, t.shape))
        return x * jnp.repeat(jnp.array([1.0, 10.0, 100.0]), 2)[:, None, None]

    got = guided(velocity, jnp.array([2.0, -1.5, 0.5]))(NOISE, jnp.zeros(2))
    assert seen == [((6, 5, 4), (6,))]
    np.testing.assert_allclose(got, NOISE * (2 - 15 + 50), rtol=1e-5)


def test_scale_one_is_the_conditional_velocity():
    weights = Guidance(1, 1).weights()
    assert tuple(weights) == ("full",)
    velocity = lambda x, t: jnp.sin(x) + t[:, None, None]
    got = guided(velocity, jnp.array(list(weights.values())))(NOISE, jnp.full(2, 0.3))
    np.testing.assert_array_equal(got, velocity(NOISE, jnp.full(2, 0.3)))


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_euler_is_exact_on_straight_paths(steps):
    data = 3 * NOISE[::-1]
    straight = lambda x, t: (data - x) / (1 - t)[:, None, None]
    np.testing.assert_allclose(integrate(straight, NOISE, Schedule.whole(steps)), data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method, order", [("euler", 1), ("heun", 2)])
def test_order_of_the_methods(method, order):
    decay = lambda x, t: -x * (1 + t)[:, None, None]
    exact = NOISE * np.exp(-1.5)
    error = lambda steps: np.abs(integrate(decay, NOISE, Schedule.whole(steps), method) - exact).max()
    assert np.log2(error(8) / error(16)) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_parts_give_what_the_whole_does(method):
    decay = lambda x, t: -x * jnp.cos(3 * x + t[:, None, None])
    part = jax.jit(lambda x, first, last: integrate(decay, x, Schedule(7, first, last - first, 0.0), method))
    x = NOISE
    for first, last in ((0, 1), (1, 5), (5, 5), (5, 7)):
        x = part(x, first, last)
    np.testing.assert_array_equal(x, part(NOISE, 0, 7))
    np.testing.assert_allclose(x, integrate(decay, NOISE, Schedule.whole(7), method), rtol=1e-5, atol=1e-6)


def test_heun_never_looks_beyond_the_end():
    inside = lambda x, t: jnp.where((t >= 0) & (t <= 1), 1.0, jnp.nan)[:, None, None] * jnp.ones_like(x)
    np.testing.assert_allclose(integrate(inside, NOISE, Schedule.whole(7), "heun"), NOISE + 1, rtol=1e-5, atol=1e-6)


def test_steps_weights_and_noise_are_traced():
    traces = []

    @jax.jit
    def sample(noise, steps, weights):
        traces.append(1)
        return integrate(guided(lambda x, t: jnp.cos(x), weights), noise, Schedule.whole(steps))

    guidance = jnp.array([4.5, -3.5])
    first = sample(NOISE, 3, guidance)
    others = sample(NOISE, 9, guidance), sample(NOISE, 3, 2 * guidance), sample(-NOISE, 3, guidance)
    assert len(traces) == 1
    assert not any(np.allclose(first, other) for other in others)


def test_state_stays_float32():
    half = lambda x, t: x.astype(jnp.bfloat16)
    assert integrate(half, NOISE.astype(jnp.bfloat16), Schedule.whole(2)).dtype == jnp.float32


def numbered(seed, *numbers):
    return Noise(np.full(len(numbers), seed, np.uint32), np.array(numbers, np.uint32))


def test_noise_belongs_to_the_example():
    together = noise_of(numbered(5, 7, 2, 9), (4, 3))
    np.testing.assert_array_equal(together[1:2], noise_of(numbered(5, 2), (4, 3)))
    assert not np.allclose(together[1], together[0])
    assert not np.allclose(together, noise_of(numbered(6, 7, 2, 9), (4, 3)))


KNOWN = Known(3 + NOISE[::-1], np.arange(5)[None] < np.array([[2], [4]]), 10 + NOISE)


def seen_by(branches, known_as):
    """The result of four steps of velocity 1 with `KNOWN`, and each step's (x, t), both [branch, example, ..]."""
    seen = []

    def network(x, t, _):
        jax.debug.callback(lambda x, t: seen.append((np.asarray(x), np.asarray(t))), x, t)
        return jnp.ones_like(x)

    weights = jnp.array([1.0] if len(branches) == 1 else [2.0, -1.0])
    options = {"branches": branches, "known": KNOWN, "known_as": known_as}
    got = sample(network, jnp.zeros(1), NOISE, weights, Schedule.whole(4), **options)
    split = lambda array: array.reshape(len(branches), 2, *array.shape[1:])
    return got, sorted(((split(x), split(t)) for x, t in seen), key=lambda step: step[1].min())


def test_known_latents_stand_and_have_their_own_time():
    """clean: the network sees them as they are at t = 1, all the others at the time of the step."""
    got, seen = seen_by(("full",), "clean")
    mask = KNOWN.mask[..., None]
    np.testing.assert_allclose(got, np.where(mask, KNOWN.latents, NOISE + 1), rtol=1e-5, atol=1e-5)
    assert len(seen) == 4
    for i, (x, t) in enumerate(seen):
        np.testing.assert_allclose(t[0], np.where(KNOWN.mask, 1, i / 4))
        np.testing.assert_allclose(x[0], np.where(mask, KNOWN.latents, NOISE + i / 4), rtol=1e-5, atol=1e-5)


def test_renoised_latents_have_the_time_of_the_others():
    got, seen = seen_by(("full", "empty"), "renoised")
    mask = KNOWN.mask[..., None]
    np.testing.assert_allclose(got, np.where(mask, KNOWN.latents, NOISE + 1), rtol=1e-5, atol=1e-5)
    for i, (x, t) in enumerate(seen):
        np.testing.assert_allclose(t, np.full((2, 2), i / 4))
        between = (1 - i / 4) * KNOWN.noise + i / 4 * KNOWN.latents
        for branch in x:
            np.testing.assert_allclose(branch, np.where(mask, between, NOISE + i / 4), rtol=1e-5, atol=1e-5)


def test_guidance_follows_what_is_known():
    """The empty branch sees it as any other latents of the step, while the others see it clean."""
    _, seen = seen_by(("full", "empty"), "clean")
    mask = KNOWN.mask[..., None]
    for i, (x, t) in enumerate(seen):
        np.testing.assert_allclose(t, [np.where(KNOWN.mask, 1, i / 4), np.full((2, 5), i / 4)])
        between = (1 - i / 4) * KNOWN.noise + i / 4 * KNOWN.latents
        for branch, given in zip(x, (KNOWN.latents, between), strict=True):
            np.testing.assert_allclose(branch, np.where(mask, given, NOISE + i / 4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "steps, sway, times", [(2, -1.0, [0, 0.2929, 1]), (3, -1.0, [0, 0.134, 0.5, 1]), (2, 0.0, [0, 0.5, 1])]
)
def test_schedules(steps, sway, times):
    seen = []
    velocity = lambda x, t: (jax.debug.callback(lambda t: seen.append(float(t[0])), t), jnp.ones_like(x))[1]
    got = integrate(velocity, NOISE, Schedule.whole(steps, sway))
    np.testing.assert_allclose(sorted(seen), times[:-1], atol=1e-4)
    np.testing.assert_allclose(got, NOISE + 1, rtol=1e-5, atol=1e-5)


def test_few_steps_are_not_uniform_unless_told():
    assert [float(schedule(steps).sway) for steps in (1, 9, 10)] == [-1, -1, 0]
    assert float(schedule(5, "uniform").sway) == 0 and float(schedule(20, "sway").sway) == -1


def test_examples_may_take_different_steps():
    """Two examples at two steps of the way, in one batch: as each by itself."""
    decay = lambda x, t: -x * jnp.cos(3 * x + t[:, None, None])
    both = integrate(decay, NOISE, Schedule(9, np.array([1, 6]), 2, -1.0))
    for row, first in enumerate((1, 6)):
        alone = integrate(decay, NOISE[row : row + 1], Schedule(9, first, 2, -1.0))
        np.testing.assert_allclose(both[row], alone[0], rtol=1e-6)


def test_guidance_acts_in_its_interval_alone():
    """Outside it the conditional branch counts by itself."""
    velocity = lambda x, t: jnp.repeat(jnp.array([1.0, 100.0]), 2)[:, None, None] * jnp.ones_like(x)
    call = guided(velocity, jnp.array([3.0, -2.0]), jnp.array([0.25, 0.75]), ("full", "empty"))
    for t, expected in ((0.0, 1), (0.25, 3 - 200), (0.5, 3 - 200), (0.75, 1)):
        np.testing.assert_allclose(call(NOISE, jnp.array([t, 0.5]))[0], expected, rtol=1e-6)
        np.testing.assert_allclose(call(NOISE, jnp.array([t, 0.5]))[1], 3 - 200, rtol=1e-6)
