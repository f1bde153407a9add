"""Folders of extracted features with random numbers in them, told apart by their ids."""

from pathlib import Path

import numpy as np

from kfjax.data.batches import example_shapes, stereo_shape
from kfjax.data.shards import records
from kfjax.data.shards.records import Example
from kfjax.structs import Given, StereoMels

MARK = "0123456789abcdef"


def example(
    cfg, seconds: float, number: int, *, name: str = "", has_video=True, has_text=True, words=5, stereo=None
) -> Example:
    """`stereo`: whether the recording is in stereo; None: nothing was made of it."""
    rng = np.random.default_rng((number, *name.encode()))
    arrays = {key: rng.standard_normal(shape) for key, shape in example_shapes(cfg, seconds).items()}
    given = Given(np.arange(len(arrays.pop("text_mask"))) < words, 0.0, seconds, has_video, has_text)
    arrays["std"] = np.abs(arrays["std"])
    mels = None
    if stereo is not None:
        shape = stereo_shape(cfg, seconds)
        drawn = rng.integers(0, 256, shape, np.uint8), rng.integers(-127, 128, shape, np.int8)
        mels = StereoMels(*(x if stereo else 0 * x for x in drawn), stereo)
    return Example(f"{name}/{number}", **arrays, given=given, stereo=mels)


def write(folder: Path, cfg, counts: dict[float, int], *, fingerprint=MARK, shards=1, **options) -> Path:
    """seconds -> how many; the folder's name is in their ids and seeds. `options` as of `example`."""
    buckets = {s: [example(cfg, s, i, name=folder.name, **options) for i in range(n)] for s, n in counts.items()}
    return records.write(folder, buckets, fingerprint, shards=shards)
