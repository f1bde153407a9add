"""What lies behind a scene: seven families of backgrounds, one of which is held out for every source."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from kfjax.scenes.world.draw import Canvas, Colour, rgb, shade

FAMILIES = ("plain", "gradient", "noise", "stripes", "room", "outdoor", "tiles")
MARGIN = 0.15  # world units painted beyond every edge, for the camera to move in


@dataclass(frozen=True)
class Backdrop:
    """A background of one family above and below the `floor` line (world y; > 1 when no floor is seen)."""

    family: str
    wall: Colour
    second: Colour
    ground: Colour
    floor: float
    detail_seed: int

    def paint(self, width: int, height: int, aspect: float) -> np.ndarray:
        """uint8 [h, w, 3] that covers the picture and `MARGIN` around it, at `width` x `height` pixels a picture."""
        wide, high = round(width * (1 + 2 * MARGIN / aspect)), round(height * (1 + 2 * MARGIN))
        x = np.linspace(-MARGIN, aspect + MARGIN, wide, dtype=np.float32)[None, :]
        y = np.linspace(-MARGIN, 1 + MARGIN, high, dtype=np.float32)[:, None]
        rng = np.random.default_rng(self.detail_seed)
        mix = _MIX[self.family](x, y, self.floor, rng)
        wall, second = np.array(self.wall, np.float32), np.array(self.second, np.float32)
        image = wall + mix[..., None] * (second - wall)
        image = np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))
        self._furnish(Canvas(image, (aspect + 2 * MARGIN, 1 + 2 * MARGIN), (-MARGIN, -MARGIN)), aspect, rng)
        return image

    def _furnish(self, canvas: Canvas, aspect: float, rng: np.random.Generator) -> None:
        left, right = -MARGIN, aspect + MARGIN
        floor = min(self.floor, 0.86)
        if self.family == "room":
            for _ in range(int(rng.integers(1, 3))):
                x, y, half = rng.uniform(0, aspect), rng.uniform(0.1, 0.45), rng.uniform(0.08, 0.2)
                for edge, brightness in ((half, 0.7), (0.8 * half, 1.15)):
                    canvas.rectangle(x - edge, y - edge, x + edge, y + edge, shade(self.second, brightness))
            canvas.rectangle(left, self.floor - 0.05, right, self.floor, shade(self.wall, 0.75))
        if self.family == "outdoor":
            hills = np.linspace(left, right, 30)
            top = floor - 0.1 - 0.08 * np.sin(hills * rng.uniform(2, 5) + rng.uniform(0, 6))
            outline = np.concatenate([np.stack([hills, top], 1), [[right, floor + 0.1], [left, floor + 0.1]]])
            canvas.polygon(outline, shade(self.ground, 0.85))
        if self.floor < 1.0:
            canvas.rectangle(left, self.floor, right, 1 + MARGIN, self.ground)
            canvas.rectangle(left, self.floor, right, self.floor + 0.012, shade(self.ground, 0.7))


def _plain(x, y, floor, rng):
    return np.zeros((y.shape[0], x.shape[1]), np.float32)


def _gradient(x, y, floor, rng):
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * x + np.sin(angle) * y
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def _noise(x, y, floor, rng):
    grain = rng.uniform(0, 1, (14, 18)).astype(np.float32)
    smooth = cv2.resize(grain, (x.shape[1], y.shape[0]), interpolation=cv2.INTER_CUBIC)
    return 0.6 * np.clip(smooth, 0, 1)


def _stripes(x, y, floor, rng):
    angle, pitch = rng.choice([0.0, np.pi / 2, rng.uniform(0.3, 1.2)]), rng.uniform(0.12, 0.3)
    wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / pitch + rng.uniform(0, 6))
    return 0.55 * np.clip(0.5 + 4 * wave, 0, 1)


def _room(x, y, floor, rng):
    return 0.25 * np.clip(y + 0 * x, 0, 1)


def _outdoor(x, y, floor, rng):
    return np.clip(y / max(0.3, min(floor, 1.0)) + 0 * x, 0, 1)


def _tiles(x, y, floor, rng):
    pitch = rng.uniform(0.16, 0.3)
    board = np.floor(x / pitch + rng.uniform()) + np.floor(y / pitch + rng.uniform())
    return (0.45 * (board % 2)).astype(np.float32)


_MIX = {
    "plain": _plain,
    "gradient": _gradient,
    "noise": _noise,
    "stripes": _stripes,
    "room": _room,
    "outdoor": _outdoor,
    "tiles": _tiles,
}


def make_backdrop(family: str, floor: float, avoid: list[Colour], rng: np.random.Generator) -> Backdrop:
    """A random backdrop whose colours stay away from `avoid` (what must be seen in front of it)."""
    wall = _colour(avoid, rng)
    second = rgb(np.clip(np.array(wall) + rng.uniform(-45, 45) + rng.uniform(-18, 18, 3), 8, 247))
    if family == "outdoor":
        wall, second = _away((150.0, 195.0, 235.0), avoid, rng), _away((215.0, 225.0, 235.0), avoid, rng)
    ground = _colour(avoid, rng)
    if family == "outdoor":
        ground = _away((95.0, 150.0, 70.0), avoid, rng)
    if np.abs(np.array(ground) - np.array(wall)).sum() < 60:
        ground = shade(ground, 0.7 if sum(ground) > 380 else 1.5)
    return Backdrop(family, wall, second, ground, floor, int(rng.integers(2**31)))


def _colour(avoid: list[Colour], rng: np.random.Generator) -> Colour:
    best: Colour = (200.0, 200.0, 200.0)
    best_distance = -1.0
    for _ in range(6):
        value = rng.uniform(0.7, 0.97) if rng.uniform() < 0.7 else rng.uniform(0.12, 0.35)
        colour = rgb(255 * c for c in colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.03, 0.35), value))
        distance = min((_distance(colour, other) for other in avoid), default=999.0)
        if distance > 130:
            return colour
        if distance > best_distance:
            best, best_distance = colour, distance
    return best


def _away(colour: Colour, avoid: list[Colour], rng: np.random.Generator) -> Colour:
    varied = shade(rgb(np.array(colour) + rng.uniform(-15, 15, 3)), rng.uniform(0.8, 1.05))
    near = min((_distance(varied, other) for other in avoid), default=999.0)
    return varied if near > 70 else shade(varied, 0.5 if sum(varied) > 300 else 1.8)


def _distance(one: Colour, other: Colour) -> float:
    return float(np.linalg.norm(np.array(one) - np.array(other)))
