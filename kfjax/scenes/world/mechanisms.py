"""Things that sound at planned times: a hammer on a block, a bell, a clock, a piano."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kfjax.scenes.world.draw import ROUND, Canvas, Colour, Part, Sprite, box, shade, thick_line
from kfjax.scenes.world.event import Event
from kfjax.scenes.world.materials import sprite
from kfjax.scenes.world.stage import Act, Setting

HAMMER_COLOURS: tuple[Colour, ...] = ((112.0, 52.0, 128.0), (222.0, 186.0, 70.0))
BELL_COLOUR: Colour = (236.0, 190.0, 44.0)
CLOCK_COLOURS: tuple[Colour, ...] = ((250.0, 244.0, 224.0), (84.0, 60.0, 120.0))
PIANO_COLOURS: tuple[Colour, ...] = ((246.0, 246.0, 242.0), (34.0, 30.0, 36.0))
NOTE_COLOUR: Colour = (60.0, 200.0, 80.0)
#: Semitones of the piano's eight white keys, C4 to C5, from A4 (440 Hz).
PIANO_SEMITONES = (-9, -7, -5, -4, -2, 0, 2, 3)
_WEAKEST_SWING, _WIDEST_SWING = 0.35, 1.2  # radians
_FALL_SECONDS = 0.2


@dataclass(frozen=True)
class Strokes:
    """A hammer's timetable: it lands at `times` [n], each time from a height of `swings` [n] radians."""

    times: np.ndarray
    swings: np.ndarray

    @staticmethod
    def random(duration_seconds: float, rng: np.random.Generator) -> Strokes:
        """A stroke every 0.5 to 2 seconds, some near the swing's full width, some weak."""
        times, time, pace = [], float(rng.uniform(0.3, 0.8)), rng.uniform(0.6, 1.5)
        while time < duration_seconds - 0.05:
            times.append(time)
            time += float(np.clip(pace * rng.uniform(0.75, 1.3), 0.5, 2.0))
        return Strokes(np.array(times), rng.uniform(_WEAKEST_SWING, _WIDEST_SWING, len(times)))

    def loudness(self, index: int) -> float:
        """0.25 from the lowest height, 1 from the greatest."""
        share = (self.swings[index] - _WEAKEST_SWING) / (_WIDEST_SWING - _WEAKEST_SWING)
        return float(0.25 + 0.75 * share)

    def lift(self, time_seconds: float) -> float:
        """How far the hammer is raised, radians; 0 at every stroke, falling ever faster before it."""
        after = int(np.searchsorted(self.times, time_seconds))
        if after == len(self.times):
            since = time_seconds - self.times[-1] if after else 1.0
            return 0.25 * min(1.0, since / 0.3)
        start = self.times[after - 1] if after else self.times[0] - 1.5
        top = self.times[after] - _FALL_SECONDS
        if time_seconds >= top:
            return float(self.swings[after] * (1 - ((time_seconds - top) / _FALL_SECONDS) ** 2))
        share = np.clip((time_seconds - start) / max(top - start, 1e-3) * 1.2, 0, 1)
        return float(self.swings[after] * share * share * (3 - 2 * share))

    def last(self, time_seconds: float) -> tuple[float, float]:
        """(seconds since the last stroke, its strength 0 to 1); a frame within 10 ms before counts as the stroke."""
        before = int(np.searchsorted(self.times, time_seconds + 0.01)) - 1
        if before < 0:
            return 99.0, 0.0
        return max(0.0, time_seconds - float(self.times[before])), float(self.swings[before] / _WIDEST_SWING)


def draw_hammer(
    canvas: Canvas,
    contact: tuple[float, float],
    side: float,
    lift: float,
    colours: tuple[Colour, ...],
    reach: float = 0.42,
) -> None:
    """A hammer whose head, unlifted, touches `contact` from above; its grip is `side` (-1 left, 1 right) of it."""
    head = 0.07
    pivot = np.array([contact[0] + side * reach, contact[1] - head])
    arm = np.array([-side * np.cos(lift), -np.sin(lift)])
    down = np.array([-side * np.sin(lift), np.cos(lift)])
    tip = pivot + reach * arm
    canvas.bar(tuple(pivot), tuple(tip), 0.045, colours[1])
    canvas.bar(tuple(tip - 1.1 * head * down), tuple(tip + head * down), 0.13, colours[0])


def hammer(material: str, setting: Setting, rng: np.random.Generator) -> Act:
    """A hammer strikes a block again and again; how far it swings decides how hard."""
    strokes = Strokes.random(setting.duration_seconds, rng)
    width = rng.uniform(0.26, min(0.4, max(0.28, 0.5 * setting.width)))
    height = rng.uniform(0.18, 0.28)
    x = rng.uniform(setting.left + 0.35 * setting.width, setting.right - 0.35 * setting.width)
    side = float(rng.choice([-1, 1]))
    block = sprite(material, box(width, height), height / 2, rng)
    colours = tuple(shade(colour, rng.uniform(0.85, 1.1)) for colour in HAMMER_COLOURS)

    def draw(canvas: Canvas, time_seconds: float) -> None:
        age, strength = strokes.last(time_seconds)
        dent = 0.3 * strength * max(0.0, 1 - age / 0.14)
        canvas.sprite(block, (x, setting.floor - (1 - dent) * height / 2), 0.0, (0.0, 1.0, dent))
        top = setting.floor - (1 - dent) * height
        draw_hammer(canvas, (x, top), side, strokes.lift(time_seconds), colours)

    pitch = float(np.clip((0.3 / width) ** 0.9, 0.7, 1.4))
    events = [
        Event(float(time), material, "impact", setting.seen_x(x, time), strokes.loudness(index), pitch=pitch)
        for index, time in enumerate(strokes.times)
    ]
    return Act([draw], events, "block", {"count": "one"})


def bell(subject: str, setting: Setting, rng: np.random.Generator) -> Act:
    """A bell: it swings and its clapper strikes where it turns back, or it hangs and a mallet strikes it."""
    return (_swinging_bell if rng.uniform() < 0.5 else _struck_bell)(setting, rng)


def _bell_shape(setting: Setting, rng: np.random.Generator) -> tuple[Sprite, float, float, float]:
    """(sprite hanging from the origin, its height, x and y of the hook)."""
    height = rng.uniform(0.34, min(0.5, max(0.36, 0.55 * setting.width)))
    colour = shade(BELL_COLOUR, rng.uniform(0.85, 1.08))
    side = height * np.array([[0.08, 0.05], [0.24, 0.16], [0.3, 0.5], [0.36, 0.75], [0.5, 0.95]])
    outline = np.concatenate([side, (side * (-1, 1))[::-1]])
    rim = height * np.array([[-0.5, 0.88], [0.5, 0.88], [0.52, 0.97], [-0.52, 0.97]])
    glint = height * np.array([[-0.2, 0.25], [-0.12, 0.22], [-0.16, 0.75], [-0.28, 0.75]])
    parts = [Part(outline, colour), Part(rim, shade(colour, 0.68)), Part(glint, (255.0, 244.0, 190.0))]
    x = rng.uniform(setting.left + 0.4 * setting.width, setting.right - 0.4 * setting.width)
    return Sprite(parts), height, float(x), float(rng.uniform(0.1, 0.24))


def _swinging_bell(setting: Setting, rng: np.random.Generator) -> Act:
    shape, height, x, y = _bell_shape(setting, rng)
    half = rng.uniform(0.45, 0.9)
    times = rng.uniform(0.2, 0.6) + half * np.arange(int(setting.duration_seconds / half) + 3)
    width = rng.uniform(0.3, 0.6) * np.clip(1 + np.cumsum(rng.uniform(-0.2, 0.2, len(times))), 0.5, 1.4)
    extremes = width * np.where(np.arange(len(times)) % 2, -1, 1)
    nearest = np.concatenate([[-extremes[0]], extremes])
    nodes = np.concatenate([[times[0] - half], times])

    def swing(time: float) -> float:
        index = int(np.clip(np.searchsorted(nodes, time) - 1, 0, len(nodes) - 2))
        share = np.clip((time - nodes[index]) / (nodes[index + 1] - nodes[index]), 0, 1)
        return float(nearest[index] + (nearest[index + 1] - nearest[index]) * (0.5 - 0.5 * np.cos(np.pi * share)))

    def draw(canvas: Canvas, time_seconds: float) -> None:
        angle = swing(time_seconds)
        canvas.bar((x, -0.3), (x, y + 0.04), 0.03, (70.0, 60.0, 60.0))
        clapper = angle * 1.5
        end = np.array([x, y]) + 1.06 * height * np.array([-np.sin(clapper), np.cos(clapper)])
        canvas.bar((x, y + 0.1), tuple(end), 0.025, (60.0, 50.0, 50.0))
        canvas.circle(tuple(end), 0.055, (60.0, 50.0, 50.0))
        canvas.sprite(shape, (x, y), angle)

    pitch = float(np.clip((0.42 / height) ** 1.5, 0.7, 1.4))
    events = []
    for time, extreme in zip(times, extremes, strict=True):
        place = setting.seen_x(x - np.sin(extreme) * 0.8 * height, time)
        loudness = float(0.3 + 0.7 * np.clip((abs(extreme) - 0.15) / 0.7, 0, 1))
        events.append(Event(float(time), "bell", "ring", place, loudness, pitch=pitch))
    return Act([draw], events, "bell", {"how": "swings"})


def _struck_bell(setting: Setting, rng: np.random.Generator) -> Act:
    shape, height, x, y = _bell_shape(setting, rng)
    strokes = Strokes.random(setting.duration_seconds, rng)
    side = float(rng.choice([-1, 1]))
    colours = tuple(shade(colour, rng.uniform(0.85, 1.1)) for colour in HAMMER_COLOURS)

    def draw(canvas: Canvas, time_seconds: float) -> None:
        age, strength = strokes.last(time_seconds)
        angle = side * 0.3 * strength * np.exp(-age / 0.45) * np.sin(2 * np.pi * age / 0.5 + 0.6)
        canvas.bar((x, -0.3), (x, y + 0.04), 0.03, (70.0, 60.0, 60.0))
        canvas.sprite(shape, (x, y), angle)
        contact = np.array([x + side * 0.46 * height, y + 0.8 * height])
        lift = 0.9 * strokes.lift(time_seconds)
        foot = np.array([contact[0] + side * 0.1, contact[1] + 0.5])
        along = np.array([side * np.sin(lift) - side * 0.15 * np.cos(lift), -np.cos(lift)])
        tip = foot + 0.5 * along / np.hypot(*along)
        canvas.bar(tuple(foot), tuple(tip), 0.04, colours[1])
        canvas.circle(tuple(tip), 0.075, colours[0])

    pitch = float(np.clip((0.42 / height) ** 1.5, 0.7, 1.4))
    place = x + side * 0.4 * height
    events = [
        Event(float(time), "bell", "ring", setting.seen_x(place, time), strokes.loudness(index), pitch=pitch)
        for index, time in enumerate(strokes.times)
    ]
    return Act([draw], events, "bell", {"how": "struck"})


def clock(subject: str, setting: Setting, rng: np.random.Generator) -> Act:
    """A clock whose hand jumps, and whose pendulum turns back, at every tick; some clocks pause for a while."""
    radius = rng.uniform(0.24, min(0.36, max(0.25, 0.44 * setting.width)))
    period = rng.uniform(0.33, 1.0)
    times = rng.uniform(0.1, 0.4) + period * np.arange(int(setting.duration_seconds / period) + 2)
    if rng.uniform() < 0.3:
        stop = rng.uniform(0.3, 0.6) * setting.duration_seconds
        times = np.where(times < stop, times, times + rng.uniform(1.5, 3.0))
    with_pendulum = period > 0.45 and rng.uniform() < 0.6
    x = rng.uniform(setting.left + radius, max(setting.left + radius, setting.right - radius))
    y = rng.uniform(0.36, 0.42) if with_pendulum else rng.uniform(0.38, 0.55)
    start, swing = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.6)
    face, rim = (shade(colour, rng.uniform(0.85, 1.04)) for colour in CLOCK_COLOURS)
    marks = [
        thick_line(0.74 * d, 0.9 * d, 0.07) * radius
        for d in np.stack([np.cos(np.pi / 6 * np.arange(12)), np.sin(np.pi / 6 * np.arange(12))], 1)
    ]
    dial = Sprite(
        [
            Part(1.12 * radius * ROUND, rim),
            Part(radius * ROUND, face),
            *(Part(mark, (120.0, 116.0, 110.0)) for mark in marks),
        ]
    )

    def draw(canvas: Canvas, time_seconds: float) -> None:
        done = int(np.searchsorted(times, time_seconds + 0.005))
        age = time_seconds - times[done - 1] if done else 9.0
        if with_pendulum:
            _pendulum(canvas, (x, y + 0.9 * radius), _tick_swing(times, time_seconds, done) * swing, rim)
        canvas.sprite(dial, (x, y))
        overshoot = 0.16 * max(0.0, 1 - age / 0.1) if done else 0.0
        angle = start + np.pi / 6 * (done + overshoot)
        tip = (x + 0.86 * radius * np.cos(angle), y + 0.86 * radius * np.sin(angle))
        canvas.bar((x, y), tip, 0.048, (24.0, 22.0, 30.0))
        canvas.circle((x, y), 0.05, (24.0, 22.0, 30.0))

    loudness = rng.uniform(0.45, 0.9)
    pitch = float(np.clip((0.3 / radius) ** 0.9, 0.7, 1.4))
    events = [
        Event(
            float(time),
            "clock",
            "tick",
            setting.seen_x(x, time),
            float(loudness * (1.0 if index % 2 else 0.8)),
            pitch=pitch * (1.0 if index % 2 else 0.94),
        )
        for index, time in enumerate(times)
    ]
    return Act([draw], events, "clock", {"how": "slow" if period > 0.75 else "fast" if period < 0.45 else "steady"})


def _tick_swing(times: np.ndarray, time_seconds: float, done: int) -> float:
    """-1 to 1, at an end at every tick; it rests at the end while the clock pauses."""
    side = 1.0 if done % 2 else -1.0
    last = times[done - 1] if done else times[0] - (times[1] - times[0])
    period = times[1] - times[0]
    following = times[min(done, len(times) - 1)]
    share = np.clip((time_seconds - (following - period)) / period, 0, 1) if following > last else 0.0
    return float(side * np.cos(np.pi * share))


def _pendulum(canvas: Canvas, pivot: tuple[float, float], angle: float, colour: Colour) -> None:
    end = (pivot[0] + 0.32 * np.sin(angle), pivot[1] + 0.32 * np.cos(angle))
    canvas.bar(pivot, end, 0.03, shade(colour, 0.8))
    canvas.circle(end, 0.085, BELL_COLOUR)


def piano(subject: str, setting: Setting, rng: np.random.Generator) -> Act:
    """Eight white keys, C4 to C5: a finger comes down, the key sinks and lights up, its note sounds."""
    keys = len(PIANO_SEMITONES)
    left, right = setting.left + 0.04 * setting.width, setting.right - 0.04 * setting.width
    pitch_x = (right - left) / keys
    top, bottom = rng.uniform(0.45, 0.55), rng.uniform(0.84, 0.94)
    times, time = [], float(rng.uniform(0.25, 0.7))
    beat = rng.uniform(0.4, 0.7)
    while time < setting.duration_seconds - 0.05:
        times.append(time)
        time += beat * float(rng.choice([0.75, 1, 1, 2]))
    steps = rng.choice([-2, -1, -1, 0, 1, 1, 2, 3], len(times))
    played = [int(k) for k in (int(rng.integers(keys)) + np.cumsum(steps)) % keys]
    loudness = rng.uniform(0.35, 1.0, len(times))
    keyboard = _Keyboard(left, pitch_x, top, bottom, np.array(times), played, loudness)
    events = []
    for time, key, loud in zip(times, played, loudness, strict=True):
        pitch = 2.0 ** (PIANO_SEMITONES[key] / 12)
        events.append(
            Event(time, "piano", "note", setting.seen_x(left + (key + 0.5) * pitch_x, time), float(loud), pitch=pitch)
        )
    return Act([keyboard], events, "piano")


@dataclass(frozen=True)
class _Keyboard:
    left: float
    pitch_x: float
    top: float
    bottom: float
    times: np.ndarray
    played: list[int]
    loudness: np.ndarray

    def __call__(self, canvas: Canvas, time_seconds: float) -> None:
        right = self.left + len(PIANO_SEMITONES) * self.pitch_x
        white, black = PIANO_COLOURS
        canvas.rectangle(self.left - 0.03, self.top - 0.14, right + 0.03, self.bottom + 0.05, black)
        sounding = self._sounding(time_seconds)
        gap = 0.09 * self.pitch_x
        for key in range(len(PIANO_SEMITONES)):
            low = self.left + key * self.pitch_x
            sunk, colour = (0.03, NOTE_COLOUR) if key in sounding else (0.0, white)
            canvas.rectangle(low + gap, self.top + sunk, low + self.pitch_x - gap, self.bottom + sunk, colour)
        for key in (1, 2, 4, 5, 6):
            edge = self.left + key * self.pitch_x
            canvas.rectangle(edge - 0.25 * self.pitch_x, self.top, edge + 0.25 * self.pitch_x, self.top + 0.13, black)
        self._finger(canvas, time_seconds)

    def _sounding(self, time_seconds: float) -> set[int]:
        ages = time_seconds - self.times
        return {self.played[i] for i in np.flatnonzero((ages > -0.01) & (ages < 0.26))}

    def _finger(self, canvas: Canvas, time_seconds: float) -> None:
        """Falls on to the key from a height that grows with the note's loudness, and goes to the next one."""
        if not self.played:
            return
        after = min(int(np.searchsorted(self.times, time_seconds)), len(self.times) - 1)
        before = max(after - 1, 0)
        span = max(self.times[after] - self.times[before], 0.3)
        left = float(np.clip((self.times[after] - time_seconds) / span, 0, 1))
        over = float(np.clip(1.6 * (1 - left) - 0.2, 0, 1))
        key = self.played[before] + over * (self.played[after] - self.played[before])
        lift = (0.12 + 0.16 * self.loudness[after]) * np.sin(np.pi * left) ** 0.7 if 0 < left < 1 else 0.0
        x = self.left + (key + 0.5) * self.pitch_x
        tip = self.bottom - 0.12 - lift
        canvas.bar((x, tip - 0.3), (x, tip), 0.4 * self.pitch_x, (236.0, 176.0, 140.0))
        canvas.circle((x, tip), 0.2 * self.pitch_x, (236.0, 176.0, 140.0))
