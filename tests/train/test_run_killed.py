"""A run that is killed at any moment goes on, and loses nothing but the steps since the last save."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.storage.checkpoint import StateStore
from kfjax.structs import TrainState
from kfjax.train.config import load_config
from kfjax.train.engine.loop import LoopConfig, Task, init_state, run
from kfjax.train.tasks.make import make_task as make_real_task
from tests.tiny.task import make_batch, make_task

ROOT = Path(__file__).parents[2]
CONFIG = "configs/flow.py:features-runlocal"
STEPS, SAVE_EVERY, KILLS = 2000, 5, 20


def heavy_task() -> Task:
    """The tiny task with 4 MB more to save, which change in every step, so that a save takes a while."""
    tiny = make_task()

    def init(key):
        return tiny.init(key) | {"ballast": jax.random.normal(key, (2**18,))}

    def step(state: TrainState, batch, key):
        ballast = state.params["ballast"]
        new, metrics = tiny.step(state, batch, key)
        moved = lambda tree: tree | {"ballast": ballast + jnp.mean(new.params["b"]) / 1024}
        return new._replace(params=moved(new.params), ema=moved(new.ema)), metrics

    return tiny._replace(init=init, step=step)


def train(task: Task, workdir: Path, steps: int) -> TrainState:
    return run(task, workdir, LoopConfig(steps=steps, log_every=1, save_every=SAVE_EVERY, prefetch=1))


def announced(step: int):
    """The tiny task's batch; the test reads the line and knows that what earlier runs left is cleared away."""
    print(step, flush=True)
    return make_batch(step)


def logged(workdir: Path) -> int:
    """Step of the last whole line of the log."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    return json.loads([line for line in lines if line.endswith("\n")][-1])["step"]


def curve(workdir: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def newest(workdir: Path) -> int:
    """The newest checkpoint; 0 for none."""
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def unfinished(workdir: Path) -> int:
    """How many files and folders the save under way, or a dead one, has made."""
    made = 0
    for folder in (workdir / "checkpoints").glob("*tmp*"):
        made += 1 + sum(len(folders) + len(files) for _, folders, files in os.walk(folder))
    return made


def start_and_kill(workdir: Path, whole: int, made: int) -> None:
    """Kills when `whole` saves were completed and the next has made so many files, or is completed as well."""
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, workdir]
    with subprocess.Popen(command, cwd=ROOT, env=path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        target = newest(workdir) + whole * SAVE_EVERY
        while newest(workdir) < target and process.poll() is None:
            time.sleep(0.001)
        while unfinished(workdir) < made and newest(workdir) <= target and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
        error = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, error


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_while_writing_it_goes_on(tmp_path):
    """Twenty times kill -9, at seeded moments of a save; what is left is the newest state that was whole."""
    rng, halves = np.random.default_rng(11), 0
    for _ in range(KILLS):
        before = newest(tmp_path)
        start_and_kill(tmp_path, whole=rng.integers(0, 2), made=rng.integers(1, 24))
        halves += unfinished(tmp_path) > 0
        # Nothing saved is lost, and of the steps at most those since the save before the one under way.
        assert before <= newest(tmp_path) <= logged(tmp_path) <= newest(tmp_path) + 2 * SAVE_EVERY
    assert halves >= KILLS // 2  # else the moments were not what this is about
    reached = newest(tmp_path)
    assert SAVE_EVERY <= reached < STEPS
    got, want = (train(heavy_task(), folder, reached + 3) for folder in (tmp_path, tmp_path / "whole"))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert curve(tmp_path) == curve(tmp_path / "whole")


def real_run(workdir: Path) -> subprocess.Popen:
    """`kfjax train` on one device: 150 steps, a save every third one."""
    settings = ["data.synthetic=True", "loop.steps=150", "loop.save_every=3", "loop.log_every=1"]
    command = [sys.executable, "-m", "kfjax", "train", CONFIG, "--workdir", workdir, "--set", *settings]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def end(process: subprocess.Popen) -> None:
    error = process.communicate()[1].decode()
    assert process.returncode == 0, error


def logged_bytes(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def last_state(workdir: Path) -> TrainState:
    config = load_config(CONFIG)
    config.data.synthetic = True
    task, _ = make_real_task(config)
    with StateStore(workdir / "checkpoints") as store:
        assert store.latest() == 150
        return store.restore(150, jax.eval_shape(lambda: init_state(task, jax.random.key(0))))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_any_moment_a_real_run_ends_as_if_it_had_not_been(tmp_path):
    """Twenty times kill -9, while it imports, compiles, restores, trains, saves and exports."""
    killed, whole, rng, reached = tmp_path / "killed", tmp_path / "whole", np.random.default_rng(12), [0]
    end(real_run(whole))
    for _ in range(KILLS):
        begin = rng.random() < 0.3  # else once it trains
        with real_run(killed) as process:
            if not begin:
                size = logged_bytes(killed)
                while logged_bytes(killed) == size and process.poll() is None:
                    time.sleep(0.05)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0, 15))
            process.kill()
            process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        reached.append(newest(killed))
    assert reached == sorted(reached) and len(set(reached)) >= 5  # else the moments were not what this is about
    end(real_run(killed))
    states = [jax.tree.map(np.asarray, last_state(folder)) for folder in (killed, whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert curve(killed) == curve(whole)
    assert (killed / "ema.safetensors").read_bytes() == (whole / "ema.safetensors").read_bytes()


if __name__ == "__main__":
    train(heavy_task()._replace(batch=announced), Path(sys.argv[1]), STEPS)
