"""Batches for training, each a pure function of (seed, step): resuming needs the step and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import grain
import numpy as np

from kfjax.command import say
from kfjax.data.buckets import Buckets
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.rates import lengths
from kfjax.scenes import Bucket, Corpus
from kfjax.scenes.corpus import FULL_SCALE
from kfjax.scenes.encode import open_latents
from kfjax.structs import Excerpt, Given, Posterior
from kfjax.system import SystemConfig


class SceneInput:
    """Excerpts, latents and stereo mels of an encoded corpus, one duration bucket a step.

    Args:
      fingerprint: of the codec that the latents must come from (`checkpoint.weights_fingerprint`).
      flip: mirror half of the pictures, and with them the channels.
      duration_jitter: largest relative error of the total duration that the model is told. Durations between the
        buckets have rows of their own in the discrete embedding, which would stay random without it.
      joined: share of the examples that are two scenes of half the duration, one after the other: pictures, sound and
        the captions' words.
      emphasis: recipe -> how many times its scenes come in one pass over the corpus; 1 where it is not named.
      told: words outside the vocabulary were printed already.

    Raises:
      ValueError: no such bucket, frames of another size than the encoders', more words than the text encoder has.
    """

    def __init__(
        self,
        cfg: SystemConfig,
        tokenizer: Tokenizer,
        corpus: Corpus,
        buckets: Buckets,
        *,
        seed: int,
        fingerprint: str,
        flip: bool = True,
        duration_jitter: float = 0.0,
        joined: float = 0.0,
        emphasis: Mapping[str, int] | None = None,
        told: bool = False,
    ):
        halves = [s / 2 for s in buckets.seconds] if joined else []
        _check(cfg, tokenizer, corpus, (*buckets.seconds, *halves))
        if not 0 <= joined <= 1:
            raise ValueError(f"data.joined: got {joined:g}, expected a share from 0 to 1")
        self.buckets, self._seed, self._flip, self._jitter = buckets, seed, flip, duration_jitter
        encoded = lambda s, size: _Encoded(cfg, tokenizer, corpus.buckets[s], fingerprint, size, seed, emphasis or {})
        self._encoded = [encoded(s, size) for s, size in zip(buckets.seconds, buckets.sizes, strict=True)]
        self._joined = joined
        self._halves = [encoded(s, 2 * size) for s, size in zip(halves, buckets.sizes, strict=bool(halves))]
        every = chain.from_iterable(bucket.captions for bucket in self._encoded)
        if not told and (unread := tokenizer.unread_captions(every)):
            say(f"{corpus.folder}: {unread}")

    def __call__(self, step: int) -> tuple[Excerpt, Posterior, np.ndarray, np.ndarray]:
        which, nth = self.buckets.of(step)
        bucket = self._encoded[which]
        indices = bucket.indices(nth)
        rng = np.random.default_rng((self._seed, step))
        flips = rng.random(len(indices)) < 0.5 if self._flip else np.zeros(len(indices), bool)
        examples = bucket.examples(indices, flips)
        # A stream of its own: what is not joined stays the same.
        joined = np.random.default_rng((self._seed, step, 1)).random(len(indices)) < self._joined
        for row in np.flatnonzero(joined).tolist():
            two = self._halves[which].indices(nth)[2 * row : 2 * row + 2]
            _put_joined(examples, row, self._halves[which].examples(two, flips[[row, row]]), bucket.clip_index)
        excerpt, posterior, left, right = examples
        told = excerpt.given.seconds_total * (1 + self._jitter * rng.uniform(-1, 1, len(indices)))
        given = excerpt.given._replace(seconds_total=told.astype(np.float32))
        return excerpt._replace(given=given), posterior, left, right


Examples = tuple[Excerpt, Posterior, np.ndarray, np.ndarray]


def _put_joined(examples: Examples, row: int, parts: Examples, clip_index: np.ndarray) -> None:
    """In a row's place the examples of `parts` one after the other, cut to its length, or its last frame held."""
    excerpt, posterior, *mels = examples
    own, own_posterior, *own_mels = parts
    arrays = [
        (excerpt.sync_frames, own.sync_frames),
        *zip((*posterior, *mels), (*own_posterior, *own_mels), strict=True),
    ]
    for array, halves in arrays:
        whole = np.concatenate(np.asarray(halves))
        array[row] = whole[np.minimum(np.arange(array.shape[1]), len(whole) - 1)]
    excerpt.clip_frames[row] = excerpt.sync_frames[row][clip_index]
    first, second = (ids[mask] for ids, mask in zip(own.text_ids, own.given.text_mask, strict=True))
    words = np.concatenate([first[:-1], second])  # the first's end token is none any more
    length = excerpt.text_ids.shape[1]
    excerpt.text_ids[row] = np.pad(words[:length], (0, max(0, length - len(words))))
    excerpt.given.text_mask[row] = np.arange(length) < len(words)
    excerpt.given.has_text[row] = len(words) <= length


def _check(cfg: SystemConfig, tokenizer: Tokenizer, corpus: Corpus, seconds: Sequence[float]) -> None:
    missing = [s for s in seconds if s not in corpus.buckets]
    if missing:
        raise ValueError(f"no scenes of {missing} s in the corpus; it has {sorted(corpus.buckets)}")
    size = corpus.order["size"]
    if not size == cfg.clip.size == cfg.sync.size:
        raise ValueError(
            f"the corpus has frames of {size} pixels, the encoders see {cfg.clip.size} (clip) and {cfg.sync.size} "
            "(sync); render the corpus at that size"
        )
    if tokenizer.vocab > cfg.text.vocab:
        raise ValueError(f"the tokenizer has {tokenizer.vocab} words, text.vocab is {cfg.text.vocab}; make it larger")


class _Encoded:
    """One bucket with its latents, mels and token ids."""

    def __init__(self, cfg, tokenizer, bucket: Bucket, fingerprint: str, batch: int, seed, emphasis):
        self.cfg, self.bucket, self.seconds = cfg, bucket, bucket.seconds
        self.latents = open_latents(bucket, fingerprint)
        self.count, self.batch = self.latents.count, batch
        self.captions = [bucket.scene(i).caption for i in range(self.count)]
        self._ids, self._mask = tokenizer.encode(self.captions)
        scenes = [i for i in range(self.count) for _ in range(emphasis.get(bucket.scene(i).recipe, 1))]
        self._order = grain.MapDataset.source(scenes).shuffle(seed=seed).repeat()

    @cached_property
    def clip_index(self) -> np.ndarray:
        """Sync frame that each clip frame is: the first at or after its time."""
        wanted = np.arange(lengths(self.seconds, self.cfg.rates).clip) / self.cfg.rates.clip_hz
        return np.ceil(wanted * self.cfg.rates.sync_hz - 1e-6).astype(int)

    def indices(self, nth: int) -> list[int]:
        found = (self._order[nth * self.batch + i] for i in range(self.batch))
        return [int(index) for index in found if index is not None]  # nothing is filtered out

    def examples(self, indices: list[int], flips: np.ndarray):
        sides = [-1 if flip else 1 for flip in flips]
        frames = np.stack([self.bucket.frames[i][:, :, ::side] for i, side in zip(indices, sides, strict=True)])
        mels = np.stack([self.latents.mels[i][..., ::side] for i, side in zip(indices, sides, strict=True)])
        mean, std = np.split(np.stack([self.latents.posterior[i] for i in indices]).astype(np.float32), 2, -1)
        excerpt = Excerpt(
            clip_frames=frames[:, self.clip_index],
            sync_frames=frames,
            text_ids=self._ids[indices],
            given=Given.whole(self._mask[indices], self.seconds),
        )
        return excerpt, Posterior(mean, std), mels[..., 0].astype(np.float32), mels[..., 1].astype(np.float32)


def tokenizer_from(corpus: Corpus, length: int, path: Path) -> Tokenizer:
    """The corpus's own small tokenizer: read from `path`, or trained on the captions and written there."""
    if path.exists():
        return Tokenizer.load(path, length)
    tokenizer = Tokenizer.train(captions(corpus), vocab_size=512, length=length)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(path)
    return tokenizer


def captions(corpus: Corpus) -> list[str]:
    """Of all its scenes."""
    return [bucket.scene(i).caption for bucket in corpus.buckets.values() for i in range(len(bucket))]


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
        return bucket.sound[index, first : first + self._samples].astype(np.float32).mean(1) / FULL_SCALE
