"""Does the built-in model learn a new kind of scene, and its words, from 50 examples? From rendering to a film.

    python -m experiments 0008                  # results.json beside this file
    python -m experiments 0008 --quick --output quick.json    # a few of everything, to see that it works

It resumes after a stop: corpora, classifier, checkpoints and figures are kept in --workdir; another model needs
another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.harness import MODEL, ROOT, made, markdown, plain, read_json, write_json
from experiments.harness import train as kfjax_train
from kfjax import media, pipeline, system
from kfjax.cli import main as kfjax
from kfjax.metrics.onsets import band_levels_db, detect_onsets
from kfjax.scenes import RECIPES, SOURCES, make_scene, render_corpus, write_mp4
from kfjax.scenes import scores as scene_scores
from kfjax.scenes.corpus import scene_seed
from kfjax.scenes.sounds import SceneSounds
from kfjax.scenes.source_classifier import SourceClassifier

from .frogs import FROG, make_frog_scene

HERE = Path(__file__).resolve().parent
SECONDS = 2.5  # of every scene; the film for `kfjax generate` is longer
#: Corpora of different seeds share no scene; the classifier's are its own. Of the scenes of "mixed" half are frogs.
SEEDS = {"train": 8001, "heldout": 8002, "old": 8003, "classifier": 8004, "classifier frogs": 8005, "mixed": 8006}
#: What trains: name in the results -> corpus.
RUNS = {"frogs alone": "train", "frogs and old scenes": "mixed"}
#: Sentences without a film. Of the first one the words are learnt, the others' are not in the vocabulary.
FROG_TEXT, TIGER_TEXT = "a frog croaks", "a tiger growls"
STRANGE_TEXTS = ("a dog barks", "a cow moos", "a bird sings", "someone whispers")


class Sizes(NamedTuple):
    """Scenes of each kind."""

    train: int = 50
    mixed: int = 100
    heldout: int = 32
    old: int = 60
    classifier: int = 240
    classifier_frogs: int = 48
    texts: int = 24  # sounds of a sentence


QUICK = Sizes(train=8, mixed=8, heldout=2, old=3, classifier=30, classifier_frogs=6, texts=2)


def main(argv: Sequence[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, default=MODEL, help="model directory to start from")
    add("--workdir", type=Path, default=ROOT / "runs" / "frogs", help="default: %(default)s")
    add("--output", type=Path, default=HERE / "results.json")
    add("--quick", action="store_true", help="a few scenes, two steps")
    args = parser.parse_args(argv)

    pipeline.use_program_cache()
    sizes, clock = QUICK if args.quick else Sizes(), Clock(args.workdir)
    base = system.load(args.model)
    corpora = clock("render", lambda: render(args.workdir, sizes, base.cfg.sync.size))
    classifier = clock("classifier", lambda: learn_classifier(base, sizes, args.workdir / "classifier.npz"))
    results = {"made": made(), "scenes": sizes._asdict()}
    results["true sound"] = clock.kept("true sound", lambda: ceilings(base, corpora, classifier))
    measured = lambda name, model: {
        part: clock.kept(f"{name}, {part}", make)
        for part, make in measures(model, corpora, classifier, sizes.texts).items()
    }
    results["before"] = measured("before", base)
    for name, corpus in RUNS.items():
        tuned = clock(f"train, {name}", lambda corpus=corpus: train(args, corpus))
        results[name] = measured(name, system.load(tuned))
    results["kfjax generate"] = plain(clock("generate", lambda: generate(tuned, args.workdir, classifier)), 3)
    results["cpu_seconds"] = clock.seconds
    write_json(args.output, results)
    print(table(results))
    return results


class Clock:
    """Calls, and remembers how many seconds of the processor each took."""

    def __init__(self, folder: Path):
        self.folder, self.seconds = folder, {}

    def __call__(self, name: str, make: Callable):
        start = time.process_time()
        made = make()
        self.seconds[name] = round(time.process_time() - start, 1)
        return made

    def kept(self, name: str, make: Callable[[], dict]) -> dict:
        """Figures that are read from the folder where an earlier run has left them, and the seconds they took."""
        file = self.folder / f"{name.replace(', ', '-').replace(' ', '_')}.json"
        if not file.exists():
            figures = plain(self(name, make), 3)
            write_json(file, {"figures": figures, "seconds": self.seconds[name]})
        stored = read_json(file, {})
        self.seconds[name] = stored["seconds"]
        return stored["figures"]


def render(folder: Path, sizes: Sizes, size: int) -> dict:
    """name -> corpus: frogs to train on, frogs and old scenes to train on, frogs before a background never trained on,
    and held-out old scenes."""
    kinds = {"train": ("train", make_frog_scene), "mixed": ("train", make_mixed_scene),
             "heldout": ("heldout", make_frog_scene), "old": ("heldout", make_scene)}  # fmt: skip
    return {
        name: render_corpus(folder / name, getattr(sizes, name), seed=SEEDS[name], split=split,
                            durations={SECONDS: 1.0}, size=size, make=make)
        for name, (split, make) in kinds.items()
    }  # fmt: skip


def make_mixed_scene(seed: int, **how):
    """A frog where the seed is even, else a scene of the built-in world."""
    return make_scene(seed, **how) if seed % 2 else make_frog_scene(seed, **how)


def learn_classifier(base, sizes: Sizes, file: Path):
    """A classifier of the old sources and frogs: each true sound is learnt as it is and as the codec gives it back."""
    if file.exists():
        return SourceClassifier.load(file)
    rate, recipes = base.cfg.rates.sample_rate_hz, [*RECIPES, "several"]
    levels, labels = [], []

    def sounds():
        for i in range(sizes.classifier + sizes.classifier_frogs):
            old = i < sizes.classifier
            seed = scene_seed(SEEDS["classifier" if old else "classifier frogs"], i)
            make = partial(make_scene, recipe=recipes[i % len(recipes)]) if old else make_frog_scene
            scene = make(seed, duration_seconds=SECONDS)
            wave = scene.sound(rate)
            levels.append(band_levels_db(wave, rate).astype(np.float32))
            labels.append(scene.sources)
            yield wave

    coded = [band_levels_db(w, rate).astype(np.float32) for w in SceneSounds(base).through_codec(sounds(), SECONDS)]
    classifier = SourceClassifier.fit_levels(levels + coded, labels * 2, seed=0, copies=2, sources=(*SOURCES, FROG))
    classifier.save(file)
    return classifier


def measures(model, corpora: dict, classifier, count: int) -> dict[str, Callable[[], dict]]:
    """Part of the results -> what makes it: what is heard in the sounds of a model for held-out frogs and old scenes.

    Args:
      count: sounds of a sentence without a film, all from the same noises.
    """
    sounds, rate = SceneSounds(model), model.cfg.rates.sample_rate_hz
    bucket, scenes = frogs_of(corpora["heldout"])
    rows, known = old_scenes(corpora["old"])
    captions = lambda kind: [scene.caption if "caption" in kind else "" for scene in scenes]
    films = lambda kind: (bucket, range(len(scenes))) if "video" in kind else None
    frogs = lambda kind: frogs_heard(
        sounds.generate(captions(kind), SECONDS, films=films(kind)), scenes, classifier, rate
    )
    old = lambda films: old_heard(
        sounds.generate([s.caption for s in known], SECONDS, films=films), known, classifier, rate
    )
    return {
        **{kind: partial(frogs, kind) for kind in ("video and caption", "video", "caption")},
        "old scenes": partial(old, (corpora["old"].buckets[SECONDS], rows)),
        "old captions": partial(old, None),
        "sentences": lambda: sentences(sounds, classifier, rate, count),
    }


def sentences(sounds, classifier, rate: int, count: int) -> dict:
    """Share of frogs heard in `count` sounds of a sentence, by sentence; whether two sentences are the same bytes."""
    strange = [STRANGE_TEXTS[i % len(STRANGE_TEXTS)] for i in range(count)]
    prompts = {FROG_TEXT: [FROG_TEXT] * count, TIGER_TEXT: [TIGER_TEXT] * count, "other strange words": strange}
    made = {name: list(sounds.generate(own, SECONDS)) for name, own in prompts.items()}
    return {
        "a frog is heard": {
            name: float(np.mean([classifier.predict(wave, rate) == FROG for wave in waves]))
            for name, waves in made.items()
        },
        "same bytes": all(np.array_equal(*pair) for pair in zip(made[FROG_TEXT], made[TIGER_TEXT], strict=True)),
        "sounds": count,
    }  # fmt: skip


def old_scenes(corpus):
    """Rows and scenes of one source."""
    bucket = corpus.buckets[SECONDS]
    rows = [i for i in range(len(bucket)) if len(bucket.scene(i).sources) == 1]
    return rows, [bucket.scene(i) for i in rows]


def ceilings(base, corpora: dict, classifier) -> dict:
    """The same of the true sounds, and of true frogs through the codec."""
    rate = base.cfg.rates.sample_rate_hz
    bucket, scenes = frogs_of(corpora["heldout"])
    true = [bucket.waveform(i) for i in range(len(scenes))]
    old, (rows, known) = corpora["old"].buckets[SECONDS], old_scenes(corpora["old"])
    return {
        "as it is": frogs_heard(true, scenes, classifier, rate),
        "through the codec": frogs_heard(SceneSounds(base).through_codec(true, SECONDS), scenes, classifier, rate),
        "old scenes": old_heard((old.waveform(i) for i in rows), known, classifier, rate),
    }


def frogs_of(corpus):
    bucket = corpus.buckets[SECONDS]
    return bucket, [bucket.scene(i) for i in range(len(bucket))]


def frogs_heard(waves, scenes, classifier, rate: int) -> dict:
    """How often and how clearly the classifier hears a frog above all else, and whether the croaks are in time."""
    heard = scene_scores.listen(waves, scenes, rate, classifier)
    truth = [FROG] * len(scenes)
    answers = scene_scores.meaning(heard.chances, truth)
    return {
        "accuracy": answers.accuracy, "probability": scene_scores.presence(heard.chances, truth).probability,
        "f1": scene_scores.synchrony(heard.onsets, scenes).f1, "mistaken": answers.confusions, "scenes": len(scenes),
    }  # fmt: skip


def old_heard(waves, scenes, classifier, rate: int) -> dict:
    """Old scenes of one source: right answers, and how often a frog is heard that is not there."""
    heard = scene_scores.listen(waves, scenes, rate, classifier)
    answers = scene_scores.meaning(heard.chances, [scene.sources[0] for scene in scenes])
    frogs = np.mean([max(chances, key=chances.__getitem__) == FROG for chances in heard.chances])
    struck = [i for i, scene in enumerate(scenes) if scene_scores.struck_times(scene)]
    f1 = scene_scores.synchrony([heard.onsets[i] for i in struck], [scenes[i] for i in struck]).f1
    return {"accuracy": answers.accuracy, "frogs": float(frogs), "f1": f1, "scenes": len(scenes)}


def train(args: argparse.Namespace, corpus: str) -> Path:
    """The tuned model directory; `kfjax train` resumes, and does nothing where the run is complete."""
    quick = ["loop.steps=2", "data.batch_seconds=8.0"] if args.quick else []
    values = [f"data.folder={args.workdir / corpus}", f"data.start={args.model}", *quick]
    return kfjax_train(HERE / "config.py", args.workdir / f"lora-{corpus}", *values) / "model"


def generate(tuned: Path, workdir: Path, classifier) -> dict:
    """One held-out film through the command line, and what the classifier hears in the file that comes out."""
    scene = make_frog_scene(1, duration_seconds=5.0, split="heldout")
    silent, made = workdir / "frog.mp4", workdir / "frog_with_sound.mp4"
    write_mp4(scene, silent, silent=True)
    made.unlink(missing_ok=True)
    command = ["generate", str(silent), "--prompt", scene.caption, "--model", str(tuned), "--output", str(made)]
    if code := kfjax(command):
        raise SystemExit(f"kfjax {' '.join(command)}: exit code {code}")
    wave = media.read_audio(made, 44100, 2)
    chances, f1 = classifier.probabilities(wave), scene_scores.synchrony([detect_onsets(wave, 44100)], [scene]).f1
    return {"caption": scene.caption, "heard": classifier.predict(wave), "probability": chances[FROG], "f1": f1}


def table(results: dict) -> str:
    """The figures as Markdown tables."""
    words = {
        "accuracy": "a frog is heard above all else", "probability": "probability of a frog",
        "f1": "croaks within ±50 ms, mean F1",
    }  # fmt: skip
    old = {"accuracy": "right source", "frogs": "a frog is heard", "f1": "onsets within ±50 ms, mean F1"}
    rows = {}  # name -> keys of its figure
    for kind, names in (("video and caption", words), ("video", words), ("caption", ("accuracy",))):
        rows |= {f"{kind}: {words[name]}": (kind, name) for name in names}
    for text in (FROG_TEXT, TIGER_TEXT, "other strange words"):
        rows[f"{text}, without a film: a frog is heard"] = ("sentences", "a frog is heard", text)
    rows |= {f"old scenes: {said}": ("old scenes", name) for name, said in old.items()}
    rows |= {f"old captions, without a film: {old[n]}": ("old captions", n) for n in ("accuracy", "frogs")}
    columns, kinds = ["before", *RUNS], ("as it is", "through the codec", "old scenes")
    body = [
        [name, *(float(reduce(getitem, keys, results[column])) for column in columns)] for name, keys in rows.items()
    ]
    true = [[name, *(float(results["true sound"][kind][name]) for kind in kinds)] for name in ("accuracy", "f1")]
    header = ["true sound", f"frogs {kinds[0]}", f"frogs {kinds[1]}", kinds[2]]
    return "\n".join([*markdown(["", *columns], body), "", *markdown(header, true)])
