"""A run whose working folder is in a bucket, also one that is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from kfjax.storage import disk, lock, stored_state
from kfjax.train.engine.log import LogConfig
from kfjax.train.engine.loop import LoopConfig, run
from tests.tiny import buckets
from tests.tiny.task import make_batch, make_task

ROOT = Path(__file__).parents[3]
RUN = """
import sys
from kfjax.train.engine.loop import LoopConfig, run
from tests.tiny.task import make_task, slow
run(make_task(slow(0.05)), sys.argv[1], LoopConfig(steps=1000, log_every=1, save_every=3))
"""


def settings(steps: int, **rest) -> LoopConfig:
    return LoopConfig(steps=steps, log_every=1, save_every=3, **rest)


def curve(folder) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]


@buckets.S3_ON_DEMAND
def test_killed_it_goes_on_and_ends_as_if_it_had_not_been(in_bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    workdir = in_bucket / "run"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(workdir)], env=environment, stderr=subprocess.PIPE
    ) as process:
        while not (reached := stored_state.steps(workdir / "checkpoints")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    assert (workdir / "lock").is_file()
    assert {step for step, _ in curve(workdir)} >= set(range(1, reached[-1] + 1))
    steps = reached[-1] + 7
    got, want = (run(make_task(), folder, settings(steps)) for folder in (workdir, tmp_path / "whole"))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert curve(workdir) == curve(tmp_path / "whole") and not (workdir / "lock").exists()
    assert (workdir / "ema.safetensors").read_bytes() == (tmp_path / "whole" / "ema.safetensors").read_bytes()


def test_what_libraries_write_gets_there_too(gs, capsys):
    pytest.importorskip("tensorboardX")

    def panel(ema, step, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{step}-note.txt").write_text("seen")
        return {"seen": 1.0}

    run(make_task(panel=panel), str(gs), settings(4, panel_every=2, log=LogConfig(tensorboard=True)))
    names = disk.sizes(gs)
    assert {"metrics.jsonl", "panels/2-note.txt", "panels/4-note.txt", "ema.safetensors"} <= names.keys()
    assert any(name.startswith("tensorboard/events") for name in names)
    told = capsys.readouterr().err
    written = "SHA256SUMS, checkpoints/, ema.safetensors, metrics.jsonl, panels/, tensorboard/"
    assert f"step 4; wrote into {gs}: {written}" in told


@buckets.S3_ON_DEMAND
def test_credentials_that_expire_midway(in_bucket, store, tmp_path, monkeypatch):
    buckets.impatient(monkeypatch)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)

    def batch(step: int):
        if step == 4:
            while not stored_state.steps(
                in_bucket / "checkpoints"
            ):  # else orbax's threads wait minutes for what never comes
                time.sleep(0.01)
            store.expire()
        return make_batch(step)

    with pytest.raises(ValueError, match=rf"{in_bucket}/metrics.jsonl: the store refuses \(.*(Invalid|expired)"):
        run(make_task(batch), in_bucket, settings(9, prefetch=1))
    store.calm()
    got, want = (run(make_task(), folder, settings(9)) for folder in (in_bucket, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert curve(in_bucket) == curve(tmp_path)


def test_a_run_that_has_lost_its_lock_writes_nothing_more(gs, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)

    def batch(step: int):
        if step == 4:
            while not stored_state.steps(gs / "checkpoints"):
                time.sleep(0.01)
            while any("_beat" in thread.name for thread in threading.enumerate()):  # until its holder knows
                (gs / "lock").put(b'{"host": "elsewhere", "pid": 17}')
                time.sleep(0.1)
            (gs / "metrics.jsonl").put(b"theirs")
        return make_batch(step)

    with pytest.raises(ValueError, match="is in use by process 17 on elsewhere, since this one stood still"):
        run(make_task(batch), gs, settings(9, prefetch=1))
    assert (gs / "metrics.jsonl").read_bytes() == b"theirs" and stored_state.steps(gs / "checkpoints") == [3]


def test_two_runs_on_one_folder(gs, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 1.0)
    with lock.hold(gs), pytest.raises(ValueError, match=f"{gs} is in use by process {os.getpid()} on "):
        run(make_task(), gs, settings(2))
