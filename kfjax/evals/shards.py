"""Figures of a benchmark's clips, in shards: several processes share them, and an evaluation that was killed goes on.

    work = Shards(folder, examples, groups, weights, pairs, made)
    for k in range(number, len(work.clips), processes):
        work.measure(k)
    if not work.missing():
        work.joined().scores()

A shard is a run of `CLIPS` clips, however many processes there are: the networks see the same batches, so that the
figures of all shards are those of one process, to the last bit. A shard's file appears when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kfjax import media
from kfjax.data import remote
from kfjax.evals import measures
from kfjax.evals.benchmarks import BenchmarkExample, FileExample
from kfjax.evals.measures import NETWORKS, OWN, Figures, Observed, Pair, Score
from kfjax.evals.networks import loading
from kfjax.evals.networks.base import Unavailable
from kfjax.storage import cache as buckets
from kfjax.storage import disk

#: Of one shard: a multiple of the batches in which scenes are generated and networks listen.
CLIPS = 64
_ABOUT = "about"  # the entry of a file that is no column


@dataclass
class ClipFigures:
    """Figures of some clips.

    Attributes:
      names: of the clips measured, in the benchmark's order.
      unreadable: clips that could not be made or read, "NAME: reason".
      groups: of measures, those that were measured.
      networks: group -> the name of its network.
      unavailable: group -> why it was not measured.
      rows: group -> its columns; their first axis counts `names`. A group without a clip has none.
    """

    names: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    networks: dict[str, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Observed] = field(default_factory=dict)

    def figures(self) -> dict[str, Figures]:
        """Clip -> figures of the groups that need no network."""
        columns = {name: column for group in OWN for name, column in self.rows.get(group, {}).items()}
        return {clip: {name: float(column[i]) for name, column in columns.items()} for i, clip in enumerate(self.names)}

    def scores(self) -> dict[str, Score]:
        """Figure -> score, over all clips."""
        scores = {}
        for group, rows in self.rows.items():
            scores |= NETWORKS[group].scores(rows) if group in NETWORKS else measures.means(rows)
        return scores


def cut(examples: Sequence[BenchmarkExample]) -> list[Sequence[BenchmarkExample]]:
    """The clips of each shard."""
    return [examples[first : first + CLIPS] for first in range(0, len(examples), CLIPS)]


class Shards:
    """The shards of one evaluation.

    Args:
      folder: where their files are.
      examples: all clips, in the benchmark's order.
      groups: of measures, in the order of the report.
      weights: folder of the measuring networks' weights.
      pairs: the clips that have a generated sound.
      made: settings of sounds that a model generated; None: the sounds were given, and their files count.
    """

    def __init__(
        self,
        folder: Path,
        examples: Sequence[BenchmarkExample],
        groups: Sequence[str],
        weights: Path,
        pairs: Sequence[Pair],
        made: Mapping[str, Any] | None,
    ):
        self.folder, self.groups = folder, list(groups)
        self.clips = cut(examples)
        self._sounds, self._made, self._weights = {clip.name: path for clip, path in pairs}, made, str(weights)
        self._network = cache(lambda group: _load(group, weights))

    def measure(self, k: int, failed: Sequence[str] = ()) -> None:
        """Measure what shard k lacks, and write its file; what was not available before is tried again.

        Args:
          failed: clips for which no sound could be generated, "NAME: reason"; those of other shards too.
        """
        pairs = [(example, self._sounds[example.name]) for example in self.clips[k] if example.name in self._sounds]
        missing = measures.check_packages(self.groups)
        own = [group for group in self.groups if group in OWN and group not in missing]
        known = self.read(k)
        if known is None or not set(own) <= set(known.groups):
            ours = {example.name for example in self.clips[k]}
            known = _heard(pairs, own, [line for line in failed if line.partition(":")[0] in ours])
            known.unavailable |= missing
        elif set(self.groups) <= {*known.groups, *missing}:
            return
        kept = set(known.names)
        pairs = [pair for pair in pairs if pair[0].name in kept]
        for group in (group for group in self.groups if group in NETWORKS and group not in known.groups):
            self._ask(known, group, pairs)
        self._write(k, known)

    def missing(self) -> int:
        """How many shards are still to be measured; groups that were not available are not waited for."""
        found = (self.read(k) for k in range(len(self.clips)))
        return sum(one is None or not set(self.groups) <= {*one.groups, *one.unavailable} for one in found)

    def joined(self) -> ClipFigures:
        """All shards, which have to be there; a group that was not available for one of them is left out."""
        parts = [part for k in range(len(self.clips)) if (part := self.read(k))]
        whole = ClipFigures()
        for part in parts:
            whole.names += part.names
            whole.unreadable += part.unreadable
            whole.networks |= part.networks
            whole.unavailable |= {group: part.unavailable[group] for group in self.groups if group in part.unavailable}
        whole.groups = [group for group in self.groups if group not in whole.unavailable]
        whole.networks = {group: whole.networks[group] for group in whole.groups if group in whole.networks}
        whole.unavailable = {group: whole.unavailable[group] for group in self.groups if group in whole.unavailable}
        heard = [part for part in parts if part.names]
        for group in whole.groups if heard else ():
            columns = heard[0].rows.get(group, {})
            whole.rows[group] = {name: np.concatenate([part.rows[group][name] for part in heard]) for name in columns}
        return whole

    def read(self, k: int) -> ClipFigures | None:
        """What shard k's file holds; None where there is none, where it is damaged or of other sounds or settings."""
        try:
            with self._path(k).open("rb") as opened, np.load(opened) as file:
                about = json.loads(str(file[_ABOUT]))
                if about.pop("stamp") != self._stamp(k):
                    return None
                found = ClipFigures(**about)
                for key in (key for key in file.files if key != _ABOUT):
                    group, _, name = key.partition("/")
                    found.rows.setdefault(group, {})[name] = file[key]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None
        return found

    def _write(self, k: int, measured: ClipFigures) -> None:
        path = self._path(k)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, about = measured.rows, asdict(measured) | {"stamp": self._stamp(k)}
        del about["rows"]
        columns = {f"{group}/{name}": column for group in rows for name, column in rows[group].items()}
        with disk.writing(path, noted=False) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_ABOUT: np.array(json.dumps(about))}, **columns)

    def _path(self, k: int) -> Path:
        return self.folder / f"{k:04d}-of-{len(self.clips):04d}.npz"

    def _stamp(self, k: int) -> str:
        """Short hash of what the shard's figures are of: clips, files that were given, settings."""
        given = self._sounds if self._made is None else {}
        sound = lambda name: _version(given[name]) if name in given else None
        clips = [(one.name, one.caption, one.seconds, _sizes(one), sound(one.name)) for one in self.clips[k]]
        return hashlib.sha256(json.dumps([self._made, self._weights, clips]).encode()).hexdigest()[:16]

    def _ask(self, known: ClipFigures, group: str, pairs: Sequence[Pair]) -> None:
        """The rows of a network, or the reason why there are none."""
        network = self._network(group)
        try:
            if isinstance(network, str):
                raise Unavailable(network)
            known.rows |= {group: NETWORKS[group].observe(network, pairs)} if pairs else {}
            known.groups.append(group)
            known.networks[group] = network.name
            known.unavailable.pop(group, None)
        except (Unavailable, media.MediaError) as problem:  # one damaged video must not discard hours of work
            known.unavailable[group] = str(problem)


def _load(group: str, weights: Path) -> Any:
    """A network, or the reason why there is none, which names a folder in a bucket and not its copy."""
    here = buckets.local(weights)
    try:
        return loading.load_network(group, here)
    except Unavailable as problem:
        return str(problem).replace(str(here), str(weights))


def _heard(pairs: Sequence[Pair], groups: Sequence[str], failed: Sequence[str]) -> ClipFigures:
    """Figures without a network, of the clips that can be read."""
    measured = ClipFigures(unreadable=list(failed), groups=list(groups))
    kept = {}
    for name, figures in measures.clip_figures(pairs, groups):
        if isinstance(figures, str):
            measured.unreadable.append(f"{name}: {figures}")
        else:
            kept[name] = figures
    measured.names = list(kept)
    for group in groups if kept else ():
        rows = [figures[group] for figures in kept.values()]
        measured.rows[group] = {name: np.array([row[name] for row in rows], np.float64) for name in rows[0]}
    return measured


def _sizes(example: BenchmarkExample) -> list[int]:
    """Of a clip's own files, bytes; -1: it is gone. Copies on other hosts have the same."""
    files = [example.row.video, example.row.audio] if isinstance(example, FileExample) else []
    return [_size(path) for path in files if path is not None]


def _size(path: Path) -> int:
    try:
        return (_stamp_there if isinstance(path, remote.Address) else _stamp)(path)[0]
    except FileNotFoundError:
        return -1


def _stamp(path: Path) -> list:
    if (found := remote.stamp(path)) is None:
        raise FileNotFoundError(path)
    return found


#: Of what is there, asked for once: a benchmark has thousands of clips.
_stamp_there = cache(_stamp)


def _version(sound: Path) -> tuple[int, int]:
    """Bytes and time of a sound that was given; one made again in its place may be of the same length."""
    return sound.stat().st_size, sound.stat().st_mtime_ns
