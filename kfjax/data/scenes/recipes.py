"""The recipes of the built-in world, and which of their combinations are held out."""
from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kfjax.data.scenes.backdrop import FAMILIES
from kfjax.data.scenes.draw import Colour
from kfjax.data.scenes.event import MATERIALS
from kfjax.data.scenes.impacts import bouncing, falling, hammer, rolling, sliding
from kfjax.data.scenes.materials import LOOKS
from kfjax.data.scenes.stage import Act, Setting

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Recipe:
    """A kind of scene.

    Attributes:
      perform: (subject, setting, rng) -> what happens.
      subjects: what it can be about: a material, or a source, or two recipes joined by "+".
      weight: its share of the scenes.
      colours: colours of its own that the background stays away from.
      upright: whether pictures taller than wide suit it.
    """

    perform: Callable[[str, Setting, np.random.Generator], Act]
    subjects: tuple[str, ...]
    weight: float
    colours: tuple[Colour, ...] = ()
    upright: bool = True


RECIPES = {
    "bouncing": Recipe(bouncing, MATERIALS, 0.17),
    "falling": Recipe(falling, MATERIALS, 0.12),
    "hammer": Recipe(hammer, MATERIALS, 0.12, ((112.0, 52.0, 128.0), (222.0, 186.0, 70.0))),
    "rolling": Recipe(rolling, MATERIALS, 0.07, upright=False),
    "sliding": Recipe(sliding, MATERIALS, 0.06, upright=False),
}


@dataclass(frozen=True)
class Combination:
    """What a scene is about: recipe, subject and the family of its background."""

    recipe: str
    subject: str
    family: str

    def __str__(self) -> str:
        return f"{self.subject}|{self.recipe}|{self.family}"


def held_out_family(recipe: str, subject: str) -> str:
    """The one background family in which this subject of this recipe is never trained on (1 of 7: 14 %)."""
    return FAMILIES[zlib.crc32(f"{recipe}/{subject}".encode()) % len(FAMILIES)]


def is_held_out(combination: Combination) -> bool:
    """Whether a combination belongs to the held-out split."""
    return combination.family == held_out_family(combination.recipe, combination.subject)


def choose(rng: np.random.Generator, split: str, recipe: str | None) -> Combination:
    """A random combination of a split, of a given recipe or of any."""
    names = list(RECIPES)
    weights = np.array([RECIPES[name].weight for name in names])
    drawn = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    recipe = drawn if recipe is None else recipe
    subject = str(rng.choice(RECIPES[recipe].subjects))
    held = held_out_family(recipe, subject)
    trained = [family for family in FAMILIES if family != held]
    family = held if split == "heldout" else trained[int(rng.integers(len(trained)))]
    return Combination(recipe, subject, family)


def colours(combination: Combination) -> list[Colour]:
    """Colours that must be told from the background."""
    parts = combination.subject.split("+")
    own = [LOOKS[part].colour for part in parts if part in LOOKS]
    return own + list(RECIPES[combination.recipe].colours)
