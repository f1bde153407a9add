"""The excerpts of films, each film decoded once: threads run ahead of the encoders, a few excerpts of each film.

A pass reads excerpts that follow each other on the encoders' grid of frames, `PASS_SECONDS` at most; what it gives is
what reading each excerpt by itself gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from queue import Empty, Full, Queue
from threading import Event
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from kfjax import command, media
from kfjax.data import sources
from kfjax.data.sources import Cut, Row
from kfjax.media import FrameSpec

#: The longest pass over a film, which holds its sound: 5 minutes of stereo at 44.1 kHz are 106 MB.
PASS_SECONDS = 300.0
#: The longest piece between two excerpts that is decoded for nothing, instead of seeking beyond it.
GAP_SECONDS = 10.0
#: Codecs read a little beyond an excerpt, up to a whole number of latents.
BEYOND_SECONDS = 0.1

T = TypeVar("T")
Read = TypeVar("Read")


class Source(Protocol):
    """Reads files as `kfjax.media` does."""

    def read_frames(
        self, path: Any, specs: Sequence[FrameSpec], *, start_seconds: float = ..., counts: Sequence[int] | None = ...
    ) -> tuple[list[np.ndarray], float]: ...

    def read_audio(
        self, path: Any, sample_rate_hz: int, channels: Literal[1, 2] = ..., duration_seconds: float | None = ...,
        start_seconds: float = ...,
    ) -> np.ndarray: ...  # fmt: skip


class Outcome(NamedTuple):
    """What came of a clip or an excerpt: `value`, or why there is none."""

    item: Any  # a row, an excerpt, or a changed copy of one
    value: Any = None
    reason: str = ""
    tail_seconds: float = 0.0  # at the end of a clip


def film_of(row: Row) -> object:
    """What the rows of one film have in common."""
    return (row.video, row.audio) if row.video or row.audio else row.id


def deal(rows: Sequence[Row], of: int) -> list[list[Row]]:
    """The rows of each of `of` shards: films one after the other, each film whole."""
    films: dict[object, list[Row]] = {}
    for row in rows:
        films.setdefault(film_of(row), []).append(row)
    return [[row for film in [*films.values()][k::of] for row in film] for k in range(of)]


def excerpts(
    rows: Iterable[Row],
    buckets: Sequence[float],
    load: Callable[[Any, Source], Read],
    windows: Windows,
    copies: Callable[[Sequence[Cut]], Iterable[Any]] = lambda cuts: cuts,
) -> Iterator[Outcome]:
    """All excerpts of one film's rows, as `load` makes them, and what can't be used.

    Args:
      windows: how an excerpt's frames are wanted.
      copies: the excerpts of a row -> these, and changed copies of them, which are read by themselves.
    """
    cuts: list[Cut] = []
    others: list[Any] = []
    for row in rows:
        try:
            made, tail_seconds = sources.cuts(row, buckets)
            items = [*copies(made)]
        except (ValueError, OSError) as error:
            yield Outcome(row, reason=command.reason(error))
        else:
            cuts += [item for item in items if isinstance(item, Cut)]
            others += [item for item in items if not isinstance(item, Cut)]
            yield Outcome(row, tail_seconds=tail_seconds)
    for group in (*passes(cuts, [spec.rate_hz for spec in windows.specs]), *([other] for other in others)):
        source = Pass(group, windows) if len(group) > 1 else media
        for item in group:
            try:
                yield Outcome(item, load(item, source))
            except (ValueError, OSError) as error:
                yield Outcome(item, reason=command.reason(error))


def passes(cuts: Iterable[Cut], rates_hz: Sequence[float]) -> Iterator[list[Cut]]:
    """The excerpts of a film that are read together, in the order of their starts."""
    group: list[Cut] = []
    for cut in sorted(cuts, key=lambda cut: cut.start_seconds):
        if group and not _follows(cut, group[0], group[-1], rates_hz):
            yield group
            group = []
        group.append(cut)
    if group:
        yield group


def _follows(cut: Cut, first: Cut, last: Cut, rates_hz: Sequence[float]) -> bool:
    offset, gap = cut.start_seconds - first.start_seconds, cut.start_seconds - last.start_seconds - last.seconds
    frames = [offset * rate for rate in rates_hz if cut.row.video is not None]
    on_grid = all(abs(round(count) - count) < 1e-6 * max(1, count) for count in frames)
    return on_grid and gap <= GAP_SECONDS and offset + cut.seconds <= PASS_SECONDS


class Windows(NamedTuple):
    """How the frames of an excerpt are wanted: `counts` of each of `specs`."""

    specs: tuple[FrameSpec, ...]
    counts: Callable[[Cut], tuple[int, ...]]


class Pass:
    """One pass over the pictures of several excerpts and one over their sound, in the order of their starts.

    Where it meets damage, the excerpts from there on are read one by one.
    """

    def __init__(self, cuts: Sequence[Cut], windows: Windows):
        self._first = cuts[0].start_seconds
        self._seconds = max(cut.start_seconds + cut.seconds for cut in cuts) - self._first + BEYOND_SECONDS
        self._windows = [(cut.start_seconds, windows.counts(cut)) for cut in cuts]
        self._frames: Iterator[tuple[Any, list[np.ndarray]]] | None = None
        self._waves: dict[tuple[int, int], np.ndarray | None] = {}  # (rate, channels) -> the pass's; None: damaged
        self._alone = False

    def read_frames(
        self, path: Any, specs: Sequence[FrameSpec], *, start_seconds: float = 0.0, counts: Sequence[int] | None = None
    ) -> tuple[list[np.ndarray], float]:
        """As `media.read_frames`, of the next excerpt that starts there."""
        with suppress(media.MediaError):
            if not self._alone:
                self._frames = self._frames or self._decoded(path, specs)
                for window, frames in self._frames:
                    if window == (start_seconds, counts):
                        return frames, 0.0
        self._alone = True
        return media.read_frames(path, specs, start_seconds=start_seconds, counts=counts)

    def _decoded(self, path: Any, specs: Sequence[FrameSpec]) -> Iterator[tuple[Any, list[np.ndarray]]]:
        relative = [(start - self._first, counts) for start, counts in self._windows]
        decoded = media.frames_in_windows(path, specs, relative, start_seconds=self._first)
        return zip(self._windows, decoded, strict=True)

    def read_audio(
        self, path: Any, sample_rate_hz: int, channels: Literal[1, 2] = 2, duration_seconds: float | None = None,
        start_seconds: float = 0.0,
    ) -> np.ndarray:  # fmt: skip
        """As `media.read_audio`, of an excerpt of the pass."""
        key = sample_rate_hz, channels
        if key not in self._waves:
            self._waves[key] = None
            with suppress(media.MediaError):
                self._waves[key] = media.read_audio(path, sample_rate_hz, channels, self._seconds, self._first)
        if (wave := self._waves[key]) is None:
            return media.read_audio(path, sample_rate_hz, channels, duration_seconds, start_seconds)
        at = round(start_seconds * sample_rate_hz) - round(self._first * sample_rate_hz)
        stop = None if duration_seconds is None else at + round(duration_seconds * sample_rate_hz)
        return wave[at:stop]


class ReadAhead:
    """Iterators that threads run ahead of whoever takes their values, each by at most `room` values.

    The threads end with the block.
    """

    def __init__(self, workers: int, room: int = 2):
        self._pool, self._workers, self._room, self._ended = ThreadPoolExecutor(workers), workers, room, Event()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, function: Callable[[T], Iterable[Read]], items: Iterable[T]) -> Iterator[Read]:
        """The values of `function(item)`, one item after the other."""
        running: deque[Queue] = deque()
        for item in items:
            values: Queue = Queue(self._room)
            self._pool.submit(self._run, function, item, values)
            running.append(values)
            if len(running) > self._workers:
                yield from self._taken(running.popleft())
        while running:
            yield from self._taken(running.popleft())

    def _run(self, function: Callable[[T], Iterable[Read]], item: T, values: Queue) -> None:
        try:
            for value in function(item):
                self._put(values, (value, None))
                if self._ended.is_set():
                    return
            self._put(values, None)
        except BaseException as error:
            self._put(values, (None, error))

    def _put(self, values: Queue, value: object) -> None:
        while not self._ended.is_set():
            with suppress(Full):
                values.put(value, timeout=0.1)
                return

    def _taken(self, values: Queue) -> Iterator[Any]:
        while not self._ended.is_set():
            with suppress(Empty):
                if (found := values.get(timeout=0.1)) is None:
                    return
                value, error = found
                if error is not None:
                    raise error
                yield value


def films(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Neighbouring rows of one film together."""
    for _, group in groupby(rows, film_of):
        yield [*group]
