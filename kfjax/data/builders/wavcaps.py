"""WavCaps: sounds of four collections, described by a language model from their owners' notes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import MediaFolder

#: Split -> (the collection's folder, its list of clips).
COLLECTIONS = {
    "audioset_sl": ("AudioSet_SL", "as_final.json"),
    "bbc_sound_effects": ("BBC_Sound_Effects", "bbc_final.json"),
    "freesound": ("FreeSound", "fsd_final.json"),
    "soundbible": ("SoundBible", "sb_final.json"),
}
#: Clips of the test sets of AudioCaps and Clotho, and of ESC-50, UrbanSound8K and VGGSound.
TEST_CLIPS = ("blacklist_exclude_test_ac.json", "blacklist_exclude_ub8k_esc50_vggsound.json")


class WavCaps(tfds.core.GeneratorBasedBuilder):
    """WavCaps (Mei et al., IEEE/ACM TASLP 2024, arXiv 2303.17395).

    403,050 sounds, 7,568 hours, FLAC of 32 kHz, each with one caption: AudioSet's strongly labelled part (108,317),
    BBC Sound Effects (31,201), FreeSound (262,300), SoundBible (1,232). Academic use only; the collections' own terms
    hold for the sounds.

    Manual folder: `json_files` of the Hugging Face repository cvssp/WavCaps as it is, and `Zip_files/COLLECTION` with
    that collection's archive unpacked in it, to any depth; collections that are not there are left out. Splits are the
    collections: audioset_sl, bbc_sound_effects, freesound, soundbible.

    The configuration `train`, which is the default, leaves out what other corpora test on, as listed in
    `json_files/blacklist`; `everything` keeps it.
    """

    name = "wavcaps"
    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="train", description="without the clips that other corpora test on"),
        tfds.core.BuilderConfig(name="everything", description="all clips"),
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put json_files and Zip_files of https://huggingface.co/datasets/cvssp/WavCaps there, the archives unpacked"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_record.features(),
            homepage="https://github.com/XinhaoMei/WavCaps",
            license="academic use only",
            citation="Mei et al., WavCaps: A ChatGPT-Assisted Weakly-Labelled Audio Captioning Dataset, TASLP 2024",
        )

    def _split_generators(self, dl_manager):
        lists = [f"json_files/{folder}/{name}" for folder, name in COLLECTIONS.values()]
        folder = clip_record.manual_folder(self, dl_manager, *lists)
        trains = self.builder_config is not None and self.builder_config.name == "train"
        tested = _tested(folder / "json_files/blacklist") if trains else frozenset()
        clips = {
            split: _clips(folder, collection, name, tested)
            for split, (collection, name) in COLLECTIONS.items()
            if (folder / "json_files" / collection / name).is_file()
        }
        return clip_record.split_generators(self, folder, clips)

    def _generate_examples(self, split, clips):
        return clip_record.examples(self, split, clips)


def _clips(folder: Path, collection: str, name: str, tested: Collection[tuple[str, str]]) -> Iterator[ClipRecord]:
    path = folder / "json_files" / collection / name
    media = MediaFolder(folder / "Zip_files" / collection)
    for number, clip in enumerate(_read(path, "data")):
        if not isinstance(clip, dict) or not {"id", "caption"} <= clip.keys():
            raise ValueError(f"{path}: clip {number} has no id or no caption; download it again")
        sound = str(clip["id"]).removesuffix(".wav")  # of AudioSet's clips the list has the file's name
        if (collection.removesuffix("_SL"), sound) in tested:
            continue
        caption = str(clip["caption"]).strip()
        yield ClipRecord(f"{collection}/{sound}", audio=media.find(sound)[1], captions=(caption,) if caption else ())


def _tested(folder: Path) -> frozenset[tuple[str, str]]:
    """(AudioSet or FreeSound, id) of the clips that other corpora test on."""
    return frozenset(
        (collection, str(sound).removesuffix(".wav"))
        for name in TEST_CLIPS
        for collection in ("AudioSet", "FreeSound")
        for sound in _read(folder / name, collection)
    )


def _read(path: Path, key: str) -> list:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; put it there, or make wavcaps/everything")
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no JSON file with a list {key!r} ({error}); download it again") from error
