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

from kfjax.storage import lock as lock_module
from kfjax.storage.bucket import BucketPath
from kfjax.storage.lock import BucketLock, Lock, hold

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"host": "elsewhere", "pid": 17}
HOLDER = """
import sys, time
from kfjax.storage import lock as lock_module
from kfjax.storage.bucket import BucketPath
from kfjax.storage.lock import BucketLock, Lock, hold
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
        with pytest.raises(ValueError, match="in use by"), Lock(tmp_path, beat_seconds=2):
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
        other = Lock(tmp_path, beat_seconds=2)
        with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on one"), other:
            pass


def left_by_another(path):
    path.put(json.dumps(ELSEWHERE | {"run": "0", "beat": 3}).encode())


def test_a_folder_in_a_bucket_has_one_holder_at_a_time(gs, monkeypatch):
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 0.5)
    folder = gs / "run"
    here = f"{folder} is in use by process {os.getpid()} on {socket.gethostname()}; wait for that run, stop it, or"
    with hold(folder) as first:
        for _ in range(2):  # being refused has freed nothing
            with pytest.raises(ValueError, match=here), hold(folder):
                pass
        first.check()
    assert not (folder / "lock").exists()
    with hold(folder):
        pass


def test_of_two_that_begin_together_one_gets_it(gs, monkeypatch):
    """The store's precondition decides: both have seen that there is no lock."""
    monkeypatch.setattr(BucketLock, "_read", lambda self, seen=[]: seen.append(1) or None if len(seen) < 2 else "{}")
    with BucketLock(gs / "lock", "it", beat_seconds=10), pytest.raises(ValueError, match="it is in use by"):
        BucketLock(gs / "lock", "it", beat_seconds=10).__enter__()


def test_what_a_killed_run_left_in_a_bucket_is_taken_over(gs):
    left_by_another(gs / "lock")
    with BucketLock(gs / "lock", "it", beat_seconds=0.02):
        assert json.loads((gs / "lock").read_text())["pid"] == os.getpid()
    assert not (gs / "lock").exists()


def test_a_lock_that_is_released_meanwhile_is_free(gs):
    left_by_another(gs / "lock")
    threading.Timer(0.2, (gs / "lock").unlink).start()
    with BucketLock(gs / "lock", "it", beat_seconds=0.2):
        assert json.loads((gs / "lock").read_text())["pid"] == os.getpid()


def test_a_holder_that_stood_still_finds_out(gs):
    with BucketLock(gs / "lock", "it", beat_seconds=0.02) as lock:
        left_by_another(gs / "lock")
        lock._thread.join(10)
        with pytest.raises(ValueError, match="it is in use by process 17 on elsewhere, since this one stood still"):
            lock.check()
    assert (gs / "lock").exists()  # it is the other's


def test_no_lock_in_a_bucket_that_is_not_there(gs):
    with pytest.raises(ValueError, match="there is no bucket no-such"), hold(BucketPath("gs://no-such/run")):
        pass
