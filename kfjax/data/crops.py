"""Crops of the recordings that features were made of, with their latents: what a vocoder is fine-tuned on.

Nothing of a recording is stored with its features. An excerpt's id names the clip and the place in it; the source that
was extracted leads to the file, and its digest says whether it still is that source.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kfjax import media
from kfjax.codec.mel import MelConfig
from kfjax.data import remote, sources
from kfjax.data.extract import plan_of, source_rows
from kfjax.data.shards import records
from kfjax.data.shards.records import Folder
from kfjax.data.sources import Cut, Row


class Crop(NamedTuple):
    """Where a crop is; `first` is that of its latents in the excerpt."""

    corpus: int
    seconds: float
    record: int
    first: int


class RecordingCrops:
    """step -> {"wave": f32 [b, samples], "latents": bf16 [b, n, d]}, a pure function of (seed, step).

    Corpora are drawn by their shares, excerpts by their length. The latents are those of the wave with `context` more
    before and after it, all within the excerpt. The level stays as it was recorded: the latents are of that.

    Args:
      corpora: (folder of `kfjax extract`, share of the crops).
      places: where the sources of the corpora are now, in their order; none: where they were when they were extracted.
      latents: of a crop, without context.
      samples: of a crop, at most those of its latents.
      mel: of the codec; two of its frames are a latent.

    Attributes:
      marks: of the encoders and the codec that made the features.

    Raises:
      ValueError: folders that `records.Folder` refuses, or of different encoders; a source that is not there or has
        changed; excerpts that are all shorter than a crop. On reading: a recording that is gone or has changed.
    """

    def __init__(
        self,
        corpora: Sequence[tuple[str | Path, float]],
        mel: MelConfig,
        *,
        batch: int,
        latents: int,
        samples: int,
        context: int,
        seed: int,
        places: Sequence[str] = (),
        threads: int = min(8, os.cpu_count() or 1),
    ):
        if places and len(places) != len(corpora):
            raise ValueError(f"data.sources: got {len(places)} for {len(corpora)} corpora, expected one for each")
        self._hz, self._hop = mel.sample_rate_hz, 2 * mel.hop  # a latent's samples
        self._batch, self._samples, self._seed = batch, samples, seed
        self._context, self._latents = context, latents + 2 * context
        first = Folder(corpora[0][0])
        self.marks = first.marks
        self._folders = [first, *(Folder(path, fingerprint=first.fingerprint) for path, _ in corpora[1:])]
        self._clips = [_Clips(folder.path, place) for folder, place in
                       zip(self._folders, places or [""] * len(corpora), strict=True)]  # fmt: skip
        share = np.array([share for _, share in corpora], np.float64)
        self._chances = [share[k] * self._lengths(k) for k in range(len(corpora))]
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="crops")

    def _lengths(self, corpus: int) -> np.ndarray:
        """Of each bucket, its share of the corpus's crops."""
        folder = self._folders[corpus]
        found = [len(bucket) * max(0, folder.shapes[seconds]["mean"][0] - self._latents + 1)
                 for seconds, bucket in folder.buckets.items()]  # fmt: skip
        if not sum(found):
            need = self._latents * self._hop / self._hz
            got = f"got excerpts of {sorted(folder.buckets)} s, expected some of {need:.2f} s"
            raise ValueError(f"{folder.path}: {got}; lower training.frames")
        return np.array(found) / sum(found)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """The global batch."""
        return self.runs(step, (0,), 1)

    def runs(self, step: int, numbers: Sequence[int], of: int) -> dict[str, np.ndarray]:
        """Of the global batch cut into `of` equal runs of rows those with these `numbers`, one after another."""
        if self._batch % of:
            raise ValueError(f"training.batch: got {self._batch}, which does not divide by {of} devices; change it")
        each, crops = self._batch // of, self.crops(step)
        mine = [crops[number * each + row] for number in numbers for row in range(each)]
        waves, latents = zip(*self._threads.map(self._read, mine), strict=True)
        return {"wave": np.stack(waves), "latents": np.stack(latents)}

    def crops(self, step: int) -> list[Crop]:
        """What the rows of the step's global batch are."""
        rng = np.random.default_rng((self._seed, step))
        kinds = [(k, s) for k, folder in enumerate(self._folders) for s in folder.buckets]
        chance = np.concatenate(self._chances)
        drawn = []
        for kind in rng.choice(len(kinds), self._batch, p=chance / chance.sum()):
            corpus, seconds = kinds[kind]
            folder = self._folders[corpus]
            record = rng.integers(len(folder.buckets[seconds]))
            first = rng.integers(folder.shapes[seconds]["mean"][0] - self._latents + 1)
            drawn.append(Crop(corpus, seconds, int(record), int(first)))
        return drawn

    def _read(self, crop: Crop) -> tuple[Float[np.ndarray, " t"], np.ndarray]:
        example = records.parse(self._folders[crop.corpus].buckets[crop.seconds][crop.record])
        cut, skipped = self._clips[crop.corpus].cut(example.id), (crop.first + self._context) * self._hop
        end = skipped + self._samples
        # From the excerpt's start, as it was extracted: no other resampling, and no seeking to a place between samples.
        with remote.fetched(cut.row) as row:
            wave = media.read_audio(row.sound, self._hz, 1, end / self._hz, cut.start_seconds)[skipped:, 0]
        whole = np.pad(wave, (0, self._samples - len(wave)))  # silent beyond the end, as it was extracted
        return whole, example.mean[crop.first : crop.first + self._latents]


class _Clips:
    """The clips of an extraction, by the ids of its excerpts."""

    def __init__(self, folder: Path, place: str):
        plan = plan_of(folder)
        if plan.get("augment"):
            raise ValueError(f"{folder}: got changed copies, which no recording has; extract without --augment")
        source = place or plan.get("from", "")
        if not source:
            raise ValueError(f"{folder}: does not say where its recordings are; give their source as data.sources")
        rows = source_rows(source, Path(found) if (found := plan.get("manual_dir")) else None)
        if sources.digest(rows) != plan.get("source"):
            raise ValueError(f"{source}: is not, or no longer, what the features in {folder} were made of; give the "
                             "source as it was then as data.sources, or extract again")  # fmt: skip
        self._folder, self._buckets = folder, plan["seconds"]
        self._rows: dict[str, Row] = {row.id: row for row in rows}

    def cut(self, name: str) -> Cut:
        """The excerpt of that id."""
        row = self._rows.get(name.rpartition("@")[0])
        made, _ = sources.cuts(row, self._buckets) if row else ([], 0)
        found = [cut for cut in made if cut.id == name]
        if not found:
            raise ValueError(f"{self._folder}: {name} is not in its recording any more; extract again")
        return found[0]
