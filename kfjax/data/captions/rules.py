"""Fusing texts by rules: offline, deterministic, and no better than what it is given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from kfjax.data.captions.keywords import Keywords, is_clause, keywords, tidy, words
from kfjax.data.captions.words import KINDS, bases

#: Tags that are added to a caption at most.
_MOST_TAGS = 2


class Texts(NamedTuple):
    """What is said of one clip; each may be empty.

    Attributes:
      caption: that it has.
      audio: what is heard.
      video: what is seen.
      tags: labels.
    """

    caption: str = ""
    audio: str = ""
    video: str = ""
    tags: tuple[str, ...] = ()


class Fuser(Protocol):
    """As many captions as clips, in their order; "" where there is nothing to say. Raises ValueError."""

    def __call__(self, clips: Sequence[Texts]) -> list[str]: ...


class RuleFuser:
    """What is heard comes first; the picture adds who does it and where, tags what neither of them names.

    1. The audio caption, else the caption, else the video caption.
    2. If it names no source and begins with what is done, the video caption's subject goes before it.
    3. If it names no scene, the video caption's place goes behind it.
    4. Tags of which it has no word: "with" the first two of them.
    """

    def __call__(self, clips: Sequence[Texts]) -> list[str]:
        return [self._fused(clip) for clip in clips]

    def _fused(self, clip: Texts) -> str:
        audio, video = tidy(clip.audio) or tidy(clip.caption), tidy(clip.video)
        text = audio or video
        if audio and video:
            heard, seen = keywords(audio), keywords(video)
            if not heard.sources and seen.sources and (subject := _subject(video)) and _begins_with_action(audio):
                text = f"{subject} {audio}"
            if not heard.scenes and seen.scenes and (place := _place(video, seen)):
                text = f"{text} {place}"
        new = _new_tags(clip.tags, text)[:_MOST_TAGS]
        if not text:
            return " and ".join(new)
        return f"{text}, with {' and '.join(new)}" if new else text


def _subject(text: str) -> str:
    """ "a brown dog" of "a brown dog runs in a park": what comes before the first verb."""
    found = []
    for word in text.split():
        plain = word.strip(",;").lower()
        verb = any(base in KINDS["actions"] for base in bases(plain)) and plain not in KINDS["sources"]
        if found and (verb or plain in ("is", "are", "in", "on", "at", "with", "and", "who", "that", "near")):
            break
        found.append(word.strip(",;"))
    return " ".join(found) if keywords(" ".join(found)).sources and len(found) <= 5 else ""


def _place(text: str, seen: Keywords) -> str:
    """ "in a park": a preposition with the first scene behind it, at most four words apart."""
    scene = seen.scenes[0]
    pattern = rf"\b((?:in|on|at|near|inside|outside|by) (?:\w+ ){{0,3}}{re.escape(scene)}s?)\b"
    found = re.search(pattern, text)
    return found[1] if found else ""


def _begins_with_action(text: str) -> bool:
    first = words(text)[:1]
    return bool(first) and first[0].endswith("ing") and not is_clause(text)


def _new_tags(tags: Iterable[str], text: str) -> list[str]:
    """Tags of which no word is in the text, each once, in lower case."""
    said = {base for word in words(text) for base in bases(word)}
    new: list[str] = []
    for tag in dict.fromkeys(tidy(tag.replace("_", " ")).lower() for tag in tags):
        own = {base for word in words(tag) for base in bases(word)}
        if own and not own & said:
            new.append(tag)
            said |= own
    return new
