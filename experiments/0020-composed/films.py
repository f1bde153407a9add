"""Scenes made of scenes, as `render_corpus` takes them: (seed, duration_seconds=, split=) -> what it renders.

The training excerpts are composed by `kfjax.data.augment`, as `kfjax extract --augment` does with files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kfjax.data import augment
from kfjax.data.augment import Clip
from kfjax.scenes import RECIPES, Scene, make_scene
from kfjax.scenes.world.event import Event
from kfjax.scenes.world.recipes import random_stream
from kfjax.scenes.world.stage import FPS

RATE_HZ = 44100
#: Recipes of one thing that sounds.
SINGLE = tuple(name for name in RECIPES if name not in ("several", "silence"))
WAYS = ("before", "during", "repeated")


@dataclass(frozen=True)
class Film:
    """What takes the place of a scene where a corpus is rendered."""

    scene: Scene  # the metadata that is kept
    clip: Clip

    def frames(self, size: tuple[int, int]) -> np.ndarray:
        assert self.clip.frames[0].shape[1:3] == size[::-1]
        return self.clip.frames[0]

    def sound(self, sample_rate_hz: int) -> np.ndarray:
        assert sample_rate_hz == RATE_HZ
        return self.clip.wave

    def to_dict(self) -> dict:
        return self.scene.to_dict()


def single(seed: int, *, duration_seconds: float, split: str) -> Scene:
    """A scene of one recipe, by the world's weights."""
    weights = np.array([RECIPES[name].weight for name in SINGLE])
    drawn = random_stream(seed, split, "single").choice(len(SINGLE), p=weights / weights.sum())
    return make_scene(seed, duration_seconds=duration_seconds, split=split, recipe=SINGLE[int(drawn)])


def several(seed: int, *, duration_seconds: float, split: str) -> Scene:
    """A scene of the world's own with two recipes at once."""
    return make_scene(seed, duration_seconds=duration_seconds, split=split, recipe="several")


def in_a_row(seed: int, *, duration_seconds: float, split: str) -> Film:
    """Two scenes of half the duration, one after the other; their events are known."""
    half = duration_seconds / 2
    scenes = [single(2 * seed + k, duration_seconds=half, split=split) for k in (0, 1)]
    clips = [clip_of(scene) for scene in scenes]
    caption = together(*(scene.caption for scene in scenes))
    events = (*scenes[0].events, *(later(event, half) for event in scenes[1].events))
    sources = tuple(dict.fromkeys(scenes[0].sources + scenes[1].sources))
    scene = replace(scenes[0], seed=seed, duration_seconds=duration_seconds, caption=caption, events=events,
                    sources=sources, stage=None)  # fmt: skip
    wave, frames = (
        np.concatenate(parts) for parts in zip(*((clip.wave, clip.frames[0]) for clip in clips), strict=True)
    )
    return Film(scene, clips[0]._replace(wave=wave, frames=(frames,), caption=caption, seconds=duration_seconds))


def composed(seed: int, *, duration_seconds: float, split: str) -> Film:
    """Two scenes one after the other or at once, or the event of one of them several times; no events are noted."""
    rng = random_stream(seed, split, "composed")
    scenes = [single(2 * seed + k, duration_seconds=duration_seconds, split=split) for k in (0, 1)]
    one, other = map(clip_of, scenes)
    caption, way = together(one.caption, other.caption), WAYS[int(rng.integers(len(WAYS)))]
    made = augment.repeated(one, rng) if way == "repeated" else None
    if made is None:  # no short event
        compose = augment.during if way == "during" else augment.before
        made = compose(one, other, rng, caption=caption)
    return Film(replace(scenes[0], seed=seed, caption=made.caption, events=(), stage=None), made)


def together(one: str, other: str) -> str:
    """Both captions in words that the built-in model's tokenizer knows: it has no "then" and no "while"."""
    return " and ".join(dict.fromkeys(caption.replace(",", "") for caption in (one, other)))


def clip_of(scene: Scene, size: int = 64) -> Clip:
    return Clip(scene.sound(RATE_HZ), RATE_HZ, (scene.frames((size, size)),), (FPS,), scene.caption,
                scene.duration_seconds)  # fmt: skip


def later(event: Event, seconds: float) -> Event:
    path = tuple((time + seconds, x, loudness) for time, x, loudness in event.path)
    return replace(event, time_seconds=event.time_seconds + seconds, path=path)
