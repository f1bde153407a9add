"""Folders of extracted features with random numbers in them, told apart by their ids."""

from pathlib import Path

import numpy as np

from kfjax.data import records
from kfjax.data.batches import example_shapes
from kfjax.data.records import Example
from kfjax.structs import Given

MARK = "0123456789abcdef"


def example(cfg, seconds: float, number: int, *, name: str = "", has_video=True, has_text=True, words=5) -> Example:
    rng = np.random.default_rng((number, *name.encode()))
    arrays = {key: rng.standard_normal(shape) for key, shape in example_shapes(cfg, seconds).items()}
    given = Given(np.arange(len(arrays.pop("text_mask"))) < words, 0.0, seconds, has_video, has_text)
    arrays["std"] = np.abs(arrays["std"])
    return Example(f"{name}/{number}", **arrays, given=given)


def write(folder: Path, cfg, counts: dict[float, int], *, fingerprint=MARK, shards=1, **options) -> Path:
    """seconds -> how many; the folder's name is in their ids and seeds. `options` as of `example`."""
    buckets = {s: [example(cfg, s, i, name=folder.name, **options) for i in range(n)] for s, n in counts.items()}
    return records.write(folder, buckets, fingerprint, shards=shards)
