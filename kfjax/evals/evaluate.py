"""`kfjax evaluate MODEL|FOLDER --benchmark NAME`: the command. The work is done in `evaluation.py`."""

from __future__ import annotations

from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfjax import command
from kfjax.data import remote, sources, tables
from kfjax.making import limits
from kfjax.storage import disk

TEXT = """\
Measure a model, or sounds that are there already, on a benchmark.

  kfjax evaluate built-in --benchmark scenes --limit 24              needs no download
  kfjax evaluate sounds/ --benchmark folder --references clips/      files of the same names belong together
  kfjax evaluate MODEL --benchmark vggsound --manual-dir DIR --weights metrics/
  kfjax evaluate sounds/ --benchmark kling-audio-eval --references clips.csv --metrics onsets,panns
  kfjax evaluate MODEL --benchmark vggsound --manual-dir DIR --output shared/ --process 0/8     one of 8 processes

The common folder of several processes may be in a bucket (gs://, s3://).

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
    folder = args.output or _default(args.benchmark)
    order: dict[str, Any] = vars(args) | {"output": folder}
    if not (results := evaluate(**order)):  # other processes are at work
        return 0
    for name in ("missing", "extra", "unreadable"):
        if listed := results["matching"][name]:
            more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
            command.say(f"{name}: {len(listed)} ({', '.join(listed[:5])}{more})")
    for group, reason in results["unavailable"].items():
        command.say(f"{group}: {reason}")
    report = folder / "report.md"
    print(report.read_text(encoding="utf-8"))
    print(report)
    return 0


def evaluate(
    target: str | Path,
    benchmark: str,
    *,
    references: str | Path | None = None,
    manual_dir: str | Path | None = None,
    metrics: str | Sequence[str] | None = None,
    weights: str | Path | None = None,
    limit: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    pictures: int = 3,
    process: str = "0/1",
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Measure a model, or sounds that are there already, on a benchmark.

    Args:
      target: a model's name, or its directory, which may be in a bucket; or a folder of generated sounds or videos.
      benchmark: "scenes", "vggsound", "audiocaps", "kling-audio-eval" or "folder" (clips of one's own).
      references: folder or table of the clips with their true sound; the table and its clips may be on any file system
        of fsspec. For scenes where they are rendered.
      manual_dir: recordings and tables of a public corpus.
      metrics: names of groups of measures, ("onsets", "panns"); a text with commas between them is read too.
        Default: all that the benchmark has.
      weights: folder of the measuring networks' weights, which may be in a bucket. Default: metrics/ in kfjax's cache.
      limit: the first so many clips. Default: all; of scenes 200.
      seconds: of each clip. Default: the benchmark's.
      seed: of the noise.
      steps, guidance: of sampling. Default: the model's.
      pictures: clips to draw, from the best to the worst.
      process: "I/N", this is process I, counted from 0, of N that share the clips and the output.
      output: folder for results.json, report.md, files.csv and pictures, which may be in a bucket. Default:
        evaluation-BENCHMARK.

    Returns:
      What results.json holds; "scores" has the figures, "unavailable" the groups without weights. Empty while clips of
      other processes are not measured yet.

    Raises:
      ValueError: no such model, folder, benchmark or group of measures; nothing to compare.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit: got {limit}, expected at least 1")
    limits.check(seed=seed, steps=steps, guidance=guidance)
    path = lambda given: None if given is None else command.local_path(given)
    either = lambda given: None if given is None else disk.path(given)
    there = None if references is None else _references(references)
    target, paths = command.local_or_bucket(str(target)), {"references": there, "manual_dir": path(manual_dir)}
    from kfjax import pipeline  # imports jax: seconds that a wrong argument need not wait for
    from kfjax.evals import evaluation

    pipeline.start()
    return evaluation.evaluate(evaluation.EvaluationRequest(
        target, benchmark, either(output) or _default(benchmark), **paths, metrics=_names(metrics),
        weights=either(weights), limit=limit, seconds=seconds, seed=seed, steps=steps, guidance=guidance,
        pictures=pictures, process=process,
    ))  # fmt: skip


def _names(metrics: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Of groups of measures; the command line has them in one text."""
    if metrics is None:
        return None
    parts = metrics.split(",") if isinstance(metrics, str) else metrics
    return tuple(name.strip() for name in parts if name.strip())


def _references(given: str | Path) -> Path:
    """A folder on this machine, or a table or list, which may be on any file system of fsspec."""
    text = str(given)
    listed = text.lower().endswith((*tables.SUFFIXES, sources.LIST))
    return remote.Address(text) if listed and remote.is_address(text) else command.local_path(text)


def _default(benchmark: str) -> Path:
    """Where results go unless told."""
    return Path(f"evaluation-{benchmark}")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = command.Parser(prog="kfjax evaluate", description=TEXT, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "target",
        type=command.local_or_bucket,
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
        type=_references,
        metavar="FOLDER|TABLE",
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
        type=disk.path,
        metavar="FOLDER",
        help="of the measuring networks (default: metrics/ in kfjax's cache)",
    )
    add("--limit", type=int, metavar="N", help="the first N clips (default: all; of scenes 200)")
    add("--seconds", type=float, metavar="S", help="of each clip; default: the benchmark's")
    add("--seed", type=int, default=0, help="of the noise (default 0)")
    add("--steps", type=int, help="of sampling; default: the model's")
    add("--guidance", type=float, metavar="SCALE", help="default: the model's")
    add("--pictures", type=int, default=3, metavar="N", help="clips to draw, from the best to the worst (default 3)")
    add("--process", default="0/1", metavar="I/N", help="this is process I, counted from 0, of N (default 0/1)")
    add("--output", type=disk.path, metavar="FOLDER", help="default: evaluation-NAME; run again to go on")
    return parser.parse_args(argv)
