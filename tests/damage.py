"""Damaged copies of a file, read one after the other in a process of its own.

    ends, problems, peak = fuzz("tests.test_media_fuzz", film, folder, 20)

The module, run as a script, is that process: it calls `read_copies` with what reads.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kfjax import command

#: Of all steps with one copy; of a message, in characters; of the process, in bytes.
SECONDS, LONGEST, MEMORY = 20, 1000, 1 << 30


def fuzz(module: str, source: Path, folder: Path, count: int) -> tuple[list[list[str]], list[str], int]:
    """What each step ended in, for each copy; the problems; the process's peak memory in bytes."""
    arguments = [sys.executable, "-m", module, str(source), str(folder), str(count)]
    child = subprocess.run(arguments, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    ends, problems, current, peak = [], [], None, 0
    for line in (json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")):
        current, peak = line.get("k", current), line.get("peak", peak)
        if "ends" in line:
            ends.append(line["ends"])
        if "traceback" in line:
            problems.append(f"{source.suffix} {current}: {line['traceback']}")
    if child.returncode:
        problems.append(f"{source.suffix} {current}: ended with {child.returncode}: {child.stderr[-2000:]}")
    return ends, problems, peak


def read_copies(steps: Callable[[str, str], Sequence[Callable[[], object]]]) -> None:
    """Tries the steps with each damaged copy: each ends well, or in what a command tells in one line that names it.

    A death by signal is a hang (SIGALRM), a crash or too much memory.

    Args:
      steps: (path of a copy, path to write to) -> what to try with it.
    """
    source, folder, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    data = source.read_bytes()
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))
    path, output = (os.path.join(folder, name + source.suffix) for name in "ab")
    for k in range(count):
        Path(path).write_bytes(_damaged(data, np.random.default_rng(k)))
        print(json.dumps({"k": k}), flush=True)
        signal.alarm(SECONDS)
        try:
            print(json.dumps({"ends": [_end(step, path) for step in steps(path, output)]}), flush=True)
        except BaseException:
            print(json.dumps({"traceback": traceback.format_exc()}), flush=True)
        signal.alarm(0)
        if left := sorted({*os.listdir(folder)} - {os.path.basename(path), os.path.basename(output)}):
            print(json.dumps({"traceback": f"left behind: {left}"}), flush=True)
    # ru_maxrss would begin at what the process that forked this one held.
    with open("/proc/self/status") as file:
        peak = next(line for line in file if line.startswith("VmHWM"))
    print(json.dumps({"peak": int(peak.split()[1]) * 1024}), flush=True)


def _damaged(data: bytes, rng: np.random.Generator) -> bytes:
    copy = bytearray(data)
    if rng.random() < 0.3:
        return bytes(copy[: rng.integers(len(copy))])
    # Headers are short and matter most: half of the flips hit the first or last tenth.
    for _ in range(rng.integers(1, 9)):
        tenth = len(copy) // 10
        place = rng.choice([rng.integers(len(copy)), rng.integers(tenth), len(copy) - 1 - rng.integers(tenth)])
        copy[place] ^= 1 << rng.integers(8)
    return bytes(copy)


def _end(step: Callable[[], object], path: str) -> str:
    try:
        step()
        return "read"
    except (ValueError, OSError) as error:
        said = command.reason(error)
        if not said.isprintable() or len(said) > LONGEST or path not in said:
            raise RuntimeError(f"not one line on {path}: {said!r}") from error
        return "refused"
