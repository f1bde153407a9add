"""AudioSet: ten-second YouTube clips under an ontology of 527 sounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import tensorflow_datasets as tfds

from kfjax.data import tables
from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import YouTubeFolder

NAMES = "class_labels_indices.csv"
#: Split -> its table.
TABLES = {
    "balanced_train": "balanced_train_segments.csv",
    "unbalanced_train": "unbalanced_train_segments.csv",
    "eval": "eval_segments.csv",
}


class AudioSet(tfds.core.GeneratorBasedBuilder):
    """AudioSet (Gemmeke et al., ICASSP 2017), or the part of it that somebody has.

    Listed are 22,160 clips in balanced_train, 2,041,789 in unbalanced_train and 20,371 in eval; each year fewer are
    still online, and a subset is made of what is found. Tables CC BY 4.0, ontology CC BY-SA 4.0, recordings remain
    their owners'.

    Manual folder: the segments' tables (any of the three; `YTID, start_seconds, end_seconds, "label,label"` under
    three lines of comment), `class_labels_indices.csv` (index, mid, display_name) and the recordings at any depth
    (`media_folder.YouTubeFolder` says under which names). Labels become their display names; there are no captions.
    """

    name = "audioset"
    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put *_segments.csv and class_labels_indices.csv of https://research.google.com/audioset/download.html and the "
        "recordings there"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_record.features(),
            homepage="https://research.google.com/audioset/",
            license="CC BY 4.0 for the annotations",
            citation="Gemmeke et al., Audio Set: An ontology and human-labeled dataset for audio events, ICASSP 2017",
        )

    def _split_generators(self, dl_manager):
        names = _names(clip_record.manual_folder(self, dl_manager, NAMES) / NAMES)
        return clip_record.splits_of_tables(self, dl_manager, TABLES, YouTubeFolder, partial(_clips, names=names))

    def _generate_examples(self, split, clips):
        return clip_record.examples(self, split, clips)


def _names(table: Path) -> dict[str, str]:
    return {row["mid"]: row["display_name"] for row in tables.published(table, ("mid", "display_name"), header=True)}


def _clips(table: Path, media: YouTubeFolder, names: Mapping[str, str]) -> Iterator[ClipRecord]:
    columns = ("upload", "start", "end", "labels")
    for row in tables.published(table, columns, numbers=("start", "end"), comments=True):
        mids = [mid.strip() for mid in row["labels"].split(",") if mid.strip()]
        if unknown := [mid for mid in mids if mid not in names]:
            raise ValueError(f"{table}: got label {unknown[0]!r}, which is not in {NAMES}; take both of one release")
        clip = media.clip(row["upload"], row["start"], row["end"] - row["start"])
        yield clip._replace(labels=tuple(names[mid] for mid in mids))
