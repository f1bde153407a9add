"""FSD50K: sounds of Freesound under 200 classes of AudioSet's ontology."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from kfjax.data import tables
from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import MediaFolder

DEV, EVAL = "FSD50K.ground_truth/dev.csv", "FSD50K.ground_truth/eval.csv"
#: Split -> (table, its value in the column `split`, the sounds' folder).
SPLITS = {
    "train": (DEV, "train", "FSD50K.dev_audio"),
    "validation": (DEV, "val", "FSD50K.dev_audio"),
    "test": (EVAL, "", "FSD50K.eval_audio"),
}


class FSD50K(tfds.core.GeneratorBasedBuilder):
    """FSD50K (Fonseca, Favory, Pons, Font, Serra, IEEE/ACM TASLP 2022, arXiv 2010.00475).

    51,197 sounds of 0.3 to 30 s, 108 hours, at 44.1 kHz and 16 bit: 40,966 in its development set (36,796 to train,
    4,170 to validate) and 10,231 in its evaluation set. Labels CC BY 4.0, each sound its own licence, in its metadata.

    Manual folder: `FSD50K.ground_truth` as it is (`dev.csv` with the columns fname, labels, mids, split, and `eval.csv`
    without split; either will do) and the unpacked `FSD50K.dev_audio` and `FSD50K.eval_audio`. Splits train,
    validation and test. Labels are those of a sound and of what they are kinds of, the most special first, with blanks
    for the underscores of their names; there are no captions.
    """

    name = "fsd50k"
    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put FSD50K.ground_truth, FSD50K.dev_audio and FSD50K.eval_audio of https://zenodo.org/records/4060432 there"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_record.features(),
            homepage="https://zenodo.org/records/4060432",
            license="CC BY 4.0 for the labels",
            citation="Fonseca et al., FSD50K: An Open Dataset of Human-Labeled Sound Events, TASLP 2022",
        )

    def _split_generators(self, dl_manager):
        folder = clip_record.manual_folder(self, dl_manager, DEV, EVAL)
        clips = {
            split: _clips(folder / table, part, MediaFolder(folder / sounds))
            for split, (table, part, sounds) in SPLITS.items()
            if (folder / table).is_file()
        }
        return clip_record.split_generators(self, folder, clips)

    def _generate_examples(self, split, clips):
        return clip_record.examples(self, split, clips)


def _clips(table: Path, part: str, media: MediaFolder) -> Iterator[ClipRecord]:
    for row in tables.published(table, ("fname", "labels", *(("split",) if part else ())), header=True):
        if not part or row["split"] == part:
            labels = [label.strip().replace("_", " ") for label in row["labels"].split(",")]
            yield ClipRecord(row["fname"], audio=media.find(row["fname"])[1], labels=tuple(filter(None, labels)))
