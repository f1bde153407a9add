"""Real processes that train together: they agree, they stop together, and another number of them goes on."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kfjax.nn.module import flatten
from kfjax.storage.checkpoint import load_params

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "process_run.py"
EVERY_ROW = list(range(12))

pytestmark = pytest.mark.timeout(900)  # seven starts of a process take a while on a busy machine


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(workdir: Path, steps: int, processes: int, seconds=0.0, first_bad=1000, heartbeat=300):
    """Processes that share six fake devices, as [Popen]; see process_run.py."""
    workdir.mkdir(exist_ok=True)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={6 // processes}"  # the last one counts
    path = str(ROOT)
    environment = os.environ | {"PYTHONPATH": path, "XLA_FLAGS": flags}
    port = free_port()
    # A process that waits for a dead one does not heed SIGTERM, hence -k, which also counts from a signal passed on.
    run = ["timeout", "--foreground", "-k", 60, 240, sys.executable, SCRIPT, workdir, steps, seconds, first_bad]
    commands = [[str(x) for x in (*run, heartbeat, port, process, processes)] for process in range(processes)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return [subprocess.Popen(command, cwd=ROOT, env=environment, **streams) for command in commands]


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
    """Each loads half of every batch; with 6 devices in one process the sums have the same order but for gloo's."""
    halves = [file.read_text().splitlines() for file in sorted(whole.glob("rows-*.txt"))]
    assert [len(half) for half in halves] == [12, 12]
    assert all(len(line.split()) == 1 + 6 for half in halves for line in half)
    assert loaded(whole, 0, 12) == {step: EVERY_ROW for step in range(12)}
    finish(start(tmp_path, 12, 1))
    np.testing.assert_allclose(losses(whole), losses(tmp_path), rtol=1e-6)
    assert lines(whole, "panel").keys() == lines(tmp_path, "panel").keys() == {4, 8, 12}
    for name, x in weights(whole).items():
        np.testing.assert_allclose(x, weights(tmp_path)[name], rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def stopped(whole, tmp_path_factory):
    """The folder of a run that stopped early because one of its two processes was told to."""
    workdir = tmp_path_factory.mktemp("stopped")
    running = start(workdir, 12, 2, seconds=0.2)
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() and running[0].poll() is None:
        time.sleep(0.02)
    running[1].send_signal(signal.SIGTERM)  # timeout passes it on
    finish(running)
    loaded(workdir, 0, 0)
    return workdir


def test_sigterm_to_one_stops_both_and_another_number_goes_on(whole, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (step,) = saved(tmp_path)
    assert 2 <= step <= 8
    assert losses(tmp_path) == losses(whole)[:step]
    finish(start(tmp_path, 12, 1))
    assert saved(tmp_path) == [step, 12]
    assert loaded(tmp_path, 0, 12) == {k: EVERY_ROW for k in range(step, 12)}
    assert_ends_as(whole, tmp_path)


@pytest.mark.slow
def test_any_number_goes_on(whole, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (step,) = saved(tmp_path)
    finish(start(tmp_path, 10, 1))
    assert saved(tmp_path) == [step, 10]
    assert loaded(tmp_path, 0, 10) == {k: EVERY_ROW for k in range(step, 10)}
    finish(start(tmp_path, 12, 3))
    assert loaded(tmp_path, 0, 12) == {k: EVERY_ROW for k in (10, 11)}
    assert_ends_as(whole, tmp_path)


def assert_ends_as(whole, tmp_path):
    np.testing.assert_allclose(losses(tmp_path), losses(whole), rtol=1e-6)
    for name, x in weights(tmp_path).items():
        np.testing.assert_allclose(x, weights(whole)[name], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_all_processes_refuse_a_damaged_checkpoint(whole, tmp_path, process):
    """Each has written digests of its own files; only one of them looks at the damaged one."""
    shutil.copytree(whole, tmp_path / "run")
    item = tmp_path / "run" / "checkpoints" / "12" / "default"
    path = max((item / f"ocdbt.process_{process}" / "d").iterdir(), key=lambda path: path.stat().st_size)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    running = start(tmp_path / "run", 13, 2)
    said = sorted(process.communicate()[1].decode() for process in running)
    assert [process.returncode for process in running] == [2, 2]
    one, other = (re.search("kfjax: error: .*", text)[0] for text in said)
    folder, advice = item.parent, f"delete {item.parent} to go on from an earlier step"
    messages = {f"{path} is damaged (its SHA-256 is not the one in SHA256SUMS); {advice}",
                f"{folder} is damaged, as another process says; {advice}"}  # fmt: skip
    assert {one.removeprefix("kfjax: error: "), other.removeprefix("kfjax: error: ")} == messages


def until_logged(workdir: Path, process: subprocess.Popen) -> None:
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.02)


def child(process: subprocess.Popen) -> int:
    """The process that `timeout` runs."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_partner_ends_in_one_line(tmp_path, dead, by):
    """Killed, or hanging for longer than the heartbeat's timeout."""
    running = start(tmp_path, 1000, 2, seconds=0.1, heartbeat=10)
    until_logged(tmp_path, running[0])
    os.kill(child(running[dead]), by)
    began = time.monotonic()
    errors = running[1 - dead].communicate()[1].decode()
    assert time.monotonic() - began < 120  # ten seconds of heartbeat, and what a busy machine takes
    if by == signal.SIGSTOP:
        os.kill(child(running[dead]), signal.SIGKILL)
    running[dead].communicate()
    shown = [line.strip() for line in re.split(r"[\r\n]+", errors)]  # a bar, and then one line
    said = [line for line in shown if line not in ("", "compiling") and "step" not in line]
    advice = "Run the same commands again to go on from the newest checkpoint"
    assert len(said) == 1 and re.fullmatch(f"kfjax: error: .*is gone.*; this one ends too. {advice}", said[0]), errors
    assert running[1 - dead].returncode != 0


@pytest.mark.slow
def test_all_processes_name_the_same_culprit(tmp_path):
    """Only the second one loads the row that is at fault."""
    running = start(tmp_path, 12, 2, first_bad=4)
    errors = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [2, 2], "\n\n".join(errors)
    for said in errors:
        assert "kfjax: error: 3 non-finite steps in a row at step 7 (batch: y: 2 of 24 are NaN (8.33 %));" in said
    assert saved(tmp_path) == []
