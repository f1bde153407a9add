"""Crops of recordings with their stored latents: of the same place to a sample, wherever the source is now."""

import json
import re
import shutil

import fsspec
import jax
import numpy as np
import pytest

from kfjax import media
from kfjax.codec.mel import MelConfig
from kfjax.codec.pieces import vae_halo
from kfjax.codec.vae import MelVAE
from kfjax.data import encode
from kfjax.data.crops import RecordingCrops
from kfjax.data.encode import FeatureEncoder
from kfjax.data.extract import extract
from kfjax.data.shards.records import Folder, parse
from kfjax.nn import module
from kfjax.train.tasks.vocoder_step import decoded_mel
from tests.tiny.system import CONFIG, tiny_system

HALO = vae_halo(CONFIG.codec.vae)
#: Where the table's clips begin, by their ids.
FIRST = {"a.wav": 0.0123456789, "a.wav#2": 0.5, "b.wav": 0.0}
SIZES = {"latents": 8, "samples": 15 * 512, "context": HALO}


def remote_table(folder):
    """The same, of recordings that are not on this disk."""
    for path in (folder / "sounds").glob("*.wav"):
        fsspec.filesystem("memory").pipe_file(f"memory://crops/{path.name}", path.read_bytes())
    table = (folder / "sounds" / "clips.csv").read_text()
    (folder / "remote.csv").write_text(re.sub(r"\b(\w.wav)", r"memory://crops/\1", table))
    return folder / "remote.csv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two recordings at other rates, cut into excerpts of one and of half a second; a table names the places."""
    folder, rng = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    (folder / "sounds").mkdir()
    for name, rate_hz, seconds in (("a", 44100, 2.6), ("b", 48000, 1.1)):
        wave = 0.3 * rng.standard_normal((round(seconds * rate_hz), 2)).astype(np.float32)
        media.write_wav(folder / "sounds" / f"{name}.wav", wave, rate_hz)
    (folder / "sounds" / "clips.csv").write_text("audio,start\na.wav,0.0123456789\na.wav,0.5\nb.wav,\n")
    shared = FeatureEncoder(tiny_system(), 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "FeatureEncoder", lambda *_: shared)
        extract(folder / "sounds" / "clips.csv", folder / "features", seconds=[1.0, 0.5])
        extract(remote_table(folder), folder / "remote", seconds=[1.0, 0.5])
    return folder


def made(folder, **options) -> RecordingCrops:
    options = {"batch": 8, "seed": 3, **SIZES} | options
    return RecordingCrops([(folder / "features", 1.0)], CONFIG.codec.mel, **options)


def test_the_wave_is_that_of_the_latents(folder):
    crops, opened = made(folder), Folder(folder / "features")
    batch, places = crops(0), crops.crops(0)
    assert batch["wave"].shape == (8, 15 * 512) and batch["latents"].shape == (8, 8 + 2 * HALO, 8)
    for row, place in enumerate(places):
        example = parse(opened.buckets[place.seconds][place.record])
        np.testing.assert_array_equal(batch["latents"][row], example.mean[place.first :][: 8 + 2 * HALO])
        name, _, where = example.id.rpartition("@")
        file, first = name.partition("#")[0], FIRST[name]
        start = first + round(2 * (float(where.partition("+")[0]) - first)) / 2  # ids round it
        whole = media.read_audio(folder / "sounds" / file, 44100, 1, place.seconds, start)[:, 0]
        np.testing.assert_allclose(batch["wave"][row], whole[(place.first + HALO) * 1024 :][: 15 * 512], atol=1e-6)
    assert len({place.record for place in places}) > 1
    for again in (made(folder).runs(0, (1, 3), 4), crops.runs(0, (1, 3), 4)):
        for name, x in again.items():
            np.testing.assert_array_equal(x, batch[name][[2, 3, 6, 7]])


def test_recordings_are_fetched_from_where_they_are(folder):
    remote = RecordingCrops([(folder / "remote", 1.0)], CONFIG.codec.mel, batch=8, seed=3, **SIZES)
    for name, x in made(folder)(0).items():
        np.testing.assert_array_equal(remote(0)[name], x)


def test_the_decoded_crop_is_that_of_the_whole(folder):
    crops, cfg = made(folder, batch=2), CONFIG.codec.vae
    vae = tiny_system().params["vae"]
    decode = jax.jit(lambda latents: module.bind(MelVAE, cfg, vae).decode(latents))
    got = np.asarray(jax.jit(decoded_mel(CONFIG.codec.mel, cfg, vae).mel)({"vae": vae}, crops(0)))
    for row, place in enumerate(crops.crops(0)):
        example = parse(Folder(folder / "features").buckets[place.seconds][place.record])
        whole = np.asarray(decode(example.mean[None].astype(np.float32)))[0]
        np.testing.assert_allclose(got[row], whole[2 * (place.first + HALO) :][:15], atol=1e-4)


def test_a_source_that_has_moved_is_told_and_one_that_has_changed_refused(folder, tmp_path):
    shutil.copytree(folder / "features", tmp_path / "features")
    shutil.copytree(folder / "sounds", tmp_path / "sounds")
    plan = json.loads((tmp_path / "features" / "extraction.json").read_text())
    (tmp_path / "features" / "extraction.json").write_text(json.dumps(plan | {"from": str(tmp_path / "gone.csv")}))
    with pytest.raises(ValueError, match=r"gone\.csv: no such file or folder"):
        made(tmp_path)
    table = tmp_path / "sounds" / "clips.csv"
    np.testing.assert_array_equal(made(tmp_path, places=[str(table)])(0)["wave"], made(folder)(0)["wave"])
    table.write_text(table.read_text() + "b.wav,0.1\n")
    with pytest.raises(ValueError, match=r"is not, or no longer, what the features in .* were made of"):
        made(tmp_path, places=[str(table)])
    (tmp_path / "features" / "extraction.json").unlink()
    with pytest.raises(ValueError, match=r"does not say where its recordings are; give their source as data\.sources"):
        made(tmp_path)


@pytest.mark.parametrize("options, message", [
    ({"latents": 60}, r"got excerpts of \[0\.5, 1\.0\] s, expected some of [0-9.]+ s; lower training\.frames"),
    ({"places": ["a", "b"]}, r"data\.sources: got 2 for 1 corpora"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        made(folder, **options)


def test_a_batch_that_does_not_divide_is_refused(folder):
    with pytest.raises(ValueError, match=r"training\.batch: got 8, which does not divide by 3"):
        made(folder).runs(0, (0,), 3)


def test_mel_frames_are_those_of_the_default():
    assert CONFIG.codec.mel == MelConfig()  # the sizes above count on it
