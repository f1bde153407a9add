"""Changed copies of excerpts, extracted beside them: which there are, and how one is made of files.

    plan = Variants(AugmentConfig(during=0.2, mirrored=0.5), rows)
    copies = [item for item in plan.of(cuts) if isinstance(item, Variant)]
    loaded = load(encoder, copies[0])

Everything follows from the seed and the excerpt's id: the same however the extraction was split or interrupted.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kfjax import config
from kfjax.data import augment, sources
from kfjax.data.augment import Clip
from kfjax.data.captions import phrases
from kfjax.data.captions.keywords import is_countable, is_single, names_side, tidy
from kfjax.data.sources import Cut, Row

if TYPE_CHECKING:
    from kfjax.data.encode import FeatureEncoder, Loaded

#: Of how many other clips the first that can be read is taken.
_PARTNERS = 4
#: A clip must be so much longer than an excerpt for a crop out of its middle.
_LONGER_SECONDS = 1.0


@dataclass(frozen=True)
class AugmentConfig:
    """For how many of the excerpts, as a share from 0 to 1, a changed copy is extracted too.

    Attributes:
      seed: of all that is left to chance.
      crops: an excerpt of the same length that begins anywhere in its clip.
      mirrored: picture, channels and the words left and right; another level and polarity.
      before, after, during: composed with another clip; both captions must name one event, those of `during` no side.
      repeated: an event that lasts less than half of the excerpt, twice to four times.
      twins: two copies, one degraded and tagged "low quality", one tagged "high quality".
    """

    seed: int = 0
    crops: float = 0.0
    mirrored: float = 0.0
    before: float = 0.0
    after: float = 0.0
    during: float = 0.0
    repeated: float = 0.0
    twins: float = 0.0

    def __post_init__(self):
        for name in self.kinds():
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name}: got {getattr(self, name):g}, expected a share from 0 to 1")

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls) if field.name != "seed")

    @property
    def shares(self) -> dict[str, float]:
        """Those that are not 0, by kind."""
        return {name: getattr(self, name) for name in self.kinds() if getattr(self, name)}

    @property
    def chosen(self) -> dict[str, float]:
        """`shares`, with the seed; empty for none."""
        return {"seed": self.seed, **self.shares} if self.shares else {}


def parse(values: Mapping[str, Any] | Iterable[str]) -> AugmentConfig:
    """Shares by name, or texts KIND=SHARE as a command has them.

    Raises:
      ValueError: an unknown kind, a share that is no number from 0 to 1.
    """
    if not isinstance(values, Mapping):
        pairs = [text.partition("=") for text in values]
        values = {name: _number(name, text) for name, _, text in pairs}
    return config.from_dict(AugmentConfig, values, where="augment")


def _number(name: str, text: str) -> float | int:
    try:
        return int(text) if name == "seed" else float(text)
    except ValueError:
        raise ValueError(f"--augment: got {name}={text}, expected KIND=SHARE such as during=0.2; correct it") from None


class Variant(NamedTuple):
    """A changed copy of an excerpt that is still to be made: everything that decides it."""

    row: Row
    start_seconds: float
    seconds: float
    kind: str
    seed: int
    partners: tuple[Row, ...] = ()  # one of which it is composed with

    @property
    def id(self) -> str:
        return self.cut.id

    @property
    def cut(self) -> Cut:
        """Where it is kept: under an id of its own."""
        return Cut(self.row._replace(id=f"{self.row.id}~{self.kind}"), self.start_seconds, self.seconds)


class Variants:
    """Which changed copies there are of the excerpts of a source's rows."""

    def __init__(self, cfg: AugmentConfig = AugmentConfig(), rows: Sequence[Row] = ()):  # immutable
        self.cfg, self._rows = cfg, rows

    def of(self, cuts: Sequence[Cut]) -> Iterator[Cut | Variant]:
        """The excerpts of a row, then their changed copies."""
        yield from cuts
        for kind, share in self.cfg.shares.items():
            made: set[str] = set()
            for cut in cuts:
                seed = _seed(self.cfg.seed, cut.id, kind)
                if np.random.default_rng((seed, 0)).random() < share:
                    new = [copy for copy in self._of(cut, kind, seed) if copy.id not in made]  # the same crop twice
                    made.update(copy.id for copy in new)
                    yield from new

    def _of(self, cut: Cut, kind: str, seed: int) -> Iterator[Variant]:
        make = lambda kind, *partners: Variant(cut.row, cut.start_seconds, cut.seconds, kind, seed, *partners)
        rng = np.random.default_rng((seed, 1))
        if kind == "twins":
            yield from (make("low"), make("high"))
        elif kind == "crops":
            if (start := _crop(cut, rng)) is not None:
                yield make("crop")._replace(start_seconds=start)
        elif kind == "mirrored" or (
            kind == "repeated" and is_single(cut.row.caption) and is_countable(cut.row.caption)
        ):
            yield make(kind)
        elif kind in _COMPOSED and _composes(cut.row, kind):
            others = self._single[cut.row.video is None]
            drawn = [others[int(k)] for k in rng.integers(len(others), size=4 * _PARTNERS)]
            fitting = (row for row in drawn if row.caption != cut.row.caption and _composes(row, kind))
            if partners := tuple(itertools.islice(fitting, _PARTNERS)):
                yield make(kind, partners)

    @cached_property
    def _single(self) -> dict[bool, list[Row]]:
        """Rows that name one event: with a picture (False) and without (True)."""
        single = [row for row in self._rows if not row.problem and is_single(row.caption)]
        return {alone: [row for row in single if (row.video is None) == alone] for alone in (False, True)}


def _composes(row: Row, kind: str) -> bool:
    """Whether what its caption says stays true of a part: side by side, left and right are elsewhere."""
    return is_single(row.caption) and not (kind == "during" and names_side(row.caption))


def load(encoder: FeatureEncoder, item: Variant) -> Loaded:
    """As `FeatureEncoder.load` of an excerpt.

    Raises:
      ValueError: as there; nothing there that the copy could be made of.
    """
    rng = np.random.default_rng((item.seed, 2))
    own = _clip(encoder, Cut(item.row, item.start_seconds, item.seconds))
    if item.kind in _COMPOSED:
        made = _COMPOSED[item.kind](own, _partner(encoder, item, rng), rng)
    else:
        made = _CHANGED[item.kind](own, rng)
    if made is None:
        raise ValueError(f"{item.id}: got one long sound, expected a short event; it is not repeated")
    return _prepared(encoder, item.cut, made)


def low(clip: Clip, rng: np.random.Generator) -> Clip:
    """The degraded twin."""
    wave, _ = augment.degraded(clip.wave, clip.wave_hz, rng)
    return clip._replace(wave=wave, caption=phrases.tagged(clip.caption, "low quality", rng))


def high(clip: Clip, rng: np.random.Generator) -> Clip:
    """The twin that stays as it is."""
    return clip._replace(caption=phrases.tagged(clip.caption, "high quality", rng))


_COMPOSED: dict[str, Callable[[Clip, Clip, np.random.Generator], Clip]] = {
    "before": augment.before, "after": augment.after, "during": augment.during,
}  # fmt: skip
_CHANGED: dict[str, Callable[[Clip, np.random.Generator], Clip | None]] = {
    "crop": lambda clip, rng: clip, "mirrored": augment.mirrored, "repeated": augment.repeated,
    "low": low, "high": high,
}  # fmt: skip


def _seed(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def _crop(cut: Cut, rng: np.random.Generator) -> float | None:
    """Where else in its clip an excerpt may begin, to 10 ms; None where the clip is hardly longer."""
    row = cut.row
    room = sources.available_seconds(row) - cut.seconds
    if room < _LONGER_SECONDS:
        return None
    return row.start_seconds + math.floor(100 * rng.uniform(0, room)) / 100


def _partner(encoder: FeatureEncoder, item: Variant, rng: np.random.Generator) -> Clip:
    """An excerpt as long of the first of the partners that has one."""
    problem = ValueError(f"{item.id}: got no other clip to compose it with, expected one as long with one event")
    for row in item.partners:
        try:
            cuts, _ = sources.cuts(row, (item.seconds,))
            return _clip(encoder, cuts[int(rng.integers(len(cuts)))])
        except (ValueError, OSError) as error:
            problem = error
    raise problem


def _clip(encoder: FeatureEncoder, cut: Cut) -> Clip:
    loaded, rates = encoder.load(cut), encoder.cfg.rates
    frames, frames_hz = (), ()
    if cut.row.video is not None:
        frames = np.asarray(loaded.excerpt.clip_frames[0]), np.asarray(loaded.excerpt.sync_frames[0])
        frames_hz = rates.clip_hz, rates.sync_hz
    wave = loaded.wave
    if encoder.stereo:  # its channels; of a mono recording twice the same
        side = 0 * wave if loaded.side is None else loaded.side
        wave = np.stack([wave + side, wave - side], 1)
    return Clip(wave, rates.sample_rate_hz, frames, frames_hz, tidy(cut.row.caption), cut.seconds)


def _prepared(encoder: FeatureEncoder, cut: Cut, clip: Clip) -> Loaded:
    """As `FeatureEncoder.load` hands over what it has read."""
    from kfjax import features, rates
    from kfjax.data.clean.measures.sound import side_db
    from kfjax.data.encode import COPIED_DB, Loaded
    from kfjax.structs import Video

    video = Video(*clip.frames, seconds=cut.seconds) if clip.frames else None
    row = cut.row._replace(caption=clip.caption)
    if video is None:
        row = row._replace(video=None, audio=row.sound)
    size = rates.lengths(cut.seconds if clip.frames else rates.MIN_SECONDS, encoder.cfg.rates)
    excerpt = features.make_excerpt(encoder.cfg, encoder.tokenizer, size, cut.seconds, video, [clip.caption])
    wave, side = clip.wave, None
    if encoder.stereo:
        wave, side = clip.wave.mean(1), (clip.wave[:, 0] - clip.wave[:, 1]) / 2
        side = None if side_db(clip.wave) < COPIED_DB else side
    return Loaded(cut._replace(row=row), excerpt, wave, side, encoder.tokenizer.unread(clip.caption))
