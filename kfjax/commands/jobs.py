"""Jobs: which clips get sound and where it goes, from a file, a folder or a table."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kfjax import media, rates
from kfjax.command import local_path, reason, say
from kfjax.data.tables import Line, lines
from kfjax.making import limits
from kfjax.making.limits import TEXT_ONLY_SECONDS
from kfjax.making.recording import Span, checked_spans, parse_spans
from kfjax.media.duration import sound_seconds
from kfjax.media.write import VIDEO_FORMATS, sample_paths

#: The small clip that comes with the package.
EXAMPLE = Path(__file__).parents[1] / "assets" / "example.mp4"
COLUMNS = ("video", "prompt", "negative_prompt", "duration", "seed", "audio", "keep", "redo", "strength", "reference",
           "music_prompt", "music_seed")  # fmt: skip
MOST_LISTED = 5


@dataclass(frozen=True)
class Job:
    """One clip.

    Attributes:
      output: final, a file name with its ending; -: standard output.
      problem: why the job can't be done.
      keep, redo: spans of the recording, as `recording.parse_spans` reads them.
    """

    video: Path | None
    prompt: str
    negative_prompt: str
    duration: float | None
    seed: int
    samples: int = 1
    output: Path = Path()
    problem: str = ""
    audio: Path | None = None
    keep: str = ""
    redo: str = ""
    strength: float | None = None
    reference: Path | None = None
    music_prompt: str = ""
    music_seed: int | None = None
    audio_only: bool = False

    @property
    def name(self) -> str:
        return str(self.video or self.output.name)

    @property
    def inputs(self) -> list[Path]:
        """The files it reads."""
        return [path for path in (self.video, self.audio, self.reference) if path is not None]

    @property
    def outputs(self) -> list[Path]:
        """The files to write, one for each version."""
        return sample_paths(self.output, self.samples)

    def spans(self, name: str) -> tuple[Span, ...]:
        """Of the recording: what is kept or made anew."""
        text = getattr(self, name)
        return parse_spans(text, name) if text else ()

    def asked(self) -> dict[str, Any]:
        """Its arguments for `Model.generate`."""
        return {
            "negative_prompt": self.negative_prompt, "duration": self.duration, "seed": self.seed,
            "audio": self.audio, "keep": self.spans("keep"), "redo": self.spans("redo"), "strength": self.strength,
            "reference": self.reference, "music_prompt": self.music_prompt, "music_seed": self.music_seed,
        }  # fmt: skip

    def check(self) -> None:
        """Raises MediaError or ValueError for what can be seen without a model: unreadable input, unwritable output,
        numbers out of their range."""
        if self.problem:
            raise ValueError(self.problem)
        limits.check(
            prompt=self.prompt, negative_prompt=self.negative_prompt, seed=self.seed, samples=self.samples,
            strength=self.strength, music_prompt=self.music_prompt, music_seed=self.music_seed,
        )  # fmt: skip
        seconds = TEXT_ONLY_SECONDS if self.duration is None else self.duration
        if self.video is not None:
            seconds = sound_seconds(self.video, self.duration)
        elif self.duration is not None:
            rates.check_seconds(self.duration, rates.LONGEST_SECONDS)
        for name in ("keep", "redo"):
            checked_spans(self.spans(name), seconds, name)
        for name, path in (("audio", self.audio), ("reference", self.reference)):
            if path is not None and not media.probe(path).has_audio:
                raise media.MediaError(f"{name}: {path} has no sound; give a file with an audio track")
        if str(self.output) == "-":
            return
        if self.video is None and self.output.suffix.lower() in VIDEO_FORMATS:
            raise ValueError(f"{self.output}: a prompt alone has no picture to write; give a name in .wav or .flac")
        for path in self.outputs:
            media.check_output(path, self.video)
            if any(path.exists() and other.exists() and path.samefile(other) for other in self.inputs):
                raise ValueError(f"{path}: is an input itself; give another name to write to")


def from_folder(folder: Path, template: Job, output: Path, *, audio_only: bool) -> list[Job]:
    """A job for every video in the folder (not in those below it), in the order of names.

    If the output goes into the same folder, sounds that were made there before are not taken as clips.

    Raises:
      ValueError: there is none.
    """
    videos = sorted(filter(media.is_clip, folder.iterdir()))
    if _same(folder, output):
        stems = {path.stem for path in videos}
        videos = [path for path in videos if not _sources(path.stem) & stems]
    if not videos:
        kinds = " ".join(media.VIDEO_SUFFIXES)
        raise ValueError(f"{folder}: got a folder without a video, expected files in {kinds}; give another")
    return _placed([replace(template, video=video) for video in videos], output, audio_only)


def from_table(table: Path, template: Job, output: Path, *, audio_only: bool) -> list[Job]:
    """A job for every row of a table.

    Columns: video (a path, relative to the table) and prompt, at least one of them; negative_prompt, duration, seed;
    audio and reference (paths), keep, redo and strength, music_prompt and music_seed.
    An empty cell takes the template's value.

    Raises:
      ValueError: not such a table (`data.tables.lines`). A bad value fails only its own row.
    """
    rows = lines(table, COLUMNS, needed=("video", "prompt"), same={"caption": "prompt"})
    return _placed([_from_line(line, table, template) for line in rows], output, audio_only)


def _from_line(line: Line, table: Path, template: Job) -> Job:
    cells, where = line.cells, f"{table.name} row {line.row}"
    job = replace(
        template,
        video=table.parent / cells["video"] if cells["video"] else None,
        prompt=cells["prompt"] or template.prompt,
        negative_prompt=cells["negative_prompt"] or template.negative_prompt,
    )
    beside = lambda column: table.parent / cells[column] if cells[column] else getattr(template, column)
    try:
        for column in ("video", "audio", "reference"):
            local_path(cells[column])
        job = replace(
            job, audio=beside("audio"), reference=beside("reference"), keep=cells["keep"] or template.keep,
            redo=cells["redo"] or template.redo, music_prompt=cells["music_prompt"] or template.music_prompt,
        )  # fmt: skip
        if cells["strength"]:
            job = replace(job, strength=_number(cells["strength"], "strength"))
        if cells["duration"]:
            job = replace(job, duration=_number(cells["duration"], "duration"))
        for column in ("seed", "music_seed"):
            if cells[column]:
                job = replace(job, **{column: _whole(cells[column], column)})
    except ValueError as error:
        job = replace(job, problem=f"{where}: {error}")
    return job


def _number(cell: str, column: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{column}: got {cell!r}, expected a number, such as 2.5; correct the table") from None


def _whole(cell: str, column: str) -> int:
    """A whole number; also 3.0, as pandas writes a column that has empty cells."""
    value = _number(cell, column)
    if not value.is_integer():  # nor NaN nor infinite
        raise ValueError(f"{column}: got {cell!r}, expected a whole number; correct the table")
    return int(value)


def _placed(jobs: Sequence[Job], folder: Path, audio_only: bool) -> list[Job]:
    """Gives each job its file: the video's name, in the video's own folder with `.sound` as for a single file.

    A name is used once, regardless of case; the next clip of that name gets a number, which is reported. Appended rows
    rename nothing.

    Raises:
      ValueError: a file to write is a clip of the list.
    """
    uses: Counter[str] = Counter()
    taken: set[str] = set()
    placed, numbered = [], []
    for job in jobs:
        stem = job.video.stem if job.video else "sound"
        end = output_suffix(job.video, audio_only)
        if job.video is not None and _same(job.video.parent, folder):
            end = f".sound{end}"
        names: set[str] = set()
        while not names or names & taken:
            uses[stem.casefold()] += 1
            number = uses[stem.casefold()]
            job = replace(job, output=folder / (stem + (f".{number}" if number > 1 else "") + end))
            names = {path.name.casefold() for path in job.outputs}
        taken |= names
        placed.append(job)
        if number > 1:
            numbered.append(f"{job.name} -> {job.output.name}")
    _check_no_input(placed)
    if numbered:
        more = f", and {len(numbered) - MOST_LISTED} more" if len(numbered) > MOST_LISTED else ""
        say(f"numbered, as the name is another clip's: {', '.join(numbered[:MOST_LISTED])}{more}")
    return placed


def _check_no_input(jobs: Sequence[Job]) -> None:
    """Raises ValueError if a job would write a file that a job reads."""
    identity = lambda path: (stat.st_dev, stat.st_ino) if path.exists() and (stat := path.stat()) else None
    inputs = {identity(path) for job in jobs for path in job.inputs}
    for path in (path for job in jobs for path in job.outputs):
        if (found := identity(path)) and found in inputs:
            raise ValueError(f"{path}: is to be written, and is a clip of the list itself; give another --output")


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _sources(stem: str) -> set[str]:
    """Stems of the clips that a file of this stem may have been made for; of `clip.2.sound-1`: clip.2 and clip."""
    made = re.fullmatch(r"(.+)\.sound(-\d+)?", stem)
    return {made[1], re.sub(r"\.\d+$", "", made[1])} if made else set()


def output_suffix(video: Path | None, audio_only: bool) -> str:
    """.wav for sound alone; for a video what `media.output_suffix` says."""
    return ".wav" if video is None or audio_only else media.output_suffix(video)


def run_all(jobs: Sequence[Job], make: Callable[[Job], None], done: Callable[[Job], bool]) -> None:
    """Make what is not there yet; a clip that fails is reported and skipped.

    Raises:
      ValueError: at the end, if any clip failed.
    """
    from tqdm import tqdm

    todo = [job for job in jobs if not done(job)]
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} are done already; delete their outputs to make them again")
    failed = []
    for job in tqdm(todo, unit="clip", disable=None):
        try:
            job.check()
            make(job)
        except (ValueError, OSError) as error:
            say(f"skipped: {reason(error)}")
            failed.append(job.name)
    if failed:
        raise ValueError(f"{len(failed)} of {len(jobs)} clips failed: {', '.join(failed)}; the others are written")
