"""CLAP through transformers, on a small random model saved as the hub has them."""

import json
import sys

import numpy as np
import pytest

from kfjax.evals.networks import clap
from kfjax.evals.networks.base import Unavailable

LETTERS = "abcdefghijklmnopqrstuvwxyzĠ"


def save(folder, *, fusion=False):
    """A CLAP of one layer a stage, with a tokenizer that knows letters."""
    import torch
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizer

    text = {"vocab_size": 64, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8, "max_position_embeddings": 80}  # fmt: skip
    audio = {"hidden_size": 16, "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2],
             "num_hidden_layers": 2, "enable_fusion": fusion, "fusion_type": "aff_2d" if fusion else None}  # fmt: skip
    torch.manual_seed(0)
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=6)).save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    RobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(config | {"processor_class": "ClapProcessor"}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("weights")
    (folder / "a-file").write_text("not a folder")
    (folder / "tiny_clap").mkdir()
    save(folder / "tiny_clap")
    return folder


@pytest.fixture(scope="module")
def space(folder):
    return clap.load(folder)


@pytest.fixture(scope="module")
def heard(space):
    return space.embed_audio(waves(2))


def waves(seconds, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, (batch, round(seconds * 48000))).astype(np.float32)


def test_one_space_for_both(space, heard):
    assert (space.name, space.sample_rate_hz) == ("CLAP tiny_clap", 48000)
    said = space.embed_text(["a dog barks", "rain"])
    assert heard.shape == said.shape == (2, 6) and heard.dtype == said.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([heard, said]), axis=1), 1, atol=1e-5)
    assert np.abs(said[0] - said[1]).max() > 1e-3


def test_a_sound_is_heard_alike_each_time_and_in_any_company(space, heard):
    np.testing.assert_allclose(space.embed_audio(waves(2)[1:]), heard[1:], atol=1e-5)
    beside = space.embed_text(["a very long caption of rain", "rain"])
    np.testing.assert_allclose(beside[1:], space.embed_text(["rain"]), atol=1e-5)


def test_long_sounds_are_heard_in_pieces(space):
    """Of 12 seconds: the first ten and the last ten."""
    wave = waves(12, batch=1)
    pieces = space.embed_audio(np.concatenate([wave[:, :480000], wave[:, -480000:]]))
    np.testing.assert_allclose(space.embed_audio(wave), pieces.mean(axis=0, keepdims=True), atol=1e-5)


def test_the_same_numbers_as_transformers(space, heard, folder):
    import torch
    from transformers import AutoProcessor, ClapModel

    model = ClapModel.from_pretrained(folder / "tiny_clap").eval()
    processor = AutoProcessor.from_pretrained(folder / "tiny_clap")
    inputs = processor(text=["rain"], audio=list(waves(2)), sampling_rate=48000, return_tensors="pt", padding=True)
    with torch.inference_mode():
        want = model(**inputs)
    np.testing.assert_allclose(heard, want.audio_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(space.embed_text(["rain"]), want.text_embeds.numpy(), atol=1e-5)


def test_what_is_missing_is_named_in_one_line(folder, tmp_path, monkeypatch):
    with pytest.raises(Unavailable, match=r"hf download laion/larger_clap_general --local-dir .*larger_clap_general"):
        clap.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clap"}')
    with pytest.raises(Unavailable, match="no whole CLAP model") as error:
        clap.load(tmp_path)
    assert "\n" not in str(error.value)
    for name, end in (("config.json", None), ("model.safetensors", -100)):
        (tmp_path / name).write_bytes((folder / "tiny_clap" / name).read_bytes()[:end])
    with pytest.raises(Unavailable, match="no whole CLAP model"):
        clap.load(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Unavailable, match=r"pip install '\.\[eval\]'"):
        clap.load(folder)


def test_fusion_is_refused(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    save(tmp_path, fusion=True)
    with pytest.raises(Unavailable, match="with fusion, expected one without"):
        clap.load(tmp_path)
