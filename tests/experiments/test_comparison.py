"""Tests of difference: values worked out by hand, and scipy's where it has the same test."""

import numpy as np
import pytest
from scipy import stats

from experiments.comparison import compare, holm, mean_and_deviation, sign_flip_p, student_p


def test_mean_and_deviation():
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    mean, deviation = mean_and_deviation([4.0])
    assert mean == 4.0
    assert np.isnan(deviation)
    with pytest.raises(ValueError, match="no values"):
        mean_and_deviation([])


def test_signs_by_hand():
    """Of 2^5 changes of sign two give a sum as large as all of one sign; of 2^3 all do where nothing differs."""
    assert sign_flip_p([0.1] * 5) == 2 / 32
    assert sign_flip_p([-0.1] * 5) == 2 / 32
    assert sign_flip_p([0.0] * 3) == 1.0
    # |±3 ±1| >= 2 always, |±3 ±1| >= 4 half the time.
    assert sign_flip_p([3.0, -1.0]) == 1.0
    assert sign_flip_p([3.0, 1.0]) == 0.5


@pytest.mark.parametrize("n", [9, 60])
def test_signs_as_scipy(n):
    d = np.random.default_rng(n).normal(0.25, 1, n)
    mean = lambda x, axis: x.mean(axis)
    expected = stats.permutation_test((d,), mean, permutation_type="samples", n_resamples=20_000, rng=1).pvalue
    assert sign_flip_p(d) == pytest.approx(expected, abs=1e-12 if n == 9 else 0.015)


def test_student_by_hand_and_as_scipy():
    # Two values 1 and 3: mean 2, error 1, t = 2 with one degree of freedom: p = 1 - 2 atan(2) / pi.
    assert student_p([1.0, 3.0]) == pytest.approx(1 - 2 * np.arctan(2) / np.pi)
    d = [0.2, 0.5, -0.1, 0.4]
    assert student_p(d) == pytest.approx(stats.ttest_1samp(d, 0.0).pvalue)
    assert student_p([0.0, 0.0]) == 1.0
    assert student_p([0.3, 0.3, 0.3]) == 0.0
    assert student_p([0.3]) == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_comparison_needs_scenes_and_seeds():
    rng = np.random.default_rng(0)
    scenes = rng.normal(0, 0.2, (1, 40))
    b = 0.5 + scenes + rng.normal(0, 0.01, (3, 40))
    better = compare(b + 0.1, b)
    assert better.difference == pytest.approx(0.1)
    assert better.deviation == pytest.approx(0, abs=1e-12)
    assert better.p < 1e-3
    # Every scene agrees, but the seeds don't: one training was lucky.
    lucky = compare(b + np.array([[0.9], [0.01], [0.02]]), b)
    assert lucky.p_scenes < 1e-3
    assert lucky.p == lucky.p_seeds > 0.05
    same = compare(b, b)
    assert (same.difference, same.p) == (0.0, 1.0)


def test_one_number_a_run_has_seeds_only():
    whole = compare(np.array([[1.0], [3.0]]), np.zeros((2, 1)))
    assert np.isnan(whole.p_scenes)
    assert whole.p == whole.p_seeds == student_p([1.0, 3.0])


def test_pairs_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 3\)"):
        compare(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="not finite"):
        compare(np.full((1, 2), np.nan), np.zeros((1, 2)))
