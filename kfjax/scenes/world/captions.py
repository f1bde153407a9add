"""What a scene sounds like, in words: small vocabulary, lower case, always naming what is heard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kfjax.scenes.world.event import Event
from kfjax.scenes.world.stage import Act

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MATERIALS = {
    "wood": ("wooden", "wood"),
    "metal": ("metal", "steel"),
    "glass": ("glass",),
    "rubber": ("rubber",),
    "stone": ("stone",),
}
_NOISES = {
    "wood": ("knock", "thud"),
    "metal": ("clang", "clank"),
    "glass": ("clink", "chime"),
    "rubber": ("thump", "bump"),
    "stone": ("clack", "crack"),
}
_SILENCES = ("silence", "nothing can be heard", "no sound at all", "a silent scene", "complete silence")

#: {what}: "a glass ball" or "glass balls"; {s}: the verb's ending; {noises}: "three clinks".
_IMPACTS = {
    "bouncing": (
        "{what} bounce{s} on the floor, {noises}",
        "{what} bounce{s} on the floor",
        "{what} bouncing",
        "{noises} of {what} bouncing",
        "{what} fall{s} and bounce{s}",
        "the sound of {what} bouncing",
    ),
    "falling": (
        "{what} fall{s} on the floor, {noises}",
        "{what} falling down",
        "{what} drop{s}, {noises}",
        "{what} drop{s} to the ground",
        "the sound of {what} falling",
    ),
    "hammer": (
        "a hammer strikes {what}, {noises}",
        "a hammer strikes {what}",
        "hammering on {what}",
        "{noises} of {what} under a hammer",
        "a hammer hits {what}",
    ),
    "rolling": (
        "{what} roll{s} and drop{s}, {noises}",
        "{what} rolling",
        "the sound of {what} rolling",
        "{what} roll{s} along",
        "rolling of {what}",
    ),
    "sliding": (
        "{what} slide{s} along, {noises}",
        "{what} sliding",
        "the sound of {what} sliding",
        "{what} slide{s} and scrape{s}",
        "scraping of {what} sliding along",
    ),
}
_OTHERS = {
    "footsteps": (
        "{weight} footsteps on {thing}",
        "{weight} steps on {thing}",
        "someone walks on {thing}, {weight} footsteps",
        "the sound of {weight} footsteps on {thing}",
        "{pace} {weight} footsteps on {thing}",
    ),
    "clock": (
        "a clock is ticking",
        "a {how} ticking clock",
        "the {how} ticking of a clock",
        "a clock ticks",
        "a clock ticks {how}",
    ),
    "bell": (
        "a bell rings",
        "a bell is ringing",
        "the ringing of a bell",
        "a bell rings {noises} times",
        "the sound of a bell",
    ),
    "piano": ("a piano plays", "notes on a piano", "someone plays the piano", "a piano melody", "{noises} piano notes"),
    "rain": ("{degree} rain", "{degree} rain is falling", "the sound of {degree} rain", "{degree} rain on the ground"),
    "wind": (
        "{degree} wind",
        "{degree} wind blows in a tree",
        "the sound of {degree} wind",
        "a {degree} wind is blowing",
    ),
    "fire": ("a {degree} fire", "a {degree} fire burns", "a crackling fire", "the crackling of a {degree} fire"),
    "engine": (
        "a {thing} passes by",
        "the engine of a {thing} passing by",
        "a {thing} drives past, its engine running",
        "the sound of an engine passing",
    ),
}
_JOINTS = ("{one} and {other}", "{one} with {other}", "{other} and {one}")
_DEGREES = {"strong": ("strong", "heavy"), "light": ("light", "soft"), "": ("",)}


def describe(recipe: str, act: Act, events: Sequence[Event], rng: np.random.Generator, *, clause: bool = False) -> str:
    """A caption of an act of a recipe; `events` are those that are heard, and nothing else is named.

    A `clause` has no comma, so that it can be joined to another.
    """
    if not events:
        return _pick(_SILENCES, rng)
    if act.parts:
        heard = [(name, part, [event for event in part.events if event in events]) for name, part in act.parts]
        words = [describe(name, part, own, rng, clause=True) for name, part, own in heard if own]
        return words[0] if len(words) == 1 else _pick(_JOINTS, rng).format(one=words[0], other=words[1])
    templates = [text for text in (_IMPACTS | _OTHERS)[recipe] if not clause or "," not in text]
    text = (_impact if recipe in _IMPACTS else _other)(templates, act, events, rng)
    return " ".join(text.split())


def _impact(templates: list[str], act: Act, events: Sequence[Event], rng: np.random.Generator) -> str:
    struck = [event.source for event in events if event.struck]
    material = struck[0] if struck else events[0].material
    name, noise = _pick(_MATERIALS[material], rng), _pick(_NOISES[material], rng)
    several = act.details["count"] != "one"
    what = f"{name} {_plural(act.thing)}" if several else f"a {name} {act.thing}"
    templates = [text for text in templates if struck or "{noises}" not in text]
    noises = f"{_amount(len(struck))} {noise if len(struck) == 1 else noise + 's'}"
    return _pick(templates, rng).format(what=what, noises=noises, s="" if several else "s")


def _other(templates: list[str], act: Act, events: Sequence[Event], rng: np.random.Generator) -> str:
    details = act.details
    degree = _pick(_DEGREES[details["degree"]], rng) if "degree" in details else ""
    noises = _amount(len(events)) if len(events) > 1 else "a few"
    return _pick(templates, rng).format(
        thing=act.thing,
        degree=degree,
        noises=noises,
        how=details["how"] if details.get("how") in ("fast", "slow") else "",
        weight=details.get("weight", ""),
        pace=details.get("pace", ""),
    )


def _amount(count: int) -> str:
    return _COUNTS[count] if count < len(_COUNTS) else "many"


def _plural(thing: str) -> str:
    return thing + ("es" if thing.endswith("x") else "s")


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
