"""Which excerpts are kept: measures against thresholds, and near duplicates against those that are kept already."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from kfjax import config
from kfjax.data.clean.measure import MEASURES, NO_NETWORKS, TEXTS, Measured, Networks
from kfjax.data.clean.measures.fingerprints import BITS

#: Fingerprints are looked up by pieces of this many hexadecimal digits: near ones share some, others hardly any.
_PIECE = 3
#: Excerpts that share one piece and are compared, at most: the latest. A million kept ones share 250 on average.
_COMPARED = 512
FINGERPRINTS = ("sound_fingerprint", "picture_fingerprint")
_PIECES = len(FINGERPRINTS) * (BITS // 4 // _PIECE)
DUPLICATE, UNUSABLE = "duplicate", "unusable"


@dataclass(frozen=True)
class Limit:
    """What a measure may be, both ends included."""

    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class CleanConfig:
    """Settings of `kfjax clean`.

    Attributes:
      seconds: length of an excerpt.
      shortest_seconds: a clip, or what is left at its end, is an excerpt too if it has that much.
      differing_share: excerpts are near duplicates where at most this share of the bits of their fingerprints differs,
        of sound and of picture; 0 finds exact ones alone.
      thresholds: measure -> its limit.
      span_cuts: let an excerpt go on over scene cuts.
      networks: measures by networks with weights; no setting of a config.
    """

    seconds: float
    shortest_seconds: float
    differing_share: float
    thresholds: Mapping[str, Limit] = field(default_factory=dict)
    span_cuts: bool = False
    networks: Networks = NO_NETWORKS


def parse(values: Mapping) -> CleanConfig:
    """The settings in a config.

    Raises:
      ValueError: an unknown or missing key, a measure that does not exist, a length out of its range.
    """
    limits = values.get("thresholds", {})
    numbers = [name for name in MEASURES if name not in TEXTS]
    if unknown := [name for name in limits if name not in numbers]:
        raise ValueError(f"thresholds: got {unknown[0]}, which is no measure; expected some of {', '.join(numbers)}")
    made = {name: config.from_dict(Limit, limit, where=f"thresholds.{name}") for name, limit in limits.items()}
    known = {key: value for key, value in values.items() if key != "thresholds"}
    if "networks" in known:
        raise ValueError("unknown key config.networks; give --weights FOLDER")
    cfg = config.from_dict(CleanConfig, known | {"thresholds": made})
    if not 0.1 <= cfg.shortest_seconds <= cfg.seconds < math.inf:
        got = f"seconds {cfg.seconds:g} and shortest_seconds {cfg.shortest_seconds:g}"
        raise ValueError(f"config: got {got}, expected 0.1 <= shortest_seconds <= seconds; correct them")
    return cfg


def judge(rows: Iterable[Measured], cfg: CleanConfig) -> Iterator[dict[str, str]]:
    """For each row, in order, why it is refused: measure (or `DUPLICATE` or `UNUSABLE`) -> the reason; empty if kept.

    What was not measured refuses nothing. Of near duplicates the first that is otherwise kept is kept.
    """
    seen = Seen(cfg.differing_share)
    for row in rows:
        found = {UNUSABLE: row.problem} if row.problem else _beyond(row, cfg.thresholds)
        if not found and seen.has_or_adds(row):
            found = {DUPLICATE: "near duplicate of an excerpt above"}
        yield found


def _beyond(row: Measured, thresholds: Mapping[str, Limit]) -> dict[str, str]:
    found = {}
    for name, limit in thresholds.items():
        value = row.measures.get(name)
        if not isinstance(value, int | float):
            continue
        if value < limit.least:
            found[name] = f"{name} {value:g} < {limit.least:g}"
        elif value > limit.most:
            found[name] = f"{name} {value:g} > {limit.most:g}"
    return found


class Seen:
    """Fingerprints of the excerpts that are kept. Near are those whose sound is, and whose picture if they have one.

    One without a fingerprint of its sound (silence, less than 1.1 s) is near none. Each that is kept takes 0.25 KB.
    """

    def __init__(self, most: float):
        self.most = most
        self._count = 0
        self._marks = np.zeros((1024, len(FINGERPRINTS), BITS // 64), np.uint64)
        self._there = np.zeros((1024, len(FINGERPRINTS)), bool)
        #: Of every value of every piece the latest that has it; and of each that is kept, by piece, the one before it.
        self._latest = np.full((_PIECES, 16**_PIECE), -1, np.int32)
        self._before = np.empty((1024, _PIECES), np.int32)

    def has_or_adds(self, row: Measured) -> bool:
        """Whether one that is near is there; if not, this is added."""
        texts = [str(row.measures.get(name) or "") for name in FINGERPRINTS]
        if not texts[0]:  # pictures alone are near from one excerpt of a still scene to the next
            return False
        there = np.array([bool(text) for text in texts])
        texts = [text or "0" * (BITS // 4) for text in texts]
        marks = np.array([np.frombuffer(bytes.fromhex(text), np.uint64) for text in texts])
        starts = range(0, BITS // 4 - _PIECE + 1, _PIECE)
        values = np.array([int(text[start : start + _PIECE], 16) for text in texts for start in starts])
        pieces = np.flatnonzero(np.repeat(there, len(starts)))
        if self._near(marks, there, self._sharing(pieces, values[pieces])):
            return True
        self._add(marks, there, pieces, values[pieces])
        return False

    def _sharing(self, pieces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Those that share one of the pieces."""
        found, latest = [], self._latest[pieces, values]
        for _ in range(_COMPARED):
            pieces, latest = pieces[latest >= 0], latest[latest >= 0]
            if not len(latest):
                break
            found.append(latest)
            latest = self._before[latest, pieces]
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int32)

    def _near(self, marks: np.ndarray, there: np.ndarray, others: np.ndarray) -> bool:
        others = others[(self._there[others] == there).all(1)]
        differing = np.bitwise_count(self._marks[others] ^ marks).sum(2, dtype=int) / BITS
        return bool((differing <= self.most).all(1).any())

    def _add(self, marks: np.ndarray, there: np.ndarray, pieces: np.ndarray, values: np.ndarray) -> None:
        if self._count == len(self._marks):
            held = (self._marks, self._there, self._before)
            self._marks, self._there, self._before = (np.concatenate([x, np.zeros_like(x)]) for x in held)
        self._marks[self._count], self._there[self._count] = marks, there
        self._before[self._count, pieces] = self._latest[pieces, values]
        self._latest[pieces, values] = self._count
        self._count += 1
