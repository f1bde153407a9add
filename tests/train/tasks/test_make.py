"""Every runlocal config, from its file to trained weights, each on what the one before made."""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from kfjax import config as strict
from kfjax.cli import main
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.codec.vocoder import Vocoder, VocoderConfig
from kfjax.data.encode import encoders_fingerprint
from kfjax.data.shards import records
from kfjax.nn import module
from kfjax.scenes import Corpus
from kfjax.scenes.batches import tokenizer_from
from kfjax.storage.checkpoint import load_params, save_params
from kfjax.system import SystemConfig
from kfjax.train.config import complete
from kfjax.train.engine.loop import init_state, run
from kfjax.train.tasks.flow import scenes as flow_scenes
from kfjax.train.tasks.flow.config import read
from kfjax.train.tasks.flow.step import ENCODERS
from kfjax.train.tasks.make import abstract_params, make_task
from tests.tiny import corpus as tiny_corpus
from tests.tiny import features as tiny_features
from tests.tiny.system import CONFIG, tiny_system, write_model

ROOT = Path(__file__).parents[3]

READOUTS = ("readout", "caption", "sound")


def config_of(name: str, variant: str, **values):
    """The config of `configs/name.py:variant` with some of its values replaced, as by `--set`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    config = loaded.get_config(variant)
    complete(config)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


def figures(workdir: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a corpus to train on and one to look at."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_corpus.render(folder / "scenes", size=64, durations={1.0: 10})
    tiny_corpus.render(folder / "heldout", size=64, durations={1.0: 6}, split="heldout")
    return folder


@pytest.fixture(scope="module")
def vae(runs):
    held = {"data__heldout": str(runs / "heldout"), "data__validation_batches": 1, "loop__validate_every": 8}
    config = config_of("codec", "runlocal", data__folder=str(runs / "scenes"), **held)
    task, loop = make_task(config)
    state = run(task, runs / "vae", loop)
    return config, state, runs / "vae" / "vae.safetensors"


SMALL_VOCODER = {"width": 16, "hidden": 16, "depth": 1, "rounds": 1, "matches": 1}


def shrink_vocoder(config) -> None:
    with config.unlocked():
        config.training.update({"vocoder": SMALL_VOCODER, "piece_seconds": 0.5})


@pytest.fixture(scope="module")
def vocoder(runs):
    config = config_of("codec", "vocoder-runlocal", data__folder=str(runs / "waves"))
    shrink_vocoder(config)
    task, loop = make_task(config)
    state = run(task, runs / "vocoder", loop)
    return config, state, runs / "vocoder" / "vocoder.safetensors"


def assert_trained(config, state):
    """The run did what the config says, on the parameters the config has."""
    assert int(state.step) == config.loop.steps and int(state.skipped) == 0
    shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    assert shapes(state.params) == shapes(abstract_params(config))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_jax_that_hangs_in_training_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "__version__", "0.11.2")
    advice = r"pip install 'jax>=0\.12,<0\.13', or set XLA_FLAGS=--xla_cpu_multi_thread_eigen=false before jax starts"
    with pytest.raises(ValueError, match=rf"jax 0\.11\.2 on a CPU waits for ever in training.*; {advice}"):
        make_task(config_of("flow", "features-runlocal", data__synthetic=True))


@pytest.mark.slow
def test_codec(vae):
    config, state, path = vae
    assert_trained(config, state)
    weights = load_params(path, module.shapes(MelVAE, VAEConfig(**config.training.vae)))
    for part in ("encoder", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, weights[part], jax.tree.map(np.asarray, state.ema["gen"][part]))
    assert not np.array_equal(weights["latent_std"], np.ones_like(weights["latent_std"]))  # measured at the end
    assert weights["mel_mean"].min() < -2  # of the corpus
    (held,) = figures(path.parent, "validation")
    assert held["step"] == 8 and held["loss"] > 0 and held["mel_l1"] > 0


def test_vocoder(vocoder):
    config, state, path = vocoder
    assert_trained(config, state)
    weights = load_params(path, module.shapes(Vocoder, VocoderConfig(**SMALL_VOCODER)))
    jax.tree.map(np.testing.assert_array_equal, weights, jax.tree.map(np.asarray, state.ema["vocoder"]))


@pytest.mark.slow
def test_vocoder_on_decoded_mels(runs, vae, vocoder):
    folders = {"data__folder": str(runs / "waves"), "data__scenes": str(runs / "scenes")}
    config = config_of(
        "codec", "vocoder-finetune-runlocal", data__vae=str(vae[2]), data__start=str(vocoder[2]), **folders
    )
    shrink_vocoder(config)
    task, loop = make_task(config)
    start = jax.tree.map(np.asarray, task.init(jax.random.key(0)))
    frozen = load_params(vae[2])
    jax.tree.map(np.testing.assert_array_equal, start, {"vocoder": load_params(vocoder[2]), "vae": frozen})
    state = run(task, runs / "finetuned", loop)
    jax.tree.map(np.testing.assert_array_equal, state.params["vae"], frozen)
    assert_trained(config, state._replace(params={"vocoder": state.params["vocoder"]}))
    assert (runs / "finetuned" / "vocoder.safetensors").exists()
    # It hears the decoded mel: on the corpus's sound as it is, the same step has another loss.
    plain, _ = make_task(vocoder[0])
    batch, key = task.batch(0), jax.random.key(0)
    first = [jax.jit(t.step)(init_state(task, key), batch, key)[1]["loss"] for t in (task, plain)]
    assert float(first[0]) > float(first[1]) + 0.1


def flow_config(runs, vae_path, **values):
    paths = {"data__folder": runs / "scenes", "data__tokenizer": runs / "tokenizer.json", "data__vae": vae_path}
    return config_of("flow", "runlocal", **{key: str(path) for key, path in paths.items()} | values)


@pytest.fixture(scope="module")
def flow(runs, vae, vocoder):
    held = {"data__heldout": str(runs / "heldout"), "data__validation_batches": 1, "loop__validate_every": 4}
    config = flow_config(runs, vae[2], data__vocoder=str(vocoder[2]), **held)
    with config.unlocked():
        config.system.codec["vocoder"] = SMALL_VOCODER
        config.panel["steps"] = 2
    task, loop = make_task(config)
    return config, run(task, runs / "flow", loop)


@pytest.mark.slow
def test_flow(runs, flow):
    config, state = flow
    assert_trained(config, state)
    assert set(state.params) == {"text", "clip", "sync", "mmdit", "stereo", *READOUTS}
    (panel,) = figures(runs / "flow", "panel")
    assert 0 <= panel["f1"] <= 1 and 0 <= panel["f1_shuffled"] <= 1 and 0.5 < panel["f1_ceiling"] <= 1
    assert {path.suffix for path in (runs / "flow" / "panels").iterdir()} >= {".wav", ".png"}
    (held,) = figures(runs / "flow", "validation")
    assert held["step"] == 4 and 0.5 < held["loss"] < 10 and held["stereo"] > 0
    train = figures(runs / "flow", "train")
    assert [line["step"] for line in train] == [2, 4]
    assert all(np.isfinite([line[name] for name in ("loss", "stereo", "align")]).all() for line in train)


@pytest.mark.slow
def test_flow_with_frozen_encoders(runs, vae, flow):
    trained = {name: jax.tree.map(np.asarray, flow[1].params[name]) for name in ("text", "clip", "sync")}
    save_params(runs / "encoders.safetensors", trained)
    frozen = {"step__train_encoders": False}
    config = flow_config(runs, vae[2], data__encoders=str(runs / "encoders.safetensors"), **frozen)
    task, _ = make_task(config)
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert set(params) == {"text", "clip", "sync", "mmdit", "stereo", *READOUTS}
    assert set(abstract_params(config)) == {"mmdit", "stereo", *READOUTS}
    optimised = {part for name in module.flatten(jax.eval_shape(task.init_opt, params)) for part in name.split("/")}
    assert "audio_in" in optimised and "class_embedding" not in optimised
    with pytest.raises(ValueError, match=r"no weights at .*nowhere"):
        make_task(flow_config(runs, vae[2], data__encoders=str(runs / "nowhere"), **frozen))


@pytest.mark.slow
def test_stereo_on_the_encoders_of_a_run(runs, vae, flow):
    held = {"data__heldout": str(runs / "heldout"), "data__validation_batches": 1, "loop__validate_every": 4}
    encoders = str(runs / "flow" / "ema.safetensors")
    config = flow_config(runs, vae[2], task="stereo", data__encoders=encoders, **held)
    task, loop = make_task(config)
    state = run(task, runs / "stereo", loop)
    assert int(state.step) == 4 and int(state.skipped) == 0
    assert set(abstract_params(config)) == {"stereo"}
    frozen = load_params(runs / "flow" / "ema.safetensors")
    assert set(state.params) == {"stereo", *ENCODERS}
    for name in ENCODERS:
        jax.tree.map(np.testing.assert_array_equal, state.params[name], frozen[name])
    traced = jax.make_jaxpr(task.step)(state, task.batch(0), jax.random.key(0))
    assert sum(np.size(x) for x in traced.consts) < 10_000  # the encoders are arguments, however large
    load_params(runs / "stereo" / "stereo.safetensors", state.ema["stereo"])
    assert figures(runs / "stereo", "validation")[0]["loss"] > 0


@pytest.fixture(scope="module")
def untrained_vae(runs):
    """Random weights of the right shapes: enough to make latents."""
    cfg = VAEConfig(**config_of("flow", "runlocal").system.codec.vae)
    save_params(runs / "untrained.safetensors", jax.jit(lambda: module.init(MelVAE, cfg, jax.random.key(0)))())
    return runs / "untrained.safetensors"


def test_batches_are_the_same_in_another_run_and_divide_over_devices(runs, untrained_vae):
    one, two = (make_task(flow_config(runs, untrained_vae))[0].batch(0) for _ in range(2))
    assert all(len(leaf) == 8 for leaf in jax.tree.leaves(one))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_held_out_scenes_are_seen_as_they_are(runs, untrained_vae):
    """Not mirrored, told their true duration, the same at every visit; only of durations that train."""
    config = flow_config(runs, untrained_vae, data__heldout=str(runs / "heldout"), data__validation_batches=2)
    system, vae = read(config.to_dict()).system, load_params(untrained_vae)
    corpus = Corpus(config.data.heldout)
    tokenizer = tokenizer_from(Corpus(config.data.folder), system.text_tokens, runs / "tokenizer.json")
    seen = []

    def figures(params, batch, key):
        seen.append(batch)
        return {"loss": batch.posterior.mean.mean(), "seconds": batch.excerpt.given.seconds_total.mean()}

    look = lambda config: flow_scenes.held_out(read(config.to_dict()), tokenizer, vae, figures)
    with jax.disable_jit():
        first, again = look(config)({}, 1), look(config)({}, 2000)
    assert first == again and first["seconds"] == 1.0
    frames = np.asarray(corpus.buckets[1.0].frames)
    assert len(seen[0].excerpt.sync_frames) == 8
    assert all((frames == shown).all((1, 2, 3, 4)).any() for shown in seen[0].excerpt.sync_frames)
    with pytest.raises(ValueError, match=r"heldout: has scenes of \[1.0\] s, .*data.buckets: 2 s\); render them"):
        look(flow_config(runs, untrained_vae, data__heldout=str(runs / "heldout"), data__buckets=((2.0, 1.0),)))


@pytest.mark.parametrize("values, message", [
    ({"task": "sing"}, r"config\.task: got 'sing', expected one of codec, vocoder, bigvgan, flow, stereo"),
    ({"data__vae": "nowhere.safetensors"}, r"no weights at nowhere\.safetensors"),
    ({"data__folder": "nowhere"}, r"nowhere: no corpus\.json there"),
    ({"data__buckets": ((9.0, 1.0),)}, r"no scenes of \[9\.0\] s in the corpus"),
    ({"data__folder": ""}, r"config\.data: got neither corpora, folder nor synthetic"),
    ({"data__corpora": (("a", 1.0),), "step__train_encoders": False}, r"step\.caption_weight 0\.02 needs token ids"),
    ({"data__synthetic": True}, r"got extracted features to train on, but step\.train_encoders True needs frames"),
    ({"step__known": 0.5, "system__known_as": "renoised"}, r"step\.known: got 0\.5 with system\.known_as 'renoised', "),
])  # fmt: skip
def test_what_is_not_there_is_named(runs, untrained_vae, values, message):
    with pytest.raises(ValueError, match=message):
        make_task(flow_config(runs, untrained_vae, **values))


@pytest.mark.parametrize("name, variant, key, near", [
    ("flow", "runlocal", "systm", "system"),
    ("flow", "runlocal", "system.nmae", "system.name"),
    ("flow", "lora-runlocal", "step.lora.rnak", "step.lora.rank"),
    ("flow", "runlocal", "loop.stps", "loop.steps"),
    ("flow", "runlocal", "optim.learning_rat", "optim.learning_rate"),
    ("flow", "runlocal", "data.fodler", "data.folder"),
    ("flow", "runlocal", "panel.scene", "panel.scenes"),
    ("flow", "lora-runlocal", "data.joint", "data.joined"),
    ("flow", "stereo", "data.held_out", "data.heldout"),
    ("ablation", "0", "data.buckts", "data.buckets"),
    ("codec", "runlocal", "data.frame", "data.frames"),
    ("codec", "runlocal", "training.stages.kl_step", "training.stages.kl_steps"),
    ("codec", "vocoder-runlocal", "data.scene", "data.scenes"),
    ("codec", "vocoder-finetune-runlocal", "vae.widht", "vae.width"),
    ("bigvgan", "runlocal", "data.sound", "data.sounds"),
    ("bigvgan", "runlocal", "training.mel_weigth", "training.mel_weight"),
])  # fmt: skip
def test_an_unknown_key_of_any_section_is_refused(name, variant, key, near):
    config = config_of(name, variant)
    with config.unlocked():
        config.update_from_flattened_dict({key: 1})
    for use in (make_task, abstract_params):
        with pytest.raises(ValueError, match=rf"^unknown key config\.{key}; did you mean config\.{near}\?$"):
            use(config)


@pytest.mark.parametrize("key, value, message", [
    ("data.batch_multiple", 1.5, r"config\.data\.batch_multiple: got 1\.5 \(float\), expected int"),
    ("data.buckets", ((4.0,),), r"config\.data\.buckets\[0\]: got 1 values, expected 2"),
    ("data.emphasis", "several", r"config\.data\.emphasis: got 'several' \(str\), expected a list"),
    ("data.folder", None, r"config\.data\.folder: got None \(NoneType\), expected str"),
    ("panel.scenes", "many", r"config\.panel\.scenes: got 'many' \(str\), expected int"),
])  # fmt: skip
def test_a_value_of_another_type_is_refused(key, value, message):
    config = config_of("flow", "runlocal")
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=message):
        make_task(config)


def test_an_unknown_key_in_a_config_file_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(f"""
from kfjax.train.config import load_config

def get_config(variant=""):
    config = load_config({str(ROOT / "configs" / "flow.py")!r} + ":features-runlocal")
    with config.unlocked():
        config.data.nonsense_key = 1
    return config
""")
    assert main(["train", str(tmp_path / "mine.py"), "--workdir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("kfjax: error: unknown key config.data.nonsense_key; known keys: batch_")
    assert not (tmp_path / "run").exists()


def features_config(folders, variant="features-runlocal", **values):
    return config_of("flow", variant, data__corpora=tuple((str(path), 1.0) for path in folders), **values)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Two folders of features for `features-runlocal`: with video, and of sound and caption alone."""
    root = tmp_path_factory.mktemp("features")
    cfg = strict.from_dict(SystemConfig, config_of("flow", "features-runlocal").system.to_dict())
    return [
        tiny_features.write(root / "videos", cfg, {1.0: 8, 0.5: 8}, shards=2),
        tiny_features.write(root / "sounds", cfg, {1.0: 8}, has_video=False),
    ]


@pytest.mark.slow
def test_flow_on_features(features, tmp_path):
    """No encoder is read or made."""
    config = features_config(features, data__joined=0.5, data__validation=((str(features[1]), 1.0),))
    task, loop = make_task(config)
    state = run(task, tmp_path, loop)
    assert_trained(config, state)
    assert set(state.params) == {"mmdit"}
    assert set(load_params(tmp_path / "ema.safetensors")) == {"mmdit"}
    work = task.work(task.batch(0))
    assert (work.clips, work.audio_seconds) == (8, 8.0) and work.flops > 1e9
    assert [line["step"] for line in figures(tmp_path, "train")] == [2, 4]
    (held,) = figures(tmp_path, "validation")
    assert held["step"] == 4 and 0.5 < held["loss"] < 10


def test_flow_on_synthetic_features(tmp_path):
    config = config_of("flow", "features-runlocal", data__synthetic=True)
    task, _ = make_task(config)
    batch = task.batch(0)
    assert batch.features.clip.shape == (8, 8, 1280) and batch.posterior.mean.shape == (8, 44, 40)
    jax.eval_shape(lambda: task.step(init_state(task, jax.random.key(0)), batch, jax.random.key(1)))


def test_a_run_on_features_goes_on_from_another_runs_network(features, tmp_path):
    config = features_config(features)
    shapes = abstract_params(config)
    weights = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), shapes)
    save_params(tmp_path / "ema.safetensors", weights | {"clip": {"kernel": np.ones(3, np.float32)}})
    task, _ = make_task(features_config(features, data__start=str(tmp_path / "ema.safetensors")))
    jax.tree.map(np.testing.assert_array_equal, jax.jit(task.init)(jax.random.key(0)), weights)


def test_lora_on_features_of_the_model(tmp_path):
    """They must be of the encoders of the model that is tuned."""
    model, mark = write_model(tmp_path / "model"), encoders_fingerprint(tiny_system())
    own = tiny_features.write(tmp_path / "own", CONFIG, {1.0: 8}, fingerprint=mark)
    other = tiny_features.write(tmp_path / "other", CONFIG, {1.0: 8})
    task, _ = make_task(features_config([own], "lora-runlocal", data__start=str(model)))
    assert set(jax.eval_shape(task.init, jax.random.key(0))) == {"mmdit", "lora"}
    with pytest.raises(ValueError, match=r"config\.data\.heldout: got runs/heldout with extracted features"):
        make_task(features_config([own], "lora-runlocal", data__start=str(model), data__heldout="runs/heldout"))
    with pytest.raises(ValueError, match=f"other: got features of encoders {tiny_features.MARK}, expected .* {mark}"):
        make_task(features_config([other], "lora-runlocal", data__start=str(model)))


def missing(folder: Path):
    next(folder.glob("1s/00001*")).unlink()


def truncated(folder: Path):
    path = next(folder.glob("1s/00001*"))
    path.write_bytes(path.read_bytes()[:-100])


def damaged(folder: Path):
    for path in folder.glob("1s/*"):
        content = bytearray(path.read_bytes())
        content[70_000:-70_000:997] = bytes(len(content[70_000:-70_000:997]))
        path.write_bytes(content)


def of_another_schema(folder: Path):
    index = json.loads((folder / "index.json").read_text())
    records.write_json(folder / "index.json", index | {"schema": 99})


def of_other_encoders(folder: Path):
    index = json.loads((folder / "index.json").read_text())
    records.write_json(folder / "index.json", index | {"fingerprint": "beef"})


@pytest.mark.parametrize("spoil, message", [
    (missing, "1 of 2 files are missing: 1s/00001-of-00002.array_record"),
    (truncated, "truncated or replaced: 1s/00001-of-00002.array_record"),
    (damaged, "copy or extract it again"),
    (of_another_schema, "got features of schema 99, expected 1"),
    (of_other_encoders, "got features of encoders beef, expected those of 0123456789abcdef"),
])  # fmt: skip
def test_bad_features_end_a_run_with_one_line(features, tmp_path, capsys, spoil, message):
    cfg = strict.from_dict(SystemConfig, config_of("flow", "features-runlocal").system.to_dict())
    bad = tiny_features.write(tmp_path / "bad", cfg, {1.0: 8}, shards=2)
    spoil(bad)
    corpora = f"data.corpora=(('{features[0]}', 1.0), ('{bad}', 1.0))"
    arguments = ["--workdir", str(tmp_path / "run"), "--set", corpora]
    assert main(["train", "configs/flow.py:features-runlocal", *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("kfjax:")] == said[-1:]
    assert message in said[-1] and str(bad) in said[-1]


@pytest.mark.parametrize("value", ["('a', 1.0)", "(('a',),)", "(('a', 'b'),)", "((1.0, 'a'),)"])
def test_corpora_of_another_form_are_refused(tmp_path, capsys, value):
    arguments = ["--workdir", str(tmp_path / "run"), "--set", f"data.corpora={value}"]
    assert main(["train", "configs/flow.py:features-runlocal", *arguments]) == 2
    assert "data.corpora" in capsys.readouterr().err
