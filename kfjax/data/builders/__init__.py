"""Public corpora as TensorFlow Datasets: one builder a file, all with the features of `clip_record.ClipRecord`.

    rows = read_rows("vggsound", "train", manual_dir="/corpora/vggsound")     # what `kfjax extract` reads

    import kfjax.data.builders.vggsound                                       # or with tfds itself
    builder = tfds.builder("vggsound", file_format="array_record")

Nothing is downloaded: recordings and tables lie in a folder of the reader's (tfds's manual directory), as each
builder's docstring says. A dataset holds text and the paths of the recordings, not the recordings: extraction reads
each of them once, and a second copy of several hundred gigabytes would be read as often. A corpus that was moved is
made again, which takes as long as listing its files.

The only place for tensorflow_datasets, which comes with the extra `builders`. Reading and writing ArrayRecord needs no
tensorflow.
"""
from __future__ import annotations

import math
import os
from pathlib import Path

from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.sources import Row


def read_rows(
    name: str, split: str, *, manual_dir: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None
) -> list[Row]:
    """The clips of a corpus, which is made first if it has not been.

    Args:
      name: audiocaps, audioset, kling_audio_eval, vggsound or wavcaps; a configuration follows a slash
        ("wavcaps/everything").
      split: in tfds's notation ("train", "train+test", "train[:1000]").
      manual_dir: where recordings and tables are; unused where the corpus has been made before.
      data_dir: where datasets are kept; None: tfds's own place (`TFDS_DATA_DIR`).

    Raises:
      ValueError: no such corpus, configuration or split; no recordings; tensorflow_datasets is not installed.
    """
    builder = _builder(name, data_dir)
    _make(builder, manual_dir)
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError):
        count = 0
    if not count:
        known = ", ".join(sorted(builder.info.splits))
        raise ValueError(f"{name}: got split {split!r}, which has no clips; expected {known} or a part of one")
    rows = [_row(ClipRecord.decode(example)) for example in builder.as_data_source(split=split)]
    gone = next((row.sound for row in rows[:1] if not row.sound.exists()), None)
    if gone is not None:
        raise ValueError(f"{gone}: is no longer there; delete {builder.data_dir} to make {name} from another folder")
    return rows


def builder_class(name: str):
    """The tfds builder of a corpus.

    Raises:
      ValueError: there is none of that name; tensorflow_datasets is not installed.
    """
    try:
        from kfjax.data.builders.audiocaps import AudioCaps
        from kfjax.data.builders.audioset import AudioSet
        from kfjax.data.builders.kling_audio_eval import KlingAudioEval
        from kfjax.data.builders.vggsound import VGGSound
        from kfjax.data.builders.wavcaps import WavCaps
    except ModuleNotFoundError as missing:
        raise ValueError(f"{name}: needs {missing.name}; pip install 'kfjax[builders]'") from missing
    corpora = {builder.name: builder for builder in (AudioCaps, AudioSet, KlingAudioEval, VGGSound, WavCaps)}
    if name not in corpora:
        raise ValueError(f"got corpus {name!r}, expected one of {', '.join(sorted(corpora))}")
    return corpora[name]


def _builder(name: str, data_dir: str | os.PathLike | None):
    corpus, _, config = name.partition("/")
    builder = builder_class(corpus)
    if config and config not in builder.builder_configs:
        choices = ", ".join(f"{corpus}/{choice}" for choice in builder.builder_configs) or corpus
        raise ValueError(f"got {name!r}, expected {choices}")
    return builder(config=config or None, data_dir=data_dir, file_format="array_record")


def _make(builder, manual_dir: str | os.PathLike | None) -> None:
    """Make the dataset unless it is there."""
    import tensorflow_datasets as tfds

    settings = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    builder.download_and_prepare(download_config=settings)


def _row(clip: ClipRecord) -> Row:
    path = lambda name: Path(name) if name else None
    return Row(clip.id, path(clip.video), path(clip.audio), clip.caption, clip.start_seconds, clip.seconds or math.inf)
