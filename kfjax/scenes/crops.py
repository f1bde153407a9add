"""Sound for the codec's training: random crops of a rendered corpus."""

from __future__ import annotations

import numpy as np

from kfjax.scenes import Bucket, Corpus


class SoundInput:
    """Random mono crops of a rendered corpus, for the codec."""

    def __init__(self, corpus: Corpus, *, batch: int, samples: int, seed: int):
        self._buckets = [b for b in corpus.buckets.values() if b.sound.shape[1] >= samples and len(b)]
        if not self._buckets:
            raise ValueError(f"no rendered scene of at least {samples} samples in the corpus; render longer ones")
        self._weights = np.array([len(b) * b.seconds for b in self._buckets])
        self._batch, self._samples, self._seed = batch, samples, seed

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """{"wave": f32 [b, samples]}"""
        rng = np.random.default_rng((self._seed, step))
        chosen = rng.choice(len(self._buckets), self._batch, p=self._weights / self._weights.sum())
        return {"wave": np.stack([self._crop(self._buckets[i], rng) for i in chosen])}

    def _crop(self, bucket: Bucket, rng: np.random.Generator) -> np.ndarray:
        index = rng.integers(len(bucket))
        first = rng.integers(bucket.sound.shape[1] - self._samples + 1)
        return bucket.sound[index, first : first + self._samples].astype(np.float32).mean(1) / 32767.0
