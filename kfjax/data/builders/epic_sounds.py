"""EPIC-SOUNDS: what is heard in kitchens filmed by those who cook in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from kfjax.data import tables
from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import MediaFolder

#: Split -> its table.
TABLES = {"train": "EPIC_Sounds_train.csv", "validation": "EPIC_Sounds_validation.csv"}
COLUMNS = ("annotation_id", "video_id", "start_timestamp", "stop_timestamp", "description", "class")


class EpicSounds(tfds.core.GeneratorBasedBuilder):
    """EPIC-SOUNDS (Huh, Chalk, Kazakos, Damen, Zisserman, ICASSP 2023, arXiv 2302.00646).

    79,200 segments of the 700 films of EPIC-KITCHENS-100, in 44 classes, each with its annotator's words. Kling-Foley
    lists 10,000 of them, 13.9 hours, as a benchmark. CC BY-NC 4.0. The tables of the test sets have no labels.

    Manual folder: `EPIC_Sounds_train.csv`, `EPIC_Sounds_validation.csv` (columns annotation_id, participant_id,
    video_id, start_timestamp, stop_timestamp as HH:MM:SS.mmm, description, class, class_id; either will do) and the
    films at any depth, named by video_id (P01_11.MP4), or their sounds (P01_11.wav). Splits train and validation. A
    clip is a segment; its caption is the description, where it says something, its label the class.
    """

    name = "epic_sounds"
    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put EPIC_Sounds_*.csv of https://github.com/epic-kitchens/epic-sounds-annotations and the films of "
        "EPIC-KITCHENS-100 there"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_record.features(),
            homepage="https://epic-kitchens.github.io/epic-sounds/",
            license="CC BY-NC 4.0",
            citation="Huh et al., EPIC-SOUNDS: A Large-Scale Dataset of Actions that Sound, ICASSP 2023",
        )

    def _split_generators(self, dl_manager):
        return clip_record.splits_of_tables(self, dl_manager, TABLES, MediaFolder, _clips)

    def _generate_examples(self, split, clips):
        return clip_record.examples(self, split, clips)


def _clips(table: Path, media: MediaFolder) -> Iterator[ClipRecord]:
    for row in tables.published(table, COLUMNS, header=True):
        start, stop = (_seconds(table, row["annotation_id"], row[f"{end}_timestamp"]) for end in ("start", "stop"))
        video, sound = media.find(row["video_id"])
        said = row["description"].strip()
        yield ClipRecord(
            row["annotation_id"], video=video, audio=sound, captions=(said,) if said not in ("", "unlabelled") else (),
            labels=(row["class"],) if row["class"] else (), start_seconds=start, seconds=stop - start,
        )  # fmt: skip


def _seconds(table: Path, clip: str, timestamp: str) -> float:
    try:
        hours, minutes, seconds = map(float, timestamp.split(":"))
    except ValueError:
        raise ValueError(f"{table}: got {timestamp!r} of {clip}, expected HH:MM:SS.mmm; correct it") from None
    return 3600 * hours + 60 * minutes + seconds
