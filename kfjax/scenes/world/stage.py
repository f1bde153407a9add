"""The place a scene happens in, and the pictures of what happens there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np

from kfjax.scenes.world.backdrop import MARGIN, Backdrop
from kfjax.scenes.world.draw import Camera, Canvas
from kfjax.scenes.world.event import Event

FPS = 25.0
_FINE_PIXELS = 160  # smaller pictures are drawn larger, at least so, and averaged: they look like resized films

#: Draws one thing as it is at a time (seconds).
Actor = Callable[[Canvas, float], None]


@dataclass(frozen=True)
class Setting:
    """Where a recipe may put things: world x from `left` to `right`, the ground at y = `floor`."""

    duration_seconds: float
    aspect: float
    floor: float
    camera: Camera
    left: float
    right: float

    @property
    def width(self) -> float:
        """Width of the free space, in picture heights."""
        return self.right - self.left

    def seen_x(self, x: float, time_seconds: float) -> float:
        """Position in the picture, -1 (left edge) to 1, of world `x` at a time."""
        return float(2 * (x - self.camera.left(time_seconds)) / self.aspect - 1)


@dataclass(frozen=True)
class Act:
    """What happens: who is drawn (back to front), what is heard, and what a caption calls it.

    An act made of several has them as `parts`, (recipe, act) each.
    """

    actors: list[Actor]
    events: list[Event]
    thing: str = ""
    details: dict[str, str] = field(default_factory=dict)
    parts: tuple[tuple[str, Act], ...] = ()


@dataclass(frozen=True)
class Stage:
    """All that is needed to draw a scene at any size."""

    aspect: float
    backdrop: Backdrop
    camera: Camera
    brightness: float
    actors: list[Actor]

    def frames(self, count: int, width: int, height: int) -> np.ndarray:
        """uint8 [count, height, width, 3] RGB, frame k at k / 25 s; the whole picture is stretched to the size."""
        fine = max(1, -(-_FINE_PIXELS // min(width, height)))
        drawn = (width * fine, height * fine)
        ground = self.backdrop.paint(*drawn, self.aspect)
        film = np.empty((count, height, width, 3), np.uint8)
        for index in range(count):
            image = self._frame(ground, index / FPS, drawn)
            film[index] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) if fine > 1 else image
        return film

    def _frame(self, ground: np.ndarray, time_seconds: float, drawn: tuple[int, int]) -> np.ndarray:
        left, top = self.camera.left(time_seconds), self.camera.y
        scale_x, scale_y = drawn[0] / self.aspect, drawn[1]
        shift = np.array([[1, 0, (left + MARGIN) * scale_x], [0, 1, (top + MARGIN) * scale_y]])
        image = cv2.warpAffine(
            ground, shift, drawn, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        canvas = Canvas(image, (self.aspect, 1.0), (left, top))
        for actor in self.actors:
            actor(canvas, time_seconds)
        return image if self.brightness == 1.0 else cv2.convertScaleAbs(image, alpha=self.brightness)


def heard(events: Iterable[Event], duration_seconds: float) -> tuple[Event, ...]:
    """The events that sound: in the picture and in time; of struck ones within 50 ms of one source, the loudest."""
    kept: list[Event] = []
    for event in sorted(events, key=lambda e: (-e.loudness, e.time_seconds)):
        inside = abs(event.x) <= 1 and 0 <= event.time_seconds < duration_seconds - 0.02
        near = event.struck and any(
            other.struck and other.source == event.source and abs(other.time_seconds - event.time_seconds) < 0.05
            for other in kept
        )
        if inside and not near:
            kept.append(event)
    return tuple(sorted(kept, key=lambda e: (e.time_seconds, e.source)))
