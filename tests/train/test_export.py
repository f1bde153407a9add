"""`kfjax export`: from the checkpoint of a run to a model that makes sound."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import kfjax
from kfjax import system
from kfjax.cli import main
from kfjax.codec.vae import MelVAE
from kfjax.data.encode import encoders_fingerprint
from kfjax.nn import module
from kfjax.storage import disk
from kfjax.storage.checkpoint import load_params
from kfjax.storage.stored_state import StoredState
from kfjax.structs import TrainState
from tests.tiny import features as tiny_features
from tests.tiny.system import CONFIG, tiny_system, write_model
from tests.trees import assert_equal

TRAIN = """
from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict({{
        "task": "flow",
        "system": {{}},
        "loop": {{"steps": 2, "seed": 0, "save_every": 1, "log_every": 1}},
        "step": {{"draws": 1, "drop_video": 0.1, "drop_text": 0.1}},
        "optim": {{"learning_rate": 1e-2}},
        "data": {{"start": "{start}", "corpora": (("{features}", 1.0),), "batch_seconds": 8.0,
                  "buckets": ((1.0, 1.0),)}},
    }}).lock()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, features of it, and a run of two steps on both, with one checkpoint a step."""
    folder = tmp_path_factory.mktemp("export")
    write_model(folder / "start")
    features = tiny_features.write(
        folder / "features", CONFIG, {1.0: 8}, fingerprint=encoders_fingerprint(tiny_system())
    )
    (folder / "config.py").write_text(TRAIN.format(start=folder / "start", features=features))
    assert main(["train", str(folder / "config.py"), "--workdir", str(folder / "run")]) == 0
    return folder


def stored(folder: Path, step: int, branch: str):
    return StoredState(folder / "run" / "checkpoints", step, branch)["mmdit"]


def test_the_averaged_weights_bit_for_bit_and_a_sound(folder, tmp_path):
    assert main(["export", str(folder / "run"), str(tmp_path / "mine")]) == 0
    made, base = system.load(tmp_path / "mine"), tiny_system()
    assert_equal(made.params["mmdit"], stored(folder, 2, "ema"))
    assert_equal(made.params["mmdit"], load_params(folder / "run" / "ema.safetensors")["mmdit"])
    assert_equal({name: made.params[name] for name in CONFIG.names if name != "mmdit"},
                 {name: base.params[name] for name in CONFIG.names if name != "mmdit"})  # fmt: skip
    assert made.cfg == CONFIG and made.tokenizer.words() == base.tokenizer.words()
    assert main(["generate", "--prompt", "rain", "--duration", "1", "--model", str(tmp_path / "mine"),
                 "--output", str(tmp_path / "rain.wav")]) == 0  # fmt: skip
    sound = kfjax.load(tmp_path / "mine").generate(prompt="rain", duration=1.0)
    assert sound.waveform.shape == (44100, 2) and np.isfinite(sound.waveform).all() and sound.waveform.any()


def test_every_file_has_its_digest_and_the_card_says_what_it_is(folder, tmp_path):
    assert main(["export", str(folder / "run"), str(tmp_path / "mine")]) == 0
    assert {path.name for path in disk.digests(tmp_path / "mine")} == {"config.json", "tokenizer.json", system.WEIGHTS}
    said = (tmp_path / "mine" / system.CARD).read_text()
    for line in ("# tiny, fine-tuned", "| trained on | features |", "| step | 2 |", "| weights | average (EMA) |",
                 "| mmdit | this run |", "| vae | tiny |", "Licence of the data: not stated.",
                 "Random weights for tests."):  # fmt: skip
        assert line in said


def test_a_step_and_the_raw_parameters(folder, tmp_path):
    options = {"first": ["--step", "1"], "raw": ["--raw"]}
    for name, given in options.items():
        assert main(["export", str(folder / "run"), str(tmp_path / name), *given]) == 0
    first, raw = (system.load(tmp_path / name).params["mmdit"] for name in options)
    assert_equal(first, stored(folder, 1, "ema"))
    assert_equal(raw, stored(folder, 2, "params"))
    differ = lambda one, two: any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True))
    assert differ(first, raw) and differ(raw, stored(folder, 2, "ema"))


def test_a_run_ends_with_the_same_directory(folder, tmp_path):
    assert main(["export", str(folder / "run"), str(tmp_path / "mine")]) == 0
    own = folder / "run" / "model"
    assert {path.name for path in own.iterdir()} == {path.name for path in (tmp_path / "mine").iterdir()}
    for path in own.iterdir():
        assert path.read_bytes() == (tmp_path / "mine" / path.name).read_bytes(), path.name


def test_a_start_that_has_gone_is_given_as_base(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    settings["data"]["start"] = str(tmp_path / "gone")
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    words = ["export", str(tmp_path / "run"), str(tmp_path / "mine")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "gone, which has gone; give that model as --base MODEL" in said
    assert main([*words, "--base", str(folder / "start")]) == 0
    assert_equal(system.load(tmp_path / "mine").params["mmdit"], stored(folder, 2, "ema"))


@pytest.fixture(scope="module")
def codec_run(tmp_path_factory):
    """What a run of `bigvgan` or `vocoder` leaves on the disk, without having been trained: its vocoder alone."""
    from kfjax.storage.checkpoint import StateStore

    folder = tmp_path_factory.mktemp("vocoder")
    drawn = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), module.shapes(*CONFIG.parts()["vocoder"]))
    params = {"vocoder": jax.tree.map(jax.numpy.asarray, drawn)}
    with StateStore(folder / "run" / "checkpoints") as store:
        store.save(7, TrainState(jax.numpy.int32(7), params, {}, params, jax.numpy.int32(0)), wait=True)
    vocoder = {"width": 32, "hidden": 32, "depth": 1, "rounds": 2, "matches": 1}
    settings = {"task": "vocoder", "data": {"folder": "runs/waves"}, "training": {"vocoder": vocoder}}
    (folder / "run" / "config.json").write_text(json.dumps(settings))
    write_model(folder / "start")
    return folder, drawn


def test_a_vocoder_alone_needs_a_model_around_it(codec_run, tmp_path, capsys):
    folder, drawn = codec_run
    words = ["export", str(folder / "run"), str(tmp_path / "mine")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "vocoder alone is no model" in said and "--base MODEL" in said
    assert main([*words, "--base", str(folder / "start")]) == 0
    made = system.load(tmp_path / "mine")
    assert_equal(made.params["vocoder"], drawn)
    assert_equal(made.params["vae"], tiny_system().params["vae"])


def test_a_base_of_other_sizes_is_refused(folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(folder / "start", other)
    weights = {name: dict(part) for name, part in tiny_system().params.items()}
    weights["vae"]["mel_mean"] = np.zeros(3, np.float32)
    system.save_params(other / system.WEIGHTS, weights)
    shutil.copytree(folder / "run", tmp_path / "run")
    words = ["export", str(tmp_path / "run"), str(tmp_path / "mine"), "--base", str(other)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "vae does not fit the run's system: they differ in mel_mean" in said
    assert not (tmp_path / "mine").exists() and not list(tmp_path.glob(".mine-*"))
    assert module.shapes(MelVAE, CONFIG.codec.vae)["mel_mean"].shape == (128,)


@pytest.mark.parametrize("words, message", [
    (["run", "run"], "OUTPUT: .*run exists already; give a new name"),
    (["run", "mine", "--step", "9"], "--step: got 9, expected one of 1, 2"),
    (["nowhere", "mine"], "WORKDIR: no run in .*nowhere"),
    (["untrained", "mine"], "WORKDIR: no checkpoint in .*untrained yet"),
    (["damaged", "mine"], "config.json is damaged"),
    (["run", "mine", "--base", "no-such-model"], "no model directory at no-such-model"),
    (["run", "mine", "--base", "features"], "base: got features, expected a model directory"),
    (["run", "gs://bucket/mine"], "gs://bucket/mine"),
])  # fmt: skip
def test_bad_input_ends_in_one_line(folder, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folder)
    for name, text in {"untrained": (folder / "run" / "config.json").read_text(), "damaged": "{"}.items():
        Path(name).mkdir(exist_ok=True)
        Path(name, "config.json").write_text(text)
    assert main(["export", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert re.search(message, said), said
    assert not Path("mine").exists()


def test_a_damaged_checkpoint_is_refused(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    damaged = max((tmp_path / "run" / "checkpoints" / "2").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "mine")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is damaged" in said and "--step" in said
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "mine"), "--step", "1"]) == 0
