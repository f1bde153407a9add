"""The recipes of the built-in world, and which of their combinations are held out."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kfjax.scenes.world.backdrop import FAMILIES
from kfjax.scenes.world.draw import Colour
from kfjax.scenes.world.event import MATERIALS
from kfjax.scenes.world.impacts import bouncing, falling, rolling, sliding
from kfjax.scenes.world.materials import LOOKS
from kfjax.scenes.world.mechanisms import (
    BELL_COLOUR,
    CLOCK_COLOURS,
    HAMMER_COLOURS,
    PIANO_COLOURS,
    bell,
    clock,
    hammer,
    piano,
)
from kfjax.scenes.world.stage import Act, Setting
from kfjax.scenes.world.travellers import GROUNDS, WALKER_COLOURS, engine, footsteps
from kfjax.scenes.world.weather import FLAME_COLOURS, RAIN_COLOUR, TREE_COLOURS, fire, rain, silence, wind

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Recipe:
    """A kind of scene.

    Attributes:
      perform: (subject, setting, rng) -> what happens.
      subjects: what it can be about: a material, a ground, a source, or two "recipe:subject" joined by "+".
      weight: its share of the scenes.
      colours: colours of its own that the background stays away from.
      upright: whether pictures taller than wide suit it.
    """

    perform: Callable[[str, Setting, np.random.Generator], Act]
    subjects: tuple[str, ...]
    weight: float
    colours: tuple[Colour, ...] = ()
    upright: bool = True


def several(subject: str, setting: Setting, rng: np.random.Generator) -> Act:
    """Two recipes at once, "recipe:subject+recipe:subject", side by side; weather fills the whole picture."""
    names = [part.split(":") for part in subject.split("+")]
    middle = (setting.left + setting.right) / 2
    halves = [replace(setting, right=middle), replace(setting, left=middle)]
    if rng.uniform() < 0.5:
        halves.reverse()
    acts = []
    for (recipe, own), half in zip(names, halves, strict=True):
        place = setting if recipe in ("rain", "footsteps") else half
        acts.append(RECIPES[recipe].perform(own, place, rng))
    return Act(
        [actor for act in acts for actor in act.actors],
        [event for act in acts for event in act.events],
        parts=tuple((recipe, act) for (recipe, _), act in zip(names, acts, strict=True)),
    )


_PAIRS = tuple(
    f"{front}+{back}"
    for fronts, backs in (
        (
            [f"{recipe}:{m}" for recipe in ("bouncing", "hammer") for m in MATERIALS],
            ("rain:rain", "wind:wind", "fire:fire", "clock:clock", "bell:bell"),
        ),
        ([f"footsteps:{ground}" for ground in GROUNDS], ("rain:rain", "bell:bell")),
        (["clock:clock", "bell:bell", "piano:piano"], ("rain:rain", "wind:wind", "fire:fire")),
    )
    for front in fronts
    for back in backs
)

RECIPES = {
    "bouncing": Recipe(bouncing, MATERIALS, 0.17),
    "falling": Recipe(falling, MATERIALS, 0.11),
    "hammer": Recipe(hammer, MATERIALS, 0.11, HAMMER_COLOURS),
    "rolling": Recipe(rolling, MATERIALS, 0.06, upright=False),
    "sliding": Recipe(sliding, MATERIALS, 0.05, upright=False),
    "footsteps": Recipe(footsteps, tuple(GROUNDS), 0.06, WALKER_COLOURS, upright=False),
    "clock": Recipe(clock, ("clock",), 0.05, CLOCK_COLOURS),
    "bell": Recipe(bell, ("bell",), 0.06, (BELL_COLOUR,)),
    "piano": Recipe(piano, ("piano",), 0.07, PIANO_COLOURS, upright=False),
    "rain": Recipe(rain, ("rain",), 0.03, (RAIN_COLOUR,)),
    "wind": Recipe(wind, ("wind",), 0.03, TREE_COLOURS),
    "fire": Recipe(fire, ("fire",), 0.03, FLAME_COLOURS),
    "engine": Recipe(engine, ("engine",), 0.05, upright=False),
    "several": Recipe(several, _PAIRS, 0.09, upright=False),
    "silence": Recipe(silence, ("clouds", "bubbles", "rest"), 0.03),
}


def random_stream(seed: int, split: str, name: str) -> np.random.Generator:
    """A random generator of its own for every seed, split and name."""
    return np.random.default_rng([seed, zlib.crc32(f"{split}/{name}".encode())])


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


def combination_of(seed: int, split: str, recipe: str | None = None) -> Combination:
    """What scene `seed` of a split is about; of a given recipe or of any."""
    rng = random_stream(seed, split, "combination")
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
    if combination.recipe == "several":
        parts = (part.split(":") for part in combination.subject.split("+"))
        own = [Combination(recipe, subject, combination.family) for recipe, subject in parts]
        return [colour for part in own for colour in colours(part)]
    own = [LOOKS[combination.subject].colour] if combination.subject in LOOKS else []
    return own + list(RECIPES[combination.recipe].colours)
