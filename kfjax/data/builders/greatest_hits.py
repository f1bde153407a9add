"""Greatest Hits: a drumstick on things of every material, with the moment of each stroke."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from kfjax.data import tables
from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import MediaFolder

#: Split -> its list of recordings.
LISTS = {"train": "train.txt", "test": "test.txt"}
TIMES = "_times.txt"
#: What the annotators wrote where they could not tell.
UNKNOWN = "None"


class GreatestHits(tfds.core.GeneratorBasedBuilder):
    """The Greatest Hits (Owens, Isola, McDermott, Torralba, Adelson, Freeman, "Visually indicated sounds", CVPR 2016).

    977 films of about 35 s, 46,577 strokes (hits and scratches) on 17 materials. MultiFoley measures extension on it.

    Manual folder: `vis-data` (or `vis-data-256`, its small copy) at any depth: of each recording NAME_denoised.mp4,
    or NAME_mic.mp4 with the sound as it was recorded, or either beside its .wav, and NAME_times.txt, a line for each
    stroke (seconds, material, motion, reaction; "None" where unknown). Splits train and test are lists of the
    recordings' names, train.txt and test.txt, at any depth; without either, all are in train. This was written from
    what readers of the corpus do, without sight of the archive.

    The denoised sound is taken where it is there. Labels are motion and material of the strokes ("hit wood"), the most
    frequent first; there are no captions.
    """

    name = "greatest_hits"
    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "put the unpacked vis-data.zip of https://andrewowens.com/vis, and its lists, there"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_record.features(),
            homepage="https://andrewowens.com/vis",
            citation="Owens et al., Visually Indicated Sounds, CVPR 2016",
        )

    def _split_generators(self, dl_manager):
        folder = clip_record.manual_folder(self, dl_manager)
        times = {path.name.removesuffix(TIMES): path for path in sorted(folder.rglob(f"*{TIMES}"))}
        if not times:
            raise ValueError(f"{folder}: got no *{TIMES}; {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        lists = {split: path for split, name in LISTS.items() for path in sorted(folder.rglob(name))[:1]}
        names = {split: tables.text_of(path).split() for split, path in lists.items()}
        names = names or {"train": list(times)}
        media = MediaFolder(folder)
        clips = {split: (_clip(name, times, media) for name in found) for split, found in names.items()}
        return clip_record.split_generators(self, folder, clips)

    def _generate_examples(self, split, clips):
        return clip_record.examples(self, split, clips)


def _clip(name: str, times: dict[str, Path], media: MediaFolder) -> ClipRecord:
    name = Path(name).name.removesuffix(".mp4").removesuffix("_denoised").removesuffix("_mic")
    video, sound = media.find(f"{name}_denoised", f"{name}_mic", name)
    if video.endswith("_denoised.mp4"):  # its own sound is denoised; that of others is as it was recorded
        sound = ""
    strokes: dict[str, int] = {}
    for stroke in _strokes(times[name]) if name in times else ():
        strokes[stroke] = strokes.get(stroke, 0) + 1
    labels = sorted(strokes, key=strokes.__getitem__, reverse=True)
    return ClipRecord(name, video=video, audio=sound, labels=tuple(labels))


def _strokes(path: Path) -> Iterator[str]:
    for number, line in enumerate(tables.text_of(path).splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) < 3:
            raise ValueError(f"{path}, line {number}: got {line!r}, expected seconds, material and motion; correct it")
        if known := [cell for cell in (cells[2], cells[1]) if cell != UNKNOWN]:
            yield " ".join(known)
