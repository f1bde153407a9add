"""`kfjax train CONFIG[:VARIANT] --workdir DIR [--set key=value …]`: from a config file to a running loop."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kfjax import command
from kfjax.train.run import HEARTBEAT_SECONDS, train


def main(argv: Sequence[str]) -> int:
    """Train, or go on training what is in the working folder.

    Raises:
      ValueError: no such config, variant or key; a value of another type; a folder that holds another run.
    """
    parser = command.Parser(prog="kfjax train", description="Train what a config describes; run again to go on.")
    parser.add_argument(
        "config", type=command.local, metavar="CONFIG[:VARIANT]", help="a Python file with get_config(variant)"
    )
    parser.add_argument(
        "--workdir", type=command.local_path, required=True, metavar="DIR", help="checkpoints, metrics and results"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="loop.steps=500")
    parser.add_argument(
        "--distributed",
        nargs="?",
        const="",
        metavar="HOST:PORT,PROCESS,PROCESSES",
        help="one of "
        "several processes that train together; what a TPU pod, SLURM, Open MPI or GKE says itself need not be given",
    )
    parser.add_argument(
        "--heartbeat-timeout",
        type=int,
        default=HEARTBEAT_SECONDS,
        metavar="SECONDS",
        help="with "
        "--distributed: without a sign of life for so long a process counts as dead, and the others end (default "
        "%(default)s)",
    )
    args = parser.parse_args(argv)
    train(
        args.config, args.workdir, set=args.set, distributed=args.distributed, heartbeat_timeout=args.heartbeat_timeout
    )
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
