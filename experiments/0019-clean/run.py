"""Does `kfjax clean` find faults that were planted, and those alone?

    python -m experiments 0019 FOLDER [--clips 2000] [--seed 0]

Makes a corpus of ten-second clips with known faults in FOLDER/crawl, cleans it into FOLDER/clean, and prints precision
and recall of every filter on its own fault, the share of clips without a fault that is refused, and how well scene cuts
are found. Stopped, it goes on where it was. The settings are those of configs/clean.py, but for the size of the
pictures, which is 360 lines here. Whatever is tuned is tuned on another seed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter, defaultdict
from importlib import import_module
from pathlib import Path

from experiments import harness
from kfjax.data.clean import run, thresholds
from kfjax.train.config import load_config

crawl = import_module("experiments.0019-clean.crawl")
#: Two pieces of a film meet within this of the cut that was planted.
_NEAR_SECONDS = 0.05
LINES = 360.0


def settings() -> dict:
    config = load_config("configs/clean.py").to_dict()
    config["thresholds"]["shorter_side"]["least"] = LINES
    return config


def refusals(rows: list[dict]) -> dict[int, set[str]]:
    """Of each clip by its number the filters that refuse some excerpt of it."""
    found: defaultdict[int, set[str]] = defaultdict(set)
    names = thresholds.parse(settings()).thresholds
    for row in rows:
        reasons = found[int(Path(row["path"]).stem)]
        for reason in filter(None, (row["reasons"] or "").split("; ")):
            word = reason.partition(" ")[0]
            reasons.add(word if word in names else "duplicate" if word == "near" else "unusable")
    return found


def scores(faults: list[str], rows: list[dict]) -> dict[str, dict[str, float]]:
    """Of every filter on its own fault: how many have it, precision and recall; and its share of clean clips.

    Duplicates are looked for among what is otherwise kept, and counted there.
    """
    found, clean = refusals(rows), [i for i, fault in enumerate(faults) if not fault]
    made = {}
    for name in crawl.FAULTS:
        own = {i for i, fault in enumerate(faults) if fault == name}
        if name == "duplicate":
            own = {i for i in own if not found[i - 1] and found[i] <= {"duplicate"}}
        said = {i for i, names in found.items() if name in names and name not in crawl.BROUGHT.get(faults[i], ())}
        made[name] = {
            "clips": len(own),
            "precision": len(own & said) / max(1, len(said)),
            "recall": len(own & said) / max(1, len(own)),
            "clean refused": len(said & {*clean}) / len(clean),
        }
    refused = sum(bool(found[i]) for i in clean)
    return made | {"clean": {"clips": len(clean), "clean refused": refused / len(clean)}}


def cuts(folder: Path, faults: list[str], rows: list[dict]) -> dict[str, float]:
    """Of films with one scene cut and all others: are they cut, there, and nowhere else?"""
    starts: defaultdict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["start_seconds"]:
            starts[int(Path(row["path"]).stem)].append(row["start_seconds"])
    own = [i for i, fault in enumerate(faults) if fault == "cut"]
    hits = sum(any(abs(at - crawl.cut_seconds(folder, i)) < _NEAR_SECONDS for at in starts[i]) for i in own)
    others = sum(len(at) for i, at in starts.items() if faults[i] not in ("cut", "still_share"))
    extra = sum(len(starts[i]) for i in own) - hits
    return {"clips": len(own), "precision": hits / max(1, hits + extra + others), "recall": hits / max(1, len(own))}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments 0019", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--make", action="store_true", help="the clips alone")
    args = parser.parse_args(argv)
    faults = crawl.made(args.folder, args.seed, args.clips, args.workers)
    if args.make:
        return 0
    start = time.perf_counter()
    run.clean(args.folder / "crawl", args.folder / "clean", thresholds.parse(settings()), workers=args.workers)
    seconds = time.perf_counter() - start

    import pyarrow.parquet as pq

    rows = pq.read_table(args.folder / "clean/clips.parquet").to_pylist()
    found = scores(faults, rows) | {"scene cut": cuts(args.folder, faults, rows)}
    header = ["filter", "clips", "precision", "recall", "clean refused"]
    body = [[name, *(score.get(column) for column in header[1:])] for name, score in found.items()]
    print("\n".join(harness.markdown(header, body)))
    mistakes(faults, rows)
    print(f"{len(faults)} clips: {dict(Counter(faults))}; cleaned in {seconds:.0f} s")
    if args.clips == 2000 and args.seed == 0:
        harness.write_json(
            Path(__file__).parent / "planted.json", {"made": harness.made(), "scores": harness.plain(found)}
        )
    return 0


def mistakes(faults: list[str], rows: list[dict]) -> None:
    """Print each clip that is refused for what it has not, or not for what it has."""
    values = defaultdict(list)
    for row in rows:
        values[int(Path(row["path"]).stem)].append(row)
    for i, names in sorted(refusals(rows).items()):
        fault = faults[i]
        wrong = names - {fault} - crawl.BROUGHT.get(fault, set())
        missed = {fault} - names - {"", "cut"}
        for name in sorted(wrong | missed):
            measured = [row.get(name, row["reasons"]) for row in values[i]]
            print(
                f"{i:05} {fault or 'clean':20} {'refused for' if name in wrong else 'not found  '} {name:20} {measured}"
            )


if __name__ == "__main__":
    sys.exit(main())
