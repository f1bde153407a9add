"""`kfjax clean SOURCE --output FOLDER`: a crawl to a table of excerpts that are fit for training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kfjax import command
from kfjax.data.clean import run, speech, thresholds
from kfjax.data.clean.measure import Networks
from kfjax.evals.networks import excerpts
from kfjax.storage.cache import cache_folder
from kfjax.train import config as configs

MISSING = "not measured: {}; " + command.install("clean")


def main(argv: Sequence[str]) -> int:
    """Measure what is not measured yet, and filter.

    Raises:
      ValueError: nothing to clean, wrong settings, another run at work in the folder.
    """
    args = _parser().parse_args(argv)
    config = configs.load_config(args.config)
    for assignment in args.set:
        configs.apply(config, assignment)
    cfg = thresholds.parse(config.to_dict())
    if missing := sorted(speech.NEEDS.keys() - speech.available()):
        command.say(MISSING.format(", ".join(missing)))
    cfg = replace(cfg, networks=_networks(args.weights))
    counts = run.clean(args.source, args.output, cfg, workers=args.workers, dry_run=args.dry_run)
    print(*report(counts, cfg), sep="\n")
    return 0


def _networks(weights: Path | None) -> Networks:
    """Measures by the networks whose weights are in the folder; the others are said."""
    weights = weights or cache_folder() / "metrics"
    for line in excerpts.missing(weights):
        command.say(f"not measured: {line}")
    return excerpts.open_folder(weights)


def report(counts: Counter[str], cfg: thresholds.CleanConfig) -> list[str]:
    """Lines: of each threshold how many excerpts would stay with it alone, and how many with all."""
    total = counts["excerpts"]
    limits = {
        name: " and ".join(f"{key} {value:g}" for key, value in vars(limit).items() if abs(value) != float("inf"))
        for name, limit in cfg.thresholds.items()
    }
    limits |= {thresholds.DUPLICATE: "none above", thresholds.UNUSABLE: "can be read"}
    lines = [f"{'threshold':34}{'stay':>9} of {total}"]
    lines += [f"{f'{name} ({limit})':34}{total - counts[name]:9}" for name, limit in limits.items()]
    return [*lines, f"{'all of them':34}{counts['kept']:9}"]


def _parser() -> command.Parser:
    parser = command.Parser(
        prog="kfjax clean", description="Excerpts of a crawl, measured and filtered; run again to go on."
    )
    add = parser.add_argument
    add("source", type=command.local_path, metavar="SOURCE", help="a folder of videos and sounds, or a CSV file as for "
        "`kfjax extract`")  # fmt: skip
    add("--output", type=command.local_path, required=True, metavar="FOLDER",
        help=f"where {run.SIDE_TABLE} (all measures of all excerpts) and {run.CLIPS} (which are kept) go")  # fmt: skip
    add("--config", default="configs/clean.py", metavar="FILE[:VARIANT]", help="thresholds (default configs/clean.py)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change settings, e.g. thresholds.silence_share.most=0.5; nothing is measured again")  # fmt: skip
    add("--dry-run", action="store_true", help=f"print how many would stay for each threshold; write no {run.CLIPS}")
    add("--weights", type=command.local_path, metavar="FOLDER",
        help="of the networks for synchrony, captions and classes (default: metrics/ in kfjax's cache)")  # fmt: skip
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (default: one a core)")
    return parser
