"""How long `kfjax generate` takes on a 5-s clip of 1080p: whole processes, with an empty and with a full program cache.

    python -m experiments 0002 [CLIP] [--model FOLDER] [--output results.json]
    python -m experiments 0002 --against CHECKOUT

Also: peak memory, `kfjax --help`, and how many programs are compiled when settings change. The second form times
`kfjax generate --example` here, in another checkout, and a bare `import jax` with one jitted call, in turn, and gives
ratios: they hold where a machine's speed drifts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments import harness
from experiments.harness import ROOT

PAIRS = 5  # of runs, here and in another checkout
LIMITS = {"help_seconds": 0.5, "first_seconds": 25.0, "second_seconds": 12.0, "peak_gb": 2.0, "recompiled": 0}


def make_clip(path: Path, seconds: float = 5.0, fps: int = 25) -> None:
    """1920 x 1080: a bright ball bounces over a still, textured background."""
    from kfjax import media

    texture = np.random.default_rng(0).integers(60, 110, (135, 240, 3), np.uint8)
    background = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    y, x = np.mgrid[:1080, :1920]

    def frames():
        for k in range(int(seconds * fps)):
            height = 800 * abs(np.cos(np.pi * k / fps))
            frame = background.copy()
            frame[(y - (980 - height)) ** 2 + (x - 300 - 10 * k) ** 2 < 80**2] = (250, 200, 40)
            yield frame

    media.write_video(path, frames(), fps)


def measure(command: list[str], root: Path = ROOT, program: tuple = ("-m", "kfjax"), **environment) -> dict[str, float]:
    """Wall and processor seconds and peak memory of one process and its threads."""
    environment = os.environ | environment | {"PYTHONPATH": str(root)}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        whole = [sys.executable, *program, *command]
        process = subprocess.Popen(whole, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if process.returncode:
            sys.exit(f"kfjax {' '.join(command)} ended with {process.returncode}: {said.read()[-1000:]}")
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
    }


BARE = ("-c", "import jax; jax.jit(lambda x: x + 1)(1.0)")


def compared(other: Path) -> dict[str, dict[str, float]]:
    """Medians of the ratios of seconds, pair by pair: first runs (an empty cache) and second ones."""
    ratios = {name: {"seconds": [], "cpu_seconds": []} for name in ("first", "second", "second_to_bare_jax")}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(PAIRS):
            runs = {}
            for name, root in (("here", ROOT), ("other", other)):
                command = ["generate", "--example", "--output", f"{folder}/{name}.mp4"]
                runs[name] = [measure(command, root, KFJAX_CACHE=f"{folder}/{name}-{k}") for _ in range(2)]
            bare = measure([], program=BARE)
            for figure in ("seconds", "cpu_seconds"):
                first, second = ([runs[name][n][figure] for name in ("here", "other")] for n in range(2))
                ratios["first"][figure].append(first[0] / first[1])
                ratios["second"][figure].append(second[0] / second[1])
                ratios["second_to_bare_jax"][figure].append(second[0] / bare[figure])
    median = lambda values: round(float(np.median(values)), 2)
    return {name: {figure: median(values) for figure, values in both.items()} for name, both in ratios.items()}


def recompiled(clip: Path, model: str) -> dict[str, int]:
    """Programs compiled by each change after a first generation."""
    import jax

    import kfjax

    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: events.append(event))
    compiled = lambda: sum(event.endswith("backend_compile_duration") for event in events)
    loaded = kfjax.load(model)
    loaded.generate(clip, "a ball bounces", duration=5.0, steps=2)
    changes = {
        "steps": {"steps": 3}, "guidance": {"guidance": 2.0}, "seed": {"seed": 1}, "prompt": {"prompt": "rain"},
        "duration": {"duration": 4.5}, "samples": {"samples": 2},
    }  # fmt: skip
    counts = {}
    for name, change in changes.items():
        before = compiled()
        loaded.generate(clip, **{"prompt": "a ball bounces", "duration": 5.0, "steps": 2} | change)
        counts[name] = compiled() - before
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with another checkout, in turn")
    args = parser.parse_args()
    if args.against is not None:
        print(json.dumps(compared(args.against.resolve()), indent=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = args.clip or Path(folder, "clip.mp4")
        if args.clip is None:
            make_clip(clip)
        help_seconds = min(measure(["--help"])["seconds"] for _ in range(3))
        command = ["generate", str(clip.resolve()), "--model", args.model, "--output", f"{folder}/out.mp4"]
        first, second = (measure(command, KFJAX_CACHE=f"{folder}/cache") for _ in range(2))
        os.environ["KFJAX_CACHE"] = f"{folder}/cache"
        counts = recompiled(clip, args.model)
    figures = {
        "help_seconds": help_seconds,
        "first_seconds": first["seconds"],
        "second_seconds": second["seconds"],
        "peak_gb": max(first["peak_gb"], second["peak_gb"]),
        "recompiled": sum(counts.values()),
    }
    load = round(os.getloadavg()[0], 1)  # a busy machine stretches the wall time, hardly the processor time
    details = {"cores": os.cpu_count(), "load": load, "first": first, "second": second, "recompiled_by": counts}
    for name, value in figures.items():
        print(f"{name:16} {value:8} (limit {LIMITS[name]}){'' if value <= LIMITS[name] else '  TOO MUCH'}")
    print(json.dumps(details))
    if args.output:
        harness.write_json(args.output, harness.made() | {"limits": LIMITS, **figures, **details})
