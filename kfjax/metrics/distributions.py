"""Measures over whole sets of sounds, from what networks make of each: FD, KL, inception score, cosine scores.

As the field computes them: github.com/haoheliu/audioldm_eval and github.com/hkchengrex/av-benchmark, from which the
published tables of video-to-audio models come. Everything is summed in float64.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit, log_softmax, logsumexp

#: What the public code adds to the probabilities of generated sounds before it takes their logarithm.
KL_FLOOR = 1e-6


class Gaussian(NamedTuple):
    """Mean and covariance of a set's embeddings."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    deviation: float
    splits: int


def gaussian(embeddings: Float[np.ndarray, "n d"]) -> Gaussian:
    """Mean and unbiased covariance of a set.

    Raises:
      ValueError: fewer than two embeddings, or some that are not finite.
    """
    x = np.asarray(embeddings, np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"Fréchet distance: got embeddings of shape {x.shape}, expected at least two [n, d]")
    if not np.isfinite(x).all():
        raise ValueError("Fréchet distance: got embeddings that are NaN or infinite, expected finite ones")
    return Gaussian(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½); 0 for equal sets, symmetric, at least 0.

    The trace of the root is the sum of the singular values of C_a^½ C_b^½, with both roots from eigenvalues: unlike a
    square root of the product, which is not symmetric, that neither leaves the real numbers nor breaks down where there
    are fewer sounds than dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Fréchet distance: got {a.mean.size} and {b.mean.size} dimensions, expected the same")
    overlap = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return float(max(0.0, np.sum((a.mean - b.mean) ** 2) + spread))


def kl_divergence(
    made: Float[np.ndarray, "n classes"],
    true: Float[np.ndarray, "n classes"],
    over: Literal["softmax", "sigmoid"] = "softmax",
) -> Float[np.ndarray, " n"]:
    """KL(true ‖ made) of class probabilities, nats, pair by pair; the mean over pairs is what tables call KL or MKL.

    Args:
      made, true: logits of the generated and the true sound of each pair.
      over: "softmax" takes the logits for one distribution over all classes: KL_PANNs of published tables. "sigmoid"
        takes every class for itself and sums p log(p / q) over them, as audioldm_eval does; as the other half of each
        class is left out, that can be negative.
    """
    made, true = np.asarray(made, np.float64), np.asarray(true, np.float64)
    if made.shape != true.shape or made.ndim != 2:
        raise ValueError(f"KL: got logits of shapes {made.shape} and {true.shape}, expected one pair a row")
    if over == "softmax":
        p, log_p, q = np.exp(log_softmax(true, axis=1)), log_softmax(true, axis=1), np.exp(log_softmax(made, axis=1))
    elif over == "sigmoid":
        p, log_p, q = expit(true), -np.logaddexp(0, -true), expit(made)
    else:
        raise ValueError(f"KL: got over={over!r}, expected 'softmax' or 'sigmoid'")
    return np.sum(p * (log_p - np.log(q + KL_FLOOR)), axis=1)


def inception_score(logits: Float[np.ndarray, "n classes"], splits: int = 10, seed: int = 2020) -> InceptionScore:
    """exp of the mean KL of p(class | sound) from p(class), over shuffled splits: 1 to the number of classes.

    Args:
      logits: of generated sounds; probabilities are their softmax.
      splits: as public code has it, 10; fewer where there are fewer sounds.
      seed: of the shuffle.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or not len(logits):
        raise ValueError(f"inception score: got logits of shape {logits.shape}, expected [n, classes]")
    order = np.random.default_rng(seed).permutation(len(logits))
    scores = []
    for rows in np.array_split(order, min(splits, len(logits))):
        log_p = log_softmax(logits[rows], axis=1)
        log_marginal = logsumexp(log_p, axis=0, keepdims=True) - np.log(len(rows))
        scores.append(np.exp(np.mean(np.sum(np.exp(log_p) * (log_p - log_marginal), axis=1))))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), len(scores))


def cosine_similarity(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Of each pair of embeddings, -1 to 1; their mean is the IB-score (picture and sound) or CLAP score (text)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"cosine: got embeddings of shapes {a.shape} and {b.shape}, expected one pair a row")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.sum(a * b, axis=1) / np.maximum(norms, 1e-12)


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """Symmetric square root; eigenvalues within rounding of zero are zero, or their roots would add up."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    least = len(values) * np.finfo(np.float64).eps * np.abs(values).max(initial=0.0)
    return (vectors * np.sqrt(np.where(values > least, values, 0.0))) @ vectors.T
