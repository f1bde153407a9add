"""Evaluation of the built-in model on held-out scenes; each figure has a ceiling and a floor.

    evaluation = Evaluation(SceneSounds(system), corpus, SceneProtocol())
    evaluation.synchrony()["video and caption"].f1

Ceiling: the same measure on the true sound. Floor: on the sound generated for the next scene.
"video and caption" is the default use; "video" and "caption" are given alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from kfjax import rates
from kfjax.metrics.codec_scores import CodecScore, codec_scores, griffin_lim
from kfjax.metrics.onsets import band_levels_db
from kfjax.nn.module import Params, flatten
from kfjax.scenes import RECIPES, Corpus, Scene, make_scene
from kfjax.scenes.corpus import scene_seed
from kfjax.scenes.pairs import TEXT_PAIRS, Part, pair_of, source_of, words_for
from kfjax.scenes.scores import (
    Heard,
    Presence,
    correlations,
    listen,
    meanings,
    presence,
    synchronies,
    synchrony,
)
from kfjax.scenes.sounds import SceneSounds
from kfjax.scenes.source_classifier import SourceClassifier

#: Of the held-out scenes, wherever they are rendered.
CORPUS_SEED = 7000
MEASURES = ("synchrony", "meaning", "negative", "space", "length", "codec")
Kind = Literal["video and caption", "video", "caption", "true", "codec"]
_JUDGE_CORPUS = 7001  # scenes that neither training nor the evaluation sees


@dataclass(frozen=True)
class SceneProtocol:
    """Sizes of the evaluation.

    Attributes:
      scenes, seconds: of the main figures.
      other_lengths, other_scenes: seconds of the other lengths, and scenes of each.
      classifier_clips: training scenes of the source classifier; each is used twice, true and through the codec.
      codec_scenes: scenes on which the codec is compared with Griffin-Lim.
      pairs: text-only pairs of sources of which one is avoided.
    """

    scenes: int = 200
    seconds: float = 8.0
    other_lengths: tuple[float, ...] = (1.0, 2.5, 5.0, 13.0)
    other_scenes: int = 60
    classifier_clips: int = 400
    codec_scenes: int = 24
    pairs: int = len(TEXT_PAIRS)

    @property
    def durations(self) -> dict[float, int]:
        """Seconds -> scenes: what a corpus for this plan holds."""
        return {s: self.other_scenes for s in self.other_lengths} | {self.seconds: self.scenes}


class Evaluation:
    """The measures of one system on one held-out corpus; sounds that several of them use are generated once.

    Args:
      classifier_file: cache of the source classifier, which is trained if there is none. None: not kept.
      classifies: False skips the classifier where meaning is not measured.

    Raises:
      ValueError: a corpus that is not held out, or has no scenes of the plan's length.
    """

    def __init__(
        self,
        sounds: SceneSounds,
        corpus: Corpus,
        plan: SceneProtocol,
        classifier_file: Path | None = None,
        classifies: bool = True,
    ):
        if corpus.order["split"] != "heldout":
            raise ValueError(
                f"corpus: got scenes of the split {corpus.order['split']!r}, expected 'heldout': "
                "a model that was trained on them knows the answers; render others"
            )
        if plan.seconds not in corpus.buckets:
            lengths = ", ".join(f"{seconds:g}" for seconds in corpus.buckets)
            raise ValueError(f"corpus: got scenes of {lengths} s, expected some of {plan.seconds:g} s; render them")
        self.sounds, self.corpus, self.plan = sounds, corpus, plan
        self.rate = sounds.cfg.rates.sample_rate_hz
        self.scenes = self._scenes(plan.seconds)
        #: Name of a stage -> its wall time in seconds, analysis included.
        self.cost: dict[str, float] = {}
        self._classifier_file, self._classifier, self._classifies = classifier_file, None, classifies
        self._heard: dict[tuple[Kind, float], Heard] = {}

    def synchrony(self) -> dict:
        """F1 of detected onsets within ±50 ms of true ones: kind -> `Synchrony`, and the share of the ceiling."""
        result: dict[str, Any] = synchronies(self._of("video"), self.scenes, "video and caption")
        return result | {"share of ceiling": result["video and caption"].f1 / max(result["ceiling"].f1, 1e-9)}

    def meaning(self) -> dict:
        """Accuracy of the classifier on scenes with one source: kind -> `Meaning`."""
        return meanings(self._of("video", "caption"), self.scenes, "video and caption")

    def negative(self) -> dict:
        """Presence of a source, and of the other one, with and without a negative prompt that names it.

        "scenes": held-out scenes of two sources with film and caption; "text": prompts that name two sources.
        """
        result, seconds = {}, self.plan.seconds
        if both := {i: pair for i, scene in enumerate(self.scenes) if (pair := pair_of(scene))}:
            rows = list(both)
            captions = [self.scenes[i].caption for i in rows]
            films = self.corpus.buckets[seconds], rows
            make = lambda avoided: self.sounds.generate(captions, seconds, films=films, negatives=avoided)
            result["scenes"] = self._avoidance("scenes", list(both.values()), make)
        if pairs := TEXT_PAIRS[: self.plan.pairs]:
            prompts = [f"{words_for(front)} and {words_for(back)}" for front, back in pairs]
            make = lambda avoided: self.sounds.generate(prompts, seconds, negatives=avoided)
            result["text"] = self._avoidance("text", pairs, make)
        return result

    def space(self) -> dict:
        """Correlation of the channels' level difference at isolated impacts with their visible position."""
        return correlations(self._of("video", codec=False), "video and caption")

    def length(self) -> dict:
        """Synchrony at each length beside its ceiling, and relative to the plan's length: seconds -> figures."""
        others = {s for s in self.plan.other_lengths if s in self.corpus.buckets} - {self.plan.seconds}
        result = {}
        for seconds in (self.plan.seconds, *sorted(others)):
            scenes = self._scenes(seconds)
            made, true = (synchrony(self.heard(kind, seconds).onsets, scenes) for kind in ("video and caption", "true"))
            reference = result.get(f"{self.plan.seconds:g}", {"f1": made.f1})["f1"]
            result[f"{seconds:g}"] = {
                "f1": made.f1, "error": made.error, "pooled": made.pooled, "ceiling": true.f1,
                "relative": made.f1 / max(reference, 1e-9), "scenes": made.scenes,
                "samples": rates.exact_samples(seconds, self.sounds.cfg.rates),
            }  # fmt: skip
        return result

    def codec(self, recordings: Mapping[str, np.ndarray] | None = None) -> dict[str, dict[str, CodecScore]]:
        """Distances of vocoder and Griffin-Lim, on the same mels, from the true sound: material -> way -> `CodecScore`.

        Args:
          recordings: name -> mono sound [t] at the system's rate, besides the scenes.
        """
        bucket = self.corpus.buckets[self.plan.seconds]
        rows = [i for i, scene in enumerate(self.scenes) if scene.sources][: self.plan.codec_scenes]
        materials = {"scenes": [bucket.waveform(i).mean(-1) for i in rows]}
        materials |= {name: [wave] for name, wave in (recordings or {}).items()}
        cfg, result = self.sounds.cfg.codec.mel, {}
        for name, waves in materials.items():
            seconds, made = len(waves[0]) / self.rate, {}
            for mel, vae in (("VAE's mel", True), ("true mel", False)):
                mels = self.sounds.codec_mels(waves, seconds, vae=vae)
                made[f"{mel}, vocoder"] = list(self.sounds.through_codec(waves, seconds, vae=vae))
                progress = tqdm(mels, "Griffin-Lim", len(waves), leave=False)
                made[f"{mel}, Griffin-Lim"] = [griffin_lim(own, cfg) for own in progress]
            result[name] = codec_scores(waves, made, self.rate)
        return result

    @property
    def classifier(self) -> SourceClassifier:
        """The source classifier; trained at the first use."""
        if self._classifier is None:
            self._classifier = self._timed(
                "classifier", lambda: classifier_for(self.sounds, self.plan, self._classifier_file)
            )
        return self._classifier

    def heard(self, kind: Kind, seconds: float | None = None) -> Heard:
        """Analysis of the sounds of the scenes of one length; made at the first call."""
        seconds = self.plan.seconds if seconds is None else seconds
        if (kind, seconds) not in self._heard:
            scenes = self._scenes(seconds)
            classifier = self.classifier if self._classifies and seconds == self.plan.seconds else None
            make = lambda: listen(self._waves(kind, seconds, scenes), scenes, self.rate, classifier)
            self._heard[kind, seconds] = self._timed(f"{kind}, {seconds:g} s", make)
        return self._heard[kind, seconds]

    def _of(self, *given: Kind, codec: bool = True) -> dict[str, Heard]:
        """Name of a figure -> analysis: of the default use, of conditions given alone, and of the true sounds."""
        heard = {kind: self.heard(kind) for kind in ("video and caption", *given)} | {"ceiling": self.heard("true")}
        return heard | {"codec ceiling": self.heard("codec")} if codec else heard

    def _waves(self, kind: Kind, seconds: float, scenes: Sequence[Scene]) -> Iterable[np.ndarray]:
        bucket = self.corpus.buckets[seconds]
        true = (bucket.waveform(i) for i in range(len(scenes)))
        if kind == "true":
            return true
        if kind == "codec":
            return self.sounds.through_codec(true, seconds)
        prompts = [scene.caption if "caption" in kind else "" for scene in scenes]
        return self.sounds.generate(prompts, seconds, films=(bucket, range(len(scenes))) if "video" in kind else None)

    def _scenes(self, seconds: float) -> list[Scene]:
        bucket = self.corpus.buckets[seconds]
        most = self.plan.scenes if seconds == self.plan.seconds else self.plan.other_scenes
        return [bucket.scene(i) for i in range(min(most, len(bucket)))]

    def _avoidance(
        self, name: str, pairs: Sequence[tuple[Part, Part]], make: Callable[[list[str] | None], Iterable[np.ndarray]]
    ) -> dict[str, Presence]:
        """Each pair is generated as it is, and twice more, with each of its parts as negative prompt."""
        heard = lambda avoided: [self.classifier.probabilities(wave, self.rate) for wave in make(avoided)]
        without = self._timed(f"negative, {name}: without", lambda: heard(None))
        avoid = lambda k: self._timed(f"negative, {name}: with {k}", lambda: heard([words_for(p[k]) for p in pairs]))
        with_it = [*avoid(0), *avoid(1)]
        named, other = ([source_of(p[k]) for p in pairs] + [source_of(p[1 - k]) for p in pairs] for k in (0, 1))
        return {
            "named, without": presence(without * 2, named), "named, with": presence(with_it, named),
            "other, without": presence(without * 2, other), "other, with": presence(with_it, other),
        }  # fmt: skip

    def _timed(self, name: str, make: Callable):
        start = time.monotonic()
        result = make()
        self.cost[name] = round(time.monotonic() - start, 1)
        return result


def classifier_file(folder: Path, plan: SceneProtocol, codec: Params) -> Path:
    """Cache file of a classifier; its name depends on the codec's weights and the number of training clips."""
    digest = hashlib.sha256(f"{plan.classifier_clips} {plan.seconds}".encode())
    for _, leaf in sorted(flatten(codec).items()):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return folder / f"classifier-{digest.hexdigest()[:12]}.npz"


def classifier_for(sounds: SceneSounds, plan: SceneProtocol, file: Path | None) -> SourceClassifier:
    """The classifier cached in `file`, else one trained on scenes of the training split.

    Every recipe is equally frequent, mixtures twice as frequent. Each sound is also used as the codec reconstructs it,
    so that the codec's coloration does not count against a generated sound.
    """
    if file is not None and file.exists():
        return SourceClassifier.load(file)
    rate, recipes = sounds.cfg.rates.sample_rate_hz, [*RECIPES, "several"]
    levels, labels = [], []

    def true_sounds():
        for i in tqdm(range(plan.classifier_clips), "sounds for the classifier", mininterval=5.0, leave=False):
            number = scene_seed(_JUDGE_CORPUS, i)
            scene = make_scene(number, duration_seconds=plan.seconds, recipe=recipes[i % len(recipes)])
            wave = scene.sound(rate)
            levels.append(band_levels_db(wave, rate).astype(np.float32))
            labels.append(scene.sources)
            yield wave

    coded = [band_levels_db(w, rate).astype(np.float32) for w in sounds.through_codec(true_sounds(), plan.seconds)]
    classifier = SourceClassifier.fit_levels(levels + coded, labels * 2, seed=0, copies=2)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        classifier.save(file)
    return classifier
