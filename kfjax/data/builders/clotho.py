"""Clotho: sounds of 15 to 30 seconds, each described by five people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from kfjax.data import tables
from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import MediaFolder

#: Splits as published; "development" is for training, "evaluation" for testing.
SPLITS = ("development", "validation", "evaluation")
TABLES = {split: f"clotho_captions_{split}.csv" for split in SPLITS}
CAPTIONS = tuple(f"caption_{n}" for n in range(1, 6))


class Clotho(tfds.core.GeneratorBasedBuilder):
    """Clotho (Drossos, Lipping, Virtanen, ICASSP 2020, arXiv 1910.09387), version 2.1.

    3,839 sounds for development, 1,045 for validation and 1,045 for evaluation, of Freesound, each with five captions
    of 8 to 20 words. Captions under the Tampere University licence (research), the sounds' own licences are in its
    metadata.

    Manual folder: `clotho_captions_SPLIT.csv` (columns file_name, caption_1 to caption_5; any of the three) and the
    contents of `clotho_audio_SPLIT.7z` at any depth. Splits development, validation and evaluation.
    """

    name = "clotho"
    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put clotho_captions_*.csv and the unpacked clotho_audio_*.7z of https://zenodo.org/records/4783391 there"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_record.features(),
            homepage="https://zenodo.org/records/4783391",
            license="Tampere University licence, for research",
            citation="Drossos et al., Clotho: An Audio Captioning Dataset, ICASSP 2020",
        )

    def _split_generators(self, dl_manager):
        return clip_record.splits_of_tables(self, dl_manager, TABLES, MediaFolder, _clips)

    def _generate_examples(self, split, clips):
        return clip_record.examples(self, split, clips)


def _clips(table: Path, media: MediaFolder) -> Iterator[ClipRecord]:
    for row in tables.published(table, ("file_name", *CAPTIONS), header=True):
        name = row["file_name"].removesuffix(".wav")
        sound = media.find(name, f" {name}")[1]  # some names begin with a blank, which tables lose
        captions = tuple(row[column].strip() for column in CAPTIONS if row[column].strip())
        yield ClipRecord(row["file_name"], audio=sound, captions=captions)
