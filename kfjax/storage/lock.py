"""One run at a time in a working folder: `with hold(folder)`.

A folder on this machine is held through the kernel's lock on a file (`Lock`), one in a bucket by an object that its
holder rewrites (`BucketLock`).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kfjax.storage.bucket import BucketError, BucketPath
from kfjax.storage.disk import in_bucket

NAME = "lock"
#: Between two signs of life.
BEAT_SECONDS = 5.0
#: Beats without a change after which a lock object counts as left by a run that died.
BEATS = 3


def hold(folder: Path) -> Lock | BucketLock:
    """The lock of a folder, wherever it is."""
    return BucketLock(folder / NAME, str(folder)) if in_bucket(folder) else Lock(folder)


class Lock:
    """Holds `folder` for this process, through its file `lock`. A context manager.

    The kernel releases a dead process's lock, so a crash leaves nothing to clean up. Some network file systems lock
    nothing between hosts; therefore the holder also changes the file every few seconds, and a lock that another host
    left is taken over only if it does not change for a while. No clock is compared with another.

    Raises:
      ValueError: a run that is alive holds the folder.
    """

    def __init__(self, folder: str | Path, *, beat_seconds: float = BEAT_SECONDS):
        self._path, self._beat_seconds = Path(folder) / NAME, beat_seconds
        self._me = {"host": socket.gethostname(), "pid": os.getpid()}
        self._done = threading.Event()

    def __enter__(self) -> Lock:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take()
            self._write(0)
        except BaseException:
            os.close(self._file)
            raise
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def _take(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(self._taken()) from None
        except OSError:
            pass  # a file system without locks; the heartbeat alone must do
        left = self._read()
        if left and _holder(left)["host"] != self._me["host"] and self._changes(left):
            raise ValueError(self._taken())

    def _taken(self) -> str:
        return f"{self._path.parent} is in use by {_who(self._read())}; {_ADVICE}"

    def _changes(self, left: str) -> bool:
        end = time.monotonic() + BEATS * self._beat_seconds
        while time.monotonic() < end:
            time.sleep(self._beat_seconds / 5)
            if self._read() != left:
                return True
        return False

    def _read(self) -> str:
        return self._path.read_text(errors="replace")

    def check(self) -> None:
        """Nothing: the kernel gives the lock to nobody else."""

    def _write(self, beat: int) -> None:
        text = json.dumps(self._me | {"beat": beat}).encode()
        os.pwrite(self._file, text, 0)  # first, so that a reader never finds the file empty
        os.ftruncate(self._file, len(text))

    def _beat(self) -> None:
        beat = 0
        while not self._done.wait(self._beat_seconds):
            beat += 1
            try:
                self._write(beat)
            except OSError:
                continue  # a full disk is for the checkpoints to report

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()
        try:
            os.ftruncate(self._file, 0)
        finally:
            os.close(self._file)


class BucketLock:
    """Holds something in a bucket for this process, through an object. A context manager.

    The object is made under the store's precondition that there is none, so that of two that begin together one gets
    it. Its holder rewrites it every few seconds. One that does not change for three beats was left by a process that
    died, and is taken over: by the last of those that write into it then, as each reads a beat later. A holder that
    stood still for so long finds it out at its next beat; from then on `check` raises.

    Args:
      path: of the object.
      held: what is in use, for messages.
      advice: what to do when it is.

    Raises:
      BucketError: somebody alive holds it; there is no such bucket; the store refuses or does not answer.
    """

    def __init__(self, path: BucketPath, held: str, advice: str = "", *, beat_seconds: float | None = None):
        self._path, self._held, self._advice = path, held, advice or _ADVICE
        self._beat_seconds = BEAT_SECONDS if beat_seconds is None else beat_seconds
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "run": secrets.token_hex(8)}
        self._done, self._lost = threading.Event(), ""

    def __enter__(self) -> BucketLock:
        self._path.check_bucket()
        left = self._read()
        now = None if left is None else self._later(left)
        if now is None:  # there was none, or its holder has ended since
            if not self._path.create(self._text(0)) and not self._mine(self._read()):  # its answer may have been lost
                raise BucketError(self._taken(self._read()))
        elif now != left:
            raise BucketError(self._taken(now))
        else:
            self._path.put(self._text(0))
            time.sleep(self._beat_seconds)
            if not self._mine(now := self._read()):
                raise BucketError(self._taken(now))
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def check(self) -> None:
        """Raises BucketError if another process has taken the lock over."""
        if self._lost:
            raise BucketError(f"{self._lost}, since this one stood still; run again when that has ended")

    def _taken(self, now: str | None) -> str:
        return f"{self._held} is in use by {_who(now or '')}; {self._advice}"

    def _later(self, left: str) -> str | None:
        """What is there once it is no longer `left`; after three beats without a change, `left`."""
        end = time.monotonic() + BEATS * self._beat_seconds
        while (now := self._read()) == left and time.monotonic() < end:
            time.sleep(self._beat_seconds / 2)
        return now

    def _read(self) -> str | None:
        try:
            return self._path.read_text(errors="replace")
        except FileNotFoundError:
            return None

    def _mine(self, now: str | None) -> bool:
        return now is not None and self._me["run"] in now

    def _text(self, beat: int) -> bytes:
        return json.dumps(self._me | {"beat": beat}).encode()

    def _beat(self) -> None:
        beat = 0
        while not self._done.wait(self._beat_seconds):
            beat += 1
            with suppress(BucketError, OSError):  # what the store says is for the checkpoints to report
                if not self._mine(now := self._read()):
                    self._lost = self._taken(now).partition(";")[0]
                    return
                self._path.put(self._text(beat))

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()
        with suppress(BucketError, OSError):
            if self._mine(self._read()):
                self._path.unlink(missing_ok=True)


_ADVICE = "wait for that run, stop it, or give another --workdir"


def _who(text: str) -> str:
    holder = _holder(text)
    return f"process {holder['pid']} on {holder['host']}"


def _holder(text: str) -> dict[str, Any]:
    try:
        holder = json.loads(text)
        return {"host": str(holder["host"]), "pid": int(holder["pid"])}
    except (ValueError, KeyError, TypeError):  # cut off by a crash, or just being written
        return {"host": "an unknown host", "pid": "?"}
