"""A scene: one short film with its sound, its caption and its exact ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kfjax import media
from kfjax.scenes.world.backdrop import make_backdrop
from kfjax.scenes.world.captions import describe
from kfjax.scenes.world.draw import Camera
from kfjax.scenes.world.event import SOURCES, Event
from kfjax.scenes.world.recipes import RECIPES, SPLITS, colours, combination_of, random_stream
from kfjax.scenes.world.sound import render_sound
from kfjax.scenes.world.stage import FPS, Setting, Stage, heard
from kfjax.scenes.world.weather import clouds

_SAMPLE_RATE_HZ = 44100
WIDE_SIZES = ((160, 90), (192, 108), (256, 144), (320, 180), (160, 120), (240, 180), (320, 240), (200, 160))
UPRIGHT_SIZES = ((90, 160), (108, 192), (144, 256), (120, 160), (180, 240), (128, 128), (192, 192))


@dataclass(frozen=True)
class Scene:
    """What a film shows and what is heard in it.

    Attributes:
      seed, split, recipe, duration_seconds: what `make_scene` needs to make exactly this scene again.
      size: (width, height) of its own frames, pixels.
      events: all that sounds, in order of time.
      caption: a lower-case sentence that says what is heard.
      sources: what is heard, from `SOURCES`; empty for silence.
      combination: "subject|recipe|background", the key by which combinations are held out.
    """

    seed: int
    split: str
    recipe: str
    duration_seconds: float
    size: tuple[int, int]
    events: tuple[Event, ...]
    caption: str
    sources: tuple[str, ...]
    combination: str
    fps: float = FPS
    stage: Stage | None = field(default=None, repr=False, compare=False)

    @property
    def frame_count(self) -> int:
        """Frames of the film, round(25 x seconds)."""
        return round(self.duration_seconds * self.fps)

    def frames(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 [frames, h, w, 3] RGB at (width, height) `size`, its own by default; the picture is stretched to it."""
        width, height = self.size if size is None else size
        stage = self.stage
        if stage is None:
            stage = make_scene(
                self.seed, duration_seconds=self.duration_seconds, split=self.split, recipe=self.recipe
            ).stage
            assert stage is not None
        return stage.frames(self.frame_count, width, height)

    def sound(self, sample_rate_hz: int = 44100) -> np.ndarray:
        """float32 [samples, 2], samples = round(seconds x rate)."""
        return render_sound(self.events, self.duration_seconds, self.seed, sample_rate_hz)

    def to_dict(self) -> dict[str, Any]:
        """The scene's metadata, ready for JSON."""
        return {name: value for name, value in asdict(_without_stage(self)).items() if name != "stage"}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Scene:
        """The scene of `to_dict`; its frames can be drawn again."""
        events = tuple(
            Event(**{**event, "path": tuple(tuple(sample) for sample in event["path"])}) for event in values["events"]
        )
        return Scene(**{**values, "size": tuple(values["size"]), "sources": tuple(values["sources"]), "events": events})


def _without_stage(scene: Scene) -> Scene:
    """asdict copies deeply; the stage is neither small nor metadata."""
    fields = {name: getattr(scene, name) for name in scene.__dataclass_fields__ if name != "stage"}
    return Scene(**fields)


def make_scene(seed: int, *, duration_seconds: float = 8.0, split: str = "train", recipe: str | None = None) -> Scene:
    """Makes scene number `seed` of a split; the same arguments always give the same scene.

    Args:
      seed: any integer from 0; scenes of the two splits never coincide.
      duration_seconds: 0.2 to 120.
      split: "train", or "heldout" for combinations of subject, recipe and background that "train" never shows.
      recipe: one of `RECIPES`, or None for any.
    """
    _check(seed, duration_seconds, split, recipe)
    combination = combination_of(seed, split, recipe)
    rng = random_stream(seed, split, "scene")
    kind = RECIPES[combination.recipe]
    sizes = WIDE_SIZES if not kind.upright or rng.uniform() < 0.65 else UPRIGHT_SIZES
    size = sizes[int(rng.integers(len(sizes)))]
    setting = _setting(size[0] / size[1], duration_seconds, rng)
    backdrop = make_backdrop(combination.family, setting.floor, colours(combination), rng)
    act = kind.perform(combination.subject, setting, rng)
    events = heard(act.events, duration_seconds)
    sources = tuple(source for source in SOURCES if any(event.source == source for event in events))
    # things that move and make no sound, so that motion alone does not mean sound
    extras = [clouds(setting, rng)] if rng.uniform() < 0.12 else []
    stage = Stage(setting.aspect, backdrop, setting.camera, float(rng.uniform(0.85, 1.12)), extras + act.actors)
    return Scene(
        seed=seed,
        split=split,
        recipe=combination.recipe,
        duration_seconds=duration_seconds,
        size=size,
        events=events,
        caption=describe(combination.recipe, act, events, rng),
        sources=sources,
        combination=str(combination),
        stage=stage,
    )


def _setting(aspect: float, duration_seconds: float, rng: np.random.Generator) -> Setting:
    pan = rng.uniform(-0.16, 0.16) / max(duration_seconds, 4.0) if rng.uniform() < 0.25 else 0.0
    x, y = rng.uniform(-0.04, 0.04, 2)
    camera = Camera(float(x - pan * duration_seconds / 2), float(y), float(pan))
    return Setting(duration_seconds, aspect, float(rng.uniform(0.82, 0.92)), camera, 0.02, aspect - 0.02)


def _check(seed: int, duration_seconds: float, split: str, recipe: str | None) -> None:
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected an integer from 0; pass another seed")
    if not 0.2 <= duration_seconds <= 120:
        raise ValueError(f"duration_seconds: got {duration_seconds}, expected 0.2 to 120; make several scenes instead")
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
    if recipe is not None and recipe not in RECIPES:
        raise ValueError(f"recipe: got {recipe!r}, expected one of {', '.join(RECIPES)}")


def write_mp4(scene: Scene, path: str | Path, *, silent: bool = False) -> None:
    """Writes the scene as an ordinary mp4 (H.264 and AAC), `silent` without sound; nothing is left when it fails."""
    sound = (None, None) if silent else (scene.sound(_SAMPLE_RATE_HZ), _SAMPLE_RATE_HZ)
    media.write_video(path, scene.frames(), scene.fps, *sound)
