"""What the ablations train on and are asked: features of scenes, through the built-in model's frozen encoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments import harness
from kfjax import config as strict
from kfjax import pipeline, rates, system
from kfjax.codec.audio_codec import CodecConfig
from kfjax.data.batches import FeatureInput
from kfjax.data.buckets import Buckets
from kfjax.data.encode import FeatureEncoder, Loaded
from kfjax.data.shards import records
from kfjax.data.sources import Cut, Row
from kfjax.encoders.tokenizer import Unread
from kfjax.generators.mmdit.mmdit import MMDiTConfig
from kfjax.metrics.onsets import detect_onsets, onset_f1
from kfjax.nn import module
from kfjax.scenes import Bucket, Corpus, Scene, render_corpus
from kfjax.scenes.scores import following, struck_times
from kfjax.scenes.sounds import SceneSounds, scene_excerpt
from kfjax.storage.checkpoint import load_params
from kfjax.train.engine.validation import Validation
from kfjax.train.tasks.flow.step import FlowStepConfig, flow_figures

#: Of the corpus that experiments/0003-built-in-model/retrain.sh renders.
TRAINED_SECONDS = (2.5, 4.0, 8.0, 13.0)
#: Seconds -> held-out scenes, rendered to their lengths: nothing is cut off.
HELDOUT = {2.0: 64, 4.0: 64, 6.0: 64, 8.0: 48, 13.0: 48}
HELDOUT_SEED = 10
SHARDS = 16
#: How many of the held-out scenes in which something is struck a network is asked for, at most.
ASKED = {2.0: 32, 4.0: 48, 6.0: 32, 8.0: 16, 13.0: 12}
#: Of sampling.
STEPS, GUIDANCE = 10, 3.0
RATE_HZ = 44100
#: Folders below the root.
FEATURES, HELD, HELD_FEATURES = "features", "heldout", "heldout-features"


def prepare(scenes: Path, root: Path) -> None:
    """Render what is held out and encode everything; what is there already is left alone."""
    pipeline.use_program_cache()
    encoder = FeatureEncoder(system.load(pipeline.BUILT_IN), 16, stereo=False)
    count = sum(HELDOUT.values())
    heldout = render_corpus(root / HELD, count, seed=HELDOUT_SEED, split="heldout", durations=HELDOUT, size=64)
    encode(heldout, tuple(HELDOUT), root / HELD_FEATURES, encoder, shards=1)
    encode(Corpus(scenes), TRAINED_SECONDS, root / FEATURES, encoder, shards=SHARDS)


def encode(corpus: Corpus, durations: tuple[float, ...], folder: Path, encoder: FeatureEncoder, *, shards: int) -> None:
    """The corpus as a folder of features, as `kfjax extract` makes them of files; every shards-th scene in a shard."""
    if (folder / records.INDEX).exists():
        return
    for shard in range(shards):
        if records.is_done(folder, shard, shards):
            continue
        with records.ShardWriter(folder, shard, shards, encoder.fingerprint) as writer:
            for seconds in durations:
                rows = range(shard, len(corpus.buckets[seconds]), shards)
                for first in range(0, len(rows), encoder.batch):
                    loaded = [load(corpus.buckets[seconds], i, encoder) for i in rows[first : first + encoder.batch]]
                    for example in encoder(loaded):
                        writer.add(seconds, example)
        print(f"{folder}: {shard + 1} of {shards} shards", flush=True)
    records.write_index(folder)


def load(bucket: Bucket, index: int, encoder: FeatureEncoder) -> Loaded:
    """One scene as the encoders read it; its sound is the mean of both ears."""
    scene, seconds = bucket.scene(index), bucket.seconds
    excerpt = scene_excerpt(encoder.cfg, encoder.tokenizer, bucket, [index], [scene.caption])
    wave = bucket.waveform(index).mean(1)
    wave = np.pad(wave, (0, rates.lengths(seconds, encoder.cfg.rates).samples - len(wave)))
    cut = Cut(Row(f"{seconds:g}s/{index}", bucket.folder, None, scene.caption), 0.0, seconds)
    return Loaded(cut, excerpt, wave, None, Unread((), "", ""))


class Listener:
    """Hears what a trained network makes of held-out films and captions. Every network gets the same noise.

    Args:
      config: of the run.
      weights: its averaged parameters.

    Attributes:
      parameters: how many the network has.
    """

    def __init__(self, config, weights: Path, root: Path):
        self._config, self._root = config, root
        base = system.load(pipeline.BUILT_IN)
        trained = strict.from_dict(MMDiTConfig, config.system.mmdit.to_dict())
        self._params = load_params(weights)
        self.parameters = module.count(self._params["mmdit"])
        cfg = replace(base.cfg, mmdit=replace(trained, unroll=False), codec=plain_codec(base.cfg.codec))
        params = {name: part for name, part in base.params.items() if name != "stereo"}
        self._system = base._replace(cfg=cfg, params=params | {"mmdit": self._params["mmdit"]})

    def scores(self, seconds: float) -> dict[str, list[float]]:
        """`heard` of every struck scene of that length."""
        return self.heard(*struck(self._root, seconds))

    def heard(self, bucket: Bucket, rows: list[int]) -> dict[str, list[float]]:
        """Of some scenes: see `score`; "floor" is the F1 of the sound made for the next scene."""
        scenes, seconds = [bucket.scene(i) for i in rows], bucket.seconds
        sounds = SceneSounds(self._system, steps=STEPS, guidance=GUIDANCE)
        waves = list(sounds.generate([scene.caption for scene in scenes], seconds, films=(bucket, rows)))
        return score(waves, [bucket.waveform(i) for i in rows], scenes, seconds)

    def loss(self) -> float:
        """Flow-matching loss on held-out scenes of 4 seconds, at the same noise and times for every network."""
        cfg = self._system.cfg
        step = strict.from_dict(FlowStepConfig, self._config.step.to_dict())
        buckets = Buckets({4.0: 1.0}, batch_seconds=64.0, multiple_of=1, seed=0)
        held = FeatureInput(cfg, ((self._root / HELD_FEATURES, 1.0),), buckets, seed=0)
        return round(Validation(flow_figures(cfg, step), held, 4)(self._params, 0)["loss"], 5)


def plain_codec(codec: CodecConfig) -> CodecConfig:
    """One ear, and phases as the vocoder's network says them: onsets are the same, in a fifth of the time."""
    return replace(codec, stereo=None, vocoder=replace(codec.vocoder, rounds=0, matches=0))


def struck(root: Path, seconds: float) -> tuple[Bucket, list[int]]:
    """The held-out scenes of a length, and which of them are asked."""
    bucket = Corpus(root / HELD).buckets[seconds]
    return bucket, harness.struck(bucket, ASKED[seconds])


def score(
    waves: list[np.ndarray], true: list[np.ndarray], scenes: list[Scene], seconds: float
) -> dict[str, list[float]]:
    """Scores of a sound a scene, one value a scene.

    f1: onsets within ±50 ms. late_f1: the same of the second half, of scenes in which something is struck there (else
    None). floor: f1 of the next scene's sound. silent: share of 50-ms windows below -60 dB of full scale, less that of
    the true sound. last_db: level of the last quarter less that of the true sound. end_error_db: how far the level of
    the last quarter second is from the true sound's. Levels below -60 dB count as -60.
    """
    onsets = [detect_onsets(wave, RATE_HZ) for wave in waves]
    times = [struck_times(scene) for scene in scenes]
    late = [[t for t in own if t >= seconds / 2] for own in times]
    f1 = lambda heard, struck: round(onset_f1(heard, struck).f1, 4)
    second = lambda heard: heard[heard >= seconds / 2 - 0.05]
    pairs = list(zip(waves, true, strict=True))
    last, end = (lambda wave: wave[-len(wave) // 4 :]), (lambda wave: wave[-RATE_HZ // 4 :])
    return {
        "f1": [f1(heard, own) for heard, own in zip(onsets, times, strict=True)],
        "late_f1": [f1(second(h), own) if own else None for h, own in zip(onsets, late, strict=True)],
        "floor": [f1(heard, own) for heard, own in zip(following(onsets), times, strict=True)],
        "silent": [round(silent_share(wave) - silent_share(truth), 4) for wave, truth in pairs],
        "last_db": [round(level_db(last(wave)) - level_db(last(truth)), 2) for wave, truth in pairs],
        "end_error_db": [round(abs(level_db(end(wave)) - level_db(end(truth))), 2) for wave, truth in pairs],
    }


def level_db(wave: np.ndarray) -> float:
    """Of both ears together, dB of full scale, at least -60."""
    return float(10 * np.log10(max(np.mean(np.square(wave, dtype=np.float64)), 1e-6)))


def silent_share(wave: np.ndarray) -> float:
    """Share of windows of 50 ms whose level is at the floor."""
    size = RATE_HZ // 20
    windows = wave[: len(wave) // size * size].reshape(-1, size, *wave.shape[1:])
    return float(np.mean([level_db(window) <= -60 for window in windows]))


def ceiling(root: Path, lengths: tuple[float, ...]) -> dict[str, dict]:
    """By length: which scenes are asked, and the scores of their true sounds through the codec. Kept in the root."""
    path = root / "ceiling.json"
    known = harness.read_json(path, {})
    for seconds in (s for s in lengths if f"{s:g}" not in known):
        bucket, rows = struck(root, seconds)
        scenes, true = [bucket.scene(i) for i in rows], [bucket.waveform(i) for i in rows]
        base = system.load(pipeline.BUILT_IN)
        base = base._replace(cfg=replace(base.cfg, codec=plain_codec(base.cfg.codec)))
        coded = list(SceneSounds(base).through_codec(true, seconds))
        known[f"{seconds:g}"] = {"scenes": rows} | score(coded, true, scenes, seconds)
        harness.write_json(path, known)
    return {f"{s:g}": known[f"{s:g}"] for s in lengths}
