"""Batches for training, each a pure function of (seed, step): resuming needs the step and nothing else."""
from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import grain
import numpy as np

from kfjax.data.extract import open_latents
from kfjax.data.scenes import Bucket, Corpus
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.rates import lengths
from kfjax.structs import Excerpt, Posterior
from kfjax.system import SystemConfig


class SceneInput:
    """Excerpts, latents and stereo mels of an encoded corpus, one duration bucket a step.

    Args:
      batch_seconds: seconds of material in a batch; a bucket's batch size follows, so that steps cost alike.
      weights: bucket seconds -> how often it is chosen.
      fingerprint: of the codec that the latents must come from (`extract.fingerprint`).
    """

    def __init__(
        self,
        cfg: SystemConfig,
        tokenizer: Tokenizer,
        corpus: Corpus,
        *,
        batch_seconds: float,
        weights: Mapping[float, float],
        seed: int,
        fingerprint: str,
        multiple_of: int = 1,
        flip: bool = True,
    ):
        missing = [s for s in weights if s not in corpus.buckets]
        if missing:
            raise ValueError(f"no scenes of {missing} s in the corpus; it has {sorted(corpus.buckets)}")
        self._cfg, self._tokenizer, self._seed, self._flip = cfg, tokenizer, seed, flip
        self._seconds = sorted(weights)
        chance = np.array([weights[s] for s in self._seconds], np.float64)
        self._chance = chance / chance.sum()
        self._buckets = [
            _Encoded(cfg, tokenizer, corpus.buckets[s], fingerprint, batch_seconds, multiple_of, seed) for s in self._seconds
        ]

    def bucket_of(self, step: int) -> tuple[int, int]:
        """(bucket, how many times it was chosen before): the same on every host."""
        choices = np.random.default_rng(self._seed).choice(len(self._seconds), step + 1, p=self._chance)
        return int(choices[step]), int(np.sum(choices[:step] == choices[step]))

    def __call__(self, step: int) -> tuple[Excerpt, Posterior, np.ndarray, np.ndarray]:
        which, nth = self.bucket_of(step)
        bucket = self._buckets[which]
        indices = bucket.indices(nth)
        rng = np.random.default_rng((self._seed, step))
        flips = rng.random(len(indices)) < 0.5 if self._flip else np.zeros(len(indices), bool)
        return bucket.examples(indices, flips)


class _Encoded:
    """One bucket with its latents, mels and token ids."""

    def __init__(self, cfg, tokenizer, bucket: Bucket, fingerprint: str, batch_seconds, multiple_of, seed):
        self.cfg, self.bucket, self.seconds = cfg, bucket, bucket.seconds
        self.latents = open_latents(bucket, fingerprint)
        self.count = self.latents.count
        self.batch = max(multiple_of, int(batch_seconds / bucket.seconds) // multiple_of * multiple_of)
        self._captions = [bucket.scene(i).caption for i in range(self.count)]
        self._ids, self._mask = tokenizer.encode(self._captions)
        self._order = grain.MapDataset.range(self.count).shuffle(seed=seed).repeat()

    @cached_property
    def _clip_index(self) -> np.ndarray:
        """Sync frame that each clip frame is: the first at or after its time."""
        wanted = np.arange(lengths(self.seconds, self.cfg.rates).clip) / self.cfg.rates.clip_hz
        return np.ceil(wanted * self.cfg.rates.sync_hz - 1e-6).astype(int)

    def indices(self, nth: int) -> list[int]:
        return [int(self._order[nth * self.batch + i]) for i in range(self.batch)]

    def examples(self, indices: list[int], flips: np.ndarray):
        frames = np.stack([self.bucket.frames[i][:, :, ::-1] if f else self.bucket.frames[i] for i, f in zip(indices, flips)])
        mels = np.stack([self.latents.mels[i][..., ::-1] if f else self.latents.mels[i] for i, f in zip(indices, flips)])
        mean, std = np.split(self.latents.posterior[np.sort(indices)][np.argsort(np.argsort(indices))].astype(np.float32), 2, -1)
        b = len(indices)
        excerpt = Excerpt(
            clip_frames=frames[:, self._clip_index],
            sync_frames=frames,
            text_ids=self._ids[indices],
            text_mask=self._mask[indices],
            seconds_start=np.zeros(b, np.float32),
            seconds_total=np.full(b, self.seconds, np.float32),
            has_video=np.ones(b, bool),
            has_text=np.ones(b, bool),
        )
        return excerpt, Posterior(mean, std), mels[..., 0].astype(np.float32), mels[..., 1].astype(np.float32)


def tokenizer_from(corpus: Corpus, length: int, path: Path) -> Tokenizer:
    """The corpus's own small tokenizer: read from `path`, or trained on the captions and written there."""
    if path.exists():
        return Tokenizer.load(path, length)
    captions = [b.scene(i).caption for b in corpus.buckets.values() for i in range(len(b))]
    tokenizer = Tokenizer.train(captions, vocab_size=512, length=length)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path)
    return tokenizer
