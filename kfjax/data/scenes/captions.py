"""What a scene sounds like, in words: small vocabulary, lower case, always naming what is heard."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kfjax.data.scenes.event import Event
from kfjax.data.scenes.stage import Act

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NOISES = {"wood": ("knock", "thud"), "metal": ("clang", "ring"), "glass": ("clink", "chime"),
           "rubber": ("thump", "bounce"), "stone": ("clack", "crack")}
_NAMES = {"wood": ("wooden", "wood"), "metal": ("metal", "steel"), "glass": ("glass",), "rubber": ("rubber",),
          "stone": ("stone",)}
_SILENCES = ("silence", "nothing can be heard", "no sound at all", "a silent scene", "complete silence")
_TEMPLATES = {
    "bouncing": ("{a} {thing} bounces on the floor, {noises}", "{a} {thing} bouncing", "{noises} of {a} bouncing {thing}",
                 "the sound of {a} {thing} that falls and bounces"),
    "falling": ("{a} {thing} falls on the floor, {noises}", "{a} {thing} falling down", "{a} {thing} drops, {noises}",
                "the sound of {a} falling {thing}"),
    "hammer": ("a hammer strikes {a} {thing}, {noises}", "hammering on {a} {thing}", "{a} {thing} is hit by a hammer",
               "{noises} of {a} {thing} under a hammer"),
    "rolling": ("{a} {thing} rolls and drops, {noises}", "{a} {thing} rolling", "the sound of {a} rolling {thing}",
                "{a} {thing} rolls along and falls"),
    "sliding": ("{a} {thing} slides along, {noises}", "{a} {thing} sliding and scraping",
                "the sound of {a} sliding {thing}", "scraping of {a} {thing} that slides"),
}


def describe(recipe: str, act: Act, events: Sequence[Event], rng: np.random.Generator) -> str:
    """A caption of an act of a recipe; what cannot be heard is not named."""
    if not events:
        return _pick(_SILENCES, rng)
    return _impacts(recipe, act, events, rng)


def _impacts(recipe: str, act: Act, events: Sequence[Event], rng: np.random.Generator) -> str:
    material = next((e.source for e in events if e.source in _NAMES), events[0].material)
    count = sum(e.source == material for e in events)
    name, noise = _pick(_NAMES[material], rng), _pick(_NOISES[material], rng)
    article = "a" if act.details["count"] == "one" else _pick(("a", "one", "a"), rng)
    amount = _COUNTS[count] if count <= 10 else "many"
    noises = f"{amount} {noise}{'' if count == 1 else 's'}" if count else f"a quiet {noise}"
    text = _pick(_TEMPLATES[recipe], rng)
    return text.format(a=f"{article} {name}", thing=act.thing, noises=noises)


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
