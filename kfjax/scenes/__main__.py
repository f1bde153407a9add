"""One scene as a film, or a whole corpus:

python -m kfjax.scenes scene.mp4 --seed 3 --recipe bouncing
python -m kfjax.scenes --corpus FOLDER --count 1000 --seed 0 --split train --durations 8:1 4:0.5
"""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from kfjax import command
from kfjax.scenes import RECIPES, SPLITS, make_scene, render_corpus, write_mp4


def _weighted(text: str) -> tuple[float, float]:
    seconds, _, weight = text.partition(":")
    return float(seconds), float(weight or 1.0)


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = command.Parser(
        prog="python -m kfjax.scenes", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("output", nargs="?", type=command.local_path, help="mp4 file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--recipe", choices=sorted(RECIPES), help="kind of scene (default: any)")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds (default: %(default)s)")
    parser.add_argument("--silent", action="store_true", help="the film without its sound")
    parser.add_argument("--corpus", type=command.local_path, help="folder to render a corpus into, instead of one film")
    parser.add_argument("--count", type=int, default=1000, help="scenes in the corpus (default: %(default)s)")
    parser.add_argument("--durations", type=_weighted, nargs="+", default=[(8.0, 1.0)], metavar="SECONDS:WEIGHT")
    parser.add_argument("--size", type=int, default=64, help="edge of the corpus's frames (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(argv)
    if (args.output is None) == (args.corpus is None):
        parser.error("pass either an mp4 file to write or --corpus FOLDER")
    if args.corpus is not None:
        render_corpus(
            args.corpus,
            args.count,
            seed=args.seed,
            split=args.split,
            durations=dict(args.durations),
            size=args.size,
            workers=args.workers,
        )
        return 0
    scene = make_scene(args.seed, duration_seconds=args.duration, split=args.split, recipe=args.recipe)
    write_mp4(scene, args.output, silent=args.silent)
    print(f"{args.output}: {scene.caption} ({scene.combination}, {len(scene.events)} events)")
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
