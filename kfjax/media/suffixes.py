"""Which files are clips, by their names."""

import os
from collections.abc import Sequence
from pathlib import Path

#: Videos that can have sound, and animations, which can't.
FILM_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".flv", ".ogv", ".wmv",
    ".3gp",
)  # fmt: skip
ANIMATION_SUFFIXES = (".gif", ".webp")
VIDEO_SUFFIXES = FILM_SUFFIXES + ANIMATION_SUFFIXES


def is_clip(path: str | os.PathLike, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> bool:
    """Whether the name ends in one of `suffixes`, in either case, and is not hidden (`.a.mp4`, macOS's `._a.mp4`).

    Of .webp only animations are clips; thumbnails, which often lie beside a film, are told apart by their first bytes.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes or path.name.startswith("."):
        return False
    return path.suffix.lower() != ".webp" or is_animated_webp(path)


def is_animated_webp(path: str | os.PathLike) -> bool:
    """Whether the file is a WebP of several pictures; False where it can't be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(21)
    except OSError:
        return False
    return head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & 2)
