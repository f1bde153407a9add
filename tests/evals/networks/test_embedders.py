"""The networks that measures listen with: from a public file, converted or not, to figures; what is said without."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from kfjax import cli
from kfjax.convert import directory, families
from kfjax.convert.formats import files
from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables import imagebind, panns
from kfjax.evals.networks import embedders, weights
from kfjax.evals.networks.base import Unavailable
from kfjax.listeners.imagebind import ImageBindAudioConfig, ImageBindConfig, ImageBindVisionConfig
from kfjax.listeners.panns import Cnn14, Cnn14Config
from kfjax.media import FrameSpec
from kfjax.nn.module import bind

TAGGER = Cnn14Config(sample_rate_hz=4000, n_fft=64, hop=20, bands=8, widths=(4, 6), classes=5)
TOWERS = ImageBindConfig(
    vision=ImageBindVisionConfig(width=8, depth=1, heads=2, out_dim=6, size=28),
    audio=ImageBindAudioConfig(width=8, depth=1, heads=2, out_dim=6),
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(panns.CONFIGS, "16k", TAGGER)
    monkeypatch.setitem(panns.CONFIGS, "32k", replace(TAGGER, sample_rate_hz=8000, n_fft=128))
    monkeypatch.setitem(imagebind.CONFIGS, "huge", TOWERS)


def public_state(family: str, cfg, dtype=np.float32) -> dict[str, np.ndarray]:
    rng, known = np.random.default_rng(0), families.named(family)
    state = {}
    for key, shape in torch_shapes(known.shapes(cfg), known.table(cfg)).items():
        scale = 0.5 if len(shape) < 2 or shape[:2] == (1, 1) else math.prod(shape[1:]) ** -0.5
        value = np.asarray(scale * rng.standard_normal(shape), dtype)
        state[key] = np.abs(value) + dtype(0.5) if key.endswith(("var", "melW")) else value
        state[key] = np.array(7, np.int64) if key.endswith("tracked") else state[key]
    return state


def publish(folder, family: str, variant: str, dtype=np.float32):
    """A public file in `folder`, under its public name."""
    known = families.named(family)
    path, state = folder / known.files(variant), public_state(family, known.configs[variant], dtype)
    files.write_state(path, state, inside=known.inside)
    return path


def waves(samples=2000, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    return (10 ** rng.uniform(-3, 0, (batch, 1)) * rng.uniform(-1, 1, (batch, samples))).astype(np.float32)


@pytest.fixture
def tagger(tmp_path):
    publish(tmp_path, "panns", "16k")
    return embedders.load_panns(tmp_path)


def test_the_public_file_and_its_conversion_are_the_same(tmp_path, tagger):
    path = publish(tmp_path, "panns", "16k")
    assert path.name == "Cnn14_16k_mAP=0.438.pth"
    assert cli.main(["convert", str(path), str(tmp_path / "metrics")]) == 0
    converted = embedders.load_panns(tmp_path / "metrics")
    assert converted.name == tagger.name == "PANNs Cnn14, 4 kHz" and converted.sample_rate_hz == 4000
    for got, want in zip(converted.tags(waves()), tagger.tags(waves()), strict=True):
        np.testing.assert_array_equal(got, want)
    (again,) = directory.export(tmp_path / "metrics", tmp_path / "again", say=lambda _: None)
    assert again.name == path.name and again.read_bytes() == path.read_bytes()


def test_tags_are_the_network_s(tmp_path, tagger):
    """Each sound by itself, freed of its mean."""
    params = panns.FAMILY.from_torch(public_state("panns", TAGGER), TAGGER)["panns-4k"]
    del params["unused"]
    offset = np.array([[0.3], [-0.2], [0]], np.float32)
    embedding, logits = tagger.tags(waves() + offset)
    centred = waves() - waves().mean(axis=1, keepdims=True)
    want = jax.jit(lambda params, wave: bind(Cnn14, TAGGER, params)(wave))(params, centred)
    np.testing.assert_allclose(embedding, want.embedding, atol=1e-3)
    np.testing.assert_allclose(logits, want.logits, atol=1e-3)
    assert embedding.shape == (3, 6) and logits.shape == (3, 5) and embedding.std(axis=0).max() > 0.01


def test_the_rate_of_the_public_benchmark_comes_first(tmp_path, tagger):
    publish(tmp_path, "panns", "32k")
    assert embedders.load_panns(tmp_path).sample_rate_hz == 4000
    (tmp_path / panns.FILES["16k"]).unlink()
    assert embedders.load_panns(tmp_path).name == "PANNs Cnn14, 8 kHz"


def test_names_of_classes(tmp_path, tagger):
    assert tagger.labels == ("0", "1", "2", "3", "4")
    table = tmp_path / embedders.LABELS
    table.write_text('index,mid,display_name\n0,/m/1,Speech\n1,/m/2,"Bell, church"\n2,/m/3,C\n3,/m/4,D\n4,/m/5,E\n')
    assert embedders.load_panns(tmp_path).labels[:2] == ("Speech", "Bell, church")
    table.write_text("index,mid,display_name\n0,/m/1,Speech\n")
    with pytest.raises(ValueError, match="got 1 classes, expected 5"):
        embedders.load_panns(tmp_path)


@pytest.mark.parametrize("load, named", [
    (embedders.load_panns, ["Cnn14_16k_mAP=0.438.pth or Cnn14_mAP=0.431.pth", "zenodo.org/records/3987831"]),
    (embedders.load_imagebind, ["imagebind_huge.pth", "dl.fbaipublicfiles.com"]),
])  # fmt: skip
def test_missing_weights_are_named_in_one_line(tmp_path, load, named):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Unavailable) as error:
            load(folder)
        message = str(error.value)
        assert "\n" not in message and "kfjax convert" in message and all(name in message for name in named)


def test_what_does_not_fit_is_said_in_one_line(tmp_path):
    path = publish(tmp_path, "panns", "16k")
    files.write_state(path, {key: x for key, x in files.read_state(path).items() if "fc1" not in key})
    with pytest.raises(Unavailable, match=r"expected, \d+ got\); kfjax convert .* --dry-run") as error:
        embedders.load_panns(tmp_path)
    assert "\n" not in str(error.value)
    publish(tmp_path, "panns", "32k").rename(path)
    with pytest.raises(Unavailable, match="got panns 32k, expected panns 16k"):
        embedders.load_panns(tmp_path)


def test_half_precision_files_are_computed_in_full(tmp_path):
    publish(tmp_path, "imagebind", "huge", np.float16)
    _, tree = weights.find(tmp_path, "imagebind", ("huge",))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(np.float32)}


@pytest.fixture(scope="module")
def space():
    params = imagebind.FAMILY.from_torch(public_state("imagebind", TOWERS), TOWERS)["imagebind"]
    return embedders.ImageBind(TOWERS, params)


def test_imagebind_from_its_file(tmp_path, space):
    publish(tmp_path, "imagebind", "huge")
    loaded = embedders.load_imagebind(tmp_path)
    assert (loaded.sample_rate_hz, loaded.frame_spec) == (16000, FrameSpec(0.5, 28, "crops"))
    want = jax.tree.map(np.asarray, space._params)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, loaded._params), want)


def test_a_sound_is_the_mean_of_three_clips(space):
    """Of six seconds, the clips are its thirds; of two, all three are the same."""
    wave = waves(6 * 16000, batch=1)
    thirds = [space.embed_audio(third) for third in np.split(wave, 3, axis=1)]
    np.testing.assert_allclose(space.embed_audio(wave), np.mean(thirds, axis=0), atol=1e-4)
    assert np.linalg.norm(thirds[0]) == pytest.approx(np.exp(space._params["audio"]["log_scale"]), rel=1e-5)
    assert np.abs(thirds[0] - thirds[1]).max() > 1e-3


def test_a_film_is_the_mean_of_its_squares_and_pairs(space):
    """All films here are of three clips: three squares of two pictures, or one of four."""
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (28, 84, 3), np.uint8)
    a, b, c = np.split(still, 3, axis=1)
    film = lambda *pictures: space.embed_video(np.stack(pictures)[None])
    of = {name: film(x, x, x, x) for name, x in (("a", a), ("b", b), ("c", c))}
    np.testing.assert_allclose(film(still, still), np.mean([*of.values()], axis=0), atol=1e-5)
    pair = 3 * film(a, b, b, b) - 2 * of["b"]  # the two after it show b alone
    np.testing.assert_allclose(3 * film(a, a, b, b) - of["a"] - of["b"], pair, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(pair), 1, atol=1e-5)
    assert np.abs(pair - of["a"]).max() > 1e-3
    np.testing.assert_allclose(film(still), film(still, still), atol=1e-6)
