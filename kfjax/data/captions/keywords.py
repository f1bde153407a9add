"""Keywords of a text, by kind, as section 5 of the paper (arXiv 2506.19774) lists them."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from typing import NamedTuple

from kfjax.data.captions.words import COUNTS, JOINTS, KINDS, bases

#: What a caption does not end in.
_ENDS = ".;,:!? "
#: Characters of a caption at most; text encoders read 77 tokens or 512.
LONGEST = 400


class Keywords(NamedTuple):
    """Words of a text in their order, each once, as they stand in a dictionary. A word may be of several kinds."""

    sources: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    emotions: tuple[str, ...] = ()
    genders: tuple[str, ...] = ()
    modifiers: tuple[str, ...] = ()


def keywords(text: str) -> Keywords:
    """By a list of some 500 words (`words.KINDS`): others are not found. Offline and deterministic."""
    found: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
    for word in words(text):
        for kind, known in KINDS.items():
            if base := next((base for base in bases(word) if base in known), None):
                found[kind][base] = None
    return Keywords(**{kind: tuple(own) for kind, own in found.items()})


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return re.findall(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*", text.lower())


def tidy(text: str) -> str:
    """A text as captions are written here: one line without a full stop, its first word in lower case.

    Quotes around the whole go, those of what somebody says stay. A first word that is no ordinary one ("TV", "I")
    stays. At most `LONGEST` characters, cut between words.
    """
    plain = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cf", "Cs") else c for c in text)
    plain = re.sub(r"\s+", " ", plain).strip().rstrip(_ENDS)
    if whole := re.fullmatch('["“”]*([^"“”]*)["“”]*', plain):
        plain = whole[1].strip().rstrip(_ENDS)
    first, _, rest = plain.partition(" ")
    if first[1:].islower() or first == "A":
        first = first[:1].lower() + first[1:]
    plain = f"{first} {rest}" if rest else first
    if len(plain) <= LONGEST:
        return plain
    return plain[: LONGEST + 1].rpartition(" ")[0].rstrip(_ENDS) or plain[:LONGEST]


def is_clause(text: str) -> bool:
    """Whether the caption has a verb, "a dog barks", and is not only a name, "a dog barking", "heavy rain".

    Known are the third persons of `words.KINDS["actions"]` after another word, and "is" and "are".
    """
    said = words(text)
    if {"is", "are"} & set(said):
        return True
    return any(
        word.endswith("s") and not word.endswith("ss") and _acts(word) and before not in _ARTICLES
        for before, word in pairwise(said)
    )


#: After these a word is a noun, whatever else it may be: "three claps", "the barks of a dog".
_ARTICLES = COUNTS | {"a", "an", "the", "of", "and", "with", "some", "loud", "soft", "distant"}


def _acts(word: str) -> bool:
    return any(base in KINDS["actions"] for base in bases(word)[1:])


def is_single(text: str) -> bool:
    """Whether the caption seems to name one event: there is one, and no word or comma joins two."""
    said = words(text)
    return bool(said) and not JOINTS & set(said) and not re.search(r"[,;:&/+.]\s*\S|[!?]\s+\S", text.strip())


def is_countable(text: str) -> bool:
    """Whether the caption does not say yet how often."""
    return not COUNTS & set(words(text)) and not re.search(r"\d", text)


def names_side(text: str) -> bool:
    """Whether the caption says left or right."""
    return any({"left", "right"} & set(word.split("-")) for word in words(text))
