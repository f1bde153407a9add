"""Mono2Stereo on extracted features, after a generator without one."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from kfjax import system
from kfjax.cli import main
from kfjax.data.batches import FeatureInput
from kfjax.data.buckets import Buckets
from kfjax.data.encode import encoders_fingerprint
from kfjax.storage.checkpoint import load_params
from kfjax.train.engine.validation import Validation
from kfjax.train.tasks.flow.step import FlowStepConfig, flow_figures
from kfjax.train.tasks.stereo_step import make_figures, make_loss
from tests.tiny import features as tiny_features
from tests.tiny.system import CONFIG, tiny_system

TRAIN = """
from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict({{
        "task": "stereo",
        "system": {{}},
        "loop": {{"steps": 2, "seed": 0, "save_every": 2, "log_every": 1, "validate_every": 2}},
        "optim": {{"learning_rate": 1e-2, "ema_decay": 0.0}},
        "data": {{"start": "{start}", "corpora": (("{features}", 1.0),), "validation": (("{features}", 1.0),),
                  "validation_batches": 1, "batch_seconds": 4.0, "buckets": ((0.5, 1.0),)}},
    }}).lock()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model without Mono2Stereo, and features of stereo recordings."""
    folder, tiny = tmp_path_factory.mktemp("stereo"), tiny_system()
    mono = dataclasses.replace(CONFIG, codec=dataclasses.replace(CONFIG.codec, stereo=None))
    start = system.System(mono, {name: tiny.params[name] for name in mono.names}, tiny.tokenizer)
    system.save(folder / "start", start)
    mark = encoders_fingerprint(tiny)
    tiny_features.write(folder / "features", CONFIG, {0.5: 8}, fingerprint=mark, stereo=True)
    return folder


def test_a_run_on_features_ends_in_a_stereo_model(folder):
    (folder / "config.py").write_text(TRAIN.format(start=folder / "start", features=folder / "features"))
    assert main(["train", str(folder / "config.py"), "--workdir", str(folder / "run")]) == 0
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "train", "validation"]
    assert all(0 < line["loss"] < 4 for line in lines)
    made = system.load(folder / "run" / "model")
    assert made.cfg.codec.stereo is not None and made.cfg.names == CONFIG.names
    stereo = load_params(folder / "run" / "stereo.safetensors")
    jax.tree.map(np.testing.assert_array_equal, made.params["stereo"], stereo)
    assert stereo["out"]["kernel"].any()  # it begins at zero
    for name in system.load(folder / "start").cfg.names:
        jax.tree.map(np.testing.assert_array_equal, made.params[name], tiny_system().params[name])


def test_validation_passes_over_recordings_in_mono(folder):
    """A batch without any in stereo says nothing, and is no loss of 0."""
    buckets = Buckets({0.5: 1.0}, batch_seconds=4.0, multiple_of=8, seed=0)
    stereo = FeatureInput(CONFIG, [(folder / "features", 1.0)], buckets, seed=0, stereo=True)(0)
    half, mono = (stereo._replace(stereo=stereo.stereo._replace(there=np.arange(8) < n)) for n in (4, 0))
    params, figures = {"stereo": tiny_system().params["stereo"]}, make_figures(make_loss(CONFIG))
    seen = lambda *batches: Validation(figures, batches.__getitem__, len(batches))(params, 0)
    assert seen(stereo, mono) == seen(stereo) and seen(stereo)["loss"] > 0 and seen(mono) == {}
    whole, part = seen(stereo)["loss"], seen(half)["loss"]
    assert whole != part and seen(stereo, half)["loss"] == pytest.approx((2 * whole + part) / 3, rel=1e-6)
    joint = flow_figures(CONFIG, FlowStepConfig(stereo_weight=0.5))
    shapes = jax.eval_shape(joint, tiny_system().params, stereo, jax.random.key(0))
    assert shapes["stereo_count"].shape == ()


def test_features_without_stereo_are_refused_in_one_line(folder, tmp_path, capsys):
    mark = encoders_fingerprint(tiny_system())
    features = tiny_features.write(tmp_path / "features", CONFIG, {0.5: 8}, fingerprint=mark)
    (tmp_path / "config.py").write_text(TRAIN.format(start=folder / "start", features=features))
    assert main(["train", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "got features without stereo" in said
