"""The demo's studio: takes that are redone, varied and undone, recordings and references."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kfjax import media
from kfjax.demo.studio import Studio
from tests.tiny.studio import LIMITS, RATE_HZ, good, names, quiet, silent_studio, text, uploaded, wish


@pytest.fixture
def studio(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    return silent_studio(tmp_path / "served", monkeypatch)


def test_a_take_is_redone_and_varied(studio):
    """The model gets the take's own samples, which then give the same file; the rest is as the take was made."""
    clip = uploaded(studio)
    made = wish(clip, negative_prompt="wind", music_prompt="a piano", loudness=-23, seconds=None, seed=5)
    [take] = studio.make("a", made, quiet)
    assert [path.suffixes for path in take.stems] == [[".effects", ".wav"], [".music", ".wav"]]
    numbers = np.random.default_rng(0).integers(-32768, 32768, (round(0.8 * RATE_HZ), 2))
    media.write_wav(take.sound, (numbers / 32768).astype(np.float32), RATE_HZ)
    again = studio.changed("a", 1, prompt="", seed=7, redo=(0.05, 0.4))
    assert (again.redo, again.loudness, again.music_prompt) == ((0.0, 0.4), None, "a piano")
    [new] = studio.make("a", again, quiet)
    asked = studio.model.asked[-1]
    assert np.array_equal(asked.audio * 32768, numbers)
    assert (asked.redo, asked.strength, asked.video, asked.negative_prompt) == (((0.0, 0.4),), None, clip, "wind")
    assert (asked.seed, asked.music_seed) == (7, 5), "the music goes on"
    assert studio.changed("a", 2, prompt="", seed=9, redo=(0.0, 0.4)).music_seed == 5, "however often"
    assert new.words == "2. a bell, without wind, take 1 redone 0 to 0.4 s" and not new.stems
    [new] = studio.make("a", studio.changed("a", 1, prompt=" rain ", seed=8, strength=0.3), quiet)
    asked = studio.model.asked[-1]
    assert (asked.prompt, asked.redo, asked.strength, asked.music_prompt) == ("rain", (), 0.3, "")
    assert new.words == "3. rain, without wind, take 1 varied by 0.3"


def test_undo_goes_back_to_the_take_before(studio):
    studio.make("a", wish(samples=2), quiet)
    [first] = studio.undo("a")
    assert first.number == 1 and names(studio.folder) == {path.name for path in first.files()}
    assert studio.undo("a") == [first], "the only one stays"
    assert studio.undo("b") == []
    assert studio.make("a", wish(), quiet)[0].number == 3, "numbers are not given twice"


def heard(path: Path, seconds: float = 1.5, level: float = 0.5) -> Path:
    wave = level * np.random.default_rng(0).uniform(-1, 1, (round(seconds * RATE_HZ), 2))
    media.write_wav(path, wave.astype(np.float32), RATE_HZ)
    return path


def small(studio: Studio) -> Studio:
    """With room for a second of sound that is not compressed."""
    studio.limits = replace(LIMITS, megabytes=1.0)
    return studio


def test_an_uploaded_recording_is_a_take(studio):
    upload = uploaded(small(studio), heard, "dog.wav")
    take = studio.record("a", wish(seconds=1.0), upload)
    assert take.words == "1. dog, uploaded" and take.seconds == 1.5 and not upload.exists()
    assert len(take.outline) == 240 and max(take.outline) == 1.0
    studio.make("a", studio.changed("a", 1, prompt="", seed=1, redo=(0.5, 1.0)), quiet)
    assert studio.model.asked[0].duration == 1.5 and studio.model.asked[0].audio.shape == (round(1.5 * RATE_HZ), 2)
    film = studio.record("a", wish(uploaded(studio)), uploaded(studio, heard, "dog.wav"))
    assert film.seconds == pytest.approx(0.8) and film.film is not None, "no longer than the clip"
    for make, words in [
        (text, "not a readable"), (good, "has no sound"), (lambda path: heard(path, 0.6), "too short"),
        (lambda path: heard(path, 2.5), "lasts 2.5 s, at most 2 s"),
    ]:  # fmt: skip
        upload = uploaded(studio, make, "bad.wav" if make is not good else "bad.mp4")
        with pytest.raises(ValueError, match=words) as refusal:
            studio.record("a", wish(), upload)
        assert str(studio.folder) not in str(refusal.value) and not upload.exists()
    bare = studio.record("a", wish(prompt=""), uploaded(studio, heard, "dog.wav"))
    with pytest.raises(ValueError, match="nothing to go by"):
        studio.check("a", studio.changed("a", bare.number, prompt="", seed=1, strength=0.5))


def test_a_reference_reaches_the_model(studio):
    upload = uploaded(small(studio), heard, "dog.wav")
    studio.admit("a", upload, reference=True)
    studio.make("a", wish(reference=upload, music_prompt=" a piano ", music_gain=0.5, loudness=-16), quiet)
    asked = studio.model.asked[0]
    assert (asked.reference, asked.music_prompt, asked.music_gain, asked.loudness) == (upload, "a piano", 0.5, -16)
    for make, words in [
        (lambda path: heard(path, level=0.0), "reference: silent.wav is silent"), (text, "not a readable"),
        (lambda path: heard(path, 0.3), "expected at least 0.5 s"),
    ]:  # fmt: skip
        upload = uploaded(studio, make, "silent.wav")
        with pytest.raises(ValueError, match=words) as refusal:
            studio.admit("a", upload, reference=True)
        assert str(studio.folder) not in str(refusal.value) and not upload.exists()
