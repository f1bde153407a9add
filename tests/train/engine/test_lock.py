"""One run in a folder: the living are respected, the dead leave nothing to clean up."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kfjax.train.engine.lock import Lock

ROOT = Path(__file__).parents[3]
ELSEWHERE = {"host": "elsewhere", "pid": 17}
HOLDER = """
import sys, time
from kfjax.train.engine.lock import Lock
with Lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_holder_at_a_time(tmp_path):
    folder = tmp_path / "new" / "run"
    with Lock(folder):
        here = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(ValueError, match=f"run is in use by {here}; wait for that run, stop it, or"), Lock(folder):
            pass
        with pytest.raises(ValueError, match=here), Lock(folder):  # being refused has freed nothing
            pass
    with Lock(folder):
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, env=path)
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"in use by process {holder.pid} on "), Lock(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == holder.pid
    with Lock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("left", [json.dumps(ELSEWHERE), '{"host": "elsew', "[]"])
def test_what_another_host_left_is_taken_over(tmp_path, left):
    (tmp_path / "lock").write_text(left)
    with Lock(tmp_path, beat_seconds=0.02):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "lock").read_text() == ""


def lock_nothing(file, operation):
    raise OSError("no locks available")


def test_another_host_that_is_alive_is_seen_where_nothing_locks(tmp_path, monkeypatch):
    """Its beats are; here it is a thread that writes what another host would."""
    monkeypatch.setattr(fcntl, "flock", lock_nothing)
    done = threading.Event()

    def beat():
        number = 0
        while not done.wait(0.02):
            number += 1
            (tmp_path / "next").write_text(json.dumps(ELSEWHERE | {"beat": number}))
            os.replace(tmp_path / "next", tmp_path / "lock")  # as of a holder, nobody finds it empty

    other = threading.Thread(target=beat)
    other.start()
    try:
        while not (tmp_path / "lock").exists():
            pass
        with pytest.raises(ValueError, match="in use by"), Lock(tmp_path, beat_seconds=0.2):
            pass
    finally:
        done.set()
        other.join()
    with Lock(tmp_path, beat_seconds=0.02):
        pass


def test_the_holder_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lock_nothing)
    monkeypatch.setattr(socket, "gethostname", lambda: "one")
    with Lock(tmp_path, beat_seconds=0.02):
        monkeypatch.setattr(socket, "gethostname", lambda: "two")
        other = Lock(tmp_path, beat_seconds=0.2)
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on one"), other:
            pass
