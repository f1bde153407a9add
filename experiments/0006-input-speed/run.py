"""How many ten-second excerpts a second the training input reads from local disk, mixed, batched, ready for the device.

    python -m experiments 0006 [FOLDER]

Writes features of full size (0.75 MB an excerpt) into a temporary folder in FOLDER, which is deleted, and reads batches
as `kfjax train` does: with the files in the page cache and without, with and without joined excerpts, by 1 and by 2
threads. Run it on an idle machine; it keeps to two cores of many.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

SECONDS, SHARD = 10.0, 256
#: Of features to write; excerpts of a batch; batches of a measurement.
GIGABYTES, BATCH, ROUNDS, CORES = 1.5, 64, 8, 2


def write(folder: Path, cfg, counts: dict[float, int]) -> None:
    """seconds -> how many excerpts. Each has other numbers: rolled out of one of its duration."""
    import numpy as np

    from kfjax.data.batches import example_shapes
    from kfjax.data.shards import records
    from kfjax.structs import Given

    rng = np.random.default_rng(0)
    random = lambda shape: rng.standard_normal(shape, np.float32).astype(records.BFLOAT16)
    base = {s: {name: random(shape) for name, shape in example_shapes(cfg, s).items()} for s in counts}
    given = Given(np.arange(cfg.text_tokens) < cfg.text_tokens // 4, 0.0, 0.0, has_video=True, has_text=True)
    of = -(-max(counts.values()) // SHARD)
    for k in range(of):
        with records.ShardWriter(folder, k, of, "bench") as shard:
            for seconds, count in counts.items():
                for i in range(k, count, of):
                    arrays = {name: np.roll(array, i) for name, array in base[seconds].items() if name != "text_mask"}
                    own = given._replace(seconds_total=seconds)
                    shard.add(seconds, records.Example(f"{i}", given=own, **arrays))
    records.write_index(folder)


def forget(folder: Path) -> None:
    """Drop the folder's files from the page cache, so that the disk is read."""
    for path in folder.rglob("*.array_record"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(made) -> tuple[float, float, float]:
    """(excerpts a second, processor milliseconds an excerpt, megabytes an excerpt) over some batches."""
    import jax

    made(ROUNDS)  # opens the files; another batch than those below
    count, size = 0, 0
    start = time.perf_counter(), time.process_time()
    for step in range(ROUNDS):
        leaves = jax.tree.leaves(made(step))
        count += len(leaves[0])
        size += sum(leaf.nbytes for leaf in leaves)
    elapsed, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    return count / elapsed, 1e3 * processor / count, size / count / 1e6


def main() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from kfjax.data.batches import FeatureInput
    from kfjax.data.buckets import Buckets
    from kfjax.generators.mmdit.sizes import SIZES
    from kfjax.system import SystemConfig

    cfg = SystemConfig(mmdit=SIZES["1.5b"])
    count = int(GIGABYTES * 1e9 / 4 / 0.76e6)  # half of it ten-second excerpts, in two folders
    buckets = Buckets({SECONDS: 1.0}, batch_seconds=SECONDS * BATCH, multiple_of=BATCH, seed=0)
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as temporary:
        folders = [Path(temporary, name) for name in ("a", "b")]
        for folder in folders:
            write(folder, cfg, {SECONDS: count, SECONDS / 2: 2 * count})
        print(f"{'':44}{'excerpts/s':>11}{'ms of processor':>17}{'MB':>6}")
        for joined, threads in ((0.0, 1), (0.0, 2), (0.5, 1), (0.5, 2)):
            corpora = list(zip(folders, (3.0, 1.0), strict=True))
            made = FeatureInput(cfg, corpora, buckets, seed=0, joined=joined, threads=threads)
            for source in ("disk", "page cache"):
                if source == "disk":
                    forget(Path(temporary))
                speed, busy, size = measure(made)
                name = f"{threads} thread(s), {joined:.0%} joined, {source}"
                print(f"{name:44}{speed:11.0f}{busy:17.2f}{size:6.2f}", flush=True)
