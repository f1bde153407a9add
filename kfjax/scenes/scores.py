"""Scores of sounds against the scenes they were made for: in time, in meaning, in space. Pure functions.

`listen` analyses every sound once; the scores compare its result with the ground truth.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from kfjax.metrics.levels import level_difference_db
from kfjax.metrics.onsets import detect_onsets, merge_close, onset_f1
from kfjax.scenes import Event, Scene
from kfjax.scenes.source_classifier import SourceClassifier

T = TypeVar("T")

#: Threshold of the classifier's probability from which a source counts as present.
PRESENT = 0.5


class Heard(NamedTuple):
    """Analysis of one sound for each of many scenes.

    Attributes:
      onsets: seconds.
      chances: probability of each source; empty without a classifier.
      correlation: of level difference and position over all isolated impacts; NaN for mono.
      shuffled: the same, each sound taken for that of the scene before.
    """

    onsets: list[np.ndarray]
    chances: list[dict[str, float]]
    correlation: float
    shuffled: float


class Synchrony(NamedTuple):
    """Detected onsets against true ones, ±50 ms, over the scenes with impacts.

    Attributes:
      f1, error: mean over scenes and its standard error.
      pooled, precision, recall: over all onsets together.
      recipes: recipe -> (mean F1, scenes).
    """

    f1: float
    error: float
    pooled: float
    precision: float
    recall: float
    scenes: int
    recipes: dict[str, tuple[float, int]]


class Meaning(NamedTuple):
    """The most probable source against the only true one.

    Attributes:
      accuracy: share of right answers.
      sources: source -> share of right answers.
      confusions: "true > predicted" -> count; wrong answers only.
    """

    accuracy: float
    sounds: int
    sources: dict[str, float]
    confusions: dict[str, int]


class Presence(NamedTuple):
    """Presence of some sources: mean probability, and the share of sounds in which they count as present."""

    probability: float
    rate: float
    sounds: int


def listen(
    waves: Iterable[np.ndarray],
    scenes: Sequence[Scene],
    sample_rate_hz: int,
    classifier: SourceClassifier | None = None,
) -> Heard:
    """Analyse one sound [t] or [t, 2] a scene. Sounds may come from a generator: they are kept in half precision."""
    kept, onsets, chances = [], [], []
    for wave in waves:
        onsets.append(detect_onsets(wave, sample_rate_hz))
        chances.append(classifier.probabilities(wave, sample_rate_hz) if classifier else {})
        kept.append(wave.astype(np.float16))
    if any(wave.ndim == 1 for wave in kept):
        return Heard(onsets, chances, float("nan"), float("nan"))
    events = [scene.events for scene in scenes]
    correlation, shuffled = (stereo_correlation(x, events, sample_rate_hz) for x in (kept, following(kept)))
    return Heard(onsets, chances, correlation, shuffled)


def following(values: Sequence) -> list:
    """For each scene the value of the next one, for the floor."""
    return [*values[1:], *values[:1]]


def struck_times(scene: Scene) -> list[float]:
    """Times of a scene's impacts, seconds."""
    return [event.time_seconds for event in scene.events if event.struck]


def synchrony(onsets: Sequence[np.ndarray], scenes: Sequence[Scene]) -> Synchrony:
    """Scores of onsets heard for scenes, one array a scene; scenes without impacts do not count."""
    recipes, matched, detected, true = defaultdict(list), 0, 0, 0
    for heard, scene in zip(onsets, scenes, strict=True):
        if times := struck_times(scene):
            score = onset_f1(heard, times)
            recipes[scene.recipe].append(score.f1)
            matched, detected, true = (
                matched + len(score.pairs),
                detected + len(heard),
                true + len(merge_close(times, 0.05)),
            )
    scores = np.array([f1 for own in recipes.values() for f1 in own])
    if not len(scores):
        raise ValueError(f"synchrony: nothing is struck in any of {len(scenes)} scenes; take more scenes")
    return Synchrony(
        float(scores.mean()),
        float(scores.std() / np.sqrt(len(scores))),
        2 * matched / max(detected + true, 1),
        matched / max(detected, 1),
        matched / max(true, 1),
        len(scores),
        {name: (float(np.mean(own)), len(own)) for name, own in sorted(recipes.items())},
    )


def meaning(chances: Sequence[Mapping[str, float]], sources: Sequence[str]) -> Meaning:
    """Score of the classifier's predictions on sounds of one source each."""
    if not sources:
        raise ValueError("meaning: got no scene with a single source, expected some; take more scenes")
    right, confusions = defaultdict(list), Counter()
    for heard, source in zip(chances, sources, strict=True):
        answer = max(heard, key=heard.__getitem__)
        right[source].append(answer == source)
        if answer != source:
            confusions[f"{source} > {answer}"] += 1
    return Meaning(
        float(np.mean([answer for own in right.values() for answer in own])),
        len(sources),
        {source: float(np.mean(own)) for source, own in sorted(right.items())},
        dict(confusions.most_common()),
    )


def presence(chances: Sequence[Mapping[str, float]], sources: Sequence[str]) -> Presence:
    """Presence of one source in each sound."""
    values = np.array([heard[source] for heard, source in zip(chances, sources, strict=True)])
    return Presence(float(values.mean()), float((values >= PRESENT).mean()), len(values))


def synchronies(heard: Mapping[str, Heard], scenes: Sequence[Scene], made: str) -> dict[str, Synchrony]:
    """Kind -> score over the scenes with impacts; "floor": each scene with the next one's sound of kind `made`."""
    rows = [i for i, scene in enumerate(scenes) if struck_times(scene)]
    onsets = {kind: [own.onsets[i] for i in rows] for kind, own in heard.items()}
    truth = [scenes[i] for i in rows]
    return {kind: synchrony(own, truth) for kind, own in _with_floor(onsets, made).items()}


def meanings(heard: Mapping[str, Heard], scenes: Sequence[Scene], made: str) -> dict[str, Meaning]:
    """Kind -> score over the scenes with one source; "floor" as in `synchronies`."""
    rows = [i for i, scene in enumerate(scenes) if len(scene.sources) == 1]
    chances = {kind: [own.chances[i] for i in rows] for kind, own in heard.items()}
    sources = [scenes[i].sources[0] for i in rows]
    return {kind: meaning(own, sources) for kind, own in _with_floor(chances, made).items()}


def correlations(heard: Mapping[str, Heard], made: str) -> dict[str, float]:
    """Kind -> correlation of level difference and position; "floor" as in `synchronies`."""
    return {kind: own.correlation for kind, own in heard.items()} | {"floor": heard[made].shuffled}


def _with_floor(values: dict[str, list[T]], made: str) -> dict[str, list[T]]:
    return values | {"floor": following(values[made])}


def stereo_correlation(
    waves: Sequence[np.ndarray], events: Sequence[Sequence[Event]], sample_rate_hz: int, window_seconds: float = 0.06
) -> float:
    """Pearson correlation of level difference and position over the impacts of many clips, -1 to 1.

    Only isolated impacts count: without another within twice the window before or the window after, because the
    level difference of two at once belongs to neither. NaN with fewer than three such events.

    Args:
      waves: clips [t, 2].
      events: the events of each clip.
      sample_rate_hz: sample rate of the clips.
      window_seconds: the time from the onset over which the levels are taken.
    """
    positions, differences = [], []
    for wave, scene in zip(waves, events, strict=True):
        struck = [event for event in scene if event.struck and event.time_seconds * sample_rate_hz < len(wave)]
        for event in struck:
            gaps = [other.time_seconds - event.time_seconds for other in struck if other is not event]
            if not any(-2 * window_seconds < gap < window_seconds for gap in gaps):
                positions.append(event.x)
                differences.append(level_difference_db(wave, event.time_seconds, window_seconds, sample_rate_hz))
    if len(positions) < 3:
        return float("nan")
    return float(np.corrcoef(positions, differences)[0, 1])
