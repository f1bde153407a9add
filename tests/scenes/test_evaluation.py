import json
from dataclasses import replace
from importlib import import_module

import jax
import numpy as np
import pytest

from kfjax import config, system
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.encoders.clip import CLIPText, CLIPTextConfig
from kfjax.metrics.codec_scores import codec_scores, griffin_lim
from kfjax.nn.module import flatten, init
from kfjax.scenes import RECIPES, Corpus, make_scene, render_corpus
from kfjax.scenes import sounds as scene_sounds
from kfjax.scenes.evaluation import MEASURES, Evaluation, SceneProtocol
from kfjax.scenes.pairs import TEXT_PAIRS, pair_of, source_of, words_for
from kfjax.scenes.scores import Presence, following, listen, meaning, presence, synchrony
from kfjax.scenes.sounds import SceneSounds, scene_excerpt
from kfjax.scenes.source_classifier import SourceClassifier
from kfjax.storage.checkpoint import StateStore, save_params
from kfjax.structs import TrainState
from tests.tiny.system import tiny_system, write_model

RATE = 44100
SECONDS = 1.0


def experiment(name: str):
    """A script of the experiment."""
    return import_module(f"experiments.0003-built-in-model.{name}")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("heldout")
    return render_corpus(folder, 5, seed=3, split="heldout", durations={1.0: 3, 2.5: 2}, size=32)


@pytest.fixture(autouse=True)
def batches_of_four(monkeypatch):
    monkeypatch.setattr(scene_sounds, "_LARGEST_BATCH", 4)


@pytest.fixture(scope="module")
def sounds() -> SceneSounds:
    return SceneSounds(tiny_system())


@pytest.fixture(scope="module")
def world():
    """Struck scenes of several recipes, their true sounds, and a classifier that has heard these very sounds."""
    scenes = [
        make_scene(i, duration_seconds=4.0, split="heldout", recipe=name)
        for i in range(3)
        for name in ("hammer", "bouncing", "bell", "clock")
    ]
    waves = [scene.sound() for scene in scenes]
    return scenes, waves, SourceClassifier.fit(waves, [scene.sources for scene in scenes], seed=0, copies=1)


def test_negative_prompts_are_read_by_any_text_encoder():
    base = tiny_system()
    text = CLIPTextConfig(vocab=base.cfg.text.vocab, length=base.cfg.text_tokens, width=base.cfg.text.width, depth=1,
                          heads=1, mlp_width=8)  # fmt: skip
    params = dict(base.params) | {"text": jax.jit(lambda: init(CLIPText, text, jax.random.key(0)))()}
    reader = SceneSounds(base._replace(cfg=replace(base.cfg, text=text), params=params))
    made = [next(reader.generate(["a bell"], SECONDS, negatives=[avoided])) for avoided in ("rain", "wind and rain")]
    assert np.isfinite(made).all() and np.abs(made[0] - made[1]).max() > 0


def test_true_sound_scores_like_its_ceiling_and_shuffled_sound_does_not(world):
    scenes, waves, classifier = world
    heard = listen(waves, scenes, RATE, classifier)
    true, shuffled = (synchrony(onsets, scenes) for onsets in (heard.onsets, following(heard.onsets)))
    assert true.f1 > 0.9 and true.pooled > 0.9 and true.scenes == len(scenes)
    assert set(true.recipes) == {"hammer", "bouncing", "bell", "clock"}
    assert shuffled.f1 < 0.6
    sources = [scene.sources[0] for scene in scenes]
    assert meaning(heard.chances, sources).accuracy == 1 and not meaning(heard.chances, sources).confusions
    assert meaning(following(heard.chances), sources).accuracy < 0.5
    assert heard.correlation > 0.8 > abs(heard.shuffled)


def test_exact_onsets_score_one_and_silent_scenes_do_not_count():
    scenes = [make_scene(5, duration_seconds=4.0, recipe=recipe) for recipe in ("hammer", "silence")]
    times = [event.time_seconds for event in scenes[0].events if event.struck]
    assert synchrony([np.array(times), np.array([1.0])], scenes)[:6] == (1, 0, 1, 1, 1, 1)
    assert synchrony([np.array([]), np.array([])], scenes).f1 == 0
    with pytest.raises(ValueError, match="take more scenes"):
        synchrony([np.array([])], scenes[1:])


def test_confusions_and_presence():
    chances = [{"rain": 0.9, "wind": 0.1}, {"rain": 0.6, "wind": 0.2}]
    score = meaning(chances, ["rain", "wind"])
    assert score.accuracy == 0.5 and score.confusions == {"wind > rain": 1} and score.sources == {"rain": 1, "wind": 0}
    assert presence(chances, ["rain", "wind"]) == Presence(pytest.approx(0.55), 0.5, 2)


def test_pairs_are_named_in_words_of_captions():
    scene = next(s for s in (make_scene(i, recipe="several", duration_seconds=4.0) for i in range(50)) if pair_of(s))
    assert {source_of(part) for part in pair_of(scene)} == set(scene.sources)
    assert pair_of(make_scene(0, recipe="rain")) is None
    assert words_for(("hammer", "wood")) == "a hammer strikes a wooden block"
    for subject in RECIPES["several"].subjects:
        for part in subject.split("+"):
            assert words_for(tuple(part.split(":")))
    assert len(set(TEXT_PAIRS)) == 24


def test_generation_is_exact_repeatable_and_independent_of_the_batch(sounds, corpus):
    bucket = corpus.buckets[SECONDS]
    prompts = ["a bell rings", "", "rain"]
    once = list(sounds.generate(prompts, SECONDS, films=(bucket, [0, 1, 2])))
    assert all(wave.shape == (RATE, 2) and np.abs(wave).max() <= 1 for wave in once)
    again = list(sounds.generate(prompts[1:], SECONDS, films=(bucket, [1, 2])))
    for a, b in zip(once[1:], again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    other = next(SceneSounds(tiny_system(), seed=1).generate(prompts, SECONDS, films=(bucket, [0, 1, 2])))
    assert np.abs(other - once[0]).max() > 0.01


def test_films_reach_the_encoders_as_files_would(sounds, corpus):
    bucket = corpus.buckets[2.5]
    excerpt = scene_excerpt(sounds.cfg, tiny_system().tokenizer, bucket, [1], [""])
    assert excerpt.given.has_video.all() and not excerpt.given.has_text.any()
    assert excerpt.clip_frames.shape[:2] == (1, 20) and excerpt.sync_frames.shape[:2] == (1, 62)
    np.testing.assert_array_equal(excerpt.clip_frames[0, 1], bucket.frames[1][4])  # 0.125 s: shown first at 0.16 s


def test_the_codec_takes_a_short_batch(sounds):
    waves = [0.1 * np.random.default_rng(i).standard_normal((RATE, 2)) for i in range(2)]
    made = list(sounds.through_codec(waves, SECONDS))
    assert [wave.shape for wave in made] == [(RATE,)] * 2 and np.isfinite(made).all()


@pytest.fixture
def ringing() -> np.ndarray:
    t = np.arange(RATE // 2) / RATE
    ring = np.where(t < 0.2, 0, np.sin(2 * np.pi * 440 * t) * np.exp(-10 * (t - 0.2)))
    return (0.3 * ring + 1e-3 * np.random.default_rng(0).standard_normal(t.size)).astype(np.float32)


def test_scores_of_a_codec_see_what_is_late(ringing):
    scores = codec_scores([ringing], {"same": [ringing], "late": [np.roll(ringing, 2048)]}, RATE)
    assert scores["same"] == (0, 0, 1)
    assert scores["late"].mel_l1 > 0.1 and scores["late"].stft > 0.1


@pytest.mark.slow  # librosa's spectra are compiled for 20 s when first called
def test_griffin_lim_is_not_shifted(ringing):
    wave = ringing
    made = griffin_lim(np.asarray(log_mel(wave[None], MelConfig()))[0], MelConfig(), iterations=8)
    assert len(made) == len(wave) // 512 * 512
    loud = lambda x: np.flatnonzero(np.convolve(x**2, np.ones(441) / 441, "same") > 0.01)[0]
    assert abs(loud(made) - loud(wave)) < 0.01 * RATE
    scores = codec_scores([wave], {"same": [wave], "back": [made], "late": [np.roll(made, 2048)]}, RATE)
    assert scores["same"] == (0, 0, 1)
    assert scores["back"].mel_l1 < 0.5 * scores["late"].mel_l1 and scores["back"].stft < scores["late"].stft


def test_wrong_corpora_are_refused(sounds, tmp_path):
    seen = render_corpus(tmp_path / "seen", 1, seed=0, split="train", durations={1.0: 1}, size=32)
    with pytest.raises(ValueError, match="heldout"):
        Evaluation(sounds, seen, SceneProtocol(seconds=1.0))
    small = render_corpus(tmp_path / "small", 1, seed=0, split="heldout", durations={1.0: 1}, size=16)
    with pytest.raises(ValueError, match=r"expected some of 8 s"):
        Evaluation(sounds, small, SceneProtocol())
    with pytest.raises(ValueError, match="expected 32"):
        next(sounds.generate([""], 1.0, films=(small.buckets[1.0], [0])))


@pytest.mark.parametrize("how", ["exported", "checkpoint"])
def test_parts_become_a_model(tmp_path, how):
    tiny, run = tiny_system(), tmp_path / "flow"
    run.mkdir()
    for name in ("vae", "vocoder"):
        save_params(tmp_path / f"{name}.safetensors", tiny.params[name])
    tiny.tokenizer.save(tmp_path / "tokenizer.json")
    flow = {name: tiny.params[name] for name in ("text", "clip", "sync", "mmdit", "stereo")}
    flow["readout"] = {"bias": np.ones(3, np.float32)}  # of training alone
    if how == "exported":
        save_params(run / "ema.safetensors", flow)
    else:
        store = StateStore(run / "checkpoints")
        store.save(7, TrainState(np.int32(7), {}, {}, flow, np.int32(0)), wait=True)
        store.close()
    log = [{"step": 4, "kind": "train", "elapsed": 1800.0}, {"step": 7, "kind": "train", "elapsed": 3600.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (run / "config.json").write_text(json.dumps({"system": config.to_dict(tiny.cfg)}))
    parts = [f"--{name}={tmp_path / name}.safetensors" for name in ("vae", "vocoder")]
    if how == "checkpoint":  # Mono2Stereo by itself, after the generator
        flow.pop("stereo")
        (tmp_path / "stereo").mkdir()
        save_params(tmp_path / "stereo/stereo.safetensors", tiny.params["stereo"])
        (tmp_path / "stereo/config.json").write_text(json.dumps({"system": config.to_dict(tiny.cfg)}))
        parts.append(f"--stereo={tmp_path / 'stereo/stereo.safetensors'}")
    results = {
        "settings": {"scenes": 2, "seconds": 8.0, "steps": 20, "guidance": 3.0},
        "space": {"video and caption": 0.91, "ceiling": 0.99, "floor": 0.0},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    experiment("assemble").main([
        f"--flow={run}", *parts, f"--tokenizer={tmp_path / 'tokenizer.json'}", "--guidance=2",
        f"--results={tmp_path / 'results.json'}", f"--output={tmp_path / 'model'}",
    ])  # fmt: skip
    made = system.load(tmp_path / "model")
    assert made.cfg == replace(tiny.cfg, defaults=replace(tiny.cfg.defaults, guidance=2.0))
    np.testing.assert_allclose(flatten(made.params)["vae/mel_mean"], tiny.params["vae"]["mel_mean"], rtol=1e-3)
    card = (tmp_path / "model/MODEL_CARD.md").read_text()
    assert "Generator: 7 steps" in card and "generator 1.0 h" in card and "| 0.910 | 0.990 | 0.000 |" in card


@pytest.mark.slow
def test_every_measure_of_a_random_system(corpus, tmp_path, monkeypatch, capsys):
    evaluate = experiment("evaluate")
    plan = SceneProtocol(scenes=3, seconds=SECONDS, other_lengths=(2.5,), classifier_clips=32, codec_scenes=1, pairs=1)
    monkeypatch.setattr(evaluate, "plan_of", lambda args: plan)
    folder = corpus.buckets[SECONDS].folder.parent
    options = ["--seconds", "1", "--corpus", str(folder), "--output", str(tmp_path / "results.json")]
    results = evaluate.main([str(write_model(tmp_path / "model")), *options])
    assert set(MEASURES) < set(results) and json.loads((tmp_path / "results.json").read_text()) == results
    assert results["synchrony"]["ceiling"]["f1"] > results["synchrony"]["video and caption"]["f1"]
    assert set(results["length"]) == {"1", "2.5"} and results["length"]["2.5"]["samples"] == 110250
    assert results["negative"]["text"]["named, with"]["sounds"] == 2
    assert list(folder.glob("classifier-*.npz"))
    assert "| all (" in capsys.readouterr().out
