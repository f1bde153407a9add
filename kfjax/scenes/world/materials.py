"""How the materials look and behave: hues kept far apart, so that a small picture tells them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kfjax.scenes.world.draw import ROUND, Colour, Part, Sprite, rgb, shade, thick_line


@dataclass(frozen=True)
class Material:
    """Main colour, how much of its speed a body keeps at a bounce, and its friction."""

    colour: Colour
    bounciness: tuple[float, float]
    friction: float


LOOKS = {
    "wood": Material((158, 98, 44), (0.42, 0.55), 0.6),
    "metal": Material((112, 136, 190), (0.5, 0.65), 0.4),
    "glass": Material((70, 225, 215), (0.52, 0.66), 0.35),
    "rubber": Material((232, 52, 34), (0.68, 0.8), 0.9),
    "stone": Material((62, 60, 64), (0.25, 0.4), 0.7),
}


def tint(material: str, rng: np.random.Generator) -> Colour:
    """The material's colour with a small variation in brightness and hue."""
    colour = np.array(LOOKS[material].colour) * rng.uniform(0.88, 1.1) + rng.uniform(-8, 8, 3)
    return rgb(np.clip(colour, 0, 255))


def sprite(material: str, outline: np.ndarray | None, radius: float, rng: np.random.Generator) -> Sprite:
    """A body of `material`: a polygon [n, 2] around the origin, or a ball when `outline` is None."""
    colour = tint(material, rng)
    outline = radius * ROUND if outline is None else outline
    parts = _PAINT[material](outline, radius, colour, rng)
    return Sprite(parts)


def _wood(outline: np.ndarray, radius: float, colour: Colour, rng: np.random.Generator) -> list[Part]:
    """Brown with straight darker grain."""
    parts = [Part(outline, shade(colour, 0.6)), Part(0.88 * outline, colour)]
    inner = np.abs(outline).min(axis=0) + 0.75 * np.abs(outline).max(axis=0)
    for y in (-0.4, 0.0, 0.4):
        reach = 0.55 * min(1.0, float(inner[0] / radius)) * radius * (1 - 0.4 * abs(y))
        height = y * float(np.abs(outline[:, 1]).max())
        parts.append(Part(thick_line((-reach, height), (reach, height), 0.12 * radius), shade(colour, 0.62)))
    return parts


def _metal(outline: np.ndarray, radius: float, colour: Colour, rng: np.random.Generator) -> list[Part]:
    """Blue-grey, bright rim, a white glint."""
    glint = 0.24 * radius * ROUND
    return [
        Part(outline, shade(colour, 0.55)),
        Part(0.86 * outline, colour),
        Part(0.6 * outline - 0.08 * radius, shade(colour, 1.25)),
        Part(glint - 0.3 * radius, (250.0, 252.0, 255.0)),
    ]


def _glass(outline: np.ndarray, radius: float, colour: Colour, rng: np.random.Generator) -> list[Part]:
    """Cyan that the background shines through, with a white rim."""
    return [
        Part(outline, (235.0, 255.0, 255.0), 0.85),
        Part(0.84 * outline, colour, 0.8),
        Part(0.2 * radius * ROUND + 0.3 * radius, (255.0, 255.0, 255.0), 0.8),
    ]


def _rubber(outline: np.ndarray, radius: float, colour: Colour, rng: np.random.Generator) -> list[Part]:
    """Flat red to orange with one light band."""
    band = np.array([[-1, -0.16], [1, -0.16], [1, 0.16], [-1, 0.16]]) * 0.8 * np.abs(outline).max(axis=0)
    return [Part(outline, colour), Part(band, (255.0, 196.0, 70.0))]


def _stone(outline: np.ndarray, radius: float, colour: Colour, rng: np.random.Generator) -> list[Part]:
    """Dark grey with light and black speckles."""
    parts = [Part(outline, shade(colour, 0.75)), Part(0.9 * outline, colour)]
    for index in range(7):
        angle, distance = rng.uniform(0, 2 * np.pi), 0.6 * np.sqrt(rng.uniform())
        centre = distance * np.array([np.cos(angle), np.sin(angle)]) * np.abs(outline).max(axis=0)
        grey = 150.0 if index % 2 else 22.0
        parts.append(Part(centre + rng.uniform(0.08, 0.16) * radius * ROUND[::3], (grey, grey, grey)))
    return parts


_PAINT = {"wood": _wood, "metal": _metal, "glass": _glass, "rubber": _rubber, "stone": _stone}
