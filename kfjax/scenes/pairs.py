"""Scenes and prompts with two sources, for tests of the negative prompt.

A part is (recipe, subject): ("hammer", "glass"), ("rain", "rain").
"""

from __future__ import annotations

from kfjax.scenes import MATERIALS, Scene

Part = tuple[str, str]

#: Recipe -> words about a subject, as captions have them.
_WORDS = {
    "bouncing": "a {adjective} ball bouncing",
    "hammer": "a hammer strikes a {adjective} block",
    "footsteps": "footsteps on {subject}",
    "clock": "a clock is ticking",
    "bell": "a bell rings",
    "piano": "a piano plays",
    "rain": "rain",
    "wind": "wind",
    "fire": "a crackling fire",
}
_FRONTS: tuple[Part, ...] = (
    *(("hammer", material) for material in MATERIALS),
    ("clock", "clock"),
    ("bell", "bell"),
    ("piano", "piano"),
)

#: Pairs to be generated from text alone.
TEXT_PAIRS: tuple[tuple[Part, Part], ...] = tuple(
    (front, (weather, weather)) for weather in ("rain", "wind", "fire") for front in _FRONTS
)


def pair_of(scene: Scene) -> tuple[Part, Part] | None:
    """The two parts of a scene in which both are heard; None for other scenes."""
    subject, recipe, _ = scene.combination.split("|")
    if recipe != "several":
        return None
    front, back = (_part(words) for words in subject.split("+"))
    return (front, back) if {source_of(front), source_of(back)} == set(scene.sources) else None


def _part(words: str) -> Part:
    recipe, subject = words.split(":")
    return recipe, subject


def source_of(part: Part) -> str:
    """The source of a part."""
    recipe, subject = part
    return subject if recipe in ("bouncing", "hammer") else recipe


def words_for(part: Part) -> str:
    """The prompt of a part."""
    recipe, subject = part
    return _WORDS[recipe].format(subject=subject, adjective="wooden" if subject == "wood" else subject)
