"""Mono2Stereo on extracted features: it learns where the sources are, and ends in a model that places them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from kfjax import system
from kfjax.cli import main
from kfjax.data import records
from kfjax.data.encode import encoders_fingerprint
from kfjax.storage.checkpoint import load_params
from kfjax.structs import StereoMels
from tests.tiny import features as tiny_features
from tests.tiny.system import CONFIG, tiny_system

TRAIN = """
from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict({{
        "task": "stereo",
        "system": {{}},
        "loop": {{"steps": 10, "seed": 0, "save_every": 10, "log_every": 2, "validate_every": 10}},
        "optim": {{"learning_rate": 2e-2, "warmup": 0.0}},
        "data": {{"start": "{start}", "corpora": (("{features}", 1.0),), "validation": (("{features}", 1.0),),
                  "validation_batches": 1, "batch_seconds": 4.0, "buckets": ((0.5, 1.0),)}},
    }}).lock()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model without Mono2Stereo, and features whose first CLIP channel says on which side the sound is."""
    folder, tiny = tmp_path_factory.mktemp("stereo"), tiny_system()
    mono = dataclasses.replace(CONFIG, codec=dataclasses.replace(CONFIG.codec, stereo=None))
    start = system.System(mono, {name: tiny.params[name] for name in mono.names}, tiny.tokenizer)
    system.save(folder / "start", start)
    examples = [tiny_features.example(CONFIG, 0.5, i, name="features", stereo=True) for i in range(16)]
    for i, one in enumerate(examples):
        side = 1 if i % 2 else -1
        ratio = np.full(one.stereo.ratio.shape, 64 * side, np.int8)
        clip = 0.1 * one.clip + side * (np.arange(one.clip.shape[1]) == 0)
        examples[i] = one._replace(clip=clip, stereo=StereoMels(one.stereo.mono, ratio, True))
    records.write(folder / "features", {0.5: examples}, encoders_fingerprint(tiny))
    return folder


def test_it_learns_the_sides_and_ends_in_a_stereo_model(folder, capsys):
    (folder / "config.py").write_text(TRAIN.format(start=folder / "start", features=folder / "features"))
    assert main(["train", str(folder / "config.py"), "--workdir", str(folder / "run")]) == 0
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.85 * losses[0] and [line["kind"] for line in lines].count("validation") == 1
    made = system.load(folder / "run" / "model")
    assert made.cfg.codec.stereo is not None and made.cfg.names == CONFIG.names
    stereo = load_params(folder / "run" / "stereo.safetensors")
    jax.tree.map(np.testing.assert_array_equal, made.params["stereo"], stereo)
    for name in system.load(folder / "start").cfg.names:
        jax.tree.map(np.testing.assert_array_equal, made.params[name], tiny_system().params[name])


def test_features_without_stereo_are_refused_in_one_line(folder, tmp_path, capsys):
    mark = encoders_fingerprint(tiny_system())
    features = tiny_features.write(tmp_path / "features", CONFIG, {0.5: 8}, fingerprint=mark)
    (tmp_path / "config.py").write_text(TRAIN.format(start=folder / "start", features=features))
    assert main(["train", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "got features without stereo" in said
