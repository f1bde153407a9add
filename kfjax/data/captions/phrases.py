"""Sentences about several events, from a caption of each. Templates are drawn by `rng`, so that they vary."""

from __future__ import annotations

import re

import numpy as np

from kfjax.data.captions.keywords import is_clause

QUALITIES = ("high quality", "low quality")
_TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
_SEVERAL = "several times"


def before(first: str, second: str, rng: np.random.Generator) -> str:
    """That the second follows the first."""
    templates = ["{first}, then {second}", "{first}, and then {second}", "{first} before {second}", "first {first}, "
                 "then {second}"]  # fmt: skip
    return _said(templates + ([] if is_clause(second) else ["{first}, followed by {second}"]), first, second, rng)


def after(first: str, second: str, rng: np.random.Generator) -> str:
    """The same, beginning with what is heard last."""
    return _said(["{second} after {first}", "{second}, after {first}"], first, second, rng)


def during(one: str, other: str, rng: np.random.Generator) -> str:
    """That both are heard at once."""
    if is_clause(other):
        return _said(["{first} while {second}", "{first} and {second}", "{first} as {second}"], one, other, rng)
    return _said(["{first} with {second}", "{first} and {second}"], one, other, rng)


def repeated(caption: str, times: int) -> str:
    """How often it is heard: "a dog barks three times", "a door slam, twice"."""
    if not caption:
        return ""
    often = _TIMES.get(times, _SEVERAL)
    return f"{caption} {often}" if is_clause(caption) and not _progressive(caption) else f"{caption}, {often}"


def tagged(caption: str, quality: str, rng: np.random.Generator) -> str:
    """The caption and a tag of quality, as in MultiFoley (arXiv 2411.17698); the tag alone with a chance of 0.15."""
    if quality not in QUALITIES:
        raise ValueError(f"quality: got {quality!r}, expected one of {', '.join(QUALITIES)}")
    return quality if not caption or rng.random() < 0.15 else f"{caption}, {quality}"


#: "left" as a verb: what follows is left, or how.
_LEFT_VERB = (
    r"\b(?<!the )(?<!to )(?<!from )left (?:a|an|the|his|her|its|their|it|him|them|on|open|running|alone|behind)\b"
)


def turned(caption: str) -> str:
    """The caption of the mirrored picture: "left" and "right" change places, and nobody who left is right."""
    swap = {"left": "right", "right": "left"}
    return re.sub(rf"{_LEFT_VERB}|\b(left|right)\b", lambda found: swap.get(found[1], found[0]), caption)


def _progressive(caption: str) -> bool:
    return " is " in caption or " are " in caption


def _said(templates: list[str], first: str, second: str, rng: np.random.Generator) -> str:
    """Without one of the captions nothing is said: it would name a part only."""
    return templates[int(rng.integers(len(templates)))].format(first=first, second=second) if first and second else ""
