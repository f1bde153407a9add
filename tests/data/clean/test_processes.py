"""Measuring in processes that may die."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from threadpoolctl import threadpool_info

from kfjax.data.clean import processes, store
from kfjax.data.clean.thresholds import CleanConfig
from kfjax.data.sources import Row

CFG = CleanConfig(2.0, 0.5, 0.2)


class Pool:
    """Stands for a pool whose processes die of one row."""

    def __init__(self):
        self.dead = False

    def submit(self, function, key, row, cfg):
        if self.dead:
            raise BrokenProcessPool("dead")
        future: Future = Future()
        if row.id == "3":
            self.dead = True
            future.set_exception(BrokenProcessPool("dead"))
        else:
            future.set_result(function(key, row, cfg))
        return future

    def shutdown(self, **_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_file_that_ends_its_process_costs_itself_only(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_pool", lambda _: Pool())
    rows = [Row(str(i), tmp_path / f"{i}.mp4", None, "") for i in range(20)]
    tasks = [(store.key_of(row, CFG), row) for row in rows]
    with processes.Processes(2, CFG) as workers:
        found = dict(workers.measured(tasks))
    assert found.keys() == {key for key, _ in tasks}
    problems = [found[key][0].problem for key, _ in tasks]
    dead = [i for i, problem in enumerate(problems) if "the process that measured it ended" in problem]
    assert dead == [3] and all("no such file" in problem for i, problem in enumerate(problems) if i != 3)


KILLED = """
import os, time
from kfjax.data.clean import processes
if __name__ == "__main__":
    pool = processes._pool(2)
    for _ in range(2):
        pool.submit(time.sleep, 0.5)
    print(*pool._processes, flush=True)
    pool.submit(time.sleep, 0).result()
    print("ready", flush=True)
    time.sleep(600)
"""


def runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_processes_end_with_a_run_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    process = subprocess.Popen([sys.executable, str(tmp_path / "killed.py")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2 and process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, pids))


def test_a_process_has_one_thread_of_blas():
    with processes._pool(1) as pool:
        loaded = pool.submit(threadpool_info).result()
    assert {library["num_threads"] for library in loaded if library["user_api"] == "blas"} == {1}, loaded
