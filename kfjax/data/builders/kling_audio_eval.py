"""Kling-Audio-Eval: the benchmark of Kling-Foley, videos with separate words for what is seen and what is heard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from kfjax.command import quoted
from kfjax.data import tables
from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import MediaFolder

FIELDS = ("video", "video_caption", "audio", "audio_caption", "labels")
#: Other names that a field's column may have.
SYNONYMS = {
    "video": ("video_path", "video_file", "video_name"),
    "audio": ("audio_path", "audio_file", "audio_name"),
    "labels": ("label", "sound_event_labels", "sound_event_label", "sound_event", "sound_events", "tags"),
}


class KlingAudioEval(tfds.core.GeneratorBasedBuilder):
    """Kling-Audio-Eval (Wang et al., Kling-Foley, arXiv 2506.19774), for evaluation.

    20,935 clips, annotated by people in five fields: video, video caption, audio, audio caption, sound event labels.
    Terms of use are on its page on the Hugging Face hub.

    Manual folder: one table (`.csv`, `.tsv`, `.json` or `.jsonl`) with a column for each of the five fields, and the
    recordings at any depth, named as in the columns video and audio; an empty cell in audio means the video's own
    sound. The paper names the fields and not the files, and this was written without sight of the hub's copy: a column
    is known by its name whatever its case, blanks and hyphens ("Audio Caption" is audio_caption; see `SYNONYMS`), and
    one that is not is refused with the columns that are there. Labels are a list, or text with ; or | between them, or
    with commas. One split, test; a clip of which a recording is missing is left out.
    """

    name = "kling_audio_eval"
    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "put the table and the unpacked recordings of https://huggingface.co/datasets/klingfoley/Kling-Audio-Eval there"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_record.features(),
            homepage="https://huggingface.co/datasets/klingfoley/Kling-Audio-Eval",
            citation="Wang et al., Kling-Foley: Multimodal Diffusion Transformer for High-Quality Video-to-Audio "
            "Generation, arXiv 2506.19774, 2025",
        )

    def _split_generators(self, dl_manager):
        folder = clip_record.manual_folder(self, dl_manager)
        tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl"))
        if len(tables) != 1:
            got = ", ".join(path.name for path in tables) or "none"
            raise ValueError(f"{folder}: got tables {got}, expected one; {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return clip_record.split_generators(self, folder, {"test": _clips(tables[0])})

    def _generate_examples(self, split, clips):
        return clip_record.examples(self, split, clips)


def _clips(table: Path) -> Iterator[ClipRecord]:
    media = MediaFolder(table.parent)
    for row in _rows(table):
        video_name, said_of_video, audio_name, said_of_audio = (_text(table, row, field) for field in FIELDS[:4])
        video, audio = _find(media, table.parent, video_name, 0), _find(media, table.parent, audio_name, 1)
        whole = video and (audio or not audio_name)
        yield ClipRecord(
            id=video_name or audio_name,
            video=video if whole else "",
            audio=audio if whole else "",
            captions=(said_of_audio,) if said_of_audio else (),
            video_caption=said_of_video,
            labels=_labels(row["labels"]),
        )


def _text(table: Path, row: Mapping[str, Any], field: str) -> str:
    if not isinstance(row[field], str | None):
        raise ValueError(f"{table}: got {row[field]!r} in {field}, expected text; correct the table")
    return (row[field] or "").strip()


def _find(media: MediaFolder, folder: Path, name: str, kind: int) -> str:
    """Path of a video (0) or sound (1): where the table says, else wherever there is one of that name."""
    path = folder / name.replace("\\", "/").lstrip("/")
    return str(path) if name and path.is_file() else media.find(path.stem if name else "")[kind]


def _labels(cell: str | list | None) -> tuple[str, ...]:
    if isinstance(cell, list):
        parts = [str(label) for label in cell]
    else:
        text = str(cell or "")
        parts = re.split("[;|]" if re.search("[;|]", text) else ",", text)
    return tuple(dict.fromkeys(label.strip() for label in parts if label.strip()))


def _rows(table: Path) -> Iterator[Mapping[str, Any]]:
    """The table's rows by field."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            match table.suffix.lower():
                case ".json":
                    rows = json.load(file)
                case ".jsonl":
                    rows = [json.loads(line) for line in file if line.strip()]
                case suffix:
                    delimiter = "\t" if suffix == ".tsv" else ","
                    rows = list(tables.published(table, (), header=True, delimiter=delimiter))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{table}: can't be read as a table in UTF-8 ({error}); download it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{table}: got no list of clips; expected one, each with {', '.join(FIELDS)}")
    for row in rows:
        named = {re.sub(r"[\s-]+", "_", str(column).strip().lower()): cell for column, cell in row.items()}
        yield {field: named[_column(table, field, named)] for field in FIELDS}


def _column(table: Path, field: str, named: Mapping[str, Any]) -> str:
    for column in (field, *SYNONYMS.get(field, ())):
        if column in named:
            return column
    raise ValueError(
        f"{table}: got columns {quoted(', '.join(named), 200)}; none is {field}; rename the column that has it"
    )
