"""Changed copies: which there are follows from the seed and the excerpt alone; they are made of files."""

import re

import numpy as np
import pytest

from kfjax import media
from kfjax.data import variants
from kfjax.data.encode import FeatureEncoder
from kfjax.data.sources import Cut, Row, cuts, read_rows
from kfjax.data.variants import AugmentConfig, Variant, Variants, parse
from tests.tiny.system import tiny_system

RATE_HZ = 44100
ALL = AugmentConfig(seed=1, crops=1, mirrored=1, before=1, after=1, during=1, repeated=1, twins=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two films of 2.5 s and two sounds of 1 s; each with one short event."""
    folder = tmp_path_factory.mktemp("clips")
    lines = ["video,audio,caption"]
    for k, (name, caption) in enumerate({
        "dog.mp4": "a dog barks", "car.mp4": "A car horn.", "bell.wav": "a bell rings", "many.wav": "rain and wind",
    }.items()):  # fmt: skip
        seconds = 2.5 if name.endswith("mp4") else 1.0
        wave = np.zeros((round(seconds * RATE_HZ), 2), np.float32)
        wave[4410 : 4410 + 4410] = 0.3 * np.sin(0.05 * (k + 1) * np.arange(4410))[:, None]
        if name.endswith("mp4"):
            wave[60_000:62_000] = 0.2
            frames = (np.full((32, 32, 3), 60 * k + 2 * i, np.uint8) for i in range(round(25 * seconds)))
            media.write_video(folder / name, frames, 25, wave, RATE_HZ)
        else:
            media.write_wav(folder / name, wave, RATE_HZ)
        lines.append(f"{name},,{caption}" if name.endswith("mp4") else f",{name},{caption}")
    (folder / "clips.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return read_rows(folder / "clips.csv")


@pytest.fixture(scope="module")
def encoder():
    return FeatureEncoder(tiny_system(), batch=2)


def items(rows, cfg=ALL, seconds=1.0):
    plan = Variants(cfg, rows)
    return [item for row in rows for item in plan.of(cuts(row, (seconds,))[0])]


def test_which_copies_there_are(rows):
    found = [item.id for item in items(rows)]
    assert found[:2] == ["dog.mp4@0+1", "dog.mp4@1+1"]
    kinds = lambda name: {m[1] for one in found if (m := re.match(rf"{re.escape(name)}~(\w+)@", one))}
    assert kinds("dog.mp4") == {"crop", "mirrored", "before", "after", "during", "repeated", "low", "high"}
    assert kinds("bell.wav") == {"mirrored", "repeated", "low", "high"}  # no other sound alone names one event
    assert kinds("many.wav") == {"mirrored", "low", "high"}
    assert len(set(found)) == len(found)
    assert [item.id for item in items(rows, AugmentConfig())] == [one for one in found if "~" not in one]


def test_copies_follow_from_the_seed_and_the_excerpt(rows):
    half = AugmentConfig(seed=3, mirrored=0.5, during=0.5)
    assert items(rows, half) == items(rows, half) != items(rows, AugmentConfig(seed=4, mirrored=0.5, during=0.5))
    plan = Variants(half, rows)
    apart = [item for row in rows[::-1] for item in plan.of(cuts(row, (1.0,))[0])]
    assert sorted(map(repr, apart)) == sorted(map(repr, items(rows, half)))
    many = [Row(f"{i}", None, rows[2].audio, "a bell rings") for i in range(400)]
    made = [i for row in many for i in Variants(AugmentConfig(mirrored=0.25), many).of([Cut(row, 0.0, 1.0)])]
    assert 60 < len(made) - 400 < 140


def test_what_says_left_or_right_is_not_put_on_a_side(rows):
    sided = [rows[0]._replace(caption="a dog barks on the left"), rows[1]]
    kinds = lambda rows: {
        item.kind for item in items(rows, AugmentConfig(before=1, during=1)) if isinstance(item, Variant)
    }
    assert kinds(sided) == {"before"}
    third = rows[1]._replace(id="third", caption="rain")
    during = [item for item in items([*sided, third], AugmentConfig(during=1)) if isinstance(item, Variant)]
    assert {item.row.id for item in during} == {"car.mp4", "third"}
    assert {row.caption for item in during for row in item.partners} == {"A car horn.", "rain"}


def test_two_excerpts_with_the_same_crop_have_one(rows, monkeypatch):
    monkeypatch.setattr(variants, "_crop", lambda cut, rng: 0.25)
    found = [item.id for item in items(rows[:1], AugmentConfig(crops=1))]
    assert found == ["dog.mp4@0+1", "dog.mp4@1+1", "dog.mp4~crop@0.25+1"]


def test_copies_are_made(rows, encoder):
    load = lambda item: variants.load(encoder, item) if isinstance(item, Variant) else encoder.load(item)
    made = {item.id: load(item) for item in items(rows)}
    plain = made["dog.mp4@0+1"]
    assert all(name == loaded.cut.id for name, loaded in made.items())
    for loaded in made.values():
        assert loaded.wave.shape == plain.wave.shape and np.isfinite(loaded.wave).all() and loaded.wave.any()
        if loaded.cut.row.video is not None:
            for name in ("clip_frames", "sync_frames"):
                assert getattr(loaded.excerpt, name).shape == getattr(plain.excerpt, name).shape
    mirrored = made["dog.mp4~mirrored@0+1"]
    np.testing.assert_array_equal(mirrored.excerpt.sync_frames, plain.excerpt.sync_frames[:, :, :, ::-1])
    gain = np.abs(mirrored.wave).max() / np.abs(plain.wave).max()
    assert 0.5 < gain < 2 and gain != 1
    assert "dog" in made["dog.mp4~before@0+1"].cut.row.caption and "horn" in made["dog.mp4~before@0+1"].cut.row.caption
    assert made["dog.mp4~repeated@0+1"].cut.row.caption.startswith("a dog barks ")
    low, high = (made[f"dog.mp4~{kind}@0+1"] for kind in ("low", "high"))
    np.testing.assert_allclose(high.wave, plain.wave, atol=1e-6)
    assert plain.side is None and low.side is None
    assert made["dog.mp4~during@0+1"].side is not None  # each clip on its side
    assert not np.array_equal(low.wave, plain.wave)
    assert low.cut.row.caption.endswith("low quality") and high.cut.row.caption.endswith("high quality")
    crops = [loaded for name, loaded in made.items() if "~crop" in name]
    assert all(0 <= one.cut.start_seconds <= 1.6 for one in crops) and len({c.cut.start_seconds for c in crops}) > 1
    again = variants.load(encoder, next(item for item in items(rows) if item.id == "dog.mp4~low@0+1"))
    np.testing.assert_array_equal(again.wave, low.wave)


def test_a_partner_that_cannot_be_read_gives_way(rows, encoder, tmp_path):
    item = next(item for item in items(rows) if item.id == "dog.mp4~during@0+1")
    gone = rows[1]._replace(video=tmp_path / "gone.mp4")
    made = variants.load(encoder, item._replace(partners=(gone, rows[1])))
    assert "horn" in made.cut.row.caption and made.cut.row.video is not None
    with pytest.raises((ValueError, OSError)):
        variants.load(encoder, item._replace(partners=(gone,)))
    alone = variants.load(encoder, item._replace(partners=(rows[2],)))  # sound alone: the mixture has no picture
    assert (
        alone.cut.row.video is None and not alone.excerpt.given.has_video.any() and alone.excerpt.given.has_text.all()
    )


def test_one_long_sound_is_not_repeated(encoder, tmp_path):
    media.write_wav(tmp_path / "hum.wav", 0.1 * np.ones((RATE_HZ, 1), np.float32), RATE_HZ)
    row = Row("hum.wav", None, tmp_path / "hum.wav", "a machine hums")
    (item,) = (item for item in items([row], AugmentConfig(repeated=1)) if item.id != "hum.wav@0+1")
    with pytest.raises(ValueError, match="got one long sound, expected a short event"):
        variants.load(encoder, item)


@pytest.mark.parametrize("values, message", [
    (["mirored=0.5"], r"unknown key augment\.mirored; did you mean augment\.mirrored"),
    (["mirrored"], "--augment: got mirrored=, expected KIND=SHARE"),
    (["mirrored=lots"], "--augment: got mirrored=lots"),
    (["mirrored=1.5"], r"augment\.mirrored: got 1\.5, expected a share from 0 to 1"),
    (["seed=0.5"], "--augment: got seed=0.5"),
    ({"during": -1}, r"augment\.during: got -1"),
])  # fmt: skip
def test_bad_shares(values, message):
    with pytest.raises(ValueError, match=message):
        parse(values)


def test_shares():
    assert parse(["during=0.25", "seed=7"]) == parse({"during": 0.25, "seed": 7}) == AugmentConfig(seed=7, during=0.25)
    assert parse(()).chosen == parse({"seed": 3}).chosen == {}
    assert parse(["twins=1"]).chosen == {"seed": 0, "twins": 1.0}
