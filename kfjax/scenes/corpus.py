"""A rendered corpus on disk: memory-mapped frames and sound, one line of metadata a scene.

Layout: `corpus.json` (the arguments) and one folder `d{seconds}` per duration with `frames.npy`
(uint8 [scenes, frames, size, size, 3]), `sound.npy` (int16 [scenes, samples, 2], full scale `FULL_SCALE`) and
`scenes.jsonl`. A scene's line is written after its frames and sound: the whole lines are the scenes that are done.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from kfjax.data.recordings import FULL_SCALE
from kfjax.scenes.world.scene import Scene, make_scene
from kfjax.storage import disk

SAMPLE_RATE_HZ = 44100
_SEEDS_A_CORPUS = 1 << 32


def scene_seed(corpus_seed: int, index: int) -> int:
    """The seed of scene `index` of a corpus: corpora of different seeds share no scene."""
    return corpus_seed * _SEEDS_A_CORPUS + index


def render_corpus(
    folder: str | Path,
    count: int,
    *,
    seed: int,
    split: str,
    durations: Mapping[float, float],
    size: int = 64,
    workers: int = 1,
    make: Callable[..., Scene] = make_scene,
) -> Corpus:
    """Render `count` scenes; an interrupted run resumes. The result does not depend on the number of workers.

    Args:
      folder: where to write; made if missing.
      count: scenes in all, shared over the durations by weight.
      seed: of the whole corpus.
      split: "train" or "heldout".
      durations: seconds -> weight.
      size: edge of the square frames, pixels.
      workers: processes.
      make: (seed, duration_seconds=, split=) -> scene; of a world of one's own; with several workers, a module's.

    Raises:
      ValueError: the folder holds a corpus of other arguments.
    """
    folder = Path(folder)
    order = {
        "count": count,
        "seed": seed,
        "split": split,
        "size": size,
        "durations": {f"{seconds:g}": float(weight) for seconds, weight in durations.items()},
    }
    _agree(folder, order)
    jobs = []
    first = 0
    for seconds, scenes in shares(count, durations).items():
        bucket = folder / f"d{seconds:g}"
        _allocate(bucket, scenes, seconds, size)
        for index in range(_done(bucket / "scenes.jsonl"), scenes):
            jobs.append(_Job(str(bucket), index, scene_seed(seed, first + index), seconds, split, size, make))
        first += scenes
    progress = tqdm(total=count, initial=count - len(jobs), unit="scene", smoothing=0.02)
    with progress, _rendered(jobs, workers) as lines:
        for job, line in zip(jobs, lines, strict=True):
            with open(Path(job.bucket) / "scenes.jsonl", "a", encoding="utf-8") as log:
                log.write(line + "\n")
            progress.update()
    return Corpus(folder)


def shares(count: int, durations: Mapping[float, float]) -> dict[float, int]:
    """How many of `count` scenes each duration gets, by largest remainder."""
    total = sum(durations.values())
    if count < 1 or total <= 0 or min(durations.values()) < 0:
        raise ValueError(f"got count {count} and weights {dict(durations)}, expected a positive count and weights")
    exact = {seconds: count * weight / total for seconds, weight in durations.items()}
    whole = {seconds: int(share) for seconds, share in exact.items()}
    left = count - sum(whole.values())
    for seconds in sorted(exact, key=lambda s: whole[s] - exact[s])[:left]:
        whole[seconds] += 1
    return {seconds: number for seconds, number in whole.items() if number}


@dataclass(frozen=True)
class _Job:
    bucket: str
    index: int
    seed: int
    seconds: float
    split: str
    size: int
    make: Callable[..., Scene]


def _render(job: _Job) -> str:
    """Writes one scene's frames and sound into the bucket's arrays and returns its line of metadata."""
    cv2.setNumThreads(1)
    scene = job.make(job.seed, duration_seconds=job.seconds, split=job.split)
    bucket = Path(job.bucket)
    np.load(bucket / "frames.npy", mmap_mode="r+")[job.index] = scene.frames((job.size, job.size))
    np.load(bucket / "sound.npy", mmap_mode="r+")[job.index] = np.round(
        np.clip(scene.sound(SAMPLE_RATE_HZ), -1, 1) * FULL_SCALE
    ).astype(np.int16)
    return json.dumps(scene.to_dict(), separators=(",", ":"))


@contextmanager
def _rendered(jobs: list[_Job], workers: int) -> Iterator[Iterator[str]]:
    if workers <= 1:
        yield map(_render, jobs)
        return
    # spawned, not forked: jax has threads, which do not survive a fork
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield pool.imap(_render, jobs, chunksize=4)


def _agree(folder: Path, order: dict[str, Any]) -> None:
    path = folder / "corpus.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found != order:
            raise ValueError(f"{folder} holds a corpus made to {found}, expected {order}; choose another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, json.dumps(order), noted=False)


def _allocate(bucket: Path, scenes: int, seconds: float, size: int) -> None:
    bucket.mkdir(parents=True, exist_ok=True)
    arrays = {
        "frames": ((scenes, round(seconds * 25), size, size, 3), np.uint8),
        "sound": ((scenes, round(seconds * SAMPLE_RATE_HZ), 2), np.int16),
    }
    for name, (shape, dtype) in arrays.items():
        path = bucket / f"{name}.npy"
        if not path.exists():
            partial = bucket / f"{name}.partial"
            np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape).flush()
            os.replace(partial, path)


def _done(log: Path) -> int:
    """Complete lines of the log; an incomplete last line, left by a killed run, is cut off."""
    if not log.exists():
        return 0
    text = log.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(log, len(whole))
    return whole.count(b"\n")


@dataclass(frozen=True)
class Bucket:
    """The scenes of one duration. It may be read while it is still being rendered: `len` counts what is done now."""

    folder: Path
    seconds: float

    @cached_property
    def frames(self) -> np.ndarray:
        """uint8 [scenes, frames, size, size, 3], memory-mapped."""
        return np.load(self.folder / "frames.npy", mmap_mode="r")

    @cached_property
    def sound(self) -> np.ndarray:
        """int16 [scenes, samples, 2] at 44,100 Hz, memory-mapped; divide by `FULL_SCALE` for -1 to 1."""
        return np.load(self.folder / "sound.npy", mmap_mode="r")

    @cached_property
    def _lines(self) -> list[bytes]:
        log = self.folder / "scenes.jsonl"
        text = log.read_bytes() if log.exists() else b""
        return text[: text.rfind(b"\n") + 1].splitlines()

    def __len__(self) -> int:
        return len(self._lines)

    def scene(self, index: int) -> Scene:
        """Metadata of a scene; its frames can be drawn again at any size."""
        return Scene.from_dict(json.loads(self._lines[index]))

    def waveform(self, index: int) -> np.ndarray:
        """float32 [samples, 2] of one scene."""
        return self.sound[index].astype(np.float32) / FULL_SCALE


class Corpus:
    """Opens what `render_corpus` wrote."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not (folder / "corpus.json").exists():
            raise ValueError(f"{folder}: no corpus.json there; render one with kfjax.scenes.render_corpus")
        order = json.loads((folder / "corpus.json").read_text())
        lengths = sorted(float(seconds) for seconds in order["durations"])
        self.folder, self.order = folder, order
        #: seconds -> its scenes
        self.buckets: dict[float, Bucket] = {
            seconds: Bucket(folder / f"d{seconds:g}", seconds)
            for seconds in lengths
            if (folder / f"d{seconds:g}" / "frames.npy").exists()
        }

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self.buckets.values())
