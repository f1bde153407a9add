"""Random crops of a folder of recordings, decoded once.

Cache: `recordings_{rate}.pcm` (int16, one file after the other, mono) and `recordings_{rate}.jsonl`, a line of name and
samples for each complete file: an interrupted decoding resumes after the last complete line. Of several processes one
decodes, and the others wait for it.
"""

from __future__ import annotations

import json
import os
import sys
from operator import itemgetter
from pathlib import Path

import numpy as np

from kfjax import media
from kfjax.data.sources import SOUND_SUFFIXES
from kfjax.storage import disk

SUFFIXES = (*SOUND_SUFFIXES, *media.FILM_SUFFIXES)
#: What ±1 is in 16-bit sound.
FULL_SCALE = 32767.0


class Recordings:
    """step -> {"wave": f32 [b, samples]}: random mono crops at random levels down to -`gain_db`.

    Every possible crop is equally likely. A file that does not decode is named and left out; it and new files in the
    folder are decoded when it is opened again.

    Args:
      folder: of sounds and films, in folders below it too.
      cache: where they are kept decoded.

    Raises:
      ValueError: nothing there is as long as a crop.
    """

    def __init__(
        self,
        folder: str | Path,
        cache: str | Path,
        sample_rate_hz: int,
        *,
        batch: int,
        samples: int,
        gain_db: float,
        seed: int,
    ):
        stem, paths = Path(cache) / f"recordings_{sample_rate_hz}", _sounds(Path(folder))
        names, lengths = _decode_all(paths, stem, sample_rate_hz)
        wanted = np.isin(names, [str(path) for path in paths])  # the cache may have files of other folders too
        self._crops = np.where(wanted, np.maximum(0, np.array(lengths) - samples + 1), 0)
        if not self._crops.sum():
            raise ValueError(
                f"{folder}: got {len(paths)} sounds, none as long as {samples} samples at "
                f"{sample_rate_hz} Hz; give longer ones"
            )
        self._starts = np.cumsum([0, *lengths[:-1]])
        self._pcm = np.memmap(stem.with_suffix(".pcm"), np.int16, "r")
        self._batch, self._samples, self._gain_db, self._seed = batch, samples, gain_db, seed

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self._seed, step))
        ends = np.cumsum(self._crops)
        drawn = rng.integers(0, ends[-1], self._batch)
        files = np.searchsorted(ends, drawn, side="right")
        first = self._starts[files] + drawn - (ends[files] - self._crops[files])
        waves = np.stack([self._pcm[start : start + self._samples] for start in first])
        gains = 10 ** (-rng.uniform(0, self._gain_db, (self._batch, 1)) / 20) / FULL_SCALE
        return {"wave": (waves * gains).astype(np.float32)}


def _sounds(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.rglob("*") if media.is_clip(p, SUFFIXES)) if folder.is_dir() else []
    if not paths:
        raise ValueError(f"{folder}: got no recordings, expected a folder with files in {' '.join(SUFFIXES)}")
    return paths


def _decode_all(paths: list[Path], stem: Path, sample_rate_hz: int) -> tuple[list[str], list[int]]:
    """Names and samples of the files in the cache, in its order, after those that were missing have been added."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    log, pcm = stem.with_suffix(".jsonl"), stem.with_suffix(".pcm")
    with disk.alone(pcm), pcm.open("ab") as sound, log.open("a", encoding="utf-8") as lines:
        done = _read(log, pcm.stat().st_size // 2)
        os.truncate(pcm, 2 * sum(done.values()))
        for name in [str(path) for path in paths if str(path) not in done]:
            if not len(wave := _mono(name, sample_rate_hz)):
                continue
            sound.write(wave.tobytes())
            sound.flush()
            done[name] = len(wave)
            lines.write(json.dumps({"name": name, "samples": len(wave)}) + "\n")
            lines.flush()
    return list(done), list(done.values())


def _mono(path: str, sample_rate_hz: int) -> np.ndarray:
    """int16 [t]; nothing of a file without readable sound, which is said."""
    try:
        wave = media.read_audio(path, sample_rate_hz, 1)[:, 0]
    except media.MediaError as error:
        print(f"left out: {error}", file=sys.stderr)
        return np.zeros(0, np.int16)
    return np.round(np.clip(wave, -1, 1) * FULL_SCALE).astype(np.int16)


def _read(log: Path, samples: int) -> dict[str, int]:
    """Name -> samples of the complete lines of the log, as far as there are so many samples; the rest is cut off.

    A killed run leaves an incomplete last line, a machine that lost its power perhaps none that can be read. Earlier
    versions noted files without sound, too.
    """
    done: dict[str, int] = {}
    whole = 0
    for line in log.read_bytes().splitlines(keepends=True):
        try:
            name, size = itemgetter("name", "samples")(json.loads(line))
        except (ValueError, KeyError, TypeError):
            break
        samples -= size
        if samples < 0 or not line.endswith(b"\n"):
            break
        whole += len(line)
        if size:
            done[name] = size
    os.truncate(log, whole)
    return done
