"""Batches of extracted features, each a pure function of (seed, step): training that runs no encoder.

All processes agree on the batch, whatever their number: its excerpts follow from the seed and the step, and each
process reads only its own rows. Threads read by numpy: no other process is started that could open an accelerator.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np

from kfjax.data.buckets import Buckets
from kfjax.data.shards import records
from kfjax.data.shards.marks import Marks
from kfjax.data.shards.records import BFLOAT16, STEREO, Example, Folder, arrays_of
from kfjax.encoders.configs import CLIPTextConfig
from kfjax.rates import lengths
from kfjax.storage import disk
from kfjax.structs import FeatureBatch, Features, Given, Posterior, StereoMels
from kfjax.system import SystemConfig

#: Steps whose features are fetched ahead, of corpora in buckets.
AHEAD = 8
#: Records fetched at a time, of corpora in buckets that are not copied.
AT_ONCE = 64


class Place(NamedTuple):
    """Where an excerpt is."""

    corpus: int
    seconds: float
    record: int


class FeatureInput:
    """Excerpts of several corpora, with video, with a caption or with both, mixed in every batch.

    Within a duration every corpus is shuffled anew in each epoch. If a corpus has no excerpts of a duration, the
    others take its share there.

    Args:
      cfg: the system that trains; features of other shapes are refused.
      corpora: (folder of `kfjax extract`, share of the examples).
      fingerprint: of the encoders that the features must come from; empty: whichever made the first corpus.
      joined: share of the examples that are two to four shorter excerpts, one after the other, of any durations that
        fill theirs. No sync features exist across the cuts, so they have sound and all captions, but no video.
      stereo: also what Mono2Stereo learns from; one corpus at least must have it. Joined excerpts and other corpora's
        count as mono.
      threads: number of reading threads.

    Attributes:
      buckets: the schedule of durations.
      fingerprint, marks: of the encoders that made the features.

    Raises:
      ValueError: bad shares; folders that `records.Folder` refuses, of different encoders, or without a duration that
        was asked for; features of other shapes. On reading: damaged records.
    """

    def __init__(
        self,
        cfg: SystemConfig,
        corpora: Sequence[tuple[str | Path, float]],
        buckets: Buckets,
        *,
        seed: int,
        fingerprint: str | Marks = "",
        joined: float = 0.0,
        stereo: bool = False,
        threads: int = min(8, os.cpu_count() or 1),
    ):
        _check_shares(cfg, corpora, joined)
        self.buckets, self._seed, self._joined = buckets, seed, joined
        self._folders: list[Folder] = []
        for path, _ in corpora:
            self._folders.append(Folder(path, fingerprint=fingerprint or None))
            fingerprint = self.marks = self._folders[0].marks
        self.fingerprint = self.marks.whole
        weights = [weight for _, weight in corpora]
        self._order = {s: _order(self._folders, weights, s, (seed, 0)) for s in buckets.seconds}
        there = sorted({s for folder in self._folders for s, bucket in folder.buckets.items() if len(bucket)})
        self._ways = {s: fillings(s, there) or [(s / 2, s / 2)] for s in buckets.seconds} if joined else {}
        parts = {part for ways in self._ways.values() for way in ways for part in way}
        self._parts = {s: _order(self._folders, weights, s, (seed, 1)) for s in sorted(parts)}
        self._shapes = {s: example_shapes(cfg, s) for s in (*self._order, *self._parts)}
        self._stereo = {s: stereo_shape(cfg, s) for s in self._order} if stereo else {}
        self._check_folders(cfg.name)
        self._ahead = AHEAD if any(folder.copied for folder in self._folders) else 0
        self._begun = -1
        if any(disk.in_bucket(folder.path) and not folder.copied for folder in self._folders):
            threads = max(threads, AT_ONCE)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="features")

    def __call__(self, step: int) -> FeatureBatch:
        """The global batch."""
        return self.runs(step, (0,), 1)

    def runs(self, step: int, numbers: Sequence[int], of: int) -> FeatureBatch:
        """Of the global batch cut into `of` equal runs of rows those with these `numbers`, one after another."""
        which, _ = self.buckets.of(step)
        rows = _rows(self.buckets.sizes[which], numbers, of)
        for later in range(step + 1, step + 1 + self._ahead):
            self._begin(later, numbers, of)
        return self._read(self.buckets.seconds[which], self.places(step, rows))

    def _begin(self, step: int, numbers: Sequence[int], of: int) -> None:
        """Begin to fetch what a later step reads of corpora in buckets."""
        if step > self._begun:
            self._begun = step
            which, _ = self.buckets.of(step)
            for place in itertools.chain(*self.places(step, _rows(self.buckets.sizes[which], numbers, of))):
                self._folders[place.corpus].buckets[place.seconds].ahead([place.record])

    def places(self, step: int, rows: Sequence[int] | None = None) -> list[tuple[Place, ...]]:
        """What some rows (or all) of the step's global batch hold: one excerpt each, or several that are joined."""
        which, nth = self.buckets.of(step)
        seconds, size = self.buckets.seconds[which], self.buckets.sizes[which]
        rng = np.random.default_rng((self._seed, step))
        joined, drawn = rng.random(size) < self._joined, rng.random(size)
        ways = self._ways.get(seconds, [])
        most = {part: max(way.count(part) for way in ways) for way in ways for part in way}

        def place(row: int) -> tuple[Place, ...]:
            number = nth * size + row
            if not joined[row]:
                return (_at(self._order[seconds], number),)
            way = ways[int(drawn[row] * len(ways))]
            counts = [way[:k].count(part) for k, part in enumerate(way)]
            found = [_at(self._parts[part], most[part] * number + k) for part, k in zip(way, counts, strict=True)]
            turn = int(drawn[row] * 2**20) % len(way) if len(set(way)) > 1 else 0  # the longest may stand anywhere
            return (*found[turn:], *found[:turn])

        return [place(row) for row in (range(size) if rows is None else rows)]

    def _read(self, seconds: float, places: Sequence[tuple[Place, ...]]) -> FeatureBatch:
        batch = _empty(len(places), seconds, self._shapes[seconds], self._stereo.get(seconds))

        def fill(row: int) -> None:
            parts = [self._example(place) for place in places[row]]
            _put(batch, row, join(parts, seconds, self._shapes[seconds]) if len(parts) > 1 else parts[0])

        list(self._threads.map(fill, range(len(places))))
        return batch

    def _example(self, place: Place) -> Example:
        folder = self._folders[place.corpus]
        record = folder.buckets[place.seconds][place.record]
        try:
            example = records.parse(record)
            _check_example(example, self._shapes[place.seconds])
        except ValueError as error:
            raise ValueError(f"{folder.path}, excerpt {place.record} of {place.seconds:g} s: {error}") from None
        return example

    def _check_folders(self, name: str) -> None:
        """By their indices, before anything is read."""
        for folder in self._folders:
            if not folder.shapes.keys() & self._shapes.keys():
                got, want = (f"{sorted(seconds)} s" for seconds in (folder.shapes, self._shapes))
                raise ValueError(f"{folder.path}: got excerpts of {got}, expected some of {want}; see data.buckets")
        wrong = [
            f"{folder.path}: {name} of {seconds:g} s is {folder.shapes[seconds][name]}, the system's is {shape}"
            for folder in self._folders
            for seconds, shapes in self._shapes.items()
            if seconds in folder.shapes
            for name, shape in (shapes | dict.fromkeys(STEREO, self._stereo.get(seconds))).items()
            if shape and folder.shapes[seconds].get(name, shape) != shape
        ]
        if wrong:
            made_by = next((folder.marks.system for folder in self._folders if folder.marks.system), "NAME")
            raise ValueError(
                f"features of another system: {'; '.join(wrong[:4])}; extract them with kfjax extract --system "
                f"{name}, or train on those of {made_by}: --set data.system={made_by}"
            )
        has = lambda folder: any(STEREO[0] in folder.shapes.get(seconds, {}) for seconds in self._stereo)
        if self._stereo and not any(map(has, self._folders)):
            paths = ", ".join(str(folder.path) for folder in self._folders)
            raise ValueError(f"{paths}: got features without stereo, expected some with it to train Mono2Stereo; "
                             "extract them anew with --stereo")  # fmt: skip


class SyntheticInput:
    """Random batches of the right shapes, from no data at all: to measure the speed of training.

    Every step of a duration has the same batch, made once, so that only the step is measured.
    """

    def __init__(self, cfg: SystemConfig, buckets: Buckets, *, seed: int, stereo: bool = False):
        self.buckets, self._cfg, self._seed, self._stereo = buckets, cfg, seed, stereo
        self._made: dict[tuple[int, ...], FeatureBatch] = {}

    def __call__(self, step: int) -> FeatureBatch:
        return self.runs(step, (0,), 1)

    def runs(self, step: int, numbers: Sequence[int], of: int) -> FeatureBatch:
        """See `FeatureInput.runs`."""
        which, _ = self.buckets.of(step)
        key = which, of, *numbers
        if key not in self._made:
            self._made[key] = self._make(self.buckets.seconds[which], _rows(self.buckets.sizes[which], numbers, of))
        return self._made[key]

    def _make(self, seconds: float, rows: Sequence[int]) -> FeatureBatch:
        shapes = example_shapes(self._cfg, seconds)
        mels = stereo_shape(self._cfg, seconds) if self._stereo else None
        batch = _empty(len(rows), seconds, shapes, mels)
        for k, row in enumerate(rows):
            rng = np.random.default_rng((self._seed, row))
            arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
            given = _given(np.ones_like(arrays.pop("text_mask"), bool), seconds, has_video=True, has_text=True)
            stereo = None
            if mels:
                drawn = rng.integers(0, 256, mels, np.uint8), rng.integers(-127, 128, mels, np.int8)
                stereo = StereoMels(*drawn, np.asarray(True))
            _put(batch, k, Example("", given=given, stereo=stereo, **arrays | {"std": 0.1 * np.abs(arrays["std"])}))
        return batch


def example_shapes(cfg: SystemConfig, seconds: float) -> dict[str, tuple[int, ...]]:
    """Name of an `Example`'s array -> its shape."""
    size = lengths(seconds, cfg.rates)
    return {
        "clip": (size.clip, cfg.mmdit.clip_dim),
        "sync": (size.sync, cfg.mmdit.sync_dim),
        "text": (cfg.text_tokens, cfg.mmdit.text_dim),
        "text_mask": (cfg.text_tokens,),
        "mean": (size.latents, cfg.mmdit.latent_dim),
        "std": (size.latents, cfg.mmdit.latent_dim),
    }


def stereo_shape(cfg: SystemConfig, seconds: float) -> tuple[int, int]:
    """Of the two arrays in `Example.stereo`: mel frames and bands."""
    return 2 * lengths(seconds, cfg.rates).latents, cfg.codec.mel.bands


def fillings(seconds: float, durations: Sequence[float], most: int = 4) -> list[tuple[float, ...]]:
    """The ways to fill `seconds` with two to `most` shorter durations, the longest of each first."""

    def fill(left: float, longest: float, room: int) -> Iterator[tuple[float, ...]]:
        if abs(left) < 1e-6:
            yield ()
        for part in (d for d in sorted(durations, reverse=True) if d <= longest and room and d <= left + 1e-6):
            yield from ((part, *rest) for rest in fill(left - part, part, room - 1))

    return [way for way in fill(seconds, seconds, most) if len(way) > 1]


def join(parts: Sequence[Example], seconds: float, shapes: Mapping[str, tuple[int, ...]]) -> Example:
    """Excerpts that fill `seconds` in one: their sounds follow one another, and so do the captions' words.

    Without video (see `FeatureInput`), and without caption where one has none or all together are too long.
    """
    words = np.concatenate([part.text[part.given.text_mask] for part in parts])
    has_text = all(part.given.has_text for part in parts) and len(words) <= len(parts[0].text)
    text = np.zeros(shapes["text"], BFLOAT16)
    text[: len(words)] = words[: len(text)]
    latents = shapes["mean"][0]
    return Example(
        id="+".join(part.id for part in parts),
        clip=np.zeros(shapes["clip"], BFLOAT16),
        sync=np.zeros(shapes["sync"], BFLOAT16),
        text=text,
        given=_given(np.arange(len(text)) < len(words), seconds, has_video=False, has_text=has_text),
        mean=np.concatenate([part.mean for part in parts])[:latents],  # each part's latents are rounded up
        std=np.concatenate([part.std for part in parts])[:latents],
    )


def _order(
    folders: Sequence[Folder], weights: Sequence[float], seconds: float, seed: tuple[int, int]
) -> grain.MapDataset:
    """An endless sequence of places; every corpus is shuffled anew in each epoch."""
    having = [k for k, folder in enumerate(folders) if len(folder.buckets.get(seconds, ()))]
    if not having:
        found = sorted({s for folder in folders for s in folder.buckets})
        raise ValueError(f"no features of {seconds:g} s in any corpus; there are some of {found} s")

    def places(k: int) -> grain.MapDataset:
        own = int(np.random.default_rng((*seed, k)).integers(1 << 32))
        count = len(folders[k].buckets[seconds])
        return grain.MapDataset.range(count).shuffle(seed=own).map(lambda i: Place(k, seconds, i)).repeat()

    return grain.MapDataset.mix([places(k) for k in having], [weights[k] for k in having])


def _at(places: grain.MapDataset, index: int) -> Place:
    place = places[index]
    assert isinstance(place, Place)  # nothing is filtered out
    return place


def _given(text_mask: np.ndarray, seconds: float, *, has_video: bool, has_text: bool) -> Given:
    """Of one example."""
    start, total = np.zeros((), np.float32), np.asarray(seconds, np.float32)
    return Given(text_mask, start, total, np.asarray(has_video), np.asarray(has_text))


def _rows(size: int, numbers: Sequence[int], of: int) -> list[int]:
    """Rows of some of the `of` runs that a batch is cut into."""
    if size % of:
        raise ValueError(f"a batch of {size} examples does not divide by {of}; set data.batch_multiple to {of}")
    each = size // of
    return [row for number in numbers for row in range(number * each, (number + 1) * each)]


def _empty(
    rows: int, seconds: float, shapes: Mapping[str, tuple[int, ...]], mels: tuple[int, int] | None = None
) -> FeatureBatch:
    """`mels`: see `stereo_shape`; None without stereo."""
    dtypes = dict.fromkeys(shapes, BFLOAT16) | {"text_mask": np.dtype(bool)}
    array = {name: np.empty((rows, *shape), dtypes[name]) for name, shape in shapes.items()}
    features = Features(array["clip"], array["sync"], array["text"], Given.whole(array["text_mask"], seconds))
    stereo = None
    if mels:
        stereo = StereoMels(np.empty((rows, *mels), np.uint8), np.empty((rows, *mels), np.int8), np.empty(rows, bool))
    return FeatureBatch(features, Posterior(array["mean"], array["std"]), stereo)


def _put(batch: FeatureBatch, row: int, example: Example) -> None:
    for part, own in ((batch.features, example), (batch.posterior, example), (batch.features.given, example.given)):
        for name, array in part._asdict().items():
            if name != "given":
                array[row] = getattr(own, name)
    if batch.stereo is not None:
        mono = StereoMels(np.zeros((), np.uint8), np.zeros((), np.int8), np.zeros((), bool))
        for array, value in zip(batch.stereo, example.stereo or mono, strict=True):
            array[row] = value


def _check_example(example: Example, shapes: Mapping[str, tuple[int, ...]]) -> None:
    arrays = arrays_of(example)
    for name, shape in shapes.items():
        if (got := arrays[name].shape) != shape:  # must not be broadcast into the batch
            raise ValueError(f"{name} is {got}, expected {shape}; extract the features again")


def _check_shares(cfg: SystemConfig, corpora: Sequence[tuple[str | Path, float]], joined: float) -> None:
    if not corpora or not all(_is_share(pair) for pair in corpora):
        raise ValueError(f"data.corpora: got {tuple(corpora)}, expected pairs of a folder and a weight above 0")
    if not 0 <= joined <= 1:
        raise ValueError(f"data.joined: got {joined:g}, expected a share from 0 to 1")
    if joined and isinstance(cfg.text, CLIPTextConfig):
        raise ValueError(f"data.joined: got {joined:g} with a CLIP text tower, which marks no word's end; set it to 0")


def _is_share(pair: object) -> bool:
    """Whether it is a folder and a weight; it may be anything that a user wrote."""
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        return False
    path, weight = pair
    return isinstance(path, str | os.PathLike) and isinstance(weight, int | float) and 0 < weight < math.inf
