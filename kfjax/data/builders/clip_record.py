"""One clip of a corpus: the features that all builders have in common, and which clips of a table become examples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kfjax import command

M = TypeVar("M")


class ClipRecord(NamedTuple):
    """A clip, whatever corpus it comes from; the fields are the features of the datasets."""

    id: str  # unique in its split, and the same whenever the dataset is made
    video: str = ""  # path of what is seen; "": only heard
    audio: str = ""  # path of what is heard; "": in the video
    captions: tuple[str, ...] = ()  # of what is heard, by different people
    video_caption: str = ""  # of what is seen
    labels: tuple[str, ...] = ()  # sound events
    start_seconds: float = 0.0  # where in the files the clip begins
    seconds: float = 0.0  # how long it is; 0: to the end of the files
    measures: tuple[tuple[str, str], ...] = ()  # of `kfjax clean`, (name, cell); none where it was not cleaned

    @property
    def caption(self) -> str:
        """What the sound is: in somebody's words, else its labels."""
        return self.captions[0] if self.captions else ", ".join(self.labels)

    @classmethod
    def decode(cls, example: Mapping[str, Any]) -> ClipRecord:
        """From what a data source gives, where text is bytes."""
        texts = {name: example[name].decode() for name in ("id", "video", "audio", "video_caption")}
        lists = {name: tuple(text.decode() for text in example[name]) for name in ("captions", "labels")}
        numbers = {name: float(example[name]) for name in ("start_seconds", "seconds")}
        cells = (tuple(text.decode() for text in example["measures"][key]) for key in ("name", "cell"))
        fields: dict[str, Any] = {**texts, **lists, **numbers, "measures": tuple(zip(*cells, strict=True))}
        return cls(**fields)


def features():
    """`ClipRecord` as tfds has it."""
    import tensorflow_datasets as tfds

    text, texts = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
    number = tfds.features.Scalar(np.float32)  # the precision of all numbers in a record
    cells = tfds.features.Sequence({"name": text, "cell": text})
    kinds = {"captions": texts, "labels": texts, "start_seconds": number, "seconds": number, "measures": cells}
    return tfds.features.FeaturesDict({name: kinds.get(name, text) for name in ClipRecord._fields})


def manual_folder(builder, dl_manager, *names: str) -> Path:
    """The folder with a corpus's recordings and tables.

    Args:
      names: files of which it needs at least one.

    Raises:
      ValueError: there is no such folder, nothing in it, or none of the files.
    """
    try:
        folder = Path(dl_manager.manual_dir).absolute()
    except AssertionError as missing:  # in two lines, and no ValueError
        raise ValueError(" ".join(f"{builder.name}: {missing}".split())) from None
    if names and not any((folder / name).is_file() for name in names):
        what = f"neither {' nor '.join(names)}" if len(names) > 1 else f"no {' '.join(names)}"
        raise ValueError(f"{folder}: got {what}; {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    return folder


def split_generators(builder, folder: Path, splits: Mapping[str, Iterable[ClipRecord]]) -> dict[str, Iterator]:
    """What a builder's `_split_generators` returns: clips with their measures (`measured`), where the folder has any. A
    split that has no recording at all is left out.

    Raises:
      ValueError: none has.
    """
    from kfjax.data.builders.measured import measured

    made = {}
    for split, clips in splits.items():
        generator = iter(builder._generate_examples(split, measured(folder, clips)))
        first = next(generator, None)
        if first is not None:
            made[split] = itertools.chain([first], generator)
    if not made:
        what = f"{folder}: got no recording of a clip in the tables"
        raise ValueError(f"{what}; {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    return made


def splits_of_tables(
    builder, dl_manager, tables: Mapping[str, str], media: Callable[[Path], M], clips: Callable[[Path, M], Iterable]
) -> dict[str, Iterator]:
    """`split_generators` of a corpus that has a table for each split, of those that are there.

    Args:
      tables: split -> its table in the manual folder.
      media: the folder -> what finds its recordings.
      clips: a table, and that -> its clips.

    Raises:
      ValueError: as `manual_folder` and `split_generators`.
    """
    folder = manual_folder(builder, dl_manager, *tables.values())
    found, there = media(folder), {split: folder / name for split, name in tables.items()}
    made = {split: clips(path, found) for split, path in there.items() if path.is_file()}
    return split_generators(builder, folder, made)


def examples(builder, split: str, clips: Iterable[ClipRecord]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a builder's `_generate_examples` yields: clips that have a recording of their own, each once.

    The others are counted on stderr and listed in `left_out_SPLIT.tsv` (id, reason) in the dataset's folder.
    """
    count, left_out, owners = 0, [], {}
    ids: set[str] = set()
    for clip in clips:
        recording = (clip.video or clip.audio, clip.start_seconds, clip.seconds)
        if not recording[0]:
            left_out.append((clip.id, "no recording"))
        elif clip.id in ids:
            left_out.append((clip.id, "listed before"))
        elif recording in owners:
            left_out.append((clip.id, f"its recording is that of {owners[recording]}"))
        else:
            ids.add(clip.id)
            owners[recording] = clip.id
            count += 1
            cells = [{"name": name, "cell": cell} for name, cell in clip.measures]
            yield clip.id, clip._asdict() | {"measures": cells}
    if left_out:
        name = f"left_out_{split}.tsv"
        (builder.data_path / name).write_text("".join(f"{id}\t{reason}\n" for id, reason in left_out))
        command.say(f"{builder.name} {split}: {count} clips; {len(left_out)} left out, listed in its {name}")
