"""What does a long sound cost? Whole commands for films of 10 seconds to 10 minutes.

    python -m experiments 0017/cost --output experiments/0017-long/cost.json

Films are one scene, repeated. Work: processor seconds of the whole process, start and imports included, a second of
sound. Peak: of the process. First: elapsed seconds to the first sound of a stream; its programs are there already.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LENGTHS = (10, 20, 60, 180, 600)
STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        films = {seconds: film(Path(folder), seconds) for seconds in args.lengths}
        for seconds in (min(films), 20):  # compiles
            command(films.get(seconds) or film(Path(folder), seconds), folder)
        for seconds, path in films.items():
            row = command(path, folder)
            row["work"] = row["processor"] / seconds
            row["first"] = first_sound(path)
            rows[seconds] = row
            print(seconds, json.dumps(row), flush=True)
            args.output.write_text(json.dumps({"steps": STEPS, "films": rows}, indent=1) + "\n")
    print(table(rows))


def film(folder: Path, seconds: int) -> Path:
    from kfjax import media
    from kfjax.scenes import make_scene

    path = folder / f"{seconds}.mp4"
    frames = make_scene(7000, duration_seconds=20.0, split="heldout", recipe="footsteps").frames((256, 144))
    media.write_video(path, (frames[i % len(frames)] for i in range(25 * seconds)), 25)
    return path


def command(path: Path, folder: str) -> dict[str, float]:
    """Processor and elapsed seconds and peak memory of one command."""
    output = str(Path(folder, "out.wav"))
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "kfjax", "generate", str(path), "--steps", str(STEPS), "--output", output],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
        except OSError:
            pass
        time.sleep(0.02)
    used = _children()
    return {"processor": used, "elapsed": time.monotonic() - started, "peak MB": peak / 1e3}


_before = [0.0]


def _children() -> float:
    """Processor seconds of the child that ended last."""
    times = os.times()
    total = times.children_user + times.children_system
    last, _before[0] = total - _before[0], total
    return last


def first_sound(path: Path) -> float:
    from kfjax import pipeline

    model = pipeline.load()
    began = time.monotonic()
    stream = model.stream(path, steps=STEPS)
    assert np.isfinite(next(stream)).all()
    return time.monotonic() - began


def table(rows: dict[int, dict]) -> str:
    lines = ["| seconds of sound | processor seconds a second | peak, MB | first sound after, s |", "|---|---|---|---|"]
    for seconds, row in rows.items():
        lines.append(f"| {seconds} | {row['work']:.3f} | {row['peak MB']:.0f} | {row['first']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
