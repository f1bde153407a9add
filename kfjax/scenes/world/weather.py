"""What sounds without a stroke: rain, wind and fire, whose strength is seen and heard; and what moves in silence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kfjax.scenes.world.draw import ROUND, Canvas, Colour, shade
from kfjax.scenes.world.event import MATERIALS, Event
from kfjax.scenes.world.materials import sprite
from kfjax.scenes.world.stage import Act, Actor, Setting

RAIN_COLOUR: Colour = (70.0, 110.0, 190.0)
TREE_COLOURS: tuple[Colour, ...] = ((60.0, 130.0, 60.0), (100.0, 70.0, 50.0))
FLAME_COLOURS: tuple[Colour, ...] = ((255.0, 140.0, 20.0), (255.0, 226.0, 90.0))


@dataclass(frozen=True)
class Strength:
    """How strong weather is, 0 to 1, slowly changing: knots at `times`, straight lines between."""

    times: np.ndarray
    values: np.ndarray

    @staticmethod
    def random(duration_seconds: float, rng: np.random.Generator) -> Strength:
        """Changes within seconds; some begin late, some end early."""
        knots = max(2, round(duration_seconds / rng.uniform(1.5, 3.5)) + 1)
        times = np.linspace(0, duration_seconds, knots)
        values = np.clip(rng.uniform(0.35, 0.9) + rng.uniform(-0.35, 0.35, knots), 0.25, 1.0)
        if duration_seconds >= 4 and rng.uniform() < 0.3:
            edge = rng.uniform(0.25, 0.5) * duration_seconds
            begins = rng.uniform() < 0.5
            quiet = times < edge if begins else times > duration_seconds - edge
            values = np.where(quiet, 0.0, values)
        return Strength(times, values)

    def at(self, time_seconds: float) -> float:
        """The strength at a time."""
        return float(np.interp(time_seconds, self.times, self.values))

    def passed(self, time_seconds: float) -> float:
        """Its integral from 0: what drifts with the weather has moved this far."""
        grid = np.linspace(0, max(time_seconds, 1e-3), 33)
        return float(np.trapezoid(np.interp(grid, self.times, self.values), grid))

    def events(self, source: str, kind: str, x: float, duration_seconds: float) -> list[Event]:
        """The stretches in which it is strong enough to hear, one event each."""
        times = np.arange(0, duration_seconds, 0.04)
        values = np.interp(times, self.times, self.values)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], values > 0.1, [0]]).astype(np.int8)))
        events = []
        for low, high in zip(edges[::2], edges[1::2], strict=True):
            if high - low >= 5:
                path = tuple((float(t), x, float(v)) for t, v in zip(times[low:high], values[low:high], strict=True))
                end = duration_seconds if high == len(times) else float(times[high - 1])
                events.append(
                    Event(
                        float(times[low]),
                        source,
                        kind,
                        x,
                        float(values[low:high].max()),
                        end - float(times[low]),
                        path=path,
                    )
                )
        return events


def _degree(strength: Strength) -> str:
    usual = float(strength.values[strength.values > 0].mean()) if (strength.values > 0).any() else 0.0
    return "strong" if usual > 0.7 else "light" if usual < 0.42 else ""


def rain(subject: str, setting: Setting, rng: np.random.Generator) -> Act:
    """Rain from a dark cloud; the more drops, the louder."""
    strength = Strength.random(setting.duration_seconds, rng)
    count = 160
    x, phase = rng.uniform(-0.3, setting.aspect + 0.3, count), rng.uniform(0, 1, count)
    speed, slant = rng.uniform(1.8, 2.6, count), rng.uniform(-0.25, 0.25)
    colour = shade(RAIN_COLOUR, rng.uniform(0.85, 1.2))
    drop = np.array([slant * 0.12, 0.12])

    def draw(canvas: Canvas, time_seconds: float) -> None:
        now = strength.at(time_seconds)
        shown = int(count * now)
        y = (phase[:shown] + speed[:shown] * time_seconds / 1.3) % 1.0 * 1.3 - 0.2
        heads = np.stack([x[:shown] + slant * y, y], 1)
        if shown:
            canvas.strokes(np.stack([heads, heads + drop], 1), colour, 0.012)
        landed = np.flatnonzero((y > setting.floor - 0.12) & (y < setting.floor))
        for splash in heads[landed[:12], 0]:
            canvas.rectangle(splash - 0.03, setting.floor, splash + 0.03, setting.floor + 0.012, colour)
        for bump in range(6):
            centre = (setting.aspect * (bump + 0.5) / 6, -0.02)
            canvas.circle(centre, 0.1 + 0.1 * now + 0.02 * (bump % 2), (92.0, 96.0, 110.0))

    return Act(
        [draw], strength.events("rain", "weather", 0.0, setting.duration_seconds), "rain", {"degree": _degree(strength)}
    )


def wind(subject: str, setting: Setting, rng: np.random.Generator) -> Act:
    """A tree and grass bend and leaves fly; the stronger, the louder."""
    strength = Strength.random(setting.duration_seconds, rng)
    way = 1.0 if rng.uniform() < 0.5 else -1.0
    tree = _Tree(
        float(rng.uniform(setting.left + 0.25 * setting.width, setting.right - 0.25 * setting.width)),
        setting.floor,
        strength,
        way,
        shade(TREE_COLOURS[0], rng.uniform(0.8, 1.25)),
    )
    blades = rng.uniform(-0.1, setting.aspect + 0.1, 26)
    leaves = np.stack([rng.uniform(0, 1.3, 16), rng.uniform(0.1, setting.floor, 16), rng.uniform(0.6, 1.3, 16)], 1)
    leaf_colour = tuple(rng.uniform((150, 110, 20), (230, 200, 70)))

    def draw(canvas: Canvas, time_seconds: float) -> None:
        now, drift = strength.at(time_seconds), strength.passed(time_seconds)
        bend = way * now * (0.08 + 0.03 * np.sin(2 * np.pi * 2.3 * time_seconds + 9 * blades))
        roots = np.stack([blades, np.full_like(blades, setting.floor + 0.02)], 1)
        tips = roots + np.stack([bend, np.full_like(blades, -0.12)], 1)
        canvas.strokes(np.stack([roots, tips], 1), tree.colour, 0.02)
        for x, y, pace in leaves[: round(len(leaves) * min(1.0, 1.3 * now))]:
            place = (way * (x + 1.1 * pace * drift)) % 1.3 / 1.3 * (setting.aspect + 0.3) - 0.15
            height = y + 0.05 * np.sin(7 * drift * pace + 9 * x)
            canvas.polygon(np.array([place, height]) + 0.035 * ROUND[::4] * (1.3, 0.7), leaf_colour)

    return Act(
        [tree, draw],
        strength.events("wind", "weather", 0.0, setting.duration_seconds),
        "wind",
        {"degree": _degree(strength)},
    )


@dataclass(frozen=True)
class _Tree:
    x: float
    floor: float
    strength: Strength
    way: float
    colour: Colour

    def __call__(self, canvas: Canvas, time_seconds: float) -> None:
        now = self.strength.at(time_seconds)
        sway = self.way * now * (0.12 + 0.06 * np.sin(2 * np.pi * 1.1 * time_seconds))
        foot, knee = (self.x, self.floor), (self.x + 0.2 * sway, self.floor - 0.2)
        crown = (self.x + sway, self.floor - 0.45)
        canvas.bar(foot, knee, 0.07, TREE_COLOURS[1])
        canvas.bar(knee, crown, 0.055, TREE_COLOURS[1])
        for index, (dx, dy, size) in enumerate(
            ((-0.12, 0.02, 0.13), (0.12, 0.0, 0.13), (0.0, -0.12, 0.15), (0.0, 0.03, 0.13))
        ):
            flutter = 0.03 * now * np.sin(2 * np.pi * 2.6 * time_seconds + 2 * index)
            centre = (crown[0] + dx + flutter + 0.4 * sway * (dy < 0), crown[1] + dy)
            canvas.circle(centre, size, shade(self.colour, 1.0 + 0.08 * (index % 3)))


def fire(subject: str, setting: Setting, rng: np.random.Generator) -> Act:
    """Flames flicker over logs; the higher, the louder."""
    strength = Strength.random(setting.duration_seconds, rng)
    x = rng.uniform(setting.left + 0.25 * setting.width, setting.right - 0.25 * setting.width)
    width = rng.uniform(0.3, min(0.5, max(0.32, 0.6 * setting.width)))
    phases, rates = rng.uniform(0, 6, 5), rng.uniform(2.5, 5.0, 5)

    def draw(canvas: Canvas, time_seconds: float) -> None:
        now = strength.at(time_seconds)
        base = setting.floor - 0.02
        for tongue in (0, 4, 1, 3, 2):
            beat = np.sin(2 * np.pi * rates[tongue] * time_seconds + phases[tongue])
            lean = 0.04 * np.sin(2 * np.pi * 1.7 * time_seconds + phases[tongue])
            foot = x + (tongue - 2) * 0.17 * width
            tall = now * (0.55 - 0.09 * abs(tongue - 2)) * (1 + 0.22 * beat)
            for colour, part in zip(FLAME_COLOURS, (1.0, 0.55), strict=True):
                half = 0.19 * width * part * min(1.0, 2 * now)
                canvas.polygon(
                    np.array(
                        [
                            [foot - half, base],
                            [foot - 0.9 * half, base - 0.35 * tall * part],
                            [foot + lean * part, base - tall * part],
                            [foot + 0.9 * half, base - 0.35 * tall * part],
                            [foot + half, base],
                        ]
                    ),
                    colour,
                )
        canvas.bar((x - 0.6 * width, base + 0.02), (x + 0.5 * width, base - 0.05), 0.06, (84.0, 54.0, 36.0))
        canvas.bar((x - 0.5 * width, base - 0.05), (x + 0.6 * width, base + 0.02), 0.06, (66.0, 42.0, 30.0))

    place = setting.seen_x(x, setting.duration_seconds / 2)
    return Act(
        [draw], strength.events("fire", "flame", place, setting.duration_seconds), "fire", {"degree": _degree(strength)}
    )


def silence(subject: str, setting: Setting, rng: np.random.Generator) -> Act:
    """Nothing sounds: clouds or bubbles drift, or things lie still."""
    if subject == "clouds":
        return Act([clouds(setting, rng)], [])
    if subject == "bubbles":
        return Act([_bubbles(setting, rng)], [])
    bodies, x = [], setting.left + rng.uniform(0.15, 0.3)
    while x < setting.right - 0.15 and len(bodies) < 3:
        radius = rng.uniform(0.1, 0.15)
        shape = sprite(str(rng.choice(MATERIALS)), None, radius, rng)
        bodies.append((shape, (x, setting.floor - radius), rng.uniform(0, 6)))
        x += rng.uniform(0.35, 0.7)

    def draw(canvas: Canvas, time_seconds: float) -> None:
        for shape, place, angle in bodies:
            canvas.sprite(shape, place, angle)

    return Act([draw], [])


def clouds(setting: Setting, rng: np.random.Generator) -> Actor:
    """White clouds that drift in the upper half."""
    count = int(rng.integers(2, 4))
    start, height = rng.uniform(0, setting.aspect, count), rng.uniform(0.08, 0.4, count)
    pace, size = rng.uniform(-0.25, 0.25, count), rng.uniform(0.07, 0.13, count)
    span = setting.aspect + 0.8

    def draw(canvas: Canvas, time_seconds: float) -> None:
        for x0, y, speed, radius in zip(start, height, pace, size, strict=True):
            x = (x0 + speed * time_seconds + 0.4) % span - 0.4
            for dx, dy, share in ((-0.9, 0.15, 0.8), (0.0, -0.1, 1.0), (0.9, 0.15, 0.8)):
                canvas.circle((x + dx * radius, y + dy * radius), share * radius, (236.0, 238.0, 242.0))

    return draw


def _bubbles(setting: Setting, rng: np.random.Generator) -> Actor:
    count = int(rng.integers(3, 7))
    x, phase = rng.uniform(0.1, setting.aspect - 0.1, count), rng.uniform(0, 1.4, count)
    pace, size = rng.uniform(0.1, 0.35, count), rng.uniform(0.05, 0.11, count)
    colour = tuple(rng.uniform(150, 240, 3))

    def draw(canvas: Canvas, time_seconds: float) -> None:
        for x0, start, speed, radius in zip(x, phase, pace, size, strict=True):
            y = 1.2 - (start + speed * time_seconds) % 1.4
            sway = 0.06 * np.sin(1.3 * time_seconds + 7 * start)
            canvas.circle((x0 + sway, y), radius, colour, 0.5)
            canvas.circle((x0 + sway - 0.3 * radius, y - 0.3 * radius), 0.25 * radius, (255.0, 255.0, 255.0), 0.9)

    return draw
