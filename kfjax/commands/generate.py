"""`kfjax generate`: its arguments, what they ask for, and where the sound goes."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfjax import command

if TYPE_CHECKING:
    from kfjax.commands.jobs import Job
    from kfjax.making.sound import Stream
    from kfjax.pipeline import Model

GENERATE = """\
Make sound for a video, a prompt, a folder of videos or a table of both.

  kfjax generate clip.mp4 --prompt "a ball bounces on wood"    clip.sound.mp4: the picture as it is, with new sound
  kfjax generate --prompt "heavy rain" --duration 5            sound.wav
  kfjax generate clip.mp4 --audio take.wav --redo 3-5          the take again, but for seconds 3 to 5
  kfjax generate film.mp4 --stream --output - | mpv -          a film of an hour at most, heard while it is made
  kfjax generate clips/ --output sounds/                       every video of a folder; run again to resume
  kfjax generate clips.csv --output sounds/                    a row for each, named like these options
"""
#: Arguments of `kfjax generate` that are checked before a model is loaded; the prompt is too.
CHECKED = ("negative_prompt", "seed", "samples", "batch", "steps", "guidance", "video_guidance", "text_guidance",
           "negative_guidance", "keep_original", "schedule", "strength", "window", "overlap", "music_prompt",
           "music_gain", "music_seed", "loudness")  # fmt: skip


#: Those that go on to the model as they are.
PASSED = ("steps", "schedule", "method", "guidance", "video_guidance", "text_guidance", "negative_guidance",
          "guidance_interval", "keep_original", "music_gain", "window", "overlap")  # fmt: skip


def add(commands) -> None:
    """Add the parser of `generate`."""
    parser = commands.add_parser(
        "generate", help="make sound for a video or a prompt", description=GENERATE,
        formatter_class=RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.surplus = "put the words of --prompt in quotes; for several clips give their folder, or a table of them"
    path, spans = command.local_path, "SPANS"
    add = parser.add_argument
    add("video", nargs="?", type=path, metavar="VIDEO|FOLDER|TABLE")
    add("--example", action="store_true", help="use the small clip that comes with the package")
    add("--prompt", metavar="TEXT", help="describes the sound")
    add("--negative-prompt", metavar="TEXT", default="", help="describes what must not be heard")
    add("--duration", type=float, metavar="SECONDS",
        help="of the sound, from the video's start; default: the video's length (the rest of a longer picture is "
        "silent), 8 without a video")  # fmt: skip
    add("--seed", type=int, default=0, help="another seed, another sound (default 0)")
    add("--samples", type=int, default=1, metavar="N", help="versions to make, in files -1, -2, … (default 1)")
    command.add_model(add)
    _add_output(parser.add_argument_group("output").add_argument, path)
    add = parser.add_argument_group("sound that is given").add_argument
    add("--audio", type=path, metavar="FILE", help="a recording to go on from; give also --keep, --redo or --strength")
    add("--keep", metavar=spans, help="seconds of it that stand, such as 0-3 or 0-1.5,4-6; the rest is made")
    add("--redo", metavar=spans, help="seconds of it that are made anew; the rest stands")
    add("--strength", type=float, metavar="SHARE", help="how far from it the rest may go, up to 1: anew")
    add("--reference", type=path, metavar="FILE", help="a sound, or a film with its sound, that this shall be like")
    add("--keep-original", type=float, metavar="GAIN", help="mix in the video's own sound times this")
    add = parser.add_argument_group("music and level").add_argument
    add("--music-prompt", metavar="TEXT", default="", help="music to make beside the sound, without the picture")
    add("--music-gain", type=float, metavar="GAIN", default=1.0, help="of the music in the mix (default 1)")
    add("--music-seed", type=int, metavar="SEED", help="of the music; default: --seed")
    add("--stems", action="store_true", help="also write effects and music apart")
    add("--loudness", type=float, metavar="LUFS", help="of the result, such as -23; its true peak stays below -1 dB")
    _add_sampling(parser.add_argument_group("sampling").add_argument)
    add = parser.add_argument_group("long sounds").add_argument
    add("--stream", action="store_true", help="write the sound as it is made, into a file that plays while it grows")
    add("--window", type=int, metavar="SECONDS", help="of each window; default: the model's, where one pass is short")
    add("--overlap", type=int, metavar="SECONDS", help="that neighbouring windows share; default: the model's")


def _add_output(add: Callable[..., Any], path: Callable[[str], Path]) -> None:
    add("--output", type=path, metavar="PATH",
        help="file to write (.mp4 .m4v .mov .mkv, .wav .flac for sound alone); a folder for many; -, with --stream: "
        "standard output; default: VIDEO.sound.mp4 in the working folder; overwritten")  # fmt: skip
    add("--audio-only", action="store_true", help="write .wav instead of a video")
    add("--plot", nargs="?", const="", metavar="PNG",
        help="also draw frames, waveform, mel and position over time; default name: the output's, .png")  # fmt: skip
    add("--memory-report", action="store_true", help="say what memory each stage will need, and stop")


def _add_sampling(add: Callable[..., Any]) -> None:
    add("--steps", type=int, help="of the integration; default: the model's")
    add("--schedule", choices=("uniform", "sway"), help="of the steps; sway: most early, the default below 10 steps")
    add("--method", choices=("euler", "heun"), default="euler", help="of the integration; heun: twice the work a step")
    add("--guidance", type=float, metavar="SCALE", help="how strongly both are followed; default: the model's")
    add("--video-guidance", type=float, metavar="SCALE", help="for the video alone; default: --guidance")
    add("--text-guidance", type=float, metavar="SCALE", help="for the prompt alone; default: --guidance")
    add("--negative-guidance", type=float, metavar="SCALE", help="how strongly the negative prompt is avoided")
    add("--guidance-interval", metavar="FROM-TO", help="times from 0 (noise) to 1 in which guidance acts")
    add("--batch", type=int, metavar="N",
        help="versions, or windows of a long sound, made at once; default: what an accelerator's memory has room for, "
        "up to 8")  # fmt: skip
    add("--devices", type=int, metavar="N",
        help="split versions, or windows of a long sound, over N of this machine's devices; default: 1")  # fmt: skip
    command.add_dtype(add)


def run(args: Namespace) -> int:
    """Make what the arguments ask for; the exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    command.collect_rarely()
    jobs, many = _jobs(args)
    if not many:  # in a list, a bad clip must not keep the others from being done
        jobs[0].check()

    from kfjax import pipeline  # imports jax: seconds that a wrong argument need not wait for
    from kfjax.commands.jobs import run_all

    model = pipeline.load(args.model, dtype=args.dtype, devices=args.devices)
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
    from kfjax import rates
    from kfjax.commands import jobs
    from kfjax.data import tables
    from kfjax.making import limits

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
    args.guidance_interval = _interval(args.guidance_interval)
    limits.check(prompt=args.prompt or "", **{name: getattr(args, name) for name in CHECKED})
    if args.duration is not None:
        rates.check_seconds(args.duration, rates.LONGEST_SECONDS)
    if args.stream:
        _check_stream(args)
    elif args.output is not None and str(args.output) == "-":
        raise ValueError("--output: got -, standard output, which takes a sound while it is made; give --stream too")
    template = jobs.Job(
        video, args.prompt or "", args.negative_prompt, args.duration, args.seed, args.samples, audio=args.audio,
        keep=args.keep or "", redo=args.redo or "", strength=args.strength, reference=args.reference,
        music_prompt=args.music_prompt, music_seed=args.music_seed, audio_only=args.audio_only,
    )  # fmt: skip
    if video is not None and (video.is_dir() or video.suffix.lower() in tables.SUFFIXES):
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


def _needs_whole(args: Namespace) -> list[str]:
    """The options that can't do with pieces of the sound."""
    whole = {"--samples": args.samples > 1, "--loudness": args.loudness is not None, "--stems": args.stems,
             "--plot": args.plot is not None}  # fmt: skip
    return [name for name, given in whole.items() if given]


def _check_stream(args: Namespace) -> None:
    """Raises ValueError for what needs the whole sound."""
    if wrong := _needs_whole(args):
        raise ValueError(f"--stream: got {' and '.join(wrong)} too, which need the whole sound; leave one out")


def _interval(text: str | None) -> tuple[float, float] | None:
    """Of "0.1-0.8"; ValueError for anything else."""
    if text is None:
        return None
    try:
        first, last = map(float, text.split("-"))
    except ValueError:
        raise ValueError(f"--guidance-interval: got {text!r}, expected two times such as 0.1-0.8") from None
    return first, last


def _make(model: Model, job: Job, args: Namespace, told: set[str], *, bar: bool) -> None:
    """Generate, save, draw; prints the files' names. What the model does not read of a prompt is said, and put into
    `told`, once."""
    prompts = {"prompt": job.prompt, "negative prompt": job.negative_prompt, "music prompt": job.music_prompt}
    for line in filter(None, (model.unread(text, name=name) for name, text in prompts.items())):
        if line not in told:
            command.say(line if bar else f"{job.name}: {line}")
            told.add(line)
    asked = job.asked() | {name: getattr(args, name) for name in PASSED}
    asked |= {"batch": args.batch}
    with _progress(bar) as progress:
        if not _needs_whole(args):
            _save(model.stream(job.video, job.prompt, progress=progress, **asked), job, live=args.stream)
            return
        sound = model.generate(
            job.video, job.prompt, samples=args.samples, loudness=args.loudness, progress=progress, **asked
        )
    for path in sound.save(job.output, stems=args.stems):
        print(path)
    if args.plot is not None:
        print(sound.plot(args.plot or job.output.with_suffix(".png")))


def _save(stream: Stream, job: Job, *, live: bool) -> None:
    """Write the sound as it is made, into the job's file or to standard output."""
    if str(job.output) == "-":
        from kfjax.commands.jobs import output_suffix

        stream.save(sys.stdout.buffer, suffix=output_suffix(job.video, job.audio_only))
    else:
        stream.save(job.output, live=live)
        print(job.output)


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
