"""Real processes that train together: they agree, they stop together, and another number of them goes on."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kfjax.checkpoint import load_params
from kfjax.module import flatten

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "process_run.py"
EVERY_ROW = list(range(16))

pytestmark = pytest.mark.timeout(900)  # seven starts of a process take a while on a busy machine


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(workdir: Path, steps: int, processes: int, seconds=0.0, first_bad=1000) -> list[subprocess.Popen]:
    """Processes that share eight fake devices; see process_run.py."""
    workdir.mkdir(exist_ok=True)
    flags = f"--xla_force_host_platform_device_count={8 // processes}"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": path, "XLA_FLAGS": flags}
    port = free_port()
    # A process that waits for a dead one does not heed SIGTERM, hence -k, which also counts from a signal passed on.
    run = ["timeout", "--foreground", "-k", 60, 240, sys.executable, SCRIPT, workdir, steps, seconds, first_bad, port]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return [
        subprocess.Popen([str(x) for x in (*run, process, processes)], cwd=ROOT, env=environment, **streams)
        for process in range(processes)
    ]


def finish(running: list[subprocess.Popen]) -> None:
    errors = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n\n".join(errors)


def lines(workdir: Path, kind: str) -> dict[int, dict]:
    """Step -> its line of metrics.jsonl; there is one of each."""
    every = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [(line["step"], line) for line in every if line["kind"] == kind]
    assert [step for step, _ in found] == sorted({step for step, _ in found})
    return dict(found)


def losses(workdir: Path) -> list[float]:
    return [line["loss"] for line in lines(workdir, "train").values()]


def loaded(workdir: Path, first: int, last: int) -> dict[int, list[int]]:
    """Step -> the numbers of the rows that all processes together loaded for it since step `first` was next."""
    seen: dict[int, list[int]] = {}
    for file in workdir.glob("rows-*.txt"):
        steps = [[int(x) for x in line.split()] for line in file.read_text().splitlines()]
        for step, *numbers in steps:
            if first <= step < last:
                seen[step] = sorted(seen.get(step, []) + numbers)
        file.unlink()
    return seen


def weights(workdir: Path) -> dict[str, np.ndarray]:
    return flatten(load_params(workdir / "ema.safetensors"))


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of 12 steps in two processes, without interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    finish(start(workdir, 12, 2))
    return workdir


def test_two_processes_are_one_run(whole, tmp_path):
    """Each loads half of every batch; with 8 devices in one process the sums have the same order but for gloo's."""
    halves = [file.read_text().splitlines() for file in sorted(whole.glob("rows-*.txt"))]
    assert [len(half) for half in halves] == [12, 12]
    assert all(len(line.split()) == 1 + 8 for half in halves for line in half)
    assert loaded(whole, 0, 12) == {step: EVERY_ROW for step in range(12)}
    finish(start(tmp_path, 12, 1))
    np.testing.assert_allclose(losses(whole), losses(tmp_path), rtol=1e-6)
    assert lines(whole, "panel").keys() == lines(tmp_path, "panel").keys() == {4, 8, 12}
    for name, x in weights(whole).items():
        np.testing.assert_allclose(x, weights(tmp_path)[name], rtol=1e-5, atol=1e-7)


def test_sigterm_to_one_stops_both_and_others_go_on(whole, tmp_path):
    running = start(tmp_path, 12, 2, seconds=0.2)
    metrics = tmp_path / "metrics.jsonl"
    while not metrics.exists() and running[0].poll() is None:
        time.sleep(0.02)
    running[1].send_signal(signal.SIGTERM)  # timeout passes it on
    finish(running)
    (stopped,) = saved(tmp_path)
    assert 2 <= stopped <= 8
    assert losses(tmp_path) == losses(whole)[:stopped]
    loaded(tmp_path, 0, 0)

    finish(start(tmp_path, 10, 2))
    assert saved(tmp_path) == [stopped, 10]
    assert loaded(tmp_path, 0, 10) == {step: EVERY_ROW for step in range(stopped, 10)}
    assert losses(tmp_path) == losses(whole)[:10]

    finish(start(tmp_path, 12, 1))
    assert loaded(tmp_path, 0, 12) == {step: EVERY_ROW for step in (10, 11)}
    np.testing.assert_allclose(losses(tmp_path), losses(whole), rtol=1e-6)
    for name, x in weights(tmp_path).items():
        np.testing.assert_allclose(x, weights(whole)[name], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_all_processes_name_the_same_culprit(tmp_path):
    """Only the second one loads the row that is at fault."""
    running = start(tmp_path, 12, 2, first_bad=4)
    errors = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [2, 2], "\n\n".join(errors)
    for said in errors:
        assert "kfjax: error: 3 non-finite steps in a row at step 7 (batch: y: 2 of 32 are NaN (6.25 %));" in said
    assert saved(tmp_path) == []
