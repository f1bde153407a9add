"""Whether one way of doing it is better than another: the same scenes, several training seeds of each.

    compare(f1_with, f1_without)        # [seeds, scenes] each, paired in both
    holm([c.p for c in comparisons])    # several comparisons with one baseline

Two things could have been otherwise: which scenes were asked, and how each training's dice fell. A test over scenes
alone would call any two trainings different, and three seeds alone can show large effects only; both are given, and
`Comparison.p` is the larger. Numpy and scipy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: Up to so many pairs all 2^n changes of sign are looked at, beyond them as many as `draws` at random.
_EXACT_PAIRS = 14


class Comparison(NamedTuple):
    """Scores of `a` less those of `b`, paired.

    Attributes:
      difference: mean over seeds and scenes.
      deviation: of the seeds' mean differences, n - 1 in the denominator; NaN with one seed.
      p_scenes: two-sided p of the scenes' differences (mean over seeds) by changes of sign; NaN with one scene, or with
        one number for all of them.
      p_seeds: two-sided p of the seeds' differences (mean over scenes) by Student's t; 1 with one seed.
    """

    difference: float
    deviation: float
    p_scenes: float
    p_seeds: float

    @property
    def p(self) -> float:
        """The larger of both: a difference is shown where neither the scenes nor the seeds explain it."""
        return float(np.nanmax([self.p_scenes, self.p_seeds]))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and deviation with n - 1 in the denominator (NaN for one value).

    Raises:
      ValueError: no values.
    """
    x = np.asarray(values, float)
    if not len(x):
        raise ValueError("mean: got no values, expected at least one")
    return float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else float("nan")


def compare(a: np.ndarray, b: np.ndarray, *, seed: int = 0) -> Comparison:
    """Two ways, each scored [seeds, scenes] on the same scenes; row i of both was trained with the same seed.

    Args:
      seed: of the random changes of sign.

    Raises:
      ValueError: scores that are no pairs, or not finite.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise ValueError(f"compare: got scores {a.shape} and {b.shape}, expected two of one shape [seeds, scenes]")
    difference = a - b
    if not np.isfinite(difference).all():
        raise ValueError("compare: got scores that are not finite; leave those scenes out on both sides")
    seeds, scenes = difference.mean(1), difference.mean(0)
    mean, deviation = mean_and_deviation(seeds)
    p_scenes = sign_flip_p(scenes, seed=seed) if len(scenes) > 1 else float("nan")
    return Comparison(mean, deviation, p_scenes, student_p(seeds))


def sign_flip_p(differences: Sequence[float], *, seed: int = 0, draws: int = 20_000) -> float:
    """Two-sided p that paired differences are symmetric about 0 (Fisher's randomisation test of the mean).

    Exact up to 14 pairs. Beyond, the observed signs count as one of the draws, so that p is never 0.
    """
    d = np.asarray(differences, float)
    n, observed = len(d), abs(np.sum(differences))
    if n <= _EXACT_PAIRS:
        signs = 1 - 2 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (draws, n))
    reached = np.abs(signs @ d) >= observed * (1 - 1e-9)
    return float(reached.mean()) if n <= _EXACT_PAIRS else float((reached.sum() + 1) / (draws + 1))


def student_p(differences: Sequence[float]) -> float:
    """Two-sided p of the one-sample t-test against 0. Without spread: 1 where all are 0, else 0; one value: 1."""
    from scipy.stats import t

    d = np.asarray(differences, float)
    if len(d) < 2 or not d.any():
        return 1.0
    error = d.std(ddof=1) / np.sqrt(len(d))
    if error <= 1e-12 * abs(d.mean()):
        return 0.0
    return float(2 * t.sf(abs(d.mean()) / error, len(d) - 1))


def holm(p: Sequence[float]) -> list[float]:
    """The values adjusted for there being several (Holm 1979), in the order given."""
    x = np.asarray(p, float)
    order = np.argsort(x, kind="stable")
    raised = np.minimum(1.0, x[order] * (len(x) - np.arange(len(x))))
    adjusted = np.empty(len(x))
    adjusted[order] = np.maximum.accumulate(raised)
    return adjusted.tolist()
