"""The command line: what `kfjax COMMAND` runs; the work is elsewhere."""

from __future__ import annotations

import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kfjax import __version__, command
from kfjax.commands import generate as command_generate

if TYPE_CHECKING:
    from kfjax.system import SystemConfig

CONVERT = """\
Public PyTorch weights, numerically the same here: MMAudio, its VAEs, BigVGAN, CLIP, Synchformer, T5.

  kfjax convert downloads/ mmaudio            every weights file of a folder, into one model directory
  kfjax convert v1-44.pth mmaudio             one more part
  kfjax convert mmaudio again/ --to torch     the files as they were published, bit for bit
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0, 2 for a user's mistake, 130 when interrupted."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    code = command.run(_dispatch, words)
    if argv is None and words[:1] == ["generate"]:
        command.end_at_once(code)
    if argv is None and words[:1] == ["train"] and code:
        command.end_without_threads(code)
    return code


def _dispatch(argv: Sequence[str]) -> int:
    own = (["caption"], ["clean"], ["demo"], ["evaluate"], ["export"], ["extract"], ["train"], ["plan"])
    if argv[:1] in own:  # have parsers of their own
        return _own_parser(argv[0])(argv[1:])
    parser = command.Parser(prog="kfjax", description="Video to sound: generate, convert, train.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=command.Parser)
    command_generate.add(commands)
    _add_convert(commands)
    commands.add_parser("demo", help="a web page that makes sound")
    commands.add_parser("clean", help="a crawl to a table of excerpts that are fit for training")
    commands.add_parser("caption", help="a table's captions, from audio caption, video caption and tags")
    commands.add_parser("extract", help="clips to features and latents, ahead of training")
    commands.add_parser("train", help="train a model from a config")
    commands.add_parser("export", help="a training run's checkpoint to a model directory")
    commands.add_parser("evaluate", help="measure a model, or sounds that are there, on a benchmark")
    commands.add_parser("plan", help="what a training run needs on a machine that is not here")
    commands.add_parser("models", help="list the names that --model and --system take")
    commands.add_parser("doctor", help="say what is installed and where")
    args = parser.parse_args(argv)
    return {"generate": command_generate.run, "convert": _convert, "models": _models, "doctor": _doctor}[args.command](
        args
    )


def _own_parser(name: str) -> Callable[[Sequence[str]], int]:
    if name == "demo":
        from kfjax.demo.__main__ import main
    elif name == "clean":
        from kfjax.commands.clean import main
    elif name == "caption":
        from kfjax.commands.caption import main
    elif name == "extract":
        from kfjax.data.extract import main
    elif name == "export":
        from kfjax.train.export import main
    elif name == "evaluate":
        from kfjax.evals.evaluate import main
    elif name == "plan":
        from kfjax.plan.plan import main
    else:
        from kfjax.train.__main__ import main
    return main


def _add_convert(commands) -> None:
    parser = commands.add_parser(
        "convert", help="public PyTorch weights into a model directory, and back", description=CONVERT,
        formatter_class=RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "source",
        type=command.local_path,
        metavar="SRC",
        help="weights file, folder of them, or (with --to torch) model directory",
    )
    add(
        "target",
        type=command.local_path,
        metavar="DST",
        nargs="?",
        help="model directory, or (with --to torch) folder or file",
    )
    system = "what the parts are for: its config.json is written, and its generator may be missing; `kfjax models`"
    add("--system", metavar="NAME", help=system)
    add("--to", choices=("kfjax", "torch"), default="kfjax", help="direction (default kfjax)")
    add("--inside", metavar="KEY", help="key of the state dict in a file that holds several things")
    add("--format", choices=("pth", "safetensors"), default="pth", help="with --to torch into a folder (default pth)")
    add("--dry-run", action="store_true", help="print where every tensor would go; write nothing")


def _convert(args: Namespace) -> int:
    from kfjax.convert import directory

    if args.dry_run:
        if args.to == "torch":
            raise ValueError("--dry-run: got --to torch, expected to read torch weights; leave one of them out")
        for path in directory.weight_files(args.source):
            print(*directory.mapping(path, inside=args.inside), sep="\n")
        return 0
    if args.target is None:
        raise ValueError("DST: got none, expected a folder to write to; give one, or --dry-run")
    if args.to == "torch":
        directory.export(args.source, args.target, suffix=f".{args.format}")
    else:
        directory.convert(args.source, args.target, inside=args.inside, system=_system(args.system))
    return 0


def _system(name: str | None) -> SystemConfig | None:
    from kfjax.convert import hub, systems

    if name is None:
        return None
    if (found := systems.named(name)) is None:
        raise ValueError(f"--system: {hub.no_model(name)}")
    return found


def _models(args: Namespace) -> int:
    """The models that have a name."""
    del args
    from kfjax.commands import catalogue

    print(f"{'name':22}{'generator':15}{'sound':18}{'in all':>9}  {'on this disk':19}licences of the weights")
    for model in catalogue.models():
        sound = f"{model.sample_rate_hz / 1000:g} kHz {'mono' if model.channels == 1 else 'stereo'}"
        here = "yes" if model.here else "fetched when used"
        network = f"{model.parameters:.3g} M" if model.parameters < 1000 else f"{model.parameters / 1000:.2f} B"
        network += "" if model.generates else " *"
        size = f"{model.megabytes / 1000:6.2f} GB"
        print(f"{model.name:22}{network:15}{sound:18}{size}  {here:19}{', '.join(model.licences)}")
    print("* without weights: for kfjax extract --system and kfjax train, until a training has made them")
    return 0


def _doctor(args: Namespace) -> int:
    """What is installed, on what it runs, where it keeps things; 2 where there is nothing to compute on."""
    del args
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from kfjax import pipeline
    from kfjax.commands import jobs
    from kfjax.xla import programs, sharding

    print(f"kfjax {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    networks, others = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"), ("numpy", "av", "tokenizers", "librosa")
    for package in (*networks, *others, "safetensors"):
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} is missing; install kfjax again")
    try:
        found, problem = sharding.devices(), ""
    except ValueError as error:
        found, problem = [], str(error)
    print("devices:", ", ".join(f"{device.platform} {device.device_kind}" for device in found) or problem)
    if found and (hangs := sharding.training_hangs(found[0].platform)):
        print("training:", hangs)
    pipeline.use_program_cache()
    print("compiled programs:", programs.folder() or "not kept; set KFJAX_CACHE to a folder")
    print("built-in model:", pipeline.BUILT_IN if pipeline.BUILT_IN.is_dir() else "none; give --model FOLDER")
    print("example clip:", jobs.EXAMPLE if jobs.EXAMPLE.is_file() else "none")
    return 0 if found else 2
