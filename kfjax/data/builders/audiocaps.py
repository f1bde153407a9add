"""AudioCaps: ten-second clips of AudioSet, described in people's words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from kfjax.data import tables
from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import YouTubeFolder

#: Split -> its table.
TABLES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


class AudioCaps(tfds.core.GeneratorBasedBuilder):
    """AudioCaps (Kim, Kim, Lee, Kim, NAACL 2019).

    Captions of version 1: 49,838 for training (one a clip), 495 clips for validation and 975 for testing (five a
    clip); version 2.0 has 91,256, 2,475 and 4,875 captions in tables of the same form. Captions under the MIT licence,
    recordings remain their owners'; the authors pass them on at request, version 2.0 with videos.

    Manual folder: `train.csv`, `val.csv`, `test.csv` (columns audiocap_id, youtube_id, start_time, caption; any of the
    three) from the folder `dataset` or `dataset2.0` of the authors' repository, and the recordings at any depth
    (`media_folder.YouTubeFolder` says under which names). Splits train, validation and test; a clip has all its
    captions, in the table's order.
    """

    name = "audiocaps"
    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put train.csv, val.csv and test.csv of https://github.com/cdjkim/audiocaps and the recordings there"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_record.features(),
            homepage="https://audiocaps.github.io",
            license="MIT for the captions",
            citation="Kim et al., AudioCaps: Generating Captions for Audios in The Wild, NAACL-HLT 2019",
        )

    def _split_generators(self, dl_manager):
        return clip_record.splits_of_tables(self, dl_manager, TABLES, YouTubeFolder, _clips)

    def _generate_examples(self, split, clips):
        return clip_record.examples(self, split, clips)


def _clips(table: Path, media: YouTubeFolder) -> Iterator[ClipRecord]:
    captions: dict[tuple[str, float], dict[str, None]] = {}
    columns = ("youtube_id", "start_time", "caption")
    for row in tables.published(table, columns, numbers=("start_time",), header=True):
        said = captions.setdefault((row["youtube_id"], row["start_time"]), {})
        if row["caption"].strip():
            said[row["caption"].strip()] = None
    for (upload, start_seconds), said in captions.items():
        yield media.clip(upload, start_seconds)._replace(captions=tuple(said))
