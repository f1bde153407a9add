"""The command line: generate, demo, convert, extract, train, evaluate, plan, models, doctor; the work is elsewhere."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfjax import __version__, command

if TYPE_CHECKING:
    from kfjax.jobs import Job
    from kfjax.pipeline import Model

GENERATE = """\
Make sound for a video, a prompt, a folder of videos or a table of both.

  kfjax generate clip.mp4 --prompt "a ball bounces on wood"    clip.sound.mp4: the picture as it is, with new sound
  kfjax generate --prompt "heavy rain" --duration 5            sound.wav
  kfjax generate clips/ --output sounds/                       every video of a folder; run again to resume
  kfjax generate clips.csv --output sounds/                    columns video, prompt, negative_prompt, duration, seed
"""
CONVERT = """\
Public PyTorch weights, numerically the same here: MMAudio, its VAEs, BigVGAN, CLIP, Synchformer, T5.

  kfjax convert downloads/ mmaudio            every weights file of a folder, into one model directory
  kfjax convert v1-44.pth mmaudio             one more part
  kfjax convert mmaudio again/ --to torch     the files as they were published, bit for bit
"""
#: Arguments of `kfjax generate` that are checked before a model is loaded; the prompt is too.
CHECKED = ("negative_prompt", "seed", "samples", "batch", "steps", "guidance", "video_guidance", "text_guidance",
           "negative_guidance", "keep_original")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0, 2 for a user's mistake, 130 when interrupted."""
    return command.run(_dispatch, [*(sys.argv[1:] if argv is None else argv)])


def _dispatch(argv: Sequence[str]) -> int:
    if argv[:1] in (["demo"], ["evaluate"], ["extract"], ["train"], ["plan"]):  # have parsers of their own
        return _own_parser(argv[0])(argv[1:])
    parser = command.Parser(prog="kfjax", description="Video to sound: generate, convert, train.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=command.Parser)
    _add_generate(commands)
    _add_convert(commands)
    commands.add_parser("demo", help="a web page that makes sound")
    commands.add_parser("extract", help="clips to features and latents, ahead of training")
    commands.add_parser("train", help="train a model from a config")
    commands.add_parser("evaluate", help="measure a model, or sounds that are there, on a benchmark")
    commands.add_parser("plan", help="what a training run needs on a machine that is not here")
    commands.add_parser("models", help="list the models that --model takes by name")
    commands.add_parser("doctor", help="say what is installed and where")
    args = parser.parse_args(argv)
    return {"generate": _generate, "convert": _convert, "models": _models, "doctor": _doctor}[args.command](args)


def _own_parser(name: str) -> Callable[[Sequence[str]], int]:
    if name == "demo":
        from kfjax.demo.__main__ import main
    elif name == "extract":
        from kfjax.data.extract import main
    elif name == "evaluate":
        from kfjax.evals.evaluate import main
    elif name == "plan":
        from kfjax.plan.plan import main
    else:
        from kfjax.train.__main__ import main
    return main


def _add_generate(commands) -> None:
    parser = commands.add_parser(
        "generate", help="make sound for a video or a prompt", description=GENERATE,
        formatter_class=RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.surplus = "put the words of --prompt in quotes; for several clips give their folder, or a table of them"
    add = parser.add_argument
    add("video", nargs="?", type=command.local_path, metavar="VIDEO|FOLDER|CSV")
    add("--example", action="store_true", help="use the small clip that comes with the package")
    add("--prompt", metavar="TEXT", help="describes the sound")
    add("--negative-prompt", metavar="TEXT", default="", help="describes what must not be heard")
    add(
        "--duration",
        type=float,
        metavar="SECONDS",
        help="of the sound, from the video's start; default: the video's "
        "length (the rest of a longer picture is silent), 8 without a video",
    )
    _add_sampling(add)
    add(
        "--output",
        type=command.local_path,
        metavar="PATH",
        help="file to write (.mp4 .m4v .mov .mkv, .wav .flac for "
        "sound alone); a folder for many; default: VIDEO.sound.mp4 in the working folder; overwritten",
    )
    add("--audio-only", action="store_true", help="write .wav instead of a video")
    add("--keep-original", type=float, metavar="GAIN", help="mix in the video's own sound times this")
    add(
        "--model",
        type=command.local,
        default="built-in",
        metavar="NAME|FOLDER",
        help="a published model's name "
        "(`kfjax models` lists them) or a model directory; default: the small built-in model",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="of encoders and generator; default: bfloat16 on accelerators")
    add("--memory-report", action="store_true", help="say what memory each stage will need, and stop")
    add(
        "--plot",
        nargs="?",
        const="",
        metavar="PNG",
        help="also draw frames, waveform, mel and position over time; default name: the output's, .png",
    )


def _add_sampling(add: Callable[..., Any]) -> None:
    add("--steps", type=int, help="of the integration; default: the model's")
    add("--method", choices=("euler", "heun"), default="euler", help="of the integration; heun: twice the work a step")
    add("--guidance", type=float, metavar="SCALE", help="how strongly both are followed; default: the model's")
    add("--video-guidance", type=float, metavar="SCALE", help="for the video alone; default: --guidance")
    add("--text-guidance", type=float, metavar="SCALE", help="for the prompt alone; default: --guidance")
    add("--negative-guidance", type=float, metavar="SCALE", help="how strongly the negative prompt is avoided")
    add("--seed", type=int, default=0, help="another seed, another sound (default 0)")
    add("--samples", type=int, default=1, metavar="N", help="versions to make, in files -1, -2, … (default 1)")
    add(
        "--batch",
        type=int,
        metavar="N",
        help="versions made at once; default: what an accelerator's memory has room for, up to 8",
    )


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
        directory.convert(args.source, args.target, inside=args.inside)
    return 0


def _generate(args: Namespace) -> int:
    signal.signal(signal.SIGTERM, _terminated)
    jobs, many = _jobs(args)
    if not many:  # in a list, a bad clip must not keep the others from being done
        jobs[0].check()

    from kfjax import pipeline  # imports jax: seconds that a wrong argument need not wait for
    from kfjax.jobs import run_all

    model = pipeline.load(args.model, dtype=args.dtype)
    if args.memory_report:
        print(model.memory_report(jobs[0].video, jobs[0].duration))
        return 0
    if model.built_in:
        command.say(f"{pipeline.SMALL_WORLD}; for real footage give --model FOLDER with weights that have seen some")
    told: set[str] = set()
    if not many:
        _make(model, jobs[0], args, told, bar=True)
        return 0
    args.output.mkdir(parents=True, exist_ok=True)
    done = lambda job: all(path.exists() for path in job.outputs)
    run_all(jobs, make=lambda job: _make(model, job, args, told, bar=False), done=done)
    return 0


def _terminated(*_) -> None:
    """SIGTERM unwinds the stack, so that unfinished files are removed."""
    sys.exit(143)


def _jobs(args: Namespace) -> tuple[list[Job], bool]:
    """What to make, and whether it is a list. Raises ValueError for arguments that don't go together."""
    from kfjax import jobs, limits, rates
    from kfjax.data.sources import TABLES

    if args.example and args.video is not None:
        raise ValueError(f"got --example and {args.video}, expected one of them; leave one out")
    video = jobs.EXAMPLE if args.example else args.video
    if args.prompt is not None and not args.prompt.strip():
        raise ValueError("--prompt: got an empty text; say what is heard, or leave it out to go by the picture alone")
    if video is None and args.prompt is None:
        raise ValueError("got neither a video nor a prompt, expected at least one; give a file, --prompt TEXT or both")
    if args.plot and not args.plot.endswith(".png"):
        raise ValueError(f"--plot: got {args.plot}, expected a name in .png; or give --plot last, without a name")
    if video is not None and not video.exists() and not video.suffix:
        raise ValueError(f"{video}: no such file or folder; if it is what is heard, give it to --prompt, in quotes")
    limits.check(prompt=args.prompt or "", **{name: getattr(args, name) for name in CHECKED})
    if args.duration is not None:
        rates.check_seconds(args.duration, rates.LONGEST_SECONDS)
    template = jobs.Job(video, args.prompt or "", args.negative_prompt, args.duration, args.seed, args.samples)
    if video is not None and (video.is_dir() or video.suffix.lower() in TABLES):
        if args.output is None or args.output.is_file():
            raise ValueError(f"{video}: got many clips, expected a folder to write to; give --output FOLDER")
        if args.plot:
            raise ValueError(f"--plot: got the name {args.plot} for many clips; give --plot last, without a name")
        listed = jobs.from_folder if video.is_dir() else jobs.from_table
        return listed(video, template, args.output, audio_only=args.audio_only), True
    stem = f"{video.stem}.sound" if video else "sound"
    output = args.output or Path(stem + jobs.output_suffix(video, args.audio_only))
    if args.audio_only and output.suffix.lower() in jobs.VIDEO_FORMATS:
        raise ValueError(f"--audio-only: got {output} to write to, expected a name in .wav or .flac; rename it")
    if args.plot and not Path(args.plot).parent.is_dir():
        raise ValueError(f"--plot: got {args.plot}, in a folder that doesn't exist; create it or give another name")
    return [replace(template, output=output)], False


def _make(model: Model, job: Job, args: Namespace, told: set[str], *, bar: bool) -> None:
    """Generate, save, draw; prints the files' names. What the model does not read of a prompt is said, and put into
    `told`, once."""
    unread = [model.unread(job.prompt), model.unread(job.negative_prompt, name="negative prompt")]
    for line in filter(None, unread):
        if line not in told:
            command.say(line if bar else f"{job.name}: {line}")
            told.add(line)
    with _progress(bar) as progress:
        sound = model.generate(
            job.video,
            job.prompt,
            negative_prompt=job.negative_prompt,
            duration=job.duration,
            steps=args.steps,
            guidance=args.guidance,
            video_guidance=args.video_guidance,
            text_guidance=args.text_guidance,
            negative_guidance=args.negative_guidance,
            seed=job.seed,
            samples=args.samples,
            method=args.method,
            batch=args.batch,
            keep_original=args.keep_original,
            progress=progress,
        )
    for path in sound.save(job.output):
        print(path)
    if args.plot is not None:
        print(sound.plot(args.plot or job.output.with_suffix(".png")))


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str, float], None]]:
    from tqdm import tqdm

    form = "{desc:<24} {percentage:3.0f}%|{bar:20}| {elapsed}, about {remaining} left"
    options = {"miniters": 0, "mininterval": 0, "leave": False, "disable": None if shown else True}
    with tqdm(total=1.0, bar_format=form, **options) as bar:

        def progress(what: str, share: float) -> None:
            bar.set_description_str(what, refresh=False)
            bar.update(share - bar.n)  # which the estimate of the time left learns from
            bar.refresh()

        yield progress


def _models(args: Namespace) -> int:
    """The models that have a name."""
    del args
    from kfjax import catalogue

    print(f"{'name':22}{'sound':18}{'size':>9}  {'on this disk':19}licences of the weights")
    for model in catalogue.models():
        sound = f"{model.sample_rate_hz / 1000:g} kHz {'mono' if model.channels == 1 else 'stereo'}"
        here = "yes" if model.here else "fetched when used"
        print(f"{model.name:22}{sound:18}{model.megabytes / 1000:6.2f} GB  {here:19}{', '.join(model.licences)}")
    return 0


def _doctor(args: Namespace) -> int:
    """What is installed, on what it runs, where it keeps things; 2 where there is nothing to compute on."""
    del args
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from kfjax import jobs, pipeline, programs, sharding

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
