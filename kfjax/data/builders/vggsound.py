"""VGGSound: 200,000 ten-second YouTube clips of 309 kinds whose sound source is seen."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from kfjax.data import tables
from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import YouTubeFolder

TABLE = "vggsound.csv"


class VGGSound(tfds.core.GeneratorBasedBuilder):
    """VGGSound (Chen, Xie, Vedaldi, Zisserman, ICASSP 2020, arXiv 2004.14368).

    About 184,000 clips for training and 15,500 for testing were listed; the copy on the Hugging Face hub
    (Loie/VGGSound, 20 archives of 17 GB) has those that were online when it was made. The table and labels are CC BY
    4.0, the recordings remain their owners'.

    Manual folder: `vggsound.csv` (YouTube id, start in seconds, label, split; no header) and the archives' contents,
    at any depth (`media_folder.YouTubeFolder` says under which names). Splits train and test, one label a clip.
    """

    name = "vggsound"
    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put vggsound.csv and the unpacked vggsound_*.tar.gz of https://huggingface.co/datasets/Loie/VGGSound there"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_record.features(),
            homepage="https://www.robots.ox.ac.uk/~vgg/data/vggsound/",
            license="CC BY 4.0 for the annotations",
            citation="Chen et al., VGGSound: A Large-scale Audio-Visual Dataset, ICASSP 2020",
        )

    def _split_generators(self, dl_manager):
        folder = clip_record.manual_folder(self, dl_manager, TABLE)
        clips = functools.partial(_clips, folder / TABLE, YouTubeFolder(folder))
        return clip_record.split_generators(self, folder, {split: clips(split) for split in ("train", "test")})

    def _generate_examples(self, split, clips):
        return clip_record.examples(self, split, clips)


def _clips(table: Path, media: YouTubeFolder, split: str) -> Iterator[ClipRecord]:
    for row in tables.published(table, ("upload", "start", "label", "split"), numbers=("start",)):
        if row["split"] == split:
            labels = (row["label"],) if row["label"] else ()
            yield media.clip(row["upload"], row["start"])._replace(labels=labels)
