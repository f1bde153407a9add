"""What a user can get wrong: one clear line, exit code 2, nothing written. And odd input that must work."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kfjax import media
from kfjax.cli import main
from tests.tiny import media_files as files
from tests.tiny.system import write_model

RATE_HZ = 44100


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    media.write_video(path, (files.numbered(i) for i in range(20)), 25)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def refused(capsys, arguments: list, *words: str) -> None:
    """The command ends with code 2 and one line that has the words; no file appears or changes."""
    before = {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")}
    capsys.readouterr()
    assert main(["generate", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("kfjax: error: "), said.err
    assert not [word for word in words if word not in said.err], said.err
    assert said.out == ""
    assert {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")} == before


def absent(folder: Path) -> Path:
    return folder / "absent.mp4"


def text_file(folder: Path) -> Path:
    (folder / "text.mp4").write_text("words, not pictures\n" * 100)
    return folder / "text.mp4"


def noise(folder: Path) -> Path:
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    return folder / "noise.mp4"


def empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def sound_alone(folder: Path) -> Path:
    return files.write_sound(folder / "sound.m4a", np.zeros((RATE_HZ, 2), np.float32), RATE_HZ)


def no_frames(folder: Path) -> Path:
    with av.open(str(folder / "none.mp4"), "w") as target:
        target.add_stream("libx264", rate=25, width=64, height=64)
        target.start_encoding()
    return folder / "none.mp4"


def one_frame(folder: Path) -> Path:
    return files.write_numbered(folder / "one.mp4", files.steady(1, 25))


def two_short_frames(folder: Path) -> Path:
    return files.write_numbered(folder / "two.mp4", files.steady(2, 60), rate=60, tick=Fraction(1, 60))


def cut_off(folder: Path) -> Path:
    media.write_video(folder / "whole.mp4", (files.numbered(i) for i in range(100)), 25)
    return files.copy_start(folder / "whole.mp4", folder / "cut.mp4", 0.5)


@pytest.mark.parametrize(
    "make, words",
    [
        (absent, "no such file"),
        (text_file, "not a readable video"),
        (noise, "not a readable video"),
        (empty, "empty file"),
        (sound_alone, "no picture"),
        (no_frames, "neither picture nor sound"),
        (one_frame, "single frame"),
        (two_short_frames, "too short"),
        (cut_off, "cut"),
    ],
)
def test_videos(here, capsys, model, make, words):
    path = make(here.parent)
    refused(capsys, [path, "--model", model], str(path), words)


def short(folder: Path) -> Path:
    return files.write_numbered(folder / "a.mp4", files.steady(5, 25), tick=Fraction(1, 25))


def variable_rate(folder: Path) -> Path:
    gaps = [Fraction(g, 1000) for g in (0, 40, 20, 300, 10, 33, 33, 34, 120)]
    return files.write_numbered(folder / "a.mkv", [sum(gaps[: i + 1]) for i in range(len(gaps))])


def odd_rate(folder: Path) -> Path:
    rate = Fraction(30000, 1001)
    return files.write_numbered(folder / "a.mp4", files.steady(20, rate), rate=rate, tick=1 / rate)


def rotated(folder: Path) -> Path:
    return files.write_numbered(folder / "a.mp4", files.steady(15, 25), rotation=90, tick=Fraction(1, 25))


def no_timestamps(folder: Path) -> Path:
    return files.write_numbered(folder / "a.h264", files.steady(15, 25), tick=Fraction(1, 25), options={"bf": "0"})


@pytest.mark.parametrize("make", [short, variable_rate, odd_rate, rotated, no_timestamps])
def test_odd_videos_work(here, model, make):
    """0.2 s, variable and odd rates, rotation, no timestamps: exact length, the picture's packets untouched."""
    path = make(here.parent)
    output = here / ("out.mkv" if path.suffix == ".mkv" else "out.mp4")
    assert main(["generate", str(path), "--model", str(model), "--output", str(output)]) == 0
    seconds = media.probe(path).seconds
    assert media.read_audio(output, RATE_HZ).shape == (round(seconds * RATE_HZ), 2)
    if path.suffix != ".h264":  # a bare stream has other marks between its packets
        assert files.picture_packets(output)[0] == files.picture_packets(path)[0]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--duration", "0"], "duration: got 0 s, expected 0.1 to 3600 s"),
        (["--duration", "-1"], "duration: got -1 s"),
        (["--duration", "1e9"], "duration: got 1e+09 s"),
        (["--duration", "nan"], "duration: got nan s"),
        (["--duration", "5"], "0.800 s"),
        (["--duration", "long"], "invalid float value: 'long'"),
        (["--prompt", ""], "--prompt: got an empty text"),
        (["--prompt", "la " * 3334], "prompt: got 10002 characters"),
        (["--negative-prompt", "la " * 3334], "negative prompt: got 10002 characters"),
        (["--negative-guidance", "2"], "no negative prompt"),
        (["--steps", "0"], "steps: got 0, expected a whole number from 1"),
        (["--guidance", "-3"], "guidance: got -3"),
        (["--guidance", "inf"], "guidance: got inf"),
        (["--seed", "-1"], "seed: got -1"),
        (["--samples", "0"], "samples: got 0"),
        (["--keep-original", "1"], "has no sound"),
        (["--output", "absent/a.mp4"], "the folder absent doesn't exist"),
        (["--output", "."], "."),
        (["--output", "a.xyz"], "a.xyz"),
        (["--output", "a.mp4", "--audio-only"], "--audio-only: got a.mp4"),
        (["--plot", "a.jpg"], "--plot: got a.jpg"),
        (["--plot", "absent/a.png"], "absent"),
        (["--example"], "--example"),
        (["--sed", "1"], "--sed"),
        (["--keep", "0-0.5"], "got no audio"),
        (["--audio", "absent.wav", "--keep", "0-0.5"], "absent.wav"),
        (["--keep", "0:00-0:10"], "keep: got '0:00-0:10', expected seconds such as 0-3"),
        (["--redo", "0.5-2"], "redo: got 0.5-2, expected a span within 0-0.8"),
        (["--redo", "0-0.5,0.4-0.6"], "which overlap"),
        (["--keep", "0.5-0.5"], "keep: got 0.5-0.5, expected a span within 0-0.8 seconds that is not empty"),
        (["--music-prompt", "a piano", "--music-seed", "-1"], "music seed: got -1"),
        (["--strength", "0"], "strength: got 0"),
        (["--reference", "absent.wav"], "absent.wav"),
        (["--output", "-"], "give --stream too"),
        (["--stream", "--samples", "2"], "--stream: got --samples too, which need the whole sound"),
        (["--stream", "--loudness", "-23", "--plot"], "--stream: got --loudness and --plot too"),
        (["--loudness", "5"], "loudness: got 5"),
        (["--guidance-interval", "0.1"], "--guidance-interval: got '0.1', expected two times"),
        (["--guidance-interval", "0.8-0.1"], "guidance interval: got 0.8 to 0.1"),
        (["--schedule", "cosine"], "--schedule"),
        (["--window", "0"], "window: got 0"),
        (["--window", "0.5"], "invalid int value"),
        (["--overlap", "0"], "overlap: got 0"),
    ],
)
def test_arguments(capsys, model, clip, arguments, words):
    refused(capsys, [clip, "--model", model, *arguments], words)


def test_output_over_the_input(here, capsys, model, clip):
    (here / "a.mp4").write_bytes(clip.read_bytes())
    refused(capsys, ["a.mp4", "--output", "a.mp4", "--model", model], "is the input itself")


def test_output_over_the_recording(here, capsys, model, clip):
    media.write_wav(here / "take.wav", np.zeros((RATE_HZ, 2), np.float32), RATE_HZ)
    refused(capsys, [clip, "--audio", "take.wav", "--redo", "0-0.1", "--output", "take.wav", "--model", model], "input")
    refused(capsys, [clip, "--reference", "take.wav", "--model", model], "take.wav is silent")


def test_a_film_of_ten_hours(here, capsys, model):
    """Refused by its timestamps, before a picture is decoded."""
    media.write_video(here / "long.mkv", (files.numbered(i) for i in range(42)), 1 / 900)
    refused(capsys, ["long.mkv", "--model", model], "at most 3600 s are possible")


def test_nothing_to_do(capsys):
    refused(capsys, [], "neither a video nor a prompt")


def test_a_prompt_alone_has_no_picture(capsys, model):
    refused(capsys, ["--prompt", "rain", "--output", "a.mp4", "--model", model], "no picture")


def test_lists(here, capsys, model, clip):
    (here / "empty").mkdir()
    (here / "column.csv").write_text("video,promt\na.mp4,rain\n")
    (here / "header.csv").write_text("video,prompt\n")
    (here / "binary.csv").write_bytes(b"\x89PNG\xff\x00video")
    refused(capsys, ["empty", "--model", model], "give --output FOLDER")
    refused(capsys, ["empty", "--output", "out", "--model", model], "without a video")
    refused(capsys, ["column.csv", "--output", "out", "--model", model], "did you mean prompt?")
    refused(capsys, ["header.csv", "--output", "out", "--model", model], "no video and no prompt")
    refused(capsys, ["binary.csv", "--output", "out", "--model", model], "not a CSV file")
    refused(capsys, ["absent.csv", "--output", "out", "--model", model], "absent.csv")


def missing_tensor(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop("mmdit/final/conv/bias"))


def extra_tensor(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"mmdit/extra": np.zeros(3, np.float32)}))


def misshapen_tensor(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"mmdit/final/conv/bias": np.zeros(5, np.float32)}))


def nan_tensor(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors["mmdit/final/conv/bias"].fill(np.nan))


def rewrite(folder: Path, change) -> None:
    tensors = {name: np.array(x) for name, x in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def cut_weights(folder: Path) -> None:
    files.copy_start(folder / "model.safetensors", folder / "model.safetensors", 0.5)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def unknown_key(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["mmdit"]["widht"] = config["mmdit"].pop("width")
    (folder / "config.json").write_text(json.dumps(config))


def missing_key(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["mmdit"]["width"]
    (folder / "config.json").write_text(json.dumps(config))


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def parts_that_do_not_fit(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["mmdit"]["clip_dim"] = 17
    (folder / "config.json").write_text(json.dumps(config))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    "damage, words",
    [
        (missing_tensor, "missing: mmdit/final/conv/bias"),
        (extra_tensor, "unknown: mmdit/extra"),
        (misshapen_tensor, "shape of mmdit/final/conv/bias: got (5,), expected (8,)"),
        (nan_tensor, "not finite: mmdit/final/conv/bias"),
        (cut_weights, "not a readable .safetensors file"),
        (no_config, "missing config.json"),
        (unknown_key, "did you mean config.mmdit.width?"),
        (missing_key, "width"),
        (not_json, "not valid JSON"),
        (parts_that_do_not_fit, "mmdit.clip_dim is 17"),
        (no_tokenizer, "tokenizer"),
    ],
)
def test_models(here, capsys, clip, damage, words):
    folder = write_model(here.parent / "model")
    damage(folder)
    refused(capsys, [clip, "--model", folder], words)


def test_no_model(capsys, clip):
    refused(capsys, [clip, "--model", "absent"], "no model directory at absent")
