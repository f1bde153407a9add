"""`kfjax evaluate MODEL|FOLDER --benchmark NAME`: the command. The work is done in `evaluation.py`."""

from __future__ import annotations

from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from kfjax import command, limits

TEXT = """\
Measure a model, or sounds that are there already, on a benchmark.

  kfjax evaluate built-in --benchmark scenes --limit 24              needs no download
  kfjax evaluate sounds/ --benchmark folder --references clips/      files of the same names belong together
  kfjax evaluate MODEL --benchmark vggsound --manual-dir DIR --weights metrics/
  kfjax evaluate sounds/ --benchmark kling-audio-eval --references clips.csv --metrics onsets,panns

Groups of measures: onsets, stereo, levels, codec (mel, STFT, LSD, MCD, SI-SDR, SDR), pesq; scenes, meaning (of the
benchmark scenes); and with the weights of public networks panns (FD, KL, inception score), imagebind (IB-score),
desync, clap. Where weights are missing the file is named and the rest is measured.
"""


def main(argv: Sequence[str]) -> int:
    """Evaluate, write the report and print it.

    Raises:
      ValueError: no such model, folder, benchmark or group of measures; nothing to compare.
    """
    args = _parse(argv)
    from kfjax import pipeline  # imports jax: seconds that a wrong argument need not wait for
    from kfjax.evals.evaluation import Order, evaluate

    pipeline.start()
    results = evaluate(Order(**vars(args)))
    for name in ("missing", "extra", "unreadable"):
        if listed := results["matching"][name]:
            more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
            command.say(f"{name}: {len(listed)} ({', '.join(listed[:5])}{more})")
    for group, reason in results["unavailable"].items():
        command.say(f"{group}: {reason}")
    report = args.output / "report.md"
    print(report.read_text(encoding="utf-8"))
    print(report)
    return 0


def _parse(argv: Sequence[str]) -> Namespace:
    parser = command.Parser(prog="kfjax evaluate", description=TEXT, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "target",
        type=command.local,
        metavar="MODEL|FOLDER",
        help="a model's name (`kfjax models` lists them) or a "
        "model directory; or a folder of generated sounds or videos",
    )
    add(
        "--benchmark",
        required=True,
        metavar="NAME",
        help="scenes, vggsound, audiocaps, kling-audio-eval, or folder: clips of one's own",
    )
    add(
        "--references",
        type=command.local_path,
        metavar="FOLDER|CSV",
        help="the clips with their true sound, as "
        "`kfjax extract` reads them (columns video, audio, caption, start, seconds); for scenes where they are "
        "rendered",
    )
    add(
        "--manual-dir",
        type=command.local_path,
        metavar="DIR",
        help="where the recordings and tables of a public corpus are",
    )
    add("--metrics", metavar="A,B", help="groups of measures; default: all that the benchmark has")
    add(
        "--weights",
        type=command.local_path,
        metavar="FOLDER",
        help="of the measuring networks (default: metrics/ in kfjax's cache)",
    )
    add("--limit", type=int, metavar="N", help="the first N clips (default: all; of scenes 200)")
    add("--seconds", type=float, metavar="S", help="of each clip; default: the benchmark's")
    add("--seed", type=int, default=0, help="of the noise (default 0)")
    add("--steps", type=int, help="of sampling; default: the model's")
    add("--guidance", type=float, metavar="SCALE", help="default: the model's")
    add("--pictures", type=int, default=3, metavar="N", help="clips to draw, from the best to the worst (default 3)")
    add("--output", type=command.local_path, metavar="FOLDER", help="default: evaluation-NAME; run again to go on")
    args = parser.parse_args(argv)
    args.output = args.output or Path(f"evaluation-{args.benchmark}")
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit: got {args.limit}, expected at least 1")
    limits.check(seed=args.seed, steps=args.steps, guidance=args.guidance)
    return args
