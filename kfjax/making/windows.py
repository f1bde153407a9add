"""Long sounds in windows of a duration that the weights know: MultiDiffusion (arXiv 2302.08113) in time.

    plan = make_plan(61.3, cfg.rates, window=8, overlap=2)
    for latents in advance(plan, x, steps, evaluate, at_once=4): ...     # those that are final, from left to right

Windows overlap. After every step of the sampler what neighbouring windows made of the latents that they share is
averaged, so that they agree before anything is heard. A step of a window needs its neighbours' step before only, so the
first windows are finished long before the last ones begin: streaming is the same computation, in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from kfjax.rates import Rates, lengths

#: Beyond twice the guard, what neighbours must share for an average that is smooth.
LEAST_SHARED_SECONDS = 0.5


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows lie; all have one length, and the last one ends with the sound.

    Attributes:
      starts: of the windows, whole seconds: there the frames of both encoders begin anew.
      first: the latent each window begins with.
      latents: of a window.
      hz: latents a second.
      guard: seconds at a window's borders that are not used.
    """

    starts: tuple[int, ...]
    first: tuple[int, ...]
    latents: int
    hz: float
    guard: float

    @property
    def total(self) -> int:
        """Latents of the whole."""
        return self.first[-1] + self.latents

    @cached_property
    def reach(self) -> int:
        """How many windows after it a window overlaps, at most."""
        pairs = ((i, j) for i in range(len(self.first)) for j in range(i + 1, min(i + 4, len(self.first))))
        return max((j - i for i, j in pairs if self.first[j] < self.first[i] + self.latents), default=0)

    def slice(self, window: int) -> slice:
        """The latents of a window."""
        return slice(self.first[window], self.first[window] + self.latents)

    def weights(self, window: int) -> Float[np.ndarray, " w"]:
        """Of a window's latents in the average; over all windows they sum to 1."""
        near = range(max(0, window - self.reach), min(len(self.first), window + self.reach + 1))
        own = self._rise(window)
        total = np.zeros(self.latents, np.float64)
        for other in near:
            offset = self.first[other] - self.first[window]
            if abs(offset) >= self.latents:
                continue
            rise, place = self._rise(other), slice(max(0, offset), min(self.latents, self.latents + offset))
            total[place] += rise[max(0, -offset) : self.latents - max(0, offset)]
        return (own / total).astype(np.float32)

    def _rise(self, window: int) -> Float[np.ndarray, " w"]:
        """A triangle over the window without its guards, flat towards the ends of the sound."""
        at = (np.arange(self.latents) + 0.5) / self.hz
        end = self.latents / self.hz
        left = np.inf if window == 0 else at - self.guard
        right = np.inf if window == len(self.first) - 1 else end - self.guard - at
        height = np.minimum(left, right)
        return np.clip(np.where(np.isinf(height), end, height), 0, None) + np.zeros(self.latents)


def make_plan(seconds: float, rates: Rates, window: int, overlap: int, guard: float = 0.0) -> WindowPlan:
    """Windows for a sound of `seconds`, as few as overlap by `overlap` seconds at least, evenly spread.

    Raises:
      ValueError: an overlap that the window does not hold, or that is too short for the guard.
    """
    least = max(1, math.ceil(2 * guard + LEAST_SHARED_SECONDS))
    if not least <= overlap < window:
        raise ValueError(
            f"overlap: got {overlap} s of windows of {window} s, expected whole seconds from {least} to {window - 1}; "
            "choose another overlap or window"
        )
    rest = max(0, math.ceil(seconds - 1e-6) - window)
    count = math.ceil(rest / (window - overlap)) + 1
    starts = tuple(round(i * rest / max(1, count - 1)) for i in range(count))
    first = tuple(round(start * rates.latent_hz) for start in starts)
    return WindowPlan(starts, first, lengths(window, rates).latents, rates.latent_hz, guard)


def advance(
    plan: WindowPlan,
    x: Float[np.ndarray, "n d"],
    steps: int,
    evaluate: Callable[[Sequence[int], int, Float[np.ndarray, "w k d"]], Float[np.ndarray, "w k d"]],
    *,
    at_once: int = 1,
    finished: Callable[[int], None] = lambda window: None,
) -> Iterator[Float[np.ndarray, "m d"]]:
    """Sampled latents of the whole, in pieces from left to right, each as soon as it is final.

    Args:
      x: noise, of `plan.total` latents; overwritten.
      evaluate: (windows, step, their latents) -> their latents after this step. It is called with up to `at_once`
        windows, and a window is new to it at step 0, in order.
      at_once: windows that are finished together, and evaluated as one batch.
      finished: called with a window that is not evaluated again.
    """
    count = len(plan.first)
    weights = [plan.weights(window)[:, None] for window in range(count)]
    averaged = np.zeros_like(x)
    missing = np.zeros(plan.total, np.int32)  # windows whose result at this step is still to come
    for window in range(count):
        missing[plan.slice(window)] += 1
    cover, done, yielded = missing.copy(), [0] * count, 0
    for block in range(0, count, at_once):
        for step in range(steps):
            stop = min(count, block + at_once + plan.reach * (steps - 1 - step))
            due = [window for window in range(block, stop) if done[window] == step]
            for some in (due[i : i + at_once] for i in range(0, len(due), at_once)):
                made = evaluate(some, step, np.stack([x[plan.slice(window)] for window in some]))
                for window, result in zip(some, made, strict=True):
                    averaged[plan.slice(window)] += weights[window] * result
                    missing[plan.slice(window)] -= 1
                    done[window] += 1
            ready = np.flatnonzero(missing == 0)
            x[ready], averaged[ready], missing[ready] = averaged[ready], 0, cover[ready]
        after = min(count, block + at_once)
        for window in range(block, after):
            finished(window)
        end = plan.first[after] if after < count else plan.total
        if end > yielded:
            yield x[yielded:end].copy()
            yielded = end
