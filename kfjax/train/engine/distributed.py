"""Training on several processes: how they connect, and how each ends when another one has died.

    join("10.0.0.1:8476,0,2", heartbeat_seconds=300)
    with together():
        ...

After a death a collective raises, or hangs. Against hangs jax's coordination service has heartbeats: it aborts the
process with fifty lines of log. Both cases end in the same one line here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

_ADVICE = "Run the same commands again to go on from the newest checkpoint"
_LOST = re.compile(
    r"Gloo.*(failed|closed)|remote process exited|heartbeat|coordination service|(Connection|Socket) (closed|reset)",
    re.IGNORECASE | re.DOTALL,
)


def join(where: str, heartbeat_seconds: int) -> None:
    """Connect to the other processes, by HOST:PORT of the first one, this one's number from 0, and how many there are.

    Args:
      where: "" where the cluster says all of it.
      heartbeat_seconds: a process without a heartbeat for so long counts as dead.

    Raises:
      ValueError: none of the clusters that jax knows, and nothing given instead; the others can't be reached.
    """
    address, _, numbers = where.partition(",")
    given = numbers.split(",")
    if where and not (":" in address and len(given) == 2 and all(n.isdigit() for n in given)):
        raise ValueError(f"--distributed: got {where!r}, expected HOST:PORT,PROCESS,PROCESSES, e.g. 10.0.0.1:8476,0,2")
    if heartbeat_seconds < 1:
        raise ValueError(f"--heartbeat-timeout: got {heartbeat_seconds}, expected 1 second or more")
    place = [address, int(given[1]), int(given[0])] if where else []
    _shorten_native_errors()
    try:
        jax.distributed.initialize(*place, heartbeat_timeout_seconds=heartbeat_seconds)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"--distributed: {str(error).splitlines()[0]}; give HOST:PORT,PROCESS,PROCESSES") from error


@contextmanager
def together() -> Iterator[None]:
    """If a collective of the block fails because another process died, exit at once with one line.

    It exits without unwinding: a save that has begun would wait for the dead process.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:  # jax raises both
        if jax.process_count() == 1 or not _LOST.search(str(error)):
            raise
        os.write(2, f"kfjax: error: another process is gone; this one ends too. {_ADVICE}\n".encode())
        os._exit(1)


def _shorten_native_errors() -> None:
    """Pipes what jaxlib writes to stderr through another process, which shortens the abort's log to one line.

    jax offers no other way: its callback for a missed heartbeat can't be a Python function (std::bad_cast).
    """
    sys.stderr.flush()
    ours = os.dup(2)
    command = [sys.executable, "-I", "-S", "-c", _FILTER, _ADVICE]
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=ours, start_new_session=True)
    assert watch.stdin is not None
    os.dup2(watch.stdin.fileno(), 2)
    watch.stdin.close()
    sys.stderr = os.fdopen(ours, "w", buffering=1, errors="backslashreplace")


#: Copies stdin to stdout, but replaces the abort's log by one line.
_FILTER = r"""
import re, sys

record = re.compile(rb"[IWEF]\d{4} [\d:.]+ +\d+ ([\w.]+:\d+)\] ")
out, held, holding = sys.stdout.buffer, [], False
for line in sys.stdin.buffer:
    if begins := record.match(line):
        source = begins[1]  # preemption_sync_manager.cc waits for the same service
        holding = b"coordination" in source or b"preemption" in source or b"distributed service" in line
    if line.startswith(b"kfjax: error:"):
        held = [line]
        break
    elif holding and line.startswith(b"F"):
        text = b"".join([*held, line, sys.stdin.buffer.read()])
        dead = re.search(rb"[Tt]ask (\d+) heartbeat|unhealthy[^\n]*\n(\d+)", text)
        number = b"0" if b"leader task" in text else dead and (dead[1] or dead[2])
        who = b"process " + number + b" is gone" if number else b"another process is gone or can't be reached"
        held = [b"\nkfjax: error: ", who, b"; this one ends too. ", sys.argv[1].encode(), b"\n"]
        break
    elif holding:
        held.append(line)
    else:
        out.write(line)
        out.flush()
out.write(b"".join(held))
out.flush()
sys.stdin.buffer.read()
"""
