"""What crosses the picture on its own: a walker whose steps sound, a car whose engine is heard."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from kfjax.scenes.world.draw import ROUND, Canvas, Colour, Part, Sprite, rgb, shade
from kfjax.scenes.world.event import Event
from kfjax.scenes.world.stage import Act, Actor, Setting

#: What can be walked on, and how it looks.
GROUNDS: dict[str, Colour] = {
    "wood": (170.0, 112.0, 60.0),
    "stone": (120.0, 120.0, 126.0),
    "gravel": (186.0, 172.0, 140.0),
    "grass": (70.0, 150.0, 50.0),
    "snow": (240.0, 246.0, 252.0),
}
WALKER_COLOURS: tuple[Colour, ...] = ((40.0, 36.0, 90.0),)


@dataclass(frozen=True)
class Walk:
    """Where and when each foot lands: step i puts a foot down at `x[i]` at `times[i]`; feet alternate."""

    times: np.ndarray
    x: np.ndarray
    lift: float
    floor: float
    height: float
    shirt: Colour

    def __call__(self, canvas: Canvas, time_seconds: float) -> None:
        index = int(np.clip(np.searchsorted(self.times, time_seconds + 0.005) - 1, 0, len(self.times) - 2))
        length = min(self.times[index + 1] - self.times[index], 0.7)
        # a walker who pauses stands still first and takes the step at the end of the pause
        share = float(np.clip((time_seconds - (self.times[index + 1] - length)) / length, 0, 1))
        behind, planted, ahead = self.x[max(index - 1, 0)], self.x[index], self.x[index + 1]
        swung = behind + (ahead - behind) * (share * share * (3 - 2 * share))
        raised = self.lift * 2.1 * share * (1 - share**3)
        dip = 0.03 * max(0.0, 1 - (time_seconds - self.times[index]) / 0.12) if time_seconds >= self.times[index] else 0
        hip_x = (behind + planted) / 2 + share * (ahead - behind) / 2
        hip = (hip_x, self.floor - 0.48 * self.height + dip)
        facing = 1.0 if ahead >= behind else -1.0
        near_first = index % 2 == 0
        legs = [((planted, self.floor), (40.0, 36.0, 90.0)), ((swung, self.floor - raised), (84.0, 78.0, 160.0))]
        for foot, colour in legs if near_first else legs[::-1]:
            canvas.bar(hip, (foot[0], foot[1] - 0.03), 0.075, colour)
            canvas.rectangle(foot[0] - 0.045, foot[1] - 0.055, foot[0] + 0.045, foot[1], (20.0, 18.0, 22.0))
            canvas.rectangle(foot[0], foot[1] - 0.045, foot[0] + facing * 0.085, foot[1], (20.0, 18.0, 22.0))
        neck = (hip_x + 0.02 * facing, hip[1] - 0.32 * self.height)
        canvas.bar(hip, neck, 0.15, self.shirt)
        for arm in (-1.0, 1.0):
            swing = 0.7 * (share - 0.5) * arm * (1 if near_first else -1)
            hand = (neck[0] + 0.2 * np.sin(swing), neck[1] + 0.05 + 0.2 * np.cos(swing))
            canvas.bar((neck[0], neck[1] + 0.05), hand, 0.045, shade(self.shirt, 0.75))
        canvas.circle((neck[0], neck[1] - 0.08), 0.085, (232.0, 184.0, 150.0))


def footsteps(surface: str, setting: Setting, rng: np.random.Generator) -> Act:
    """Someone walks to and fro on a ground; every step sounds where the foot lands."""
    weight = float(rng.uniform(0, 1))  # light-footed to heavy: seen in the lift of the feet, heard in the loudness
    period, stride = rng.uniform(0.4, 0.68), rng.uniform(0.13, 0.2)
    direction = 1.0 if rng.uniform() < 0.5 else -1.0
    low, high = setting.left + 0.12, setting.right - 0.12
    x, time = rng.uniform(low, high), float(rng.uniform(0.2, 0.5))
    times, places = [time - period], [x]
    while times[-1] < setting.duration_seconds + 1.0:
        if not low < x + direction * stride < high:
            direction = -direction
        x = float(np.clip(x + direction * stride, low, high))
        times.append(time)
        places.append(x)
        time += period * float(rng.uniform(0.92, 1.08)) + (rng.uniform(0.8, 1.6) if rng.uniform() < 0.06 else 0.0)
    hue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.4, 0.8), rng.uniform(0.5, 0.9))
    walk = Walk(
        np.array(times),
        np.array(places),
        0.045 + 0.06 * weight,
        setting.floor,
        rng.uniform(0.62, 0.72),
        rgb(255 * c for c in hue),
    )
    ground = _ground(surface, setting, rng)
    events = [
        Event(
            t,
            "footsteps",
            "step",
            setting.seen_x(p, t),
            float((0.4 + 0.5 * weight) * rng.uniform(0.9, 1.1)),
            pitch=float(1.2 - 0.4 * weight),
            material=surface,
        )
        for t, p in zip(times[1:], places[1:], strict=True)
    ]
    pace = "fast" if period < 0.47 else "slow" if period > 0.6 else ""
    return Act(
        [ground, walk],
        events,
        surface,
        {"weight": "heavy" if weight > 0.6 else "light" if weight < 0.3 else "", "pace": pace},
    )


def _ground(surface: str, setting: Setting, rng: np.random.Generator) -> Actor:
    colour = shade(GROUNDS[surface], rng.uniform(0.92, 1.05))
    count = {"gravel": 60, "snow": 12, "grass": 40, "stone": 0, "wood": 0}[surface]
    spots = np.stack([rng.uniform(-0.2, setting.aspect + 0.2, count), setting.floor + rng.uniform(0.02, 0.2, count)], 1)
    parts = [
        Part(
            np.array(
                [[-0.3, setting.floor], [setting.aspect + 0.3, setting.floor], [setting.aspect + 0.3, 1.3], [-0.3, 1.3]]
            ),
            colour,
        )
    ]
    parts += [
        Part(spot + rng.uniform(0.008, 0.018) * ROUND[::4], shade(colour, rng.uniform(0.6, 0.85))) for spot in spots
    ]
    if surface in ("wood", "stone"):
        joints = np.arange(-0.3, setting.aspect + 0.3, 0.22 if surface == "wood" else 0.4)
        parts += [
            Part(
                np.array([[j, setting.floor], [j + 0.015, setting.floor], [j + 0.015, 1.3], [j, 1.3]]),
                shade(colour, 0.7),
            )
            for j in joints
        ]
    whole = Sprite(parts)

    def draw(canvas: Canvas, time_seconds: float) -> None:
        canvas.sprite(whole, (0.0, 0.0))

    return draw


def engine(subject: str, setting: Setting, rng: np.random.Generator) -> Act:
    """A car or a truck passes, once or more often; the nearer to the middle, the louder."""
    thing = str(rng.choice(["car", "truck"]))
    heavy = thing == "truck"
    colour = rgb(255 * c for c in colorsys.hsv_to_rgb(rng.uniform(0.15, 0.9), rng.uniform(0.5, 0.85), 0.8))
    size = rng.uniform(0.5, 0.62) if heavy else rng.uniform(0.4, 0.5)
    actors, events, start = [], [], float(rng.uniform(-0.8, 0.5))
    while start < setting.duration_seconds - 0.6:
        crossing = rng.uniform(2.2, 4.5)
        way = 1.0 if rng.uniform() < 0.5 else -1.0
        car = _Car(_vehicle(thing, size, colour), start, crossing, way, setting, size)
        events += _passing(car, rng.uniform(0.6, 1.0), rng.uniform(0.65, 0.85) if heavy else rng.uniform(1.0, 1.3))
        actors.append(car)
        start += crossing + rng.uniform(0.3, 1.5)
    return Act(actors, events, thing)


@dataclass(frozen=True)
class _Car:
    shape: Sprite
    start: float
    crossing: float
    way: float
    setting: Setting
    size: float

    def x(self, time_seconds: float) -> float:
        """World x of its middle; it starts and ends just outside the picture."""
        reach = self.setting.aspect / 2 + self.size / 2 + 0.06
        share = (time_seconds - self.start) / self.crossing
        return self.setting.aspect / 2 + self.way * reach * (2 * share - 1)

    def __call__(self, canvas: Canvas, time_seconds: float) -> None:
        if self.start <= time_seconds <= self.start + self.crossing:
            shake = 0.004 * np.sin(2 * np.pi * 9 * time_seconds)
            place = (self.x(time_seconds), self.setting.floor + 0.04 + shake)
            canvas.sprite(self.shape, place)
            for wheel in (-0.28, 0.28):
                centre = (place[0] + wheel * self.size, self.setting.floor - 0.02)
                canvas.circle(centre, 0.075, (22.0, 22.0, 26.0))
                turn = self.way * (time_seconds - self.start) * 9
                spoke = 0.05 * np.array([np.cos(turn), np.sin(turn)])
                canvas.bar(tuple(centre - spoke), tuple(centre + spoke), 0.03, (200.0, 200.0, 205.0))


def _vehicle(thing: str, size: float, colour: Colour) -> Sprite:
    """Seen from the side; the origin is on the road below its middle."""
    if thing == "truck":
        body = np.array([[-0.5, -0.12], [-0.5, -0.78], [0.22, -0.78], [0.22, -0.12]])
        cabin = np.array([[0.24, -0.12], [0.24, -0.6], [0.42, -0.6], [0.5, -0.38], [0.5, -0.12]])
        window = np.array([[0.3, -0.36], [0.3, -0.54], [0.4, -0.54], [0.45, -0.36]])
        parts = [
            Part(size * body, colour),
            Part(size * cabin, shade(colour, 0.7)),
            Part(size * window, (205.0, 235.0, 250.0)),
        ]
    else:
        body = np.array(
            [
                [-0.5, -0.14],
                [-0.5, -0.36],
                [-0.34, -0.4],
                [-0.2, -0.66],
                [0.16, -0.66],
                [0.32, -0.4],
                [0.5, -0.34],
                [0.5, -0.14],
            ]
        )
        window = np.array([[-0.26, -0.42], [-0.15, -0.6], [0.11, -0.6], [0.22, -0.42]])
        parts = [Part(size * body, colour), Part(size * window, (205.0, 235.0, 250.0))]
    return Sprite(parts)


def _passing(car: _Car, loudest: float, pitch: float) -> list[Event]:
    """The stretch in which the car's middle is in the picture."""
    setting = car.setting
    times = np.arange(max(0.0, car.start), min(car.start + car.crossing, setting.duration_seconds), 0.02)
    x = np.array([setting.seen_x(car.x(t), t) for t in times])
    inside = np.abs(x) <= 1
    times, x = times[inside], x[inside]
    if len(times) < 15:
        return []
    loudness = loudest / np.sqrt(1 + 5 * x**2)
    path = tuple(zip(times.tolist(), x.tolist(), loudness.tolist(), strict=True))
    return [
        Event(
            float(times[0]),
            "engine",
            "pass",
            float(x[0]),
            float(loudness.max()),
            float(times[-1] - times[0]),
            pitch,
            path,
        )
    ]
