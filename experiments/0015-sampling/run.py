"""How do guidance scales, steps and the method of integration change what is heard, and how long it takes?

    python -m experiments 0015               # measures what results.json lacks, then tables
    python -m experiments 0015 --report      # tables from results.json

The held-out scenes and the classifier of sources are those of experiment 3, rendered and trained at the first use.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numpy as np

from experiments import harness
from kfjax import pipeline, system
from kfjax.flow.sampler import Guidance, ScheduleKind
from kfjax.metrics.distributions import frechet_distance, gaussian
from kfjax.metrics.onsets import band_levels_db, detect_onsets, merge_close, onset_f1
from kfjax.metrics.reconstruction import log_mel
from kfjax.scenes.encoded import EncodedScenes
from kfjax.scenes.evaluation import SceneProtocol, classifier_file, classifier_for
from kfjax.scenes.scores import struck_times
from kfjax.scenes.sounds import SceneSounds

SCALES = (1.0, 2.0, 3.0, 4.5, 6.0)
ROUNDS = 3  # of timing
#: Rows that are not sampled: the true sound, the same through the codec, the default's sound for the next scene.
TRUE, CODEC, OTHER = "true sound", "true sound through the codec", "sound of another scene"


class Cell(NamedTuple):
    """One way to sample; the default is the built-in model's own."""

    method: str = "euler"
    steps: int = 20
    video: float = 3.0
    text: float = 3.0
    film: bool = True
    kind: ScheduleKind = "uniform"
    guided: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        scales = f"video {self.video:g}, text {self.text:g}" if self.film else f"caption alone {self.text:g}"
        times = "" if self.kind == "uniform" else f" {self.kind}"
        interval = "" if self.guided is None else ", guided {:g}-{:g}".format(*self.guided)
        return f"{self.method}{times} {self.steps}, {scales}{interval}"

    @property
    def evaluations(self) -> int:
        """Of the network, each of all branches in one batch."""
        return self.steps * (2 if self.method == "heun" else 1)

    @property
    def branches(self) -> int:
        return len(Guidance(self.video, self.text).weights(self.film))


DEFAULT = Cell()
STEPS = [Cell(steps=steps) for steps in (5, 10, 20, 50)] + [Cell("heun", steps) for steps in (5, 10, 25)]
BOTH = [Cell(video=scale, text=scale) for scale in SCALES]
VIDEO = [Cell(video=scale) for scale in SCALES]
TEXT = [Cell(text=scale) for scale in SCALES]
CAPTION = [Cell(video=0.0, text=scale, film=False) for scale in SCALES]
#: What is measured first, with all seeds, and what next.
GROUPS = [[DEFAULT, *STEPS[:-1], *BOTH], CAPTION, [*STEPS[-1:], *VIDEO, *TEXT]]
#: Cells that take different time: a scale is only a number in the program, the number of branches is not.
TIMED = [*STEPS, Cell(video=1.0, text=1.0), Cell(video=4.5)]


def main(argv=None) -> None:
    harness.on_scenes(__name__, __doc__, measure, argv)


def measure(args: argparse.Namespace) -> None:
    """Every cell that results.json lacks."""
    pipeline.use_program_cache()
    model = system.load(args.model)
    bucket, classifier = held_out(args, model)
    rows = harness.struck(bucket, args.scenes)
    listener = Listener([bucket.scene(i) for i in rows], [bucket.waveform(i) for i in rows], classifier)
    settings = {"model": model.cfg.name, "seconds": args.seconds, "scenes": len(rows)}
    results = harness.Results(args.output, settings)
    results.notes |= {"true onsets": listener.onsets, "sources": [" ".join(s.sources) for s in listener.scenes]}
    references(results, listener, model, args.seconds)
    captions = [scene.caption for scene in listener.scenes]
    encoded = {
        True: EncodedScenes(model, captions, args.seconds, films=(bucket, rows)),
        False: EncodedScenes(model, captions, args.seconds),
    }
    for group in GROUPS:
        for seed in range(args.seeds):
            for cell in dict.fromkeys(group):
                if not results.has(cell.name, seed):
                    one_cell(results, listener, encoded[cell.film], cell, seed)
        if "processor seconds" not in results.notes:
            results.notes["processor seconds"] = timed(encoded[True])
            results.write()


def one_cell(results, listener: Listener, scenes, cell: Cell, seed: int) -> None:
    """Sample, decode, listen, keep."""
    start = time.monotonic()
    latents = sampled(scenes, cell, seed)
    waves = [within_range(wave) for wave in scenes.sounds(latents)]
    results.put(cell.name, seed, listener.scores(waves))
    if cell == DEFAULT:
        results.put(OTHER, seed, listener.scores([*waves[1:], waves[0]]))
    print(f"seed {seed}: {cell.name}, {time.monotonic() - start:.0f} s", flush=True)


def sampled(scenes, cell: Cell, seed: int = 0, **how) -> np.ndarray:
    guidance = Guidance(cell.video, cell.text)
    return scenes.latents(guidance, cell.steps, cell.method, seed, kind=cell.kind, guided=cell.guided, **how)


def held_out(args: argparse.Namespace, model):
    """The scenes of the length asked for, and the classifier of sources."""
    plan = SceneProtocol()
    bucket = harness.held_out(args.corpus, plan, model.cfg.sync.size).buckets[args.seconds]
    file = classifier_file(bucket.folder.parent, plan, {name: model.params[name] for name in ("vae", "vocoder")})
    return bucket, classifier_for(SceneSounds(model), plan, file)


class Listener:
    """Scores of one sound a scene against the true ones."""

    def __init__(self, scenes, true, classifier, sample_rate_hz: int = 44100):
        self.scenes, self.classifier, self.rate = scenes, classifier, sample_rate_hz
        self.true = true
        self._struck = [struck_times(scene) for scene in scenes]
        #: How many onsets each scene truly has, those closer than 50 ms counted once.
        self.onsets = [len(merge_close(times, 0.05)) for times in self._struck]
        self._mels = [log_mel(wave, self.rate) for wave in true]
        self.true_frames = [self.frames(wave) for wave in true]

    def scores(self, waves) -> dict:
        """f1, matched, detected: onsets; right: the classifier's clearest answer, of scenes with one source; chance:
        what the classifier gives the true sources; mel: L1, natural log; frechet: of all sounds together."""
        rows = []
        for wave, scene, struck, mel in zip(waves, self.scenes, self._struck, self._mels, strict=True):
            heard, chances = detect_onsets(wave, self.rate), self.classifier.probabilities(wave, self.rate)
            score, clearest = onset_f1(heard, struck), max(chances, key=chances.__getitem__)
            rows.append(
                {
                    "f1": score.f1 if struck else float("nan"),
                    "matched": len(score.pairs),
                    "detected": len(heard),
                    "right": float(clearest == scene.sources[0]) if len(scene.sources) == 1 else float("nan"),
                    "chance": float(np.mean([chances[s] for s in scene.sources])) if scene.sources else float("nan"),
                    "mel": float(np.abs(log_mel(wave, self.rate) - mel).mean()),
                }
            )
        rows = {name: [row[name] for row in rows] for name in rows[0]}
        return rows | {"frechet": frames_distance([self.frames(wave) for wave in waves], self.true_frames)}

    def frames(self, wave) -> np.ndarray:
        """Band levels, 40 numbers in dB every 20 ms: how loud what is, whenever it is."""
        return np.maximum(band_levels_db(wave, self.rate)[:, ::4].T, -70.0)


def frames_distance(made, true) -> float:
    """Fréchet distance between the Gaussians of two lists of `Listener.frames`."""
    return frechet_distance(gaussian(np.concatenate(made)), gaussian(np.concatenate(true)))


def references(results, listener: Listener, model, seconds: float) -> None:
    """The true sound, and what the codec leaves of it."""
    if not results.has(TRUE, 0):
        results.put(TRUE, 0, listener.scores(listener.true))
    if not results.has(CODEC, 0):
        results.put(CODEC, 0, listener.scores(list(SceneSounds(model).through_codec(listener.true, seconds))))


def timed(encoded) -> dict:
    """Processor seconds of sampling one batch of scenes, all threads, one number a round; cells in turn."""
    taken = harness.in_turn({c.name: lambda c=c: sampled(encoded, c, batches=1) for c in TIMED}, ROUNDS)
    return {name: [one.processor for one in rounds] for name, rounds in taken.items()}


def within_range(wave: np.ndarray) -> np.ndarray:
    """Turned down where it would clip, as users get it."""
    return wave / max(1.0, float(np.abs(wave).max()))
