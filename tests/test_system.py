"""The model directory: complete, checked, replaced only by a whole one."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kfjax import system
from kfjax.storage.checkpoint import WeightsError
from tests.tiny.system import CAPTIONS, CONFIG, tiny_system, write_model


@pytest.fixture
def directory(tmp_path):
    return write_model(tmp_path / "model")


def test_round_trip(directory):
    loaded = system.load(directory)
    assert loaded.cfg == CONFIG
    assert jax.tree.structure(loaded.params) == jax.tree.structure(tiny_system().params)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, tiny_system().params)
    for got, want in zip(loaded.tokenizer.encode(CAPTIONS), tiny_system().tokenizer.encode(CAPTIONS), strict=True):
        np.testing.assert_array_equal(got, want)
    names = {"config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md", "SHA256SUMS"}
    assert {path.name for path in directory.iterdir()} == names
    assert {path.name for path in directory.parent.iterdir()} == {"model"}


def test_names_begin_with_the_part(directory):
    names = load_file(directory / "model.safetensors")
    assert {name.partition("/")[0] for name in names} == set(CONFIG.parts())


def test_half_precision_halves_the_file(directory, tmp_path):
    system.save(tmp_path / "half", tiny_system(), dtype="float16")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (directory, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    got, want = system.load(tmp_path / "half").params, tiny_system().params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), got, want)
    assert not (tmp_path / "half" / "MODEL_CARD.md").exists()


def test_a_model_is_replaced_only_by_a_whole_one(directory, monkeypatch):
    renamed = tiny_system()._replace(cfg=dataclasses.replace(CONFIG, name="second"))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(system, "save_params", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        system.save(directory, renamed)
    assert system.load(directory).cfg.name == "tiny"
    assert {path.name for path in directory.parent.iterdir()} == {"model"}
    system.save(directory, renamed)
    assert system.load(directory).cfg.name == "second"


@pytest.mark.parametrize("name", ["thesis.tex", "config.json"])  # a training run has a config.json too
def test_a_directory_of_something_else_is_not_touched(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no model"):
        system.save(tmp_path, tiny_system())
    assert (tmp_path / name).read_text() == "years of work"


def edit(directory, **values):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("change, message", [
    (lambda d: edit(d, nmae="x"), r"unknown key config\.nmae; did you mean config\.name\?"),
    (lambda d: edit(d, text_tokens="many"), r"config\.text_tokens: got 'many' \(str\), expected int"),
    (lambda d: edit(d, mmdit={"width": 64}), r"missing key config\.mmdit\.heads"),
    (lambda d: (d / "config.json").write_text("{"), r"config\.json is not valid JSON"),
    (lambda d: (d / "config.json").write_text("[1]"), r"config\.json: got list, expected a JSON object"),
    (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), r"config\.json is not valid JSON"),
    (lambda d: (d / "tokenizer.json").unlink(), r"is not a model directory: missing tokenizer\.json"),
    (lambda d: (d / "tokenizer.json").write_text("{}"), r"is no tokenizer\.json"),
])  # fmt: skip
def test_a_damaged_directory_is_refused(directory, change, message):
    change(directory)
    with pytest.raises(ValueError, match=message):
        system.load(directory)


def test_no_directory(tmp_path):
    with pytest.raises(ValueError, match=r"no model directory at .*nowhere"):
        system.load(tmp_path / "nowhere")


def test_weights_that_do_not_fit_are_all_named(directory):
    path = directory / "model.safetensors"
    weights = load_file(path)
    weights["stereo/extra"] = weights.pop("stereo/empty")
    weights["vae/latent_std"] = np.zeros(3, np.float32)
    weights["vae/latent_mean"] = np.full(8, np.inf, np.float32)
    save_file(weights, path)
    with pytest.raises(WeightsError) as caught:
        system.load(directory)
    shape = "shape of vae/latent_std: got (3,), expected (8,)"
    for part in ("missing: stereo/empty", "unknown: stereo/extra", shape, "not finite: vae/latent_mean"):
        assert part in str(caught.value)


def test_parts_that_do_not_fit_together_are_all_named():
    text = dataclasses.replace(CONFIG.text, width=24)
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(CONFIG, text=text, clip=dataclasses.replace(CONFIG.clip, out_dim=48))
    text = "mmdit.text_dim is 16, the part it reads gives 24"
    for part in (text, "mmdit.clip_dim is 16", "codec.stereo.clip_dim is 16"):
        assert part in str(caught.value)


def test_every_part_has_its_own_random_stream():
    one, two = (system.init_parts(CONFIG, names, jax.random.key(3)) for names in (("clip", "stereo"), ("stereo",)))
    assert set(one) == {"clip", "stereo"}
    jax.tree.map(np.testing.assert_array_equal, one["stereo"], two["stereo"])
    shapes = system.part_shapes(CONFIG)
    assert set(shapes) == set(CONFIG.parts())
    assert system.part_shapes(CONFIG, "clip") == {"clip": shapes["clip"]}
    assert jax.tree.map(lambda x: x.shape, shapes["clip"]) == jax.tree.map(lambda x: x.shape, one["clip"])
