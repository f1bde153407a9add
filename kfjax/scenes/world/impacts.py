"""Things that strike, bounce, roll and slide: the recipes made of rigid bodies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kfjax.scenes.world.draw import Canvas, Sprite, box, regular_polygon, rgb
from kfjax.scenes.world.event import Event
from kfjax.scenes.world.materials import LOOKS, sprite
from kfjax.scenes.world.physics import STEPS_A_SECOND, Impact, Motion, Solid, Surface, simulate
from kfjax.scenes.world.stage import Act, Actor, Setting

_LOUDEST_SPEED = 2.6  # picture heights a second
_QUIETEST_SPEED = 0.15 * _LOUDEST_SPEED
_NOMINAL_RADIUS = 0.115


def impact_loudness(speed: float) -> float:
    """0.25 at the weakest impact that is heard, 1 at the strongest."""
    share = (speed - _QUIETEST_SPEED) / (_LOUDEST_SPEED - _QUIETEST_SPEED)
    return float(0.25 + 0.75 * np.clip(share, 0, 1))


def size_pitch(radius: float) -> float:
    """Larger things sound lower: 0.7 to 1.4."""
    return float(np.clip((_NOMINAL_RADIUS / radius) ** 0.8, 0.7, 1.4))


@dataclass(frozen=True)
class StruckBody:
    """Draws a tracked solid, flattened for a moment where it strikes."""

    sprite: Sprite
    track: Motion
    impacts: list[Impact]

    def __call__(self, canvas: Canvas, time_seconds: float) -> None:
        place = self.track.at(time_seconds)
        if place is None:
            return
        x, y, angle = place
        squash = (0.0, 1.0, 0.0)
        for impact in self.impacts:
            age = time_seconds - impact.time_seconds
            if -0.02 <= age < 0.06:
                amount = 0.3 * impact_loudness(impact.speed) * (1 - max(age, 0) / 0.06)
                squash = (*impact.direction, amount)
                sink = 0.8 * amount * self.track.solid.radius
                x, y = x - impact.direction[0] * sink, y - impact.direction[1] * sink
        canvas.sprite(self.sprite, (x, y), angle, squash)


def perform(
    solids: list[Solid],
    surfaces: list[Surface],
    material: str,
    setting: Setting,
    gravity: float,
    kind: str,
    rng: np.random.Generator,
) -> tuple[list[Actor], list[Event], list[Motion]]:
    """Simulates, and returns the bodies as actors, the impacts as events of `kind`, and the tracks."""
    tracks = simulate(
        solids, surfaces, duration_seconds=setting.duration_seconds, gravity=gravity, quietest_speed=_QUIETEST_SPEED
    )
    actors, events = [], []
    for track in tracks:
        solid = track.solid
        top = setting.camera.y - solid.radius
        impacts = [i for i in track.impacts(quietest_speed=_QUIETEST_SPEED) if top <= i.y <= 1.1]
        actors.append(StruckBody(sprite(material, solid.outline, solid.radius, rng), track, impacts))
        events += [
            Event(
                i.time_seconds,
                material,
                kind,
                setting.seen_x(i.x, i.time_seconds),
                impact_loudness(i.speed),
                pitch=size_pitch(solid.radius),
            )
            for i in impacts
        ]
    return actors, events, tracks


def ground(setting: Setting) -> Surface:
    """The floor, far beyond both sides."""
    return Surface((-6.0, setting.floor), (setting.aspect + 6.0, setting.floor))


def bouncing(material: str, setting: Setting, rng: np.random.Generator) -> Act:
    """One to three balls (sometimes boxes or polygons) of one material are thrown and bounce until they rest."""
    look = LOOKS[material]
    round_ones = rng.uniform() < 0.75
    corners = int(rng.choice([4, 5, 6]))
    starts, start = [], 0.0
    while start < max(0.6, setting.duration_seconds - 0.8):
        starts.append(start)
        start += float(rng.uniform(0.3, 1.0) if rng.uniform() < 0.2 else rng.uniform(2.4, 4.2))
    solids = []
    largest = min(0.16, 0.22 * setting.width)
    for start in starts:
        radius = rng.uniform(0.095, max(0.11, largest))
        x = rng.uniform(setting.left + 1.5 * radius, setting.right - 1.5 * radius)
        y = rng.uniform(0.1, 0.4) if start == 0 else -radius - 0.02
        middle = (setting.left + setting.right) / 2
        drift = rng.uniform(0.05, 0.4) * setting.width * (1 if x < middle else -1)
        solids.append(
            Solid(
                radius,
                (x, y),
                (drift, rng.uniform(-0.3, 0.8)),
                rng.uniform(-3, 3),
                rng.uniform(0, 6),
                start,
                rng.uniform(*look.bounciness) * (1.0 if round_ones else 0.75),
                look.friction,
                None if round_ones else 1.1 * radius * regular_polygon(corners, np.pi / 4),
            )
        )
    surfaces, walls = [ground(setting)], []
    if rng.uniform() < 0.45:
        surfaces += [Surface((x, -3.0), (x, 2.0)) for x in (setting.left + 0.02, setting.right - 0.02)]
        walls = [_walls(setting, rng)]
    gravity = rng.uniform(3.0, 4.6)
    actors, events, _ = perform(solids, surfaces, material, setting, gravity, "bounce", rng)
    names = {"glass": ("ball", "marble"), "rubber": ("ball",), "stone": ("ball", "pebble")}
    things = names[material] if material in names and round_ones else ("ball",) if round_ones else ("block",)
    return Act(walls + actors, events, str(rng.choice(things)), {"count": "one" if len(solids) == 1 else "several"})


def _walls(setting: Setting, rng: np.random.Generator) -> Actor:
    colour = rgb(rng.uniform(90, 150) + rng.uniform(-12, 12, 3))

    def draw(canvas: Canvas, time_seconds: float) -> None:
        canvas.rectangle(setting.left - 0.02, -0.2, setting.left + 0.02, setting.floor, colour)
        canvas.rectangle(setting.right - 0.02, -0.2, setting.right + 0.02, setting.floor, colour)

    return draw


def falling(material: str, setting: Setting, rng: np.random.Generator) -> Act:
    """Blocks of one material drop one after another and pile up."""
    look = LOOKS[material]
    gap = max(rng.uniform(1.2, 2.4), setting.duration_seconds / 7)
    solids, start = [], 0.0
    while start < max(0.5, setting.duration_seconds - 0.6):
        size = rng.uniform(0.17, min(0.27, max(0.19, 0.4 * setting.width)))
        outline = (
            box(size * rng.uniform(1.0, 1.5), size)
            if rng.uniform() < 0.7
            else 0.62 * size * regular_polygon(int(rng.choice([3, 5, 6])))
        )
        radius = float(np.hypot(*outline.T).max())
        low, high = setting.left + radius, setting.right - radius
        x = rng.uniform(min(low, high), max(low, high))
        first = start == 0
        y = rng.uniform(0.05, 0.3) if first else -radius - 0.05
        solids.append(
            Solid(
                0.8 * radius,
                (x, y),
                (rng.uniform(-0.1, 0.1), 0.4 * first),
                rng.uniform(-1.5, 1.5),
                rng.uniform(-0.4, 0.4),
                start,
                0.6 * rng.uniform(*look.bounciness),
                look.friction,
                outline,
            )
        )
        start += gap * rng.uniform(0.7, 1.3)
    actors, events, _ = perform(solids, [ground(setting)], material, setting, rng.uniform(3.0, 4.6), "impact", rng)
    return Act(actors, events, "block", {"count": "one" if len(solids) == 1 else "several"})


def _mirrored(setting: Setting, flip: bool):
    return (lambda x: setting.left + setting.right - x) if flip else (lambda x: x)


def rolling(material: str, setting: Setting, rng: np.random.Generator) -> Act:
    """Balls roll in over a tilted ledge, drop off its end, and roll on along the floor."""
    look = LOOKS[material]
    place = _mirrored(setting, bool(rng.uniform() < 0.5))
    end_x, end_y = setting.left + rng.uniform(0.45, 0.65) * setting.width, rng.uniform(0.45, 0.58)
    slope = rng.uniform(0.06, 0.2)
    start_x = setting.left - 0.9
    start_y = end_y - slope * (end_x - start_x)
    ledge = Surface((place(start_x), start_y), (place(end_x), end_y), 1.0)
    solids, start = [], 0.0
    direction = 1 if place(1.0) > place(0.0) else -1
    while start < max(0.3, setting.duration_seconds - 1.5):
        radius = rng.uniform(0.1, 0.15)
        x = setting.left + rng.uniform(0.0, 0.15) * setting.width if start == 0 else setting.left - 1.2 * radius
        speed = rng.uniform(0.3, 0.7)
        y = end_y - slope * (end_x - x) - radius * np.sqrt(1 + slope**2) - 0.006
        solids.append(
            Solid(
                radius,
                (place(x), y),
                (direction * speed, slope * speed),
                direction * speed / radius,
                0.0,
                start,
                0.8 * rng.uniform(*look.bounciness),
                1.0,
                settles=False,
            )
        )
        start += rng.uniform(2.6, 4.0)
    gravity = rng.uniform(3.0, 4.2)
    actors, events, tracks = perform(solids, [ground(setting), ledge], material, setting, gravity, "impact", rng)
    for track in tracks:
        events += moving_contact(track, setting, "rolling", "roll", material)
    plank = _plank([ledge.start, ledge.end], 0.05, rng)
    return Act(
        [plank, *actors],
        events,
        str(rng.choice(["ball"] if material != "glass" else ["ball", "marble"])),
        {"count": "one" if len(solids) == 1 else "several"},
    )


def sliding(material: str, setting: Setting, rng: np.random.Generator) -> Act:
    """Boxes slide across the floor or down a slope, until friction or a post stops them."""
    place = _mirrored(setting, bool(rng.uniform() < 0.5))
    direction = 1 if place(1.0) > place(0.0) else -1
    steep = rng.uniform() < 0.5
    slope = rng.uniform(0.3, 0.42) if steep else 0.0
    post_x = setting.left + rng.uniform(0.8, 0.95) * setting.width
    height = lambda x: setting.floor - slope * (post_x - x)
    start_x = setting.left - 1.2
    plane = Surface((place(start_x), height(start_x)), (place(post_x + 0.1), height(post_x + 0.1)), 1.0)
    post = Surface((place(post_x), height(post_x)), (place(post_x), height(post_x) - 0.4), 0.2)
    friction = slope - rng.uniform(0.03, 0.12) if steep else rng.uniform(0.12, 0.3)
    solids, start = [], 0.0
    gravity = rng.uniform(3.0, 4.0)
    while start < max(0.3, setting.duration_seconds - 1.5) and len(solids) < 4:
        size = rng.uniform(0.16, 0.24)
        outline = box(size * rng.uniform(1.1, 1.6), size)
        half = float(outline[:, 0].max())
        x = setting.left + rng.uniform(0.1, 0.25) * setting.width if start == 0 else setting.left - 1.2 * half
        tilt = np.arctan(slope)
        reach = rng.uniform(0.6, 1.5) * setting.width  # where friction alone would stop it on the flat
        speed = rng.uniform(0.3, 0.8) if steep else np.sqrt(2 * friction * gravity * reach)
        normal = np.array([np.sin(tilt), -np.cos(tilt)])
        centre = np.array([x, height(x)]) + normal * (size / 2 + 0.006)
        along = np.array([np.cos(tilt), np.sin(tilt)]) * speed
        solids.append(
            Solid(
                half,
                (place(float(centre[0])), float(centre[1])),
                (direction * float(along[0]), float(along[1])),
                0.0,
                direction * float(tilt),
                start,
                0.25,
                friction,
                outline,
                settles=False,
            )
        )
        start += rng.uniform(2.4, 3.6)
    actors, events, tracks = perform(solids, [ground(setting), plane, post], material, setting, gravity, "impact", rng)
    for track in tracks:
        events += moving_contact(track, setting, "sliding", "slide", material)
    bars = [_plank([post.start, post.end], 0.06, rng)]
    if steep:
        bars.insert(0, _plank([plane.start, plane.end], 0.05, rng))
    return Act(
        [*bars, *actors], events, str(rng.choice(["box", "block"])), {"count": "one" if len(solids) == 1 else "several"}
    )


def _plank(ends: list[tuple[float, float]], width: float, rng: np.random.Generator) -> Actor:
    """A bar under the line between `ends`."""
    colour = rgb(rng.uniform(100, 165) + rng.uniform(-12, 12, 3))
    start, end = (np.array(p) for p in sorted(ends))
    below = np.array([-(end - start)[1], (end - start)[0]]) / np.hypot(*(end - start)) * width
    outline = np.array([start, end, end + below, start + below])

    def draw(canvas: Canvas, time_seconds: float) -> None:
        canvas.polygon(outline, colour)

    return draw


def moving_contact(track: Motion, setting: Setting, source: str, kind: str, material: str) -> list[Event]:
    """The stretches in which a body rolls or slides in the picture, loudness following its speed."""
    every = STEPS_A_SECOND // 50
    times = track.solid.start_seconds + np.arange(len(track.angle))[::every] / STEPS_A_SECOND
    x = np.array([setting.seen_x(p, t) for p, t in zip(track.position[::every, 0], times, strict=True)])
    speed = np.hypot(*track.velocity[::every].T)
    loudness = 0.8 * np.clip(speed / 1.2, 0, 1)
    moving = track.supported()[::every] & (speed > 0.12) & (np.abs(x) <= 1) & (times < setting.duration_seconds)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], moving.astype(np.int8), [0]])))
    events = []
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        length = float(times[high - 1] - times[low])
        if length >= 0.2:
            samples = np.stack([times, x, loudness], axis=1)[low:high]
            path = tuple((float(time), float(place), float(level)) for time, place, level in samples)
            events.append(
                Event(
                    float(times[low]),
                    source,
                    kind,
                    float(x[low]),
                    float(loudness[low:high].max()),
                    length,
                    size_pitch(track.solid.radius),
                    path,
                    material,
                )
            )
    return events
