"""Extraction with changed copies: beside the excerpts, bound to the folder, and split over processes as one wants."""

import numpy as np
import pytest

from kfjax import media
from kfjax.data import encode as feature_encoder
from kfjax.data.crops import _Clips
from kfjax.data.encode import FeatureEncoder
from kfjax.data.extract import main
from kfjax.data.shards.records import Folder, parse
from tests.tiny.system import tiny_system, write_model

SHARES = ("mirrored=0.5", "during=1", "twins=1", "seed=3")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for name in ("dog", "bell", "car"):
        media.write_wav(folder / f"{name}.wav", 0.1 * rng.standard_normal((88200, 1)).astype(np.float32), 44100)
    media.write_wav(folder / "silent.wav", np.zeros((88200, 1), np.float32), 44100)
    lines = [
        "audio,caption",
        "dog.wav,a dog barks",
        "bell.wav,a bell rings",
        "car.wav,a car passes",
        "silent.wav,a hum",
    ]
    (folder / "clips.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def run(clips, tmp_path, monkeypatch, tmp_path_factory):
    encoder = FeatureEncoder(tiny_system(), batch=2)
    monkeypatch.setattr(feature_encoder, "FeatureEncoder", lambda *_: encoder)
    model = write_model(tmp_path_factory.mktemp("model") / "tiny")

    def call(name: str, *more: str) -> dict:
        output = tmp_path / name
        words = [str(clips / "clips.csv"), "--output", str(output), "--model", str(model), "--seconds", "1"]
        assert main([*words, "--shards", "2", "--workers", "2", *more]) == 0
        if not (output / "index.json").exists():
            return {}
        found = [parse(record) for record in Folder(output).buckets[1.0]]
        assert len({one.id for one in found}) == len(found)
        return {one.id: one for one in found}

    return call


def test_recordings_that_are_not_there_are_not_looked_for(run, tmp_path, clips):
    run("mixed", "--augment", "mirrored=1")
    with pytest.raises(ValueError, match="mixed: got changed copies, which no recording has"):
        _Clips(tmp_path / "mixed", str(clips / "clips.csv"))


def test_copies_lie_beside_the_excerpts(run, tmp_path):
    plain = run("plain")
    whole = run("whole", "--augment", *SHARES)
    assert {name for name in whole if "~" not in name} == set(plain) and len(plain) == 6
    for kind, count in (("during", 6), ("low", 6), ("high", 6)):
        assert sum(f"~{kind}@" in name for name in whole) == count
    assert len((tmp_path / "whole/bad.csv").read_text().splitlines()) == 3  # the silent ones; not their copies
    tokens = lambda one: int(one.given.text_mask.sum())
    assert (
        tokens(whole["dog.wav~high@0+1"]) == tokens(whole["dog.wav@0+1"]) + 3 or tokens(whole["dog.wav~high@0+1"]) == 3
    )
    np.testing.assert_array_equal(whole["dog.wav~high@0+1"].mean, plain["dog.wav@0+1"].mean)
    assert not np.array_equal(whole["dog.wav~low@0+1"].mean, plain["dog.wav@0+1"].mean)
    assert run("shared", "--augment", *SHARES, "--process", "1/2") == {}
    shared = run("shared", "--augment", *SHARES, "--process", "0/2")
    assert shared.keys() == whole.keys()
    for name, one in whole.items():
        np.testing.assert_array_equal(one.mean, shared[name].mean)
    with pytest.raises(ValueError, match=r"holds another extraction: augment was \{'seed': 3, .*\}, is \{\}"):
        run("whole")
    with pytest.raises(ValueError, match=r"plain: holds another extraction: augment was \{\}, is \{'seed': 0"):
        run("plain", "--augment", "mirrored=1")
