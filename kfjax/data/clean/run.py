"""From a source to its tables: measure what is not measured yet, then filter.

Rows go one at a time, from the source to the disk (`store`), to what measures them (`processes`, or a Beam runner) and
back, and from there to the tables: memory does not grow with the corpus, but for the fingerprints of near duplicates.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from kfjax import command
from kfjax.data import sources
from kfjax.data.clean import report, tables
from kfjax.data.clean.measure import Measured
from kfjax.data.clean.processes import Processes
from kfjax.data.clean.store import Store, key_of
from kfjax.data.clean.thresholds import CleanConfig, judge
from kfjax.data.sources import Row


def clean(
    source: str | Path,
    output: str | Path,
    cfg: CleanConfig,
    *,
    workers: int | None = None,
    dry_run: bool = False,
    form: str = "parquet",
    manual_dir: str | Path | None = None,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
) -> Counter[str]:
    """Measure the excerpts of a source, write the table of measures, filter them into that of clips, and report; called
    again, go on.

    Args:
      source: a folder of videos and sounds, a table or a list (`sources.iter_rows`), or a public corpus,
        "tfds:NAME[:SPLIT]".
      output: folder for the tables; the source's own folder would do, but a folder apart is clearer.
      workers: processes. Default: one a core. Of a Beam runner its own options decide.
      dry_run: write no table of clips and no report, say what each threshold would do.
      form: of the tables, one of `tables.FORMATS`.
      manual_dir: recordings and tables of a tfds corpus.
      runner: a Beam runner's name; None: processes of this machine.
      runner_options: its options, as Beam's pipelines take them.

    Returns:
      "kept" and "excerpts", and of each measure, "duplicate" and "unusable" how many excerpts it refuses.

    Raises:
      ValueError: nothing to clean, another run is at work in the folder, no room on the disk.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers: got {workers}, expected at least 1")
    folder = command.local_path(output)
    rows = map(tables.nameable, _rows(source, manual_dir))
    rows = itertools.chain([next(rows)], rows)  # raises before the folder is made
    folder.mkdir(parents=True, exist_ok=True)
    with Store(folder) as store:
        store.set_source((key_of(row, cfg), row) for row in rows)
        if runner is None:
            with Processes(_count(workers, store.missing()), cfg) as processes:
                _fill(store, processes)
        else:
            from kfjax.data.clean import beam

            beam.fill(store, cfg, runner, runner_options)
        return _filter(store, folder, cfg, form, dry_run)


def _rows(source: str | Path, manual_dir: str | Path | None) -> Iterator[Row]:
    corpus = str(source).removeprefix("tfds:")
    if corpus == str(source):
        return sources.iter_rows(source)
    from kfjax.data import builders

    name, _, split = corpus.partition(":")
    return iter(builders.read_rows(name, split or "train", manual_dir=manual_dir))


def _count(workers: int | None, rows: int) -> int:
    """Processes; 0 where one would be alone."""
    count = min(workers or os.cpu_count() or 1, rows)
    return count if count > 1 else 0


def _fill(store: Store, processes: Processes) -> None:
    """Measure what is missing."""
    from tqdm import tqdm

    with tqdm(total=store.missing(), unit="clip", disable=None) as bar:
        for key, found in processes.measured(store.todo()):
            store.add(key, found)
            bar.update()


def _filter(store: Store, folder: Path, cfg: CleanConfig, form: str, dry_run: bool) -> Counter[str]:
    """The tables and the report, in one pass over what was measured."""
    counts, page = Counter({"excerpts": 0, "kept": 0}), report.Page(cfg)
    with ExitStack() as stack:
        side = stack.enter_context(tables.writing(folder, tables.SIDE_TABLE, form))
        clips = None if dry_run else stack.enter_context(tables.writing(folder, tables.CLIPS, form))
        for row, one, refused in _judged(store.table(), cfg):
            side.write(tables.side_cells(row, one))
            counts.update(["excerpts", *refused] if refused else ["excerpts", "kept"])
            if clips is not None:
                clips.write(tables.clip_cells(row, one, refused))
                page.add(row, one, refused)
    if not dry_run:
        page.write(folder, counts)
    return counts


def _judged(table: Iterable[tuple[Row, Measured]], cfg: CleanConfig) -> Iterator[tuple[Row, Measured, dict[str, str]]]:
    pairs, again = itertools.tee(table)
    for (row, one), refused in zip(pairs, judge((one for _, one in again), cfg), strict=True):
        yield row, one, refused
