"""The duration of each training step, a pure function of (seed, step): all hosts agree without communication."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np


class Buckets:
    """A schedule of durations; every batch holds about as many seconds of material, so that steps cost alike.

    Args:
      weights: seconds -> how often that duration is chosen.
      batch_seconds: seconds of material in a batch.
      multiple_of: every batch size divides by it.

    Attributes:
      seconds: the durations, ascending.
      sizes: examples in a batch of each.

    Raises:
      ValueError: no durations, or weights that are no shares.
    """

    def __init__(self, weights: Mapping[float, float], *, batch_seconds: float, multiple_of: int, seed: int):
        if not weights or not all(math.isfinite(w) and w > 0 for w in weights.values()):
            raise ValueError(f"data.buckets: got {dict(weights)}, expected pairs of seconds and a weight above 0")
        if not (batch_seconds > 0 and multiple_of >= 1):
            got = f"{batch_seconds:g} s a batch, a multiple of {multiple_of} examples"
            raise ValueError(f"data.batch_seconds, data.batch_multiple: got {got}, expected more than 0 and at least 1")
        self.seconds = tuple(sorted(weights))
        self.sizes = tuple(max(multiple_of, int(batch_seconds / s) // multiple_of * multiple_of) for s in self.seconds)
        chance = np.array([weights[s] for s in self.seconds], np.float64)
        self._chance = tuple(chance / chance.sum())
        self._seed = seed

    def of(self, step: int) -> tuple[int, int]:
        """(which duration the step has, how many times that was chosen before)."""
        choices, earlier = _plan(self._seed, self._chance, max(1024, 1 << step.bit_length()))
        return int(choices[step]), int(earlier[step])


@lru_cache(maxsize=4)
def _plan(seed: int, chance: tuple[float, ...], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Duration of every step, and how often it was chosen before. A longer plan begins with the shorter one."""
    choices = np.random.default_rng(seed).choice(len(chance), steps, p=chance)
    chosen = choices[:, None] == np.arange(len(chance))
    return choices, np.cumsum(chosen, 0)[np.arange(steps), choices] - 1
