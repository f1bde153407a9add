"""A vocoder fine-tuned on the decoded latents of extracted features: from one folder to a model."""

import json
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import pytest

from kfjax import config, media, system
from kfjax.cli import main
from kfjax.convert import hub
from kfjax.storage.checkpoint import load_params
from kfjax.train.config import apply, check_addresses, load_config
from kfjax.train.tasks import vocoder_step
from tests.tiny.system import CONFIG, tiny_system, write_model

TRAIN = """
from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict({{
        "task": "vocoder",
        "loop": {{"steps": 2, "seed": 0, "save_every": 2, "log_every": 1}},
        "data": {{"folder": "{folder}/waves", "vae": "{model}", "start": "{model}", "corpora": (("{features}", 1.0),)}},
        "vae": {vae},
        "training": {{"vocoder": {vocoder}, "batch": 8, "frames": 8, "pieces": 1, "piece_seconds": 0.5}},
    }}).lock()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocoder")
    (folder / "sounds").mkdir()
    wave = 0.3 * np.random.default_rng(0).standard_normal((44100, 1)).astype(np.float32)
    media.write_wav(folder / "sounds" / "a.wav", wave, 44100)
    write_model(folder / "model")
    words = ["extract", folder / "sounds", "--output", folder / "features", "--model", folder / "model"]
    assert main([*map(str, words), "--seconds", "1", "--no-stereo"]) == 0
    return folder


def config_of(folder, model) -> str:
    path, codec = folder / f"{model.name}.py", CONFIG.codec
    values = {"folder": folder, "model": model, "features": folder / "features"}
    path.write_text(TRAIN.format(vae=asdict(codec.vae), vocoder=asdict(codec.vocoder), **values))
    return str(path)


def test_it_ends_in_the_model_with_its_vocoder(folder):
    assert main(["train", config_of(folder, folder / "model"), "--workdir", str(folder / "run")]) == 0
    made, start = system.load(folder / "run" / "model"), tiny_system()
    jax.tree.map(
        np.testing.assert_array_equal, made.params["vocoder"], load_params(folder / "run" / "vocoder.safetensors")
    )
    differ = [(a != b).any() for a, b in zip(*map(jax.tree.leaves, (made.params["vocoder"], start.params["vocoder"])),
                                             strict=True)]  # fmt: skip
    assert any(differ) and made.cfg == CONFIG
    for name in set(CONFIG.names) - {"vocoder"}:
        jax.tree.map(np.testing.assert_array_equal, made.params[name], start.params[name])
    said = (folder / "run" / "model" / system.CARD).read_text()
    assert "# tiny, fine-tuned" in said and "| trained on | features |" in said


def test_another_vae_than_the_one_of_the_features_is_refused(folder, capsys):
    other, tiny = folder / "other", tiny_system()
    vae = dict(tiny.params["vae"]) | {"mel_mean": tiny.params["vae"]["mel_mean"] + 1}
    system.save(other, tiny._replace(params={**tiny.params, "vae": vae}))
    assert main(["train", config_of(folder, other), "--workdir", str(folder / "refused")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "config.data.vae: got" in said and "which made the features; give that" in said
    assert "sounds" in json.loads((folder / "features" / "extraction.json").read_text())["from"]


def in_parts(folder, params, names):
    """A system in a file a part, of which some are not there."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(CONFIG)))
    tiny_system().tokenizer.save(folder / "tokenizer.json")
    for name in names:
        system.save_params(folder / f"{name}.safetensors", params[name])
    return folder


def crops_of(folder, model, features):
    values = load_config(config_of(folder, model)).to_dict()
    values["data"]["corpora"] = ((str(features), 1.0),)
    return vocoder_step.feature_crops(vocoder_step.read(values))


def test_the_vae_of_a_system_without_a_generator(folder, tmp_path, monkeypatch):
    model = in_parts(tmp_path / "system", tiny_system().params, set(CONFIG.names) - {"mmdit", "stereo"})
    assert crops_of(folder, model, folder / "features").crops(0)
    monkeypatch.setitem(hub.MODELS, "mine", ())
    (tmp_path / "cache" / "models").mkdir(parents=True)
    model.rename(tmp_path / "cache" / "models" / "mine")
    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert crops_of(folder, Path("mine"), folder / "features").crops(0)


def test_recordings_that_have_moved_into_a_bucket(folder, gs):
    """They were in a folder; a table there names them now."""
    (gs / "a.wav").put((folder / "sounds" / "a.wav").read_bytes())
    (gs / "clips.csv").put(b"audio\na.wav\n")
    settings = load_config(config_of(folder, folder / "model"))
    apply(settings, f"data.sources=('{gs}/clips.csv',)")
    check_addresses(settings)
    moved = vocoder_step.feature_crops(vocoder_step.read(settings.to_dict()))(0)
    here = crops_of(folder, folder / "model", folder / "features")(0)
    jax.tree.map(np.testing.assert_array_equal, moved, here)


def test_the_vae_that_stood_in_the_slot(folder, tmp_path):
    tiny, codec, features = tiny_system(), tmp_path / "codec", tmp_path / "features"
    others = {name: jax.tree.map(lambda x: x + np.float32(1), tiny.params[name]) for name in ("clip", "vae")}
    system.save(codec, tiny._replace(params={**tiny.params, **others}))
    words = ["extract", folder / "sounds", "--output", features, "--model", folder / "model", "--codec", codec]
    assert main([*map(str, words), "--seconds", "1", "--no-stereo"]) == 0
    assert crops_of(tmp_path, codec, features).crops(0)
    with pytest.raises(ValueError, match="which made the features; give that"):
        crops_of(tmp_path, folder / "model", features)
