"""Folders of extracted features with random numbers in them, told apart by their ids."""
from pathlib import Path

import numpy as np

from kfjax.data import records
from kfjax.data.feature_input import example_shapes
from kfjax.data.records import Example

MARK = "0123456789abcdef"


def example(cfg, seconds: float, number: int, *, name: str = "", has_video=True, has_text=True, words=5) -> Example:
    rng = np.random.default_rng((number, *name.encode()))
    arrays = {key: rng.standard_normal(shape) for key, shape in example_shapes(cfg, seconds).items()}
    arrays["text_mask"] = np.arange(len(arrays["text_mask"])) < words
    arrays["std"] = np.abs(arrays["std"])
    return Example(
        f"{name}/{number}", **arrays, seconds_start=0.0, seconds_total=seconds, has_video=has_video, has_text=has_text
    )


def write(folder: Path, cfg, counts: dict[float, int], *, fingerprint=MARK, shards=1, **options) -> Path:
    """seconds -> how many; the folder's name is in their ids and seeds. `options` as of `example`."""
    buckets = {s: [example(cfg, s, i, name=folder.name, **options) for i in range(n)] for s, n in counts.items()}
    return records.write(folder, buckets, fingerprint, shards=shards)
