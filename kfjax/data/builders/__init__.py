"""Public corpora as TensorFlow Datasets: one builder a file, all with the features of `clip_record.ClipRecord`.

    rows = read_rows("vggsound", "train", manual_dir="/corpora/vggsound")     # what `kfjax extract` reads

    import kfjax.data.builders.vggsound                                       # or with tfds itself
    builder = tfds.builder("vggsound", file_format="array_record")

Nothing is downloaded: recordings and tables lie in a folder of the reader's (tfds's manual directory), as each
builder's docstring says. A dataset holds text and the paths of the recordings, not the recordings: extraction reads
each of them once, and a second copy of several hundred gigabytes would be read as often. Where `kfjax clean` has
measured its recordings (`kfjax clean CORPUS --output CORPUS/clean`), the dataset has the measures too (`measured`).
Delete the dataset of a corpus that was moved, measured or has got more recordings: it is made anew when it is asked
for, which takes as long as listing its files.

The only place for tensorflow_datasets, which comes with the extra `builders`. Reading and writing ArrayRecord needs no
tensorflow.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path

from kfjax.command import install
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.sources import Row


def read_rows(
    name: str, split: str, *, manual_dir: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None
) -> list[Row]:
    """The clips of a corpus, which is made first if it has not been.

    Args:
      name: audiocaps, audioset, clotho, epic_sounds, fsd50k, greatest_hits, kling_audio_eval, vggsound or wavcaps; a
        configuration follows a slash ("wavcaps/everything").
      split: in tfds's notation ("train", "train+test", "train[:1000]").
      manual_dir: where recordings and tables are; may be left out when the corpus has been made before.
      data_dir: where datasets are kept; None: tfds's own place (`TFDS_DATA_DIR`).

    Raises:
      ValueError: no such corpus, configuration or split; no recordings, or it was made of others;
        tensorflow_datasets is not installed.
    """
    builder = _made(name, manual_dir, data_dir)
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError):
        count = 0
    if not count:
        known = ", ".join(sorted(builder.info.splits))
        raise ValueError(f"{name}: got split {split!r}, which has no clips; expected {known} or a part of one")
    source = builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]  # its decorator hides its arguments
    rows = [_row(ClipRecord.decode(example)) for example in source]
    one = rows[0].sound
    if not one.exists() or (manual_dir is not None and not one.is_relative_to(Path(manual_dir).absolute())):
        raise ValueError(f"{name}: was made of other recordings ({one}); delete {builder.data_dir} to make it anew")
    return rows


def builder_class(name: str):
    """The tfds builder of a corpus.

    Raises:
      ValueError: there is none of that name; tensorflow_datasets is not installed.
    """
    try:
        from kfjax.data.builders.audiocaps import AudioCaps
        from kfjax.data.builders.audioset import AudioSet
        from kfjax.data.builders.clotho import Clotho
        from kfjax.data.builders.epic_sounds import EpicSounds
        from kfjax.data.builders.fsd50k import FSD50K
        from kfjax.data.builders.greatest_hits import GreatestHits
        from kfjax.data.builders.kling_audio_eval import KlingAudioEval
        from kfjax.data.builders.vggsound import VGGSound
        from kfjax.data.builders.wavcaps import WavCaps
    except ModuleNotFoundError as missing:
        raise ValueError(f"{name}: needs {missing.name}; {install('builders')}") from missing
    known = (
        AudioCaps, AudioSet, Clotho, EpicSounds, FSD50K, GreatestHits, KlingAudioEval, VGGSound, WavCaps,
    )  # fmt: skip
    corpora = {builder.name: builder for builder in known}
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


def _made(name: str, manual_dir: str | os.PathLike | None, data_dir: str | os.PathLike | None):
    """The builder of a corpus that is there, made now if need be."""
    builder = _builder(name, data_dir)
    if not builder.data_path.exists():
        import tensorflow_datasets as tfds

        settings = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # tfds tells what it does
                builder.download_and_prepare(download_config=settings)
        except OSError:  # what the end is when another process was faster
            builder = _builder(name, data_dir)
            if not builder.data_path.exists():
                raise
    return builder


def _row(clip: ClipRecord) -> Row:
    path = lambda name: Path(name) if name else None
    return Row(clip.id, path(clip.video), path(clip.audio), clip.caption, clip.start_seconds, clip.seconds or math.inf)
