"""The public surface: names that are there, import nothing before they are used, and do what the commands do."""

import base64
import io
import json
import re
import subprocess
import sys
import wave as riff
from pathlib import Path

import numpy as np
import pytest

import kfjax
from kfjax import media, rates
from kfjax.making.sound import Sound
from kfjax.pipeline import Model
from tests.tiny import media_files as files
from tests.tiny.system import CONFIG, tiny_system, write_model

RATE_HZ = 44100
HOP = CONFIG.rates.hop * CONFIG.rates.downsample


@pytest.fixture(scope="module")
def codec():
    return Model(tiny_system()).codec


def tone(seconds: float) -> np.ndarray:
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.stack([0.4 * np.sin(2 * np.pi * 440 * t), 0.2 * np.sin(2 * np.pi * 440 * t)], -1).astype(np.float32)


def test_every_name_is_there_and_documented():
    assert set(kfjax.__all__) <= set(dir(kfjax))
    for name in set(kfjax.__all__) - {"__version__"}:
        assert getattr(kfjax, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'generate'"):
        kfjax.generate  # noqa: B018


def test_train_can_be_called_whatever_has_been_imported():
    code = "import kfjax, kfjax.train.engine.loop; print(callable(kfjax.train), kfjax.train.engine.loop.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "kfjax.train.engine.loop"]


def test_models_are_what_load_takes():
    listed = {model.name: model for model in kfjax.models()}
    assert listed["built-in"].here and listed["built-in"].licences == ("Apache-2.0",)
    assert (listed["built-in"].sample_rate_hz, listed["built-in"].channels) == (44100, 2)
    small = listed["mmaudio-small-16k"]
    assert (small.sample_rate_hz, small.channels) == (16000, 1)
    assert small.megabytes == pytest.approx(6541, abs=1)
    assert "CC-BY-NC-4.0" in small.licences


def test_a_sound_plays_in_a_notebook():
    sound = Sound(np.stack([tone(0.1), 2 * tone(0.1)]), RATE_HZ, 0.1)
    html = sound._repr_html_()
    players = re.findall(r'<audio controls src="data:audio/wav;base64,([^"]+)"></audio>', html)
    assert len(players) == 2
    for player, wave in zip(players, sound.waveforms, strict=True):
        with riff.open(io.BytesIO(base64.b64decode(player))) as file:
            assert (file.getframerate(), file.getnchannels()) == (RATE_HZ, 2)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2) / 32767
        np.testing.assert_allclose(samples, wave, atol=1e-4)
    assert "array" not in repr(sound)


def test_a_sound_is_drawn(tmp_path):
    video = tmp_path / "clip.mp4"
    media.write_video(video, (files.numbered(i) for i in range(12)), 30)
    sound = Sound(np.stack([tone(0.4)] * 2), RATE_HZ, 0.4, video)
    assert sound.plot(tmp_path / "a.png") == tmp_path / "a.png"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"got .*a\.jpg, expected a name in \.png"):
        sound.plot(tmp_path / "a.jpg")


def test_codec_goes_from_a_file_to_latents_and_back(codec, tmp_path):
    wave = tone(0.2)
    media.write_wav(tmp_path / "a.wav", wave, RATE_HZ)
    latents = codec.encode(tmp_path / "a.wav")
    assert latents.shape == (-(-len(wave) // HOP), CONFIG.mmdit.latent_dim)
    np.testing.assert_allclose(latents, codec.encode(wave), atol=1e-2)  # but for 16-bit rounding
    np.testing.assert_array_equal(codec.encode(wave.mean(-1)), codec.encode(wave))
    sound = codec.decode(latents)
    assert sound.waveforms.shape == (1, len(latents) * HOP, 2)
    assert sound.seconds == pytest.approx(len(latents) * HOP / RATE_HZ)
    assert 1e-4 < np.abs(sound.waveforms).max() <= 1


def test_codec_takes_batches(codec):
    batch = np.stack([tone(0.2), tone(0.2)[::-1]])
    latents = codec.encode(batch)
    np.testing.assert_allclose(latents[1], codec.encode(batch[1]), atol=1e-4)
    both = codec.decode(latents)
    assert len(both.waveforms) == 2
    alone = codec.decode(latents[1]).waveform  # the vocoder's phases add up, so that rounding shows
    assert np.abs(both.waveforms[1] - alone).mean() < 0.1 * np.abs(alone).mean()


def test_codec_decodes_what_it_encodes_at_the_longest_and_no_more(codec, monkeypatch):
    monkeypatch.setattr(rates, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(rates, "LONGEST_SECONDS", 0.2)
    latents = codec.encode(tone(0.2))  # whole latents: longer than the sound
    assert codec.decode(latents).seconds > 0.2
    for wrong in (np.concatenate([latents, latents]), latents[:1]):
        with pytest.raises(ValueError, match=rf"latents: got {len(wrong)} of them, expected 5 to {len(latents)}"):
            codec.decode(wrong)


@pytest.mark.parametrize(
    "shape, message",
    [((44100, 3), "expected \\[t\\], \\[t, 1 or 2\\]"), ((100, 2), "duration: got"), ((2, 2, 2, 2), "got shape")],
)
def test_codec_refuses_other_shapes(codec, shape, message):
    with pytest.raises(ValueError, match=message):
        codec.encode(np.zeros(shape))


def test_codec_refuses_what_is_not_finite(codec):
    with pytest.raises(ValueError, match="NaN or infinite samples"):
        codec.encode(np.full(44100, np.nan))
    with pytest.raises(ValueError, match=r"expected \[n, 8\] or \[b, n, 8\]"):
        codec.decode(np.zeros((5, 7)))


def test_extract_returns_what_the_folder_holds(tmp_path):
    (tmp_path / "clips").mkdir()
    media.write_wav(tmp_path / "clips" / "a.wav", tone(1.1), RATE_HZ)
    model, output = write_model(tmp_path / "model"), tmp_path / "features"
    arguments = {"model": model, "seconds": [0.5], "batch": 8}
    assert kfjax.extract(tmp_path / "clips", output, **arguments) == {0.5: 2}
    assert kfjax.extract(tmp_path / "clips", output, **arguments) == {0.5: 2}  # nothing is made anew
    with pytest.raises(ValueError, match="holds another extraction"):
        kfjax.extract(tmp_path / "clips", output, model=model, seconds=1.0)
    with pytest.raises(ValueError, match="--process: got 2/2"):
        kfjax.extract(tmp_path / "clips", output, process="2/2")


def test_evaluate_returns_its_results(tmp_path):
    for folder in ("made", "true"):
        (tmp_path / folder).mkdir()
        media.write_wav(tmp_path / folder / "a.wav", tone(1.0), RATE_HZ)
    output = tmp_path / "report"
    results = kfjax.evaluate(
        tmp_path / "made", "folder", references=tmp_path / "true", metrics=["levels"], pictures=0, output=output
    )
    assert results["matching"]["measured"] == 1
    assert results == json.loads((output / "results.json").read_text())
    with pytest.raises(ValueError, match="--limit: got 0"):
        kfjax.evaluate("built-in", "scenes", limit=0)


def test_train_takes_settings_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"unknown key loop.step; did you mean loop.steps\?"):
        kfjax.train("configs/flow.py:runlocal", tmp_path, set={"loop.step": 1})
    with pytest.raises(ValueError, match=r"no file nowhere\.py"):
        kfjax.train(Path("nowhere.py"), tmp_path)
