"""Windows: their averages are exact, and what is streamed is what is made at once."""

import numpy as np
import pytest

from kfjax.making.windows import WindowPlan, advance, make_plan
from kfjax.rates import Rates

RATES = Rates()


@pytest.mark.parametrize("seconds", [8, 8.2, 9, 14, 15, 17.3, 33, 61, 600, 3600])
@pytest.mark.parametrize("window, overlap, guard", [(8, 2, 0.0), (8, 2, 0.6), (5, 2, 0.0), (10, 4, 1.0)])
def test_windows_cover_the_sound(seconds, window, overlap, guard):
    plan = make_plan(seconds, RATES, window, overlap, guard)
    total = np.zeros(plan.total)
    for k in range(len(plan.first)):
        assert (plan.weights(k) >= 0).all()
        total[plan.slice(k)] += plan.weights(k)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    hops = np.diff(plan.starts)
    assert (hops <= window - overlap).all() and (hops > 0).all()
    assert (
        plan.total >= seconds * RATES.latent_hz - 1 and plan.total <= (max(seconds, window) + 1) * RATES.latent_hz + 1
    )
    least = 1 if seconds <= window else np.ceil((np.ceil(seconds) - window) / (window - overlap)) + 1
    assert len(plan.starts) == least


def test_weights_are_zero_in_the_guard_and_flat_at_the_ends():
    plan = make_plan(20, RATES, 8, 2, 0.6)
    at = (np.arange(plan.latents) + 0.5) / plan.hz
    assert len(plan.first) == 3
    middle = plan.weights(1)
    assert not middle[at < 0.6].any() and not middle[at > 7.4].any() and middle[at < 0.8].any()
    np.testing.assert_allclose(plan.weights(0)[at < 6], 1)
    np.testing.assert_allclose(plan.weights(2)[at > 2], 1)


@pytest.mark.parametrize("window, overlap, guard", [(8, 8, 0), (8, 0, 0), (8, 1, 0.6), (4, 5, 0)])
def test_an_overlap_that_does_not_fit(window, overlap, guard):
    with pytest.raises(ValueError, match="overlap: got"):
        make_plan(30, RATES, window, overlap, guard)


def network(k, x, step):
    """Another one for every window, not linear, that mixes along time: neighbours matter."""
    return x + 0.1 * np.sin(x + np.roll(x, 3, -2) + 0.1 * k + step)


def recorded(plan, steps, at_once, seed=0):
    calls, order = [], []

    def evaluate(windows, step, x):
        assert x.shape == (len(windows), plan.latents, 3) and len(windows) <= at_once
        calls.extend((k, step) for k in windows)
        return np.stack([network(k, part, step) for k, part in zip(windows, x, strict=True)])

    x = np.random.default_rng(seed).standard_normal((plan.total, 3), dtype=np.float32)
    pieces = []
    for piece in advance(plan, x, steps, evaluate, at_once=at_once, finished=order.append):
        pieces.append((piece, len(calls)))
    assert order == list(range(len(plan.first)))
    assert sorted(calls) == [(k, s) for k in range(len(plan.first)) for s in range(steps)]
    firsts = [k for k, step in calls if step == 0]
    assert firsts == sorted(firsts)
    return pieces


def step_by_step(plan, steps, seed=0):
    """All windows take a step, then all of them the next."""
    x = np.random.default_rng(seed).standard_normal((plan.total, 3), dtype=np.float32)
    for step in range(steps):
        after = np.zeros_like(x)
        for k in range(len(plan.first)):
            after[plan.slice(k)] += plan.weights(k)[:, None] * network(k, x[plan.slice(k)], step)
        x = after
    return x


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("seconds, steps", [(8, 3), (15, 2), (16, 5), (61, 4), (33, 1)])
def test_what_is_streamed_is_what_is_made_at_once(seconds, steps, at_once):
    plan = make_plan(seconds, RATES, 8, 2, 0.6)
    pieces = recorded(plan, steps, at_once)
    got = np.concatenate([piece for piece, _ in pieces])
    np.testing.assert_allclose(got, step_by_step(plan, steps), atol=1e-5)


def test_the_first_piece_does_not_wait_for_the_last_window():
    """Its price is the cone of what it depends on: s (s + 1) / 2 evaluations of s windows."""
    plan = make_plan(600, RATES, 8, 2)
    assert plan.reach == 1
    (first, calls), *_, (_, every) = recorded(plan, 4, 1)
    assert calls == 4 * 5 / 2 and every == 4 * len(plan.first)
    assert len(first) == plan.first[1]


def test_the_order_is_that_of_the_plan_alone():
    """Pieces of one plan with one batch size are the same bytes, whoever asks for them when."""
    plan = make_plan(40, RATES, 8, 2)
    one, other = (np.concatenate([piece for piece, _ in recorded(plan, 3, 2)]) for _ in range(2))
    assert one.tobytes() == other.tobytes()
    assert isinstance(plan, WindowPlan) and hash(plan)
