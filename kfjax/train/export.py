"""`kfjax export WORKDIR OUTPUT`: a checkpoint of a run to a model directory, on any host."""

from __future__ import annotations

import json
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfjax import command
from kfjax.storage import disk, stored_state

DESCRIPTION = """\
The newest checkpoint of a run as a model directory that `kfjax generate --model` takes.

  kfjax export runs/flow mine                        the moving average, as a run's own end leaves it
  kfjax export runs/flow mine --step 4000 --raw      the parameters as they were at that step
  kfjax export runs/vae mine --base built-in         a part trained alone, in a model that has the others

Parts that the run did not train come from the paths in its config, then from --base. The checkpoint may be of any mesh;
no accelerator is needed, and one part at a time is in memory. WORKDIR and OUTPUT may be in a bucket (gs://…).
"""


def export(
    workdir: str | Path, output: str | Path, *, step: int | None = None, raw: bool = False, base: str | Path = ""
) -> int:
    """Write a checkpoint of the run in `workdir` as the model directory `output`, which must not be there yet.

    Args:
      step: of the checkpoint. Default: the newest.
      raw: the parameters themselves, not their moving average.
      base: a model directory or a model's name, for the parts that neither the run nor its config has.

    Returns:
      The step.

    Raises:
      ValueError: no run or no such checkpoint in `workdir`; a part that is missing; `output` exists; no such base.
      CheckpointError: a file is not as it was written.
    """
    workdir, output = disk.path(workdir), disk.path(output)
    if output.exists() and not disk.unfinished(output):
        raise ValueError(f"OUTPUT: {output} exists already; give a new name")
    values, chosen = _config(workdir, str(base)), _step(workdir, step)
    from kfjax.train.tasks import make, model_directory

    weights = stored_state.StoredState(workdir / "checkpoints", chosen, "params" if raw else "ema")
    model_directory.write(make.product(values, weights), output, base=base, step=chosen, raw=raw)
    return chosen


def _config(workdir: Path, base: str) -> dict[str, Any]:
    """The settings of the run; the base takes the place of a start, and of parts in a bucket, that have gone."""
    path = workdir / "config.json"
    if disk.in_bucket(workdir):
        workdir.check_bucket()
    if not path.is_file():
        raise ValueError(f"WORKDIR: no run in {workdir} (no config.json); give the --workdir of kfjax train")
    try:
        values = json.loads(path.read_text())
        data = values["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({command.quoted(str(error))}); copy it again") from None
    for key in ("encoders", "vae", "vocoder"):
        if disk.in_bucket(place := disk.path(str(data.get(key) or ""))) and not place.exists():
            data[key] = ""
    start = data.get("start")
    if start and not disk.path(start).exists():
        from kfjax.train.tasks.weights import is_name  # imports jax

        if is_name(start):
            return values
        if not base:
            raise ValueError(f"the run started from {start}, which has gone; give that model as --base MODEL")
        from kfjax.train.tasks.model_directory import folder_of

        data["start"] = str(folder_of(base))
    return values


def _step(workdir: Path, step: int | None) -> int:
    known = stored_state.steps(workdir / "checkpoints")
    if not known:
        raise ValueError(f"WORKDIR: no checkpoint in {workdir} yet; train until loop.save_every steps are done")
    if step is None:
        return known[-1]
    if step not in known:
        raise ValueError(f"--step: got {step}, expected one of {', '.join(map(str, known))}")
    return step


def main(argv: Sequence[str]) -> int:
    """Export, and say where to.

    Raises:
      ValueError: as `export`.
    """
    args = _parse(argv)
    step = export(args.workdir, args.output, step=args.step, raw=args.raw, base=args.base)
    command.say(f"{args.output}: step {step}; kfjax generate --model {args.output}")
    return 0


def _parse(argv: Sequence[str]) -> Namespace:
    parser = command.Parser(prog="kfjax export", description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("workdir", type=disk.path, metavar="WORKDIR", help="of `kfjax train`")
    add("output", type=disk.path, metavar="OUTPUT", help="the model directory to write; must not exist")
    add("--step", type=int, metavar="N", help="of the checkpoint (default: the newest)")
    add("--raw", action="store_true", help="the parameters themselves instead of their moving average")
    base = "for parts that the run does not have: a model directory or a model's name (`kfjax models`)"
    add("--base", type=command.local_or_bucket, default="", metavar="NAME|FOLDER", help=base)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
