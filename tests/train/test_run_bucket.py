"""From clips to a model that makes sound, all of it in a bucket: extract, train, go on, export, load."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import kfjax
from kfjax import media
from kfjax.cli import main
from kfjax.storage import disk, lock, stored_state
from tests.tiny.system import write_model
from tests.train.test_export import TRAIN

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(3)


def train(config, features, workdir, steps: int) -> int:
    settings = [f"data.corpora=(('{features}', 1.0),)", f"loop.steps={steps}"]
    return main(["train", str(config), "--workdir", str(workdir), "--set", *settings])


def lines(workdir) -> list[tuple[int, float]]:
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in found]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_way_in_a_bucket_is_that_on_a_disk(in_bucket, store, tmp_path, capsys):
    clips = tmp_path / "clips"
    clips.mkdir()
    for k in range(6):
        media.write_wav(clips / f"{k}.wav", (0.2 * RNG.standard_normal((44100 + 50, 2))).astype(np.float32), 44100)
    (tmp_path / "config.py").write_text(TRAIN.format(start=write_model(in_bucket / "start"), features="", steps=2))
    store.fail_every = 31
    for place in (tmp_path, in_bucket):
        more = ["--model", str(in_bucket / "start"), "--seconds", "1", "--shards", "2"]
        assert main(["extract", str(clips), "--output", str(place / "features"), *more]) == 0
        for steps in (2, 4):  # it stops, and goes on
            assert train(tmp_path / "config.py", place / "features", place / "run", steps) == 0
    store.calm()
    assert len(lines(in_bucket / "run")) == 4 and lines(in_bucket / "run") == lines(tmp_path / "run")
    assert stored_state.steps(in_bucket / "run" / "checkpoints") == [3, 4]
    assert json.loads((in_bucket / "run" / "config.json").read_text())["data"]["start"] == str(in_bucket / "start")

    assert main(["export", str(in_bucket / "run"), str(in_bucket / "mine")]) == 0
    assert main(["export", str(in_bucket / "run"), str(tmp_path / "mine"), "--step", "4"]) == 0
    assert main(["export", str(in_bucket / "run"), str(in_bucket / "mine")]) == 2
    assert "exists already; give a new name" in capsys.readouterr().err
    assert (
        disk.sizes(in_bucket / "mine").keys()
        == disk.sizes(tmp_path / "mine").keys()
        >= {"config.json", "MODEL_CARD.md"}
    )
    assert {"model/config.json", "ema.safetensors"} <= disk.sizes(in_bucket / "run").keys()
    sounds = [kfjax.load(where).generate(prompt="rain", duration=1.0, seed=0).waveform
              for where in (str(in_bucket / "mine"), tmp_path / "mine", str(in_bucket / "run" / "model"))]  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, sounds[0], sounds[1])
    np.testing.assert_array_equal(sounds[0], sounds[2])
    output = tmp_path / "rain.wav"
    arguments = ["--prompt", "rain", "--duration", "1", "--model", str(in_bucket / "mine"), "--output", str(output)]
    assert main(["generate", *arguments]) == 0 and output.is_file()
    shutil.rmtree(tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_credentials_that_expire_in_the_middle_end_the_run(gs, google):
    """With one line and exit code 2, also while a checkpoint is being written."""
    settings = ["data.synthetic=True", "loop.steps=1000", "loop.save_every=1", "loop.log_every=1"]
    command = [
        sys.executable,
        "-m",
        "kfjax",
        "train",
        "configs/flow.py:features-runlocal",
        "--workdir",
        str(gs / "run"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    run = subprocess.Popen([*command, "--set", *settings], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    with run:
        while not (gs / "run" / "metrics.jsonl").is_file() and run.poll() is None:
            time.sleep(0.1)
        google.status = 401
        told = run.communicate()[1].decode()
    assert run.returncode == 2 and "Traceback" not in told
    assert "Invalid Credentials" in told.splitlines()[-1]


def test_two_runs_on_one_folder_are_one_line(gs, capsys):
    with lock.BucketLock(gs / "run" / "lock", "it", beat_seconds=1):
        arguments = ["train", "configs/flow.py:features-runlocal", "--workdir", str(gs / "run")]
        assert main([*arguments, "--set", "data.synthetic=True"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"{gs}/run is in use by process" in told and "--workdir" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "configs/flow.py:features-runlocal", "--workdir", "gs://no-such/run", "--set", "data.synthetic=True"],
        ["train", "configs/flow.py:features-runlocal", "--workdir", "{there}", "--set",
         "data.corpora=(('gs://no-such/features', 1.0),)"],
        ["extract", "{clips}", "--output", "gs://no-such/features"],
        ["export", "gs://no-such/run", "{there}/mine"],
        ["export", "{there}/run", "gs://no-such/mine", "--base", "built-in"],
        ["generate", "--prompt", "rain", "--model", "gs://no-such/model", "--output", "{clips}/a.wav"],
    ],
)  # fmt: skip
def test_a_bucket_that_is_not_there_is_one_line(gs, tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    assert main([text.format(there=gs, clips=tmp_path) for text in arguments]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and ("there is no bucket no-such" in told or "no run in" in told), told


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["train", "configs/flow.py:1.5b", "--workdir", "run", "--set", "data.folder=gs://b/scenes"],
         "data.folder: got gs://b/scenes, which is an address"),
        (["train", "configs/flow.py:1.5b", "--workdir", "https://b/run"], "which is an address"),
        (["extract", "gs://b/clips", "--output", "features"], "which is an address"),
        (["generate", "gs://b/clip.mp4"], "which is an address"),
    ],
)  # fmt: skip
def test_what_can_not_be_in_a_bucket_is_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error
