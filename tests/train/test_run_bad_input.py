"""What can go wrong around a training run: one clear line, exit code 2, and a folder in which the run can go on.

Elsewhere, with what they are about: shards that are missing, cut off or of other encoders (test_tasks.py), a full disk
(test_loop.py), a kill while writing (test_kill.py), NaN (test_loop.py, test_culprit.py), another config (test_main.py);
clips without sound, silent, of other rates, with endless captions (data/test_extract_videos.py); a batch that is known
not to fit before anything runs (test_plan.py).
"""

import json
import os
import re
import time

import jax
import numpy as np
import pytest

from kfjax import config as strict
from kfjax.cli import main
from kfjax.storage.lock import Lock
from kfjax.train.engine import loop
from kfjax.train.engine.loop import LoopConfig, run
from kfjax.train.tasks import make as tasks
from kfjax.xla.memory import Memory
from kfjax.xla.sharding import put_batch, shard_init
from tests.tiny.task import make_task

CONFIG = """
from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict({"task": "toy", "loop": {"steps": 4, "save_every": 2, "log_every": 1}, "data": {}})
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """`kfjax train` of `task` in the folder "run": its exit code."""
    (tmp_path / "toy.py").write_text(CONFIG)

    def call(task, *settings: str) -> int:
        settings_of = lambda config: strict.from_dict(LoopConfig, config.loop.to_dict())
        monkeypatch.setattr(tasks, "make_task", lambda config: (task, settings_of(config)))
        more = ["--set", *settings] if settings else []
        return main(["train", str(tmp_path / "toy.py"), "--workdir", str(tmp_path / "run"), *more])

    return call


def refusal(capsys) -> str:
    """The one line that has been said, besides the progress bar."""
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("kfjax: ")]
    assert line.startswith("kfjax: error: ") and "Traceback" not in said
    return line


def exhausted(*_):
    """As jax says it on every platform."""
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 70368744177664 bytes.\nAllocations:")


def test_a_mesh_that_does_not_divide(train, tmp_path, capsys):
    assert train(make_task(), "loop.mesh=data=3,fsdp=2") == 2
    assert "data 3, fsdp 2 = 6 devices does not fit 8" in refusal(capsys).replace(" x ", ", ")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide(train, tmp_path, capsys):
    uneven = lambda step: {name: x[:12] for name, x in make_task().batch(step).items()}
    assert train(make_task(uneven)) == 2
    assert "batch of 12 on 8 devices: expected a multiple of 8" in refusal(capsys)
    assert train(make_task()) == 0  # the folder is as good as new
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["2", "4"]


def test_a_step_that_does_not_fit(train, tmp_path, capsys):
    assert train(make_task()._replace(step=exhausted)) == 2
    line = refusal(capsys)
    assert "16 examples a step: do not fit on 8 x cpu (Out of memory allocating 70368744177664 bytes); halve" in line
    assert "halve the batch" in line and "kfjax plan" in line
    assert train(make_task()) == 0


def test_a_step_that_does_not_fit_says_what_would(train, capsys, monkeypatch):
    """Where memory has a limit: a batch as large as said needs no more than that, a larger one does."""
    rows, wide = 256, lambda rows: {"x": np.ones((rows, 3), np.float32), "y": np.ones((rows, 4096), np.float32)}
    task, real = make_task(lambda step: wide(rows), width=4096), loop._compiled

    class Full:
        """The compiled step on devices that are full."""

        def __init__(self, *arguments):
            self.lower = real(*arguments).lower

        __call__ = exhausted

    def needed(rows: int) -> float:
        mesh = loop.mesh_of("")
        with jax.set_mesh(mesh):
            state = shard_init(lambda: loop.init_state(task, jax.random.key(0)), mesh)()
            step, batch = real(task, state, mesh, LoopConfig(steps=1)), put_batch(wide(rows), mesh)
            return Memory.of(step.lower(state, batch, loop._everywhere(False, mesh)).compile()).peak

    monkeypatch.setattr(loop, "_compiled", Full)
    limit = 0.7 * needed(rows)
    monkeypatch.setattr(loop, "limit_bytes", lambda device: limit)
    assert train(task) == 2
    said = capsys.readouterr().err
    assert said.count("kfjax: ") == 2 and "asking the compiler" in said  # which may take minutes
    (fits,) = map(int, re.findall(r"error: 256 examples .*; about (\d+) would; or raise step.accumulate", said))
    assert 0 < fits < rows and fits % 8 == 0
    assert needed(fits) <= limit < needed(fits + 16)
    monkeypatch.setattr(loop, "limit_bytes", lambda device: 1000.0)
    assert train(task) == 2
    assert "; no batch would; raise" in capsys.readouterr().err


def test_a_state_that_does_not_fit(train, capsys):
    assert train(make_task()._replace(init=exhausted)) == 2
    assert "the weights, their average and the optimiser: do not fit on 8 x cpu (Out of" in refusal(capsys)


def test_two_runs_on_one_folder(train, tmp_path, capsys):
    assert train(make_task()) == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.name != "lock"}
    with Lock(tmp_path / "run"):
        assert train(make_task(), "loop.steps=9") == 2
    assert f"run is in use by process {os.getpid()} on " in refusal(capsys)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_clock_that_jumps(tmp_path, monkeypatch):
    """Back by years with every look at it: nothing is decided by the time of day."""
    looks, now = [], time.time()
    monkeypatch.setattr(time, "time", lambda: looks.append(1) or now - 1e7 * len(looks))
    cfg = lambda steps: LoopConfig(steps=steps, save_every=2, log_every=1)
    run(make_task(), tmp_path / "jumps", cfg(4))
    state = run(make_task(), tmp_path / "jumps", cfg(8))
    monkeypatch.undo()
    assert looks
    jax.tree.map(np.testing.assert_array_equal, state, run(make_task(), tmp_path / "steady", cfg(8)))
    lines = [json.loads(line) for line in (tmp_path / "jumps" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 9))
