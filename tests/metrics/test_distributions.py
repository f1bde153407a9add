"""Truth of the measures over sets: closed forms, hand-computed cases, invariances, and independent packages."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from kfjax.metrics.distributions import (
    Gaussian,
    cosine_similarity,
    frechet_distance,
    gaussian,
    inception_score,
    kl_divergence,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_covariance(rng, d: int) -> np.ndarray:
    root = rng.standard_normal((d, d))
    return root @ root.T / d


def test_frechet_distance_of_lines():
    a, b = Gaussian(np.array([1.0]), np.array([[4.0]])), Gaussian(np.array([4.0]), np.array([[9.0]]))
    assert frechet_distance(a, b) == pytest.approx(3**2 + (3 - 2) ** 2, abs=1e-12)


def test_frechet_distance_of_commuting_covariances(rng):
    d = 16
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    means, spreads = rng.standard_normal((2, d)), rng.uniform(0.1, 2, (2, d))
    a, b = (Gaussian(m, turn @ np.diag(s**2) @ turn.T) for m, s in zip(means, spreads, strict=True))
    closed = np.sum((means[0] - means[1]) ** 2) + np.sum((spreads[0] - spreads[1]) ** 2)
    assert frechet_distance(a, b) == pytest.approx(closed, rel=1e-10)


def test_frechet_distance_of_covariances_that_do_not_commute(rng):
    """In two dimensions tr (AB)^½ = sqrt(tr AB + 2 sqrt(det AB)): the eigenvalues' roots, squared and summed."""
    a, b = random_covariance(rng, 2), np.array([[2.0, 1.5], [1.5, 3.0]])
    assert np.abs(a @ b - b @ a).max() > 0.1
    closed = np.trace(a) + np.trace(b) - 2 * np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    zero = np.zeros(2)
    assert frechet_distance(Gaussian(zero, a), Gaussian(zero, b)) == pytest.approx(closed, rel=1e-10)


def test_frechet_distance_agrees_with_the_matrix_root_of_scipy(rng):
    a, b = (gaussian(rng.standard_normal((80, 12)) @ rng.standard_normal((12, 12))) for _ in range(2))
    product = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * product)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.slow  # torchmetrics takes seconds to import
def test_frechet_distance_agrees_with_torchmetrics(rng):
    torch = pytest.importorskip("torch")
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = (gaussian(rng.standard_normal((80, 12)) @ rng.standard_normal((12, 12))) for _ in range(2))
    expected = fid._compute_fid(*(torch.as_tensor(x) for x in (*a, *b)))
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-8)


def test_frechet_distance_with_fewer_sounds_than_dimensions(rng):
    """Where covariances are singular, moving a set moves its distance by exactly the squared move."""
    x, move = rng.standard_normal((10, 64)), rng.standard_normal(64)
    assert frechet_distance(gaussian(x), gaussian(x)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(gaussian(x), gaussian(x + move)) == pytest.approx(move @ move, rel=1e-9)


def test_frechet_distance_does_not_depend_on_order_or_a_turn_and_scales(rng):
    x, y = rng.standard_normal((40, 8)), rng.standard_normal((50, 8)) + 0.3
    turn = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    distance = frechet_distance(gaussian(x), gaussian(y))
    assert distance > 0
    assert frechet_distance(gaussian(y), gaussian(x)) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(gaussian(x[::-1]), gaussian(rng.permutation(y))) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(gaussian(x @ turn), gaussian(y @ turn)) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(gaussian(3 * x), gaussian(3 * y)) == pytest.approx(9 * distance, rel=1e-10)


@pytest.mark.parametrize("bad", [np.zeros((1, 4)), np.full((3, 4), np.nan)])
def test_what_is_no_set_is_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        gaussian(bad)


def test_kl_of_known_distributions():
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.25, 0.5]])
    expected = 0.5 * np.log(2) - 0.25 * np.log(2)
    # the floor on the generated side is worth up to 1e-6 / q
    assert kl_divergence(np.log(q), np.log(p))[0] == pytest.approx(expected, abs=1e-5)
    assert kl_divergence(np.log(q) + 7, np.log(p) - 3)[0] == pytest.approx(expected, abs=1e-5)  # softmax forgets levels
    assert kl_divergence(np.log(p), np.log(p))[0] == pytest.approx(0, abs=1e-5)


def test_kl_by_sigmoid_sums_over_classes():
    p, q = np.array([[0.5, 0.9]]), np.array([[0.25, 0.9]])
    logit = lambda x: np.log(x / (1 - x))
    made = kl_divergence(logit(q), logit(p), over="sigmoid")
    assert made[0] == pytest.approx(0.5 * np.log(2), abs=1e-5)
    with pytest.raises(ValueError, match="softmax"):
        kl_divergence(q, p, over="tanh")


def test_kl_agrees_with_scipy_pair_by_pair(rng):
    made, true = rng.standard_normal((2, 6, 20))
    softmax = lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)
    expected = scipy.stats.entropy(softmax(true), softmax(made), axis=1)
    np.testing.assert_allclose(kl_divergence(made, true), expected, atol=2e-4)
    order = rng.permutation(6)
    np.testing.assert_allclose(kl_divergence(made[order], true[order]), kl_divergence(made, true)[order])


def test_inception_score_of_one_hot_and_of_constant_answers():
    certain = 1e3 * np.eye(7)
    assert inception_score(np.tile(certain, (3, 1)), splits=1).mean == pytest.approx(7, rel=1e-9)
    assert inception_score(np.zeros((20, 7))) == pytest.approx((1, 0, 10), abs=1e-12)
    assert inception_score(np.tile(certain[:1], (20, 1))).mean == pytest.approx(1, abs=1e-12)
    assert inception_score(certain[:3]).splits == 3


def test_inception_score_of_two_known_answers():
    logits = np.log([[0.9, 0.1], [0.1, 0.9]])
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert inception_score(logits, splits=1).mean == pytest.approx(2 * np.exp(-entropy), rel=1e-12)


def test_inception_score_without_splits_does_not_depend_on_order(rng):
    logits = 3 * rng.standard_normal((30, 9))
    assert inception_score(logits[::-1], splits=1).mean == pytest.approx(inception_score(logits, splits=1).mean)
    assert inception_score(logits) == inception_score(logits)


def test_cosine_similarity():
    a, b = np.array([[1.0, 0], [1, 1], [2, 0], [0, 0]]), np.array([[0.0, 3], [2, 2], [-1, 0], [1, 0]])
    np.testing.assert_allclose(cosine_similarity(a, b), [0, 1, -1, 0], atol=1e-12)
    np.testing.assert_allclose(cosine_similarity(5 * a, 0.1 * b), cosine_similarity(a, b), atol=1e-12)
