"""The same measures on a runner of Apache Beam; the only module that knows it.

What is to be measured goes to a file of tasks, some rows a line, and what comes back goes into the store. A task's
measures are a file that is named by the task's digest: a bundle that is retried, or done twice, writes the same, and
what a stopped run has left behind is not measured again. Workers need kfjax, and the source's files and this folder at
the same paths; Beam's own option `--temp_location` puts the folder anywhere that Beam can write, one for each output.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Iterator, Sequence
from itertools import islice

import apache_beam as beam  # pyright: ignore[reportMissingImports]  # of the extra `beam`
from apache_beam.io import ReadFromText  # pyright: ignore[reportMissingImports]
from apache_beam.io.filesystems import FileSystems  # pyright: ignore[reportMissingImports]
from apache_beam.metrics.metric import Metrics  # pyright: ignore[reportMissingImports]
from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
    GoogleCloudOptions,
    PipelineOptions,
)
from apache_beam.runners.runner import create_runner  # pyright: ignore[reportMissingImports]

from kfjax import command
from kfjax.data.clean.measure import Measured
from kfjax.data.clean.processes import Processes
from kfjax.data.clean.store import Store, from_text, to_text
from kfjax.data.clean.thresholds import CleanConfig

FOLDER, TASKS = "beam", "tasks.jsonl"
#: Rows of a task. A worker that dies measures so many anew.
_ROWS = 16


def fill(store: Store, cfg: CleanConfig, runner: str, words: Sequence[str] = ()) -> None:
    """Measure what is missing in a store.

    Args:
      runner, words: the runner's name and its options, as a Beam pipeline's command line has them.

    Raises:
      ValueError: no such runner or option, the pipeline failed.
    """
    options = _options(runner, words)
    folder = _folder(store, options.view_as(GoogleCloudOptions).temp_location)
    if not FileSystems.exists(folder):
        FileSystems.mkdirs(folder)
    _take(store, folder)
    if not store.missing():
        return
    tasks = FileSystems.join(folder, TASKS)
    with FileSystems.create(tasks, "text/plain") as file:
        for line in _tasks(store):
            file.write(line.encode() + b"\n")
    result = _run(options, tasks, folder, cfg)
    _take(store, folder)
    FileSystems.delete([tasks])
    counters = {counter.key.metric.name: counter.committed for counter in result.metrics().query()["counters"]}
    said = ", ".join(f"{counters.get(name, 0)} {name}" for name in ("rows", "excerpts", "unusable"))
    command.say(f"{runner}: {said}")
    if missing := store.missing():
        raise ValueError(f"{runner}: {missing} rows came back without measures; run again, or see its own log")


def _folder(store: Store, elsewhere: str | None) -> str:
    """Where tasks and measures go. Runs with other outputs may have the same folder `elsewhere`."""
    if not elsewhere:
        return FileSystems.join(str(store.path.parent), FOLDER)
    return FileSystems.join(elsewhere, f"{FOLDER}-{store.number:08x}")


def _options(runner: str, words: Sequence[str]) -> PipelineOptions:
    try:
        options = PipelineOptions([f"--runner={runner}", *words], save_main_session=False)
        options.get_all_options()
        create_runner(runner)
    except SystemExit:  # argparse has said why
        raise ValueError(f"got {' '.join(words)} after --, expected options of {runner}; correct them") from None
    except ValueError as error:
        raise ValueError(f"--runner: got {runner} ({command.quoted(str(error))}); expected one of Beam's") from error
    return options


def _run(options: PipelineOptions, tasks: str, folder: str, cfg: CleanConfig):
    pipeline = beam.Pipeline(options=options)
    _ = (
        pipeline
        | "Tasks" >> ReadFromText(tasks)
        | "Spread" >> beam.Reshuffle()
        | "Measure" >> beam.ParDo(Measure(cfg, folder))
    )
    result = pipeline.run()
    result.wait_until_finish()
    return result


def _tasks(store: Store) -> Iterator[str]:
    todo = store.todo()
    while rows := list(islice(todo, _ROWS)):
        yield json.dumps([[key, to_text(row)] for key, row in rows])


def _take(store: Store, folder: str) -> None:
    """Into the store with what workers have written, and away with the files."""
    (found,) = FileSystems.match([FileSystems.join(folder, "measured-*.jsonl")])
    for path in sorted(one.path for one in found.metadata_list):
        with FileSystems.open(path) as file:
            for line in io.TextIOWrapper(file, encoding="utf-8"):
                key, excerpts = json.loads(line)
                store.add(key, [Measured(*one) for one in excerpts])
        FileSystems.delete([path])


class Measure(beam.DoFn):
    """Measures a task's rows, each in a process of its own beside the worker's, and writes what it finds."""

    def __init__(self, cfg: CleanConfig, folder: str):
        self.cfg, self.folder = cfg, folder
        self.counters = {name: Metrics.counter("clean", name) for name in ("rows", "excerpts", "unusable")}

    def setup(self):
        self.processes = Processes(1, self.cfg)

    def teardown(self):
        self.processes.close()

    def process(self, line: str):
        path = FileSystems.join(self.folder, f"measured-{hashlib.sha256(line.encode()).hexdigest()[:32]}.jsonl")
        if FileSystems.exists(path):
            return
        rows = [(key, from_text(text)) for key, text in json.loads(line)]
        found = dict(self.processes.measured(rows))
        lines = (json.dumps([key, found[key]]) + "\n" for key, _ in rows)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        with FileSystems.create(temporary, "text/plain") as file:
            file.write("".join(lines).encode())
        FileSystems.rename([temporary], [path])
        for name, count in self._counts(found.values()):
            self.counters[name].inc(count)

    def _counts(self, found) -> Iterator[tuple[str, int]]:
        excerpts = [one for row in found for one in row]
        yield "rows", len(found)
        yield "excerpts", len(excerpts)
        yield "unusable", sum(bool(one.problem) for one in excerpts)
