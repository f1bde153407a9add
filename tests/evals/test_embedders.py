"""The networks that measures listen with: from a public file, converted or not, to figures; what is said without."""
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from kfjax import cli
from kfjax.convert import directory, families, files, imagebind, panns
from kfjax.encoders import fbank
from kfjax.encoders.imagebind import ImageBindAudio, ImageBindAudioConfig, ImageBindConfig, ImageBindVisionConfig
from kfjax.encoders.panns import Cnn14, Cnn14Config
from kfjax.evals import embedders
from kfjax.evals.networks import Unavailable
from kfjax.module import bind

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


def public_state(family: str, variant: str, dtype=np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(variant))
    state = {}
    for key, shape in families.named(family).layout(variant).items():
        scale = 0.5 if len(shape) < 2 or shape[:2] == (1, 1) else math.prod(shape[1:]) ** -0.5
        value = np.asarray(scale * rng.standard_normal(shape), dtype)
        state[key] = np.abs(value) + dtype(0.5) if key.endswith(("var", "melW")) else value
        state[key] = np.array(7, np.int64) if key.endswith("tracked") else state[key]
    return state


def publish(folder, family: str, variant: str, dtype=np.float32):
    """A public file in `folder`, under its public name."""
    known = families.named(family)
    files.write_state(folder / known.files(variant), public_state(family, variant, dtype), inside=known.inside)
    return folder / known.files(variant)


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
    params = panns.from_torch(public_state("panns", "16k"), TAGGER)["cnn14"]
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


def test_half_precision_files_are_computed_in_full(tmp_path):
    publish(tmp_path, "imagebind", "huge", np.float16)
    assert embedders.load_imagebind(tmp_path).embed_audio(waves(16000)).dtype == np.float32


def test_imagebind(tmp_path):
    publish(tmp_path, "imagebind", "huge")
    space = embedders.load_imagebind(tmp_path)
    assert (space.sample_rate_hz, *space.frame_spec) == (16000, 0.5, 28, "crops")
    heard = space.embed_audio(waves(40000, batch=2))
    params = imagebind.from_torch(public_state("imagebind", "huge"), TOWERS)["audio"]
    hear = jax.jit(lambda params, mels: bind(ImageBindAudio, TOWERS.audio, params)(mels))
    np.testing.assert_allclose(heard, hear(params, fbank.clip_log_mels(waves(40000, batch=2))), rtol=1e-4, atol=1e-4)
    frames = np.random.default_rng(0).integers(0, 256, (1, 3, 28, 84, 3), np.uint8)
    clips = [frames[:, i : i + 2, :, 28 * j : 28 * j + 28] for i in range(2) for j in range(3)]
    np.testing.assert_allclose(space.embed_video(frames), np.mean([*map(space.embed_video, clips)], axis=0), atol=1e-5)
    still = space.embed_video(clips[0][:, [0, 0]])
    np.testing.assert_allclose(space.embed_video(clips[0][:, :1]), still, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(still), 1, atol=1e-5)
