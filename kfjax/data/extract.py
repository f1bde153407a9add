"""`kfjax extract SOURCE --system NAME --output FOLDER`: videos and sounds to features and latents, ahead of training.

A source's films are distributed over shards, the shards over processes; a film is decoded once (`data/films.py`). A
shard is written atomically, with a note of the clips left out of it: after an interruption only the missing shards are
made. The process that finds all of them writes the index (`data/shards/records.py`). If the file of a clip that was
left out has changed, its shard is made anew.

An excerpt counts as a whole clip, as in generation: its start is 0 s, its total its own length.
"""

from __future__ import annotations

import csv
import io
import math
import os
import sys
from argparse import BooleanOptionalAction
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfjax import command, rates
from kfjax.data import films, remote, sources, variants
from kfjax.data.shards import records
from kfjax.data.shards.marks import PARTS, Marks
from kfjax.data.sources import Cut, Row
from kfjax.data.variants import Variant, Variants
from kfjax.storage import disk

if TYPE_CHECKING:
    from kfjax.data.encode import FeatureEncoder, Loaded
    from kfjax.data.shards.reuse import Known, Reuse
    from kfjax.encoders.tokenizer import Unread

#: What is extracted into a folder, and from where.
PLAN = "extraction.json"
BAD = "bad.csv"
ROWS_PER_SHARD = 256

#: Sizes and modification times of a clip's files; None for a missing one.
Stamps = list[list | None]


@dataclass
class Tally:
    """What was left out of a shard."""

    bad: list[tuple[str, str]] = field(default_factory=list)  # (id of a clip or excerpt, reason)
    files: dict[str, Stamps] = field(default_factory=dict)  # of the bad clips, by id
    tail_seconds: float = 0.0  # at the ends of clips
    full_captions: int = 0  # cut at the last token
    taken_over: int = 0  # excerpts of an earlier extraction, with some parts made anew
    unread_captions: int = 0  # with words outside the vocabulary
    words: dict[str, int] = field(default_factory=dict)  # outside the vocabulary -> captions that have it

    def add_caption(self, unread: Unread) -> None:
        """Count the words of a caption that are not read."""
        self.full_captions += bool(unread.beyond)
        self.unread_captions += bool(unread.unknown)
        for word in unread.unknown:
            self.words[word] = self.words.get(word, 0) + 1


def main(argv: Sequence[str]) -> int:
    """Extract, or go on with it.

    Raises:
      ValueError: nothing to extract, no such model, a folder that holds another extraction.
    """
    extract(**vars(_parser().parse_args(argv)))
    return 0


def extract(
    source: str | Path,
    output: str | Path,
    *,
    system: str | Path = "built-in",
    codec: str | Path = "",
    reuse: str | Path | None = None,
    model: str | Path | None = None,
    seconds: float | Sequence[float] = 8.0,
    manual_dir: str | Path | None = None,
    stereo: bool | None = None,
    shards: int | None = None,
    process: str = "0/1",
    batch: int = 16,
    workers: int | None = None,
    augment: Mapping[str, float] | Sequence[str] = (),
) -> dict[float, int]:
    """Encode clips to features and latents, ahead of training; called again, it resumes.

    Args:
      source: a folder of videos and sounds, a table or a list (`kfjax.data.sources.iter_rows`), or a public corpus,
        "tfds:NAME[:SPLIT]".
      output: folder for the features; what could not be used is listed in its bad.csv.
      system: whose encoders and codec: a name or a model directory, which needs no generator.
      codec: whose codec instead of the system's, likewise.
      reuse: folder of an earlier extraction of the source; of excerpts that it has, only what other encoders or another
        codec would make otherwise is made anew, and captions where they have changed.
      model: the former name of `system`.
      seconds: length of excerpts, or several lengths; a clip is cut into the longest that fit.
      manual_dir: recordings and tables of a tfds corpus.
      stereo: also what Mono2Stereo learns from, of stereo recordings: 22 kB a second at 44.1 kHz. Default: as in the
        folder; in a new one where the model has a Mono2Stereo.
      shards: files per length. Default: one for 256 clips.
      process: "I/N", this is process I, counted from 0, of N that share the work.
      batch: excerpts encoded at once.
      workers: threads that decode. Default: one a core.
      augment: share of the excerpts of which a changed copy is extracted too, by the names of
        `kfjax.data.variants.AugmentConfig`, such as {"mirrored": 0.5}.

    Returns:
      Seconds -> number of excerpts that the folder holds.

    Raises:
      ValueError: nothing to extract, no such model, a folder that holds another extraction.
    """
    number, processes = share(process)
    for name, value in (("shards", shards), ("batch", batch), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"--{name}: got {value}, expected at least 1")
    buckets = tuple(sorted({seconds} if isinstance(seconds, int | float) else set(seconds)))
    for length in buckets:
        rates.check_seconds(length)
    augmented = variants.parse(augment)
    folder = disk.path(output)
    if disk.in_bucket(folder):
        folder.check_bucket()
    manual = None if manual_dir is None else command.local_path(manual_dir)
    rows = source_rows(str(source), manual)

    from kfjax import pipeline  # imports jax: seconds that a wrong argument need not wait for
    from kfjax.data.encode import FeatureEncoder
    from kfjax.data.shards.reuse import Reuse

    pipeline.start()
    before = plan_of(folder)
    if stereo is None and before:
        stereo = bool(before.get("stereo"))
    encoder = FeatureEncoder(pipeline.load_system(model or system, PARTS, codec), batch, stereo)
    earlier = Reuse(disk.path(reuse), encoder, sources.digest(rows)) if reuse else None
    of = shards or (earlier.of if earlier else math.ceil(len(rows) / ROWS_PER_SHARD))
    dealt = before.get("dealt", "rows") if before else "films"  # as earlier versions did
    places = {"model": model or system, "codec": codec, "from": source, "manual_dir": manual}
    whence = {name: _absolute(place) for name, place in places.items() if place}
    _agree(folder, {
        "schema": records.SCHEMA, "fingerprint": encoder.fingerprint, "seconds": list(buckets),
        "source": sources.digest(rows), "rows": len(rows), "shards": of,
        "stereo": encoder.stereo, "augment": augmented.chosen, "dealt": dealt,
    }, whence, encoder.marks)  # fmt: skip
    parts = films.deal(rows, of) if dealt == "films" else [rows[k::of] for k in range(of)]
    mine = {k: parts[k] for k in range(number, of, processes)}
    threads, copies = workers or os.cpu_count() or 1, Variants(augmented, rows)
    extract_shards(mine, buckets, folder, encoder, of=of, workers=threads, copies=copies, earlier=earlier)
    return _close(folder, of)


def _parser() -> command.Parser:
    parser = command.Parser(prog="kfjax extract", description="Clips to features and latents; run again to go on.")
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help="a folder of videos and sounds; a table (.csv, .tsv, .parquet) with the "
        f"columns {', '.join(sources.COLUMNS)} (video or audio or both; the others may be missing); a list "
        "of paths (.txt); paths, table and list may be addresses; or a public corpus, tfds:NAME[:SPLIT], e.g. "
        "tfds:vggsound:test (default: train)",
    )
    add(
        "--manual-dir",
        type=command.local_path,
        metavar="DIR",
        help="where the recordings and tables of a tfds corpus are",
    )
    add("--output", type=disk.path, required=True, metavar="FOLDER", help="where the features go; may be in a bucket")
    named = {"type": command.local_or_bucket, "metavar": "NAME|FOLDER"}
    system = "whose encoders and codec; `kfjax models` lists names (default: the built-in); it needs no generator"
    add("--system", "--model", default="built-in", help=system, **named)
    add("--codec", default="", help="whose codec instead of the system's", **named)
    earlier = "an earlier extraction of SOURCE: only what another encoder, codec or caption changes is made anew"
    add("--from", dest="reuse", type=disk.path, metavar="FOLDER", help=earlier)
    add(
        "--seconds",
        type=float,
        nargs="+",
        default=[8.0],
        metavar="S",
        help="lengths of excerpts: a clip is cut into "
        "the longest that fit, what remains at its end is left out (default 8)",
    )
    stereo = "also what Mono2Stereo learns from, of stereo recordings (default: where the model has a Mono2Stereo)"
    add("--stereo", action=BooleanOptionalAction, help=stereo)
    add("--shards", type=int, metavar="N", help=f"files per length (default: one for {ROWS_PER_SHARD} clips)")
    add("--process", default="0/1", metavar="I/N", help="this is process I, counted from 0, of N (default 0/1)")
    add("--batch", type=int, default=16, metavar="N", help="excerpts encoded at once (default 16)")
    add("--augment", nargs="+", action="extend", default=[], metavar="KIND=SHARE",
        help=f"extract a changed copy of a share of the excerpts too: {', '.join(variants.AugmentConfig.kinds())}; "
        "and seed=N")  # fmt: skip
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="threads that decode (default: all cores)")
    return parser


def source_rows(source: str, manual_dir: Path | None) -> list[Row]:
    """The rows of a folder, a table, or a public corpus.

    Raises:
      ValueError: no such source, or nothing in it.
    """
    corpus = source.removeprefix("tfds:")
    if corpus == source:
        if manual_dir is not None:
            raise ValueError(f"--manual-dir: got {manual_dir} with {source}, which is no tfds corpus; leave it out")
        return sources.read_rows(source)
    from kfjax.data import builders

    name, _, split = corpus.partition(":")
    return builders.read_rows(name, split or "train", manual_dir=manual_dir)


def share(text: str) -> tuple[int, int]:
    """(I, N) of "I/N". Raises ValueError for anything else."""
    process, _, processes = text.partition("/")
    if not (process.isdecimal() and processes.isdecimal() and int(process) < int(processes)):
        raise ValueError(f"--process: got {text}, expected I/N with I from 0 to N - 1, e.g. 0/4")
    return int(process), int(processes)


def plan_of(folder: Path) -> dict[str, Any]:
    """What was extracted into a folder, and from where; empty where that is not known."""
    return records.read_json(folder / PLAN) if (folder / PLAN).is_file() else {}


def _absolute(path: str | Path) -> str:
    """A path of something that is there, from the root; a name as it is."""
    return str(Path(path).absolute()) if Path(path).exists() else str(path)


def _agree(folder: Path, plan: dict[str, Any], whence: dict[str, str], marks: Marks) -> None:
    """Note what is extracted into the folder. Raises ValueError if that is something else than what is there.

    Args:
      whence: where things are, which may have moved since.
    """
    if not (folder / PLAN).exists():
        others = folder.is_dir() and any(not path.name.startswith(PLAN) for path in folder.iterdir())
        if others and not (folder / PLAN).exists():  # another process may have begun meanwhile
            raise ValueError(f"{folder}: is not empty and holds no extraction; give a new or empty folder")
        records.write_json(folder / PLAN, plan | whence | {"marks": marks._asdict()})
    # Earlier versions had none of these.
    before = {"stereo": False, "augment": {}, "dealt": plan["dealt"]} | records.read_json(folder / PLAN)
    differing = [f"{key} was {before.get(key, 'not set')}, is {value}" for key, value in plan.items()
                 if before.get(key, ...) != value]  # fmt: skip
    if differing:
        advice = "give the same arguments, or another --output"
        if before.get("fingerprint") != plan["fingerprint"] and "marks" in before:
            differing[0] += f" ({marks.told(Marks(**before['marks']))})"
            advice += f"; with --from {folder} it takes over what stays the same"
        raise ValueError(f"{folder}: holds another extraction: {'; '.join(differing)}; {advice}")


def extract_shards(
    dealt: Mapping[int, Sequence[Row]],
    buckets: Sequence[float],
    folder: Path,
    encoder: FeatureEncoder,
    *,
    of: int,
    workers: int,
    copies: Variants = Variants(),  # noqa: B008  # none
    earlier: Reuse | None = None,
) -> None:
    """Make those of the shards `dealt` (number, below `of`, -> rows) that are not in the folder yet, or left out a clip
    that has been mended since.

    Raises:
      ValueError: another process is at the same shard; no room to write.
    """
    from tqdm import tqdm

    notes = {int(name.partition("-of-")[0]): note for name, note in records.notes(folder).items()}
    todo = {k: rows for k, rows in dealt.items() if not records.is_done(folder, k, of) or _mended(notes[k], rows)}
    with tqdm(total=sum(map(len, todo.values())), unit="clip", disable=None) as bar, films.ReadAhead(workers) as ahead:
        for k, rows in todo.items():
            with records.ShardWriter(folder, k, of, encoder.fingerprint) as shard:
                known = earlier.shard(k, of) if earlier else {}
                load = partial(_load, encoder, earlier, known)
                read = partial(films.excerpts, buckets=buckets, load=load, windows=encoder.windows, copies=copies.of)
                tally = _fill(shard, ahead(read, films.films(_counted(bar, rows))), encoder, earlier)
                shard.remember = asdict(tally) | {"marks": encoder.marks._asdict()}


def _load(
    encoder: FeatureEncoder, earlier: Reuse | None, known: Known, item: Cut | Variant, source: films.Source
) -> Loaded:
    if isinstance(item, Variant):
        return variants.load(encoder, item)
    return earlier.load(known, item, source) if earlier else encoder.load(item, source)


def _counted(bar: Any, rows: Sequence[Row]) -> Iterator[Row]:
    for row in rows:
        yield row
        bar.update()


def _fill(
    shard: records.ShardWriter, found: Iterable[films.Outcome], encoder: FeatureEncoder, earlier: Reuse | None
) -> Tally:
    """Write all excerpts that are found."""
    tally = Tally()
    waiting: dict[tuple[float, bool, bool], list[Loaded]] = defaultdict(list)
    counted = set()
    for item, loaded, reason, tail_seconds in found:
        tally.tail_seconds += tail_seconds
        if reason:
            _leave_out(item, reason, tally)
        if loaded is None:
            continue
        if loaded.cut.row.id not in counted:  # a clip's excerpts share its caption
            tally.add_caption(loaded.unread)
            counted.add(loaded.cut.row.id)
        batch = waiting[loaded.cut.seconds, loaded.cut.row.video is None, loaded.before is not None]
        batch.append(loaded)
        if len(batch) == encoder.batch:
            _write(shard, encoder, batch, tally, earlier)
            batch.clear()
    for batch in filter(None, waiting.values()):
        _write(shard, encoder, batch, tally, earlier)
    return tally


def _write(
    shard: records.ShardWriter, encoder: FeatureEncoder, batch: Sequence[Loaded], tally: Tally, earlier: Reuse | None
) -> None:
    encode = encoder if earlier is None or batch[0].before is None else earlier
    for loaded, example in zip(batch, encode(batch), strict=True):
        if wrong := records.not_finite(example):
            reason = f"the encoders make NaN or infinite values of it ({', '.join(wrong)})"
            _leave_out(loaded.cut, reason, tally)
        else:
            shard.add(loaded.cut.seconds, example)
            tally.taken_over += loaded.before is not None


def _leave_out(item: Row | Cut | Variant, reason: str, tally: Tally) -> None:
    if isinstance(item, Variant):  # what it is made of is listed by itself
        return
    row = item if isinstance(item, Row) else item.row
    tally.bad.append((item.id, reason))
    tally.files[row.id] = _stamps(row)


def _stamps(row: Row) -> Stamps:
    return [remote.stamp(path) for path in (row.video, row.audio) if path is not None]


def _mended(note: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    """Whether a file of a clip that a shard left out has changed."""
    files = note.get("files", {})  # earlier versions did not write them down
    return any(_stamps(row) != files[row.id] for row in rows if row.id in files)


def _close(folder: Path, of: int) -> dict[float, int]:
    """Say what there is, and return it, excerpts by seconds; with all shards there, write the index.

    Raises:
      ValueError: all is there, and it is nothing.
    """
    notes = [*records.notes(folder).values()]
    bad = [entry for note in notes for entry in note["bad"]]
    if bad:
        _write_bad(folder / BAD, bad)
    else:
        (folder / BAD).unlink(missing_ok=True)  # all are mended
    counts: dict[float, int] = defaultdict(int)
    for note in notes:
        for bucket in note["buckets"]:
            counts[bucket["seconds"]] += bucket["count"]
    made = ", ".join(f"{count} excerpts of {seconds:g} s" for seconds, count in sorted(counts.items())) or "no excerpts"
    tail_seconds = sum(note["tail_seconds"] for note in notes)
    taken_over = sum(note.get("taken_over", 0) for note in notes)
    left = [f"{taken_over} of them from the earlier extraction"] if taken_over else []
    left += [f"{len(bad)} bad ({folder / BAD})"] if bad else []
    left += [f"{tail_seconds:.0f} s at the ends of clips left out"] if tail_seconds >= 0.5 else []
    if unread := _unread(notes):
        left.append(unread)
    command.say("; ".join([made, *left]))
    if len(notes) < of:
        command.say(f"{of - len(notes)} of {of} shards are still to be made, by other processes or another run")
    elif not counts:
        raise ValueError(f"{folder}: nothing could be extracted; {BAD} says why")
    else:
        records.write_index(folder)
        records.Folder(folder)
    return dict(sorted(counts.items()))


def _unread(notes: Iterable[Mapping[str, Any]]) -> str:
    """What is lost of the captions, in one line. Earlier versions wrote no words down."""
    from kfjax.encoders.tokenizer import captions_line

    words: Counter[str] = Counter()
    for note in notes:
        words.update(note.get("words", {}))
    unread, full = (sum(note.get(key, 0) for note in notes) for key in ("unread_captions", "full_captions"))
    return captions_line(words, unread, full)


def _write_bad(path: Path, bad: Sequence[Sequence[str]]) -> None:
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("id", "reason"), *bad])
    text = table.getvalue().encode("utf-8", "backslashreplace").decode()  # a file's name may be no text
    disk.write_text(path, text, noted=False)


if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
