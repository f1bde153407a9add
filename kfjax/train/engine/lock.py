"""One run at a time in a working folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any


class Lock:
    """Holds `folder` for this process, through its file `lock`. A context manager.

    The kernel releases a dead process's lock, so a crash leaves nothing to clean up. Some network file systems lock
    nothing between hosts; therefore the holder also changes the file every few seconds, and a lock that another host
    left is taken over only if it does not change for a while. No clock is compared with another.

    Raises:
      ValueError: a run that is alive holds the folder.
    """

    def __init__(self, folder: str | Path, *, beat_seconds: float = 5.0):
        self._path, self._beat_seconds = Path(folder) / "lock", beat_seconds
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
        if left and self._holder(left)["host"] != self._me["host"] and self._changes(left):
            raise ValueError(self._taken())

    def _taken(self) -> str:
        holder = self._holder(self._read())
        who = f"process {holder['pid']} on {holder['host']}"
        return f"{self._path.parent} is in use by {who}; wait for that run, stop it, or give another --workdir"

    def _changes(self, left: str) -> bool:
        end = time.monotonic() + 3 * self._beat_seconds
        while time.monotonic() < end:
            time.sleep(self._beat_seconds / 5)
            if self._read() != left:
                return True
        return False

    def _read(self) -> str:
        return self._path.read_text(errors="replace")

    def _holder(self, text: str) -> dict[str, Any]:
        try:
            holder = json.loads(text)
            return {"host": str(holder["host"]), "pid": int(holder["pid"])}
        except (ValueError, KeyError, TypeError):  # cut off by a crash, or just being written
            return {"host": "an unknown host", "pid": "?"}

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
