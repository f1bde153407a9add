"""How much memory filtering takes, by the length of the source.

    python -m experiments 0019/memory FOLDER [--rows 100 10000 1000000]

Every number of rows in a process of its own: a CSV table of so many rows, a store that knows the measures of each
already, and a run that writes the tables. Half of the rows are refused; all fingerprints differ.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from kfjax.data import sources
from kfjax.data.clean import run, thresholds
from kfjax.data.clean.measure import MEASURES, Measured
from kfjax.data.clean.store import Store, key_of
from kfjax.data.clean.tables import TEXTS
from kfjax.train.config import load_config


def cleaned(folder: Path, rows: int) -> None:
    """Prints megabytes and seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = thresholds.parse(load_config("configs/clean.py:loose").to_dict())
    table = folder / "table.csv"
    with table.open("w") as file:
        file.write("video,caption\n")
        file.writelines(f"clips/{i:07}.mp4,something that sounds\n" for i in range(rows))
    rng = np.random.default_rng(0)
    with Store(folder) as store:
        store._base.execute("BEGIN")
        for row in sources.iter_rows(table):
            level = float(rng.uniform(-80, -20))
            measures = dict.fromkeys(MEASURES, level) | {
                name: rng.bytes(32).hex() for name in MEASURES if name in TEXTS
            }
            measures |= {name: limit.least for name, limit in cfg.thresholds.items() if np.isfinite(limit.least)}
            measures |= {name: limit.most for name, limit in cfg.thresholds.items() if np.isfinite(limit.most)}
            measures["loudness_lufs"] = level
            store.add(key_of(row, cfg), [Measured(0.0, 10.0, "", measures)])
        store._base.execute("COMMIT")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    counts = run.clean(table, folder, cfg)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{rows:8} rows, {counts['kept']} kept: {peak / 1024:.0f} MB ({before / 1024:.0f} before), "
          f"{time.perf_counter() - start:.1f} s")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments 0019/memory")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 10_000, 1_000_000])
    args = parser.parse_args(argv)
    if len(args.rows) == 1:
        cleaned(args.folder / str(args.rows[0]), args.rows[0])
        return 0
    for rows in args.rows:
        command = [sys.executable, "-m", "experiments", "0019/memory", str(args.folder), "--rows", str(rows)]
        subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
