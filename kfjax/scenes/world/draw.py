"""Drawing in world units: a canvas, a camera, and sprites made of polygons.

World units: the picture is 1 high and `aspect` wide, y runs down. A canvas may have any pixel size; the world is
stretched over it, so the same scene can be drawn at its own size or directly at 64x64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[float, float, float]  # RGB, 0 to 255
_SHIFT = 4  # fractional bits of cv2's coordinates


@dataclass(frozen=True)
class Camera:
    """Where the picture's left upper corner lies: (x, y) at time 0, moving to the right by `pan` a second."""

    x: float = 0.0
    y: float = 0.0
    pan: float = 0.0

    def left(self, time_seconds: float) -> float:
        """World x of the picture's left edge."""
        return self.x + self.pan * time_seconds


class Canvas:
    """A picture (uint8 [h, w, 3], RGB, changed in place) of the world's rectangle `span` at `corner`."""

    def __init__(self, image: np.ndarray, span: tuple[float, float], corner: tuple[float, float] = (0.0, 0.0)) -> None:
        self.image = image
        height, width = image.shape[:2]
        self.scale = np.array([width / span[0], height / span[1]])
        self.offset = np.array(corner)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """World points [..., 2] as cv2's fixed-point pixel coordinates (a pixel's centre is a whole number)."""
        places = (np.asarray(points) - self.offset) * self.scale - 0.5
        return np.round(np.clip(places, -2000, 4000) * (1 << _SHIFT)).astype(np.int32)

    def polygon(self, points: np.ndarray, colour: Colour, opacity: float = 1.0) -> None:
        """Fills a polygon [n, 2]."""
        self._fill(self.pixels(points), colour, opacity)

    def _fill(self, places: np.ndarray, colour: Colour, opacity: float) -> None:
        if opacity >= 1.0:
            cv2.fillPoly(self.image, [places], colour, cv2.LINE_AA, _SHIFT)
            return
        height, width = self.image.shape[:2]
        low = np.clip((places.min(0) >> _SHIFT) - 1, 0, (width, height))
        high = np.clip((places.max(0) >> _SHIFT) + 3, 0, (width, height))
        if (high <= low).any():
            return
        patch = self.image[low[1] : high[1], low[0] : high[0]]
        painted = patch.copy()
        cv2.fillPoly(painted, [(places - (low << _SHIFT)).astype(np.int32)], colour, cv2.LINE_AA, _SHIFT)
        cv2.addWeighted(painted, opacity, patch, 1 - opacity, 0, dst=patch)

    def circle(self, centre: tuple[float, float], radius: float, colour: Colour, opacity: float = 1.0) -> None:
        """Fills a circle (an ellipse where the picture is stretched)."""
        self.polygon(np.asarray(centre) + radius * ROUND, colour, opacity)

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, opacity: float = 1.0
    ) -> None:
        """Fills an upright rectangle."""
        self.polygon(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), colour, opacity)

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour) -> None:
        """A thick straight line with square ends."""
        self.polygon(thick_line(start, end, width), colour)

    def strokes(self, segments: np.ndarray, colour: Colour, width: float) -> None:
        """Many thin lines at once, [n, 2, 2]."""
        along = segments[:, 1] - segments[:, 0]
        side = along[:, ::-1] * (-1, 1) / np.linalg.norm(along, axis=1, keepdims=True) * width / 2
        start, end = segments[:, 0], segments[:, 1]
        outlines = np.stack([start + side, end + side, end - side, start - side], axis=1)
        cv2.fillPoly(self.image, list(self.pixels(outlines)), colour, cv2.LINE_AA, _SHIFT)

    def sprite(
        self,
        sprite: Sprite,
        position: tuple[float, float],
        angle: float = 0.0,
        squash: tuple[float, float, float] = (0.0, 1.0, 0.0),
    ) -> None:
        """Draws a sprite turned by `angle` and flattened by `squash` = (direction x, direction y, amount 0 to 1)."""
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        if squash[2]:
            along = np.outer(squash[:2], squash[:2])
            turn = (np.eye(2) + 0.5 * squash[2] * (np.eye(2) - along) - squash[2] * along) @ turn
        places = self.pixels(sprite.points @ turn.T + np.asarray(position))
        parts = np.split(places, sprite.splits)
        for part, colour, opacity in zip(parts, sprite.colours, sprite.opacities, strict=True):
            self._fill(part, colour, opacity)


@dataclass(frozen=True)
class Part:
    """One polygon [n, 2] of a sprite."""

    points: np.ndarray
    colour: Colour
    opacity: float = 1.0


class Sprite:
    """Polygons that move together, painted in order."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.points = np.concatenate([part.points for part in parts])
        self.splits = np.cumsum([len(part.points) for part in parts])[:-1]
        self.colours = [part.colour for part in parts]
        self.opacities = [part.opacity for part in parts]


def regular_polygon(corners: int, phase: float = 0.0) -> np.ndarray:
    """Corners [n, 2] of a regular polygon in the unit circle."""
    angles = phase + 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def box(width: float, height: float) -> np.ndarray:
    """Corners [4, 2] of a rectangle around the origin."""
    return np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2


def thick_line(start: Sequence[float], end: Sequence[float], width: float) -> np.ndarray:
    """Corners [4, 2] of a straight bar."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    along = b - a
    side = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-9) * width / 2
    return np.array([a + side, b + side, b - side, a - side])


def rgb(values: Iterable[float]) -> Colour:
    """Three numbers as a colour."""
    red, green, blue = values
    return float(red), float(green), float(blue)


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (factor < 1) or lighter (factor > 1) colour."""
    return rgb(min(255.0, max(0.0, c * factor)) for c in colour)


ROUND = regular_polygon(22)
