"""An earlier extraction gives what stays the same; only the rest is made anew, and is what a whole extraction makes."""

import csv
from fractions import Fraction

import jax
import numpy as np
import pytest

from kfjax import media, system
from kfjax.data.encode import marks_of
from kfjax.data.extract import extract
from kfjax.data.shards import records
from kfjax.data.shards.marks import Marks
from kfjax.data.shards.records import Folder, parse
from tests.tiny import media_files
from tests.tiny.system import tiny_system, write_model

OPTIONS = {"seconds": 1.0, "shards": 2, "batch": 2, "workers": 2}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    media_files.write_numbered(folder / "picture.mp4", media_files.steady(60, Fraction(25)))
    noise = (0.2 * np.random.default_rng(0).standard_normal((3 * 44100, 2))).astype(np.float32)
    media.mux(folder / "picture.mp4", noise[: round(2.4 * 44100)], 44100, folder / "film.mp4")
    media.write_wav(folder / "sound.wav", noise, 44100)
    write_table(folder, "a bell rings")
    return folder


def write_table(folder, caption):
    with (folder / "table.csv").open("w", newline="") as file:
        rows = [("video", "audio", "caption"), ("film.mp4", "", caption), ("", "sound.wav", "rain on a roof")]
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The tiny system, and others of which some parts differ."""
    folder, (cfg, params, tokenizer) = tmp_path_factory.mktemp("models"), tiny_system()
    changed = lambda name: {name: jax.tree.map(lambda x: x * 1.5, params[name])}
    write_model(folder / "tiny")
    for name in ("text", "vae", "clip"):
        system.save(folder / name, system.System(cfg, params | changed(name), tokenizer))
    return folder


@pytest.fixture(scope="module")
def features(clips, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "tiny"
    assert extract(clips / "table.csv", folder, system=models / "tiny", **OPTIONS) == {1.0: 5}
    return folder


def examples(folder) -> dict:
    return {one.id: one for one in map(parse, Folder(folder).buckets[1.0])}


@pytest.mark.parametrize("stale, unread", [("text", ("read_frames", "read_audio", "frames_in_windows")),
                                           ("vae", ("read_frames", "frames_in_windows")),
                                           ("clip", ("read_audio",))])  # fmt: skip
def test_only_what_differs_is_made_anew(clips, models, features, tmp_path, monkeypatch, capsys, stale, unread):
    extract(clips / "table.csv", tmp_path / "whole", system=models / stale, **OPTIONS)
    with monkeypatch.context() as patch:
        for name in unread:
            patch.setattr(media, name, lambda *_, name=name, **__: pytest.fail(f"{name}: decoded for nothing"))
        counts = extract(clips / "table.csv", tmp_path / "again", system=models / stale, reuse=features, **OPTIONS)
    assert counts == {1.0: 5} and "5 of them from the earlier extraction" in capsys.readouterr().err
    before, want, got = examples(features), examples(tmp_path / "whole"), examples(tmp_path / "again")
    assert got.keys() == want.keys()
    for name, one in want.items():
        for a, b in zip(jax.tree.leaves(got[name]), jax.tree.leaves(one), strict=True):
            if np.asarray(a).dtype == records.BFLOAT16:
                np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=0.02, atol=0.02)
            else:
                assert np.array_equal(a, b)
    field = {"vae": "mean"}.get(stale, stale)
    film = "film.mp4@0+1"
    assert not np.array_equal(getattr(got[film], field), getattr(before[film], field))
    assert Folder(tmp_path / "again").marks == Folder(tmp_path / "whole").marks


def test_another_caption_is_encoded_anew(clips, models, features, tmp_path):
    (tmp_path / "clips").mkdir()
    for path in clips.glob("*.*"):
        (tmp_path / "clips" / path.name).symlink_to(path)
    (tmp_path / "clips/table.csv").unlink()
    write_table(tmp_path / "clips", "wind and footsteps")
    source = tmp_path / "clips/table.csv"
    extract(source, tmp_path / "again", system=models / "tiny", reuse=features, **OPTIONS)
    extract(source, tmp_path / "whole", system=models / "tiny", **OPTIONS)
    got, want, before = examples(tmp_path / "again"), examples(tmp_path / "whole"), examples(features)
    film = "film.mp4@0+1"
    np.testing.assert_array_equal(got[film].text, want[film].text)
    np.testing.assert_array_equal(got[film].clip, before[film].clip)
    assert not np.array_equal(got[film].text, before[film].text)


def test_what_differs_is_said_part_by_part(clips, models, features):
    with pytest.raises(ValueError, match=r"other text, the same clip, sync, vae\); .*--from .* takes over what stays"):
        extract(clips / "table.csv", features, system=models / "text", **OPTIONS)
    with pytest.raises(ValueError, match=r"\(tiny and tiny: other vae, the same clip, sync, text\); extract them"):
        Folder(features, fingerprint=marks_of(system.load(models / "vae")))
    with pytest.raises(ValueError, match="expected those of 0123456789abcdef; extract"):  # nothing more is known
        Folder(features, fingerprint="0123456789abcdef")


def test_an_earlier_version_s_folder(clips, models, features, tmp_path):
    """It loads; of what made each part it says nothing, so another system can't take it over."""
    folder = tmp_path / "old"
    extract(clips / "table.csv", folder, system=models / "tiny", **OPTIONS)
    for name in ("index.json", "extraction.json", *(f"shards/{path.name}" for path in folder.glob("shards/*.json"))):
        values = records.read_json(folder / name)
        records.write_json(folder / name, {k: v for k, v in values.items() if k not in ("marks", "dealt")})
    found = Folder(folder, fingerprint=Folder(features).marks)
    assert found.marks == Marks(found.fingerprint) and len(examples(folder)) == 5
    assert extract(clips / "table.csv", folder, system=models / "tiny", **OPTIONS) == {1.0: 5}
    with pytest.raises(ValueError, match="does not say what made each of its parts"):
        extract(clips / "table.csv", tmp_path / "new", system=models / "text", reuse=folder, **OPTIONS)


def test_the_codec_in_the_slot_is_part_of_the_marks(clips, models, features, tmp_path):
    extract(clips / "table.csv", tmp_path / "f", system=models / "tiny", codec=models / "vae", **OPTIONS)
    one, other = Folder(tmp_path / "f").marks, marks_of(system.load(models / "vae"))
    assert one.parts == other.parts and one.differing(Folder(features).marks) == ["vae"]
