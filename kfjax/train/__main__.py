"""`kfjax train CONFIG[:VARIANT] --workdir DIR [--set key=value …]`: from a config file to a running loop."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from kfjax import command
from kfjax.storage import disk
from kfjax.train.run import HEARTBEAT_SECONDS, train


def main(argv: Sequence[str]) -> int:
    """Train, or go on training what is in the working folder.

    Raises:
      ValueError: no such config, variant or key; a value of another type; a folder that holds another run.
    """
    args = _parse(argv)
    train(**vars(args))
    return 0


def _parse(argv: Sequence[str]) -> Namespace:
    parser = command.Parser(prog="kfjax train", description="Train what a config describes; run again to go on.")
    add = parser.add_argument
    add("config", type=command.local, metavar="CONFIG[:VARIANT]", help="a Python file with get_config(variant)")
    folder = "checkpoints, metrics and results; or gs://BUCKET/FOLDER"
    add("--workdir", type=disk.path, required=True, metavar="DIR", help=folder)
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="loop.steps=500")
    several = (
        "one of several processes that train together; what a TPU pod, SLURM, Open MPI or GKE says itself need not be "
        "given"
    )
    add("--distributed", nargs="?", const="", metavar="HOST:PORT,PROCESS,PROCESSES", help=several)
    heartbeat = (
        "with --distributed: without a sign of life for so long a process counts as dead, and the others end (default "
        "%(default)s)"
    )
    add("--heartbeat-timeout", type=int, default=HEARTBEAT_SECONDS, metavar="SECONDS", help=heartbeat)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
