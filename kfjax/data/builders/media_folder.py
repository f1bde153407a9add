"""Recordings on disk, found by the names under which corpora are passed on."""

from __future__ import annotations

import os
from pathlib import Path

from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.sources import SOUND_SUFFIXES
from kfjax.media import FILM_SUFFIXES, is_clip

#: Folder of whole uploads in a corpus of YouTube clips; files elsewhere hold one clip and nothing else.
UPLOADS = "uploads"


class MediaFolder:
    """Videos and sounds anywhere in and below a folder, by file name without its suffix.

    Of two files of one kind and name the first in alphabetical order counts.

    Args:
      without: a folder directly in it that is passed over.
    """

    def __init__(self, folder: Path, without: str = ""):
        self._paths: dict[tuple[bool, str], str] = {}  # (is a sound, name) -> path
        for here, folders, files in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not (without == name and Path(here) == folder))
            for file in sorted(files):
                name, suffix = os.path.splitext(file)
                if is_clip(file, FILM_SUFFIXES + SOUND_SUFFIXES):
                    key = (suffix.lower() in SOUND_SUFFIXES, name)
                    self._paths.setdefault(key, os.path.join(here, file))

    def find(self, *names: str) -> tuple[str, str]:
        """(path of a video, path of a sound), each under the first of the names that has one; "" where none has."""
        video, sound = (
            next((self._paths[sound, name] for name in names if (sound, name) in self._paths), "")
            for sound in (False, True)
        )
        return video, sound


class YouTubeFolder:
    """Recordings of YouTube clips: one file a clip, cut already, or whole uploads in the folder `uploads`.

    For the clip from 30 s to 40 s of the upload ID the names ID_000030 (VGGSound's), ID_30, ID_30000, ID_30_40,
    ID_30000_40000, ID_30.000_40.000 and ID are known, each also with the Y in front that AudioSet's readers write.
    """

    def __init__(self, folder: Path):
        self._clips = MediaFolder(folder, without=UPLOADS)
        self._uploads = MediaFolder(folder / UPLOADS)

    def clip(self, upload: str, start_seconds: float, seconds: float = 10.0) -> ClipRecord:
        """The clip without its captions and labels; without paths where there is no recording of it."""
        end_seconds = start_seconds + seconds
        start, end = round(1000 * start_seconds), round(1000 * end_seconds)
        names = [
            f"{upload}_{start // 1000:06d}", f"{upload}_{start // 1000}", f"{upload}_{start}",
            f"{upload}_{start // 1000}_{end // 1000}", f"{upload}_{start}_{end}",
            f"{upload}_{start_seconds:.3f}_{end_seconds:.3f}", upload,
        ]  # fmt: skip
        names += [f"Y{name}" for name in names]
        clip = ClipRecord(names[0])
        video, audio = self._clips.find(*names)
        if video or audio:
            return clip._replace(video=video, audio=audio)
        video, audio = self._uploads.find(upload, f"Y{upload}")
        return clip._replace(video=video, audio=audio, start_seconds=start_seconds, seconds=seconds)
