"""Classifier of the sources in a sound, trained on the true sound of scenes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits

from kfjax.metrics.onsets import band_levels_db
from kfjax.scenes import SOURCES
from kfjax.storage import disk

#: Levels below this (dB of full scale), or further than this below the clip's peak, count as silence.
_FLOOR_DB, _RANGE_DB = -68.0, 55.0
#: Time differences (frames of 5 ms) over which the change of level is measured: attack, short and long decays.
_LAGS = (2, 8, 24, 80)
#: Natural log of power per dB.
_NEPERS = np.log(10) / 10
#: Weight decay of the regression.
_DECAY = 1e-3


@dataclass(frozen=True)
class SourceClassifier:
    """Multi-label classifier: which of its `sources` are present in a sound.

    One logistic regression per source on statistics of the mel levels, trained with sounds that are also filtered,
    blurred and noisy, so that a vocoder's coloration does not mislead it.

    Attributes:
      mean, scale: of the features, [features].
      weights: [features, sources].
      biases: [sources].
      sources: their names.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    biases: np.ndarray
    sources: tuple[str, ...] = SOURCES

    @classmethod
    def fit(
        cls,
        waves: Iterable[np.ndarray],
        labels: Sequence[str | Collection[str]],
        seed: int,
        sample_rate_hz: int = 44100,
        copies: int = 3,
        sources: Sequence[str] = SOURCES,
    ) -> SourceClassifier:
        """Train on sounds and their labels.

        Args:
          waves: true sounds [t] or [t, 2], read once, so that a generator will do; 600 of 4 to 8 seconds suffice.
          labels: the source, or all sources, of each; empty for silence.
          seed: of the augmentation.
          sample_rate_hz: sample rate of the sounds.
          copies: augmented copies of each sound, beside the sound itself.
          sources: all that a label may name.

        Raises:
          ValueError: a label that is no source, or another number of labels than of sounds.
        """
        return cls.fit_levels((band_levels_db(wave, sample_rate_hz) for wave in waves), labels, seed, copies, sources)

    @classmethod
    def fit_levels(
        cls,
        levels_db: Iterable[np.ndarray],
        labels: Sequence[str | Collection[str]],
        seed: int,
        copies: int = 3,
        sources: Sequence[str] = SOURCES,
    ) -> SourceClassifier:
        """`fit` on sounds that are already `band_levels_db`, [bands, frames] each."""
        rng = np.random.default_rng(seed)
        rows, targets = [], []
        for levels, label in zip(levels_db, labels, strict=True):
            rows += [describe(levels), *(describe(alter(levels, rng)) for _ in range(copies))]
            targets += [_target(label, sources)] * (1 + copies)
        features = np.stack(rows)
        # Features are dB: the scale of one that hardly varies in training is bounded from below.
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1.0
        weights, biases = _regress((features - mean) / scale, np.stack(targets))
        return cls(mean, scale, weights, biases, tuple(sources))

    def probabilities(self, wave: np.ndarray, sample_rate_hz: int = 44100) -> dict[str, float]:
        """How likely each source is present, 0 to 1 each; they need not sum to 1."""
        features = (describe(band_levels_db(wave, sample_rate_hz)) - self.mean) / self.scale
        chances = expit(features @ self.weights + self.biases)
        return dict(zip(self.sources, chances.tolist(), strict=True))

    def predict(self, wave: np.ndarray, sample_rate_hz: int = 44100) -> str:
        """The most probable source."""
        chances = self.probabilities(wave, sample_rate_hz)
        return max(chances, key=chances.__getitem__)

    def save(self, path: str | Path) -> None:
        """Write the classifier as an .npz file, which other processes find whole or not at all."""
        arrays = {name: getattr(self, name) for name in ("mean", "scale", "weights", "biases")}
        with disk.writing(Path(path), noted=False) as temporary, temporary.open("wb") as file:
            np.savez(file, sources=np.array(self.sources), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> SourceClassifier:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            sources = tuple(map(str, arrays["sources"])) if "sources" in arrays else SOURCES
            return cls(arrays["mean"], arrays["scale"], arrays["weights"], arrays["biases"], sources)


def describe(levels_db: np.ndarray) -> np.ndarray:
    """Statistics of band levels [bands, frames], independent of when and how often a source sounds: [features].

    Per band: quantiles of the level under the clip's peak, its spread, and how much it changes over several time
    differences, on average and at most (attacks and decays).
    """
    peak = max(float(levels_db.max()), _FLOOR_DB)
    levels = np.maximum(levels_db, max(_FLOOR_DB, peak - _RANGE_DB)) - peak
    rows = [*np.percentile(levels, (5, 25, 50, 75, 90, 97, 100), axis=1), levels.mean(axis=1), levels.std(axis=1)]
    for lag in _LAGS:
        change = levels[:, lag:] - levels[:, :-lag] if levels.shape[1] > lag else np.zeros_like(levels)
        rows += [np.abs(change).mean(axis=1), np.percentile(change, 1, axis=1), np.percentile(change, 99, axis=1)]
    return np.concatenate(rows).astype(np.float32)


def alter(levels_db: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augmented levels: another gain and tone, smeared, with noise."""
    levels = np.asarray(levels_db, np.float32)
    levels = gaussian_filter(levels, (rng.uniform(0.0, 0.8), rng.uniform(0.0, 1.5)), mode="nearest")
    bands = np.linspace(-1, 1, len(levels))
    tone = rng.uniform(-3, 3) * bands + rng.uniform(-2, 2) * np.cos(np.pi * bands * rng.uniform(1, 4))
    levels = levels + rng.uniform(-6, 6) + tone[:, None] + rng.uniform(0, 1.5) * rng.standard_normal(levels.shape)
    noise = rng.uniform(-85, -55) + rng.uniform(-6, 6) * bands
    return np.logaddexp(levels * _NEPERS, noise[:, None] * _NEPERS) / _NEPERS


def _target(label: str | Collection[str], sources: Sequence[str]) -> np.ndarray:
    heard = {label} if isinstance(label, str) else set(label)
    if not heard <= set(sources):
        raise ValueError(f"label {label!r}: expected sources among {', '.join(sources)}")
    return np.array([source in heard for source in sources], int)


def _regress(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regressions of all targets [n, sources] at once: weights [features, sources], biases [sources]."""
    count, width = features.shape
    shape = (width + 1, targets.shape[1])

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, biases = np.split(flat.reshape(shape), [width])
        logits = features @ weights + biases
        error = (expit(logits) - targets) / count
        likelihood = np.sum(np.logaddexp(0, logits) - targets * logits) / count
        gradient = np.concatenate([features.T @ error + _DECAY * weights, error.sum(axis=0, keepdims=True)])
        return likelihood + _DECAY / 2 * np.sum(weights**2), gradient.ravel()

    with threadpool_limits(1):  # small products: more threads are slower
        found = minimize(loss, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options={"maxiter": 150})
    weights, biases = np.split(found.x.reshape(shape), [width])
    return weights, biases[0]
