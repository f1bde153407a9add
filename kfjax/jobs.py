"""Jobs: which clips get sound and where it goes, from a file, a folder or a table."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kfjax import media
from kfjax.command import reason, say
from kfjax.data.sources import table_lines
from kfjax.media.write import VIDEO_FORMATS

#: The small clip that comes with the package.
EXAMPLE = Path(__file__).parent / "assets" / "example.mp4"
COLUMNS = ("video", "prompt", "negative_prompt", "duration", "seed")


@dataclass(frozen=True)
class Job:
    """One clip. `output` is final: a file name with its ending. `problem` says why the job can't be done."""

    video: Path | None
    prompt: str
    negative_prompt: str
    duration: float | None
    seed: int
    output: Path = Path()
    problem: str = ""

    @property
    def name(self) -> str:
        return str(self.video or self.output.name)

    def check(self) -> None:
        """Raises MediaError or ValueError for what can be seen without a model: unreadable input, unwritable output."""
        if self.problem:
            raise ValueError(self.problem)
        if self.video is not None:
            media.probe(self.video)
        elif self.output.suffix.lower() in VIDEO_FORMATS:
            raise ValueError(f"{self.output}: a prompt alone has no picture to write; give a name in .wav or .flac")
        media.check_output(self.output, self.video)


def from_folder(folder: Path, template: Job, output: Path, *, audio_only: bool) -> list[Job]:
    """A job for every video in the folder (not in those below it), in the order of names.

    Raises:
      ValueError: there is none.
    """
    videos = sorted(filter(media.is_clip, folder.iterdir()))
    if not videos:
        kinds = " ".join(media.VIDEO_SUFFIXES)
        raise ValueError(f"{folder}: got a folder without a video, expected files in {kinds}; give another")
    return _placed([replace(template, video=video) for video in videos], output, audio_only)


def from_table(table: Path, template: Job, output: Path, *, audio_only: bool) -> list[Job]:
    """A job for every row of a CSV file with a header.

    Columns: video (a path, relative to the table) and prompt, at least one of them; negative_prompt, duration, seed.
    An empty cell takes the template's value.

    Raises:
      ValueError: not such a table. A bad cell is the affair of its job.
    """
    rows = table_lines(table, COLUMNS, needed=("video", "prompt"))
    return _placed([_from_row(row, table, template) for row in rows], output, audio_only)


def _from_row(row: dict[str, str], table: Path, template: Job) -> Job:
    cells = {column: (row.get(column) or "").strip() for column in COLUMNS}
    job = replace(
        template,
        video=table.parent / cells["video"] if cells["video"] else None,
        prompt=cells["prompt"] or template.prompt,
        negative_prompt=cells["negative_prompt"] or template.negative_prompt,
    )
    for column, number in (("duration", float), ("seed", int)):
        try:
            if cells[column]:
                job = replace(job, **{column: number(cells[column])})
        except ValueError:
            job = replace(job, problem=f"{column}: got {cells[column]!r}, expected a number; correct the table")
    return job


def _placed(jobs: list[Job], folder: Path, audio_only: bool) -> list[Job]:
    """Gives each job its file: the video's name, numbered from its second use on; appended rows move nothing."""
    uses: dict[str, int] = {}
    placed = []
    for job in jobs:
        stem = job.video.stem if job.video else "sound"
        uses[stem] = uses.get(stem, 0) + 1
        name = stem if uses[stem] == 1 else f"{stem}.{uses[stem]}"
        placed.append(replace(job, output=folder / (name + output_suffix(job.video, audio_only))))
    return placed


def output_suffix(video: Path | None, audio_only: bool) -> str:
    """.wav for sound alone; for a video what `media.output_suffix` says."""
    return ".wav" if video is None or audio_only else media.output_suffix(video)


def run_all(jobs: Sequence[Job], make: Callable[[Job], None], done: Callable[[Job], bool]) -> None:
    """Does what is not done yet; what can't be done is said and passed over.

    Raises:
      ValueError: at the end, if anything was passed over.
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
        raise ValueError(f"{len(failed)} of {len(jobs)} could not be done: {', '.join(failed)}; the others are there")
