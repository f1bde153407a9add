"""Rigid bodies that fall, bounce, roll and slide, and what can be heard of it.

World units: the picture is 1 high, x runs to the right and y runs DOWN. Speeds are in picture heights a second.
Impacts and support are read off the recorded motion itself (a velocity that jumps by more than gravity explains), so
that no callback runs inside the simulation and corner slaps count as well as first touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pymunk
import pymunk.batch

STEPS_A_SECOND = 500
_STEPS_A_CHECK = 20
_RECORD = (
    pymunk.batch.BodyFields.BODY_ID
    | pymunk.batch.BodyFields.POSITION
    | pymunk.batch.BodyFields.ANGLE
    | pymunk.batch.BodyFields.VELOCITY
    | pymunk.batch.BodyFields.ANGULAR_VELOCITY
)


@dataclass(frozen=True)
class Solid:
    """A rigid body. `outline` is a convex polygon [n, 2] around the centre of mass, or None for a ball of `radius`."""

    radius: float
    position: tuple[float, float]
    velocity: tuple[float, float] = (0.0, 0.0)
    spin: float = 0.0
    angle: float = 0.0
    start_seconds: float = 0.0
    bounciness: float = 0.5
    friction: float = 0.6
    outline: np.ndarray | None = field(default=None, compare=False)
    settles: bool = True  # comes to rest once its bounces are too weak to hear


@dataclass(frozen=True)
class Surface:
    """A fixed straight edge from `start` to `end`."""

    start: tuple[float, float]
    end: tuple[float, float]
    friction: float = 0.8


@dataclass(frozen=True)
class Impact:
    """One contact: when, where the body's centre was, how fast it hit (heights a second), and the push's direction."""

    time_seconds: float
    x: float
    y: float
    speed: float
    direction: tuple[float, float]


@dataclass(frozen=True)
class Motion:
    """The motion of one solid at `STEPS_A_SECOND`, from its start: position [n, 2], angle [n], velocity [n, 2]."""

    solid: Solid
    position: np.ndarray
    angle: np.ndarray
    velocity: np.ndarray
    spin: np.ndarray
    gravity: float

    def at(self, time_seconds: float) -> tuple[float, float, float] | None:
        """(x, y, angle) at a time, or None before the body exists."""
        index = round((time_seconds - self.solid.start_seconds) * STEPS_A_SECOND)
        if index < 0:
            return None
        index = min(index, len(self.angle) - 1)
        return float(self.position[index, 0]), float(self.position[index, 1]), float(self.angle[index])

    def time_seconds(self, index: int) -> float:
        """The time of a step of the track."""
        return self.solid.start_seconds + index / STEPS_A_SECOND

    def impacts(self, *, quietest_speed: float) -> list[Impact]:
        """Contacts faster than `quietest_speed`; what falls within 50 ms of a faster one is part of it."""
        jump = np.diff(self.velocity, axis=0) - np.array([0.0, self.gravity / STEPS_A_SECOND])
        turn = 0.4 * self.solid.radius * np.abs(np.diff(self.spin))
        speed = (np.hypot(jump[:, 0], jump[:, 1]) + turn) / (1 + self.solid.bounciness)
        kept: list[int] = []
        loud = np.flatnonzero(speed > quietest_speed)
        for index in loud[np.argsort(-speed[loud], kind="stable")]:
            if all(abs(index - other) > 0.05 * STEPS_A_SECOND for other in kept):
                kept.append(int(index))
        return [self._impact(index, jump[index], float(speed[index])) for index in sorted(kept)]

    def _impact(self, index: int, jump: np.ndarray, speed: float) -> Impact:
        push = jump / max(float(np.hypot(*jump)), 1e-9)
        x, y = self.position[index]
        return Impact(self.time_seconds(index), float(x), float(y), speed, (float(push[0]), float(push[1])))

    def supported(self) -> np.ndarray:
        """bool [n]: whether something carries the body (it does not fall freely), short gaps and hops removed."""
        acceleration = np.diff(self.velocity, axis=0, append=self.velocity[-1:]) * STEPS_A_SECOND
        carried = np.abs(acceleration[:, 1] - self.gravity) > 0.1 * self.gravity
        window = STEPS_A_SECOND // 12
        share = np.convolve(np.pad(carried, window, mode="edge"), np.ones(window) / window, mode="same")
        return share[window:-window] > 0.5


def simulate(
    solids: Sequence[Solid],
    surfaces: Sequence[Surface],
    *,
    duration_seconds: float,
    gravity: float,
    quietest_speed: float,
) -> list[Motion]:
    """Lets `solids` move under `gravity` (heights/s², downwards) and returns one track per solid, in order.

    A solid with `settles` stops bouncing, and soon moving, after a contact slower than `quietest_speed`: real things
    come to rest, and a long chatter of inaudible contacts would teach that touching makes no sound.
    """
    space = pymunk.Space()
    space.gravity = (0, gravity)
    space.collision_slop = 0.001
    space.iterations = 15
    for surface in surfaces:
        segment = pymunk.Segment(space.static_body, surface.start, surface.end, 0.004)
        segment.elasticity, segment.friction = 1.0, surface.friction
        space.add(segment)
    bodies = [_body(solid) for solid in solids]
    waiting = sorted(range(len(solids)), key=lambda i: solids[i].start_seconds)
    settled: set[int] = set()
    rows: dict[int, list[np.ndarray]] = {body.id: [] for body in bodies}
    checks = int(np.ceil(duration_seconds * STEPS_A_SECOND / _STEPS_A_CHECK)) + 1
    for check in range(checks):
        now = check * _STEPS_A_CHECK / STEPS_A_SECOND
        while waiting and solids[waiting[0]].start_seconds <= now:
            body = bodies[waiting.pop(0)]
            space.add(body, *body.shapes)
        _advance(space, rows)
        for index, body in enumerate(bodies):
            if solids[index].settles and body.space is not None:
                _settle(body, index, settled, rows[body.id][-1], solids[index], gravity, quietest_speed)
    return [_track(solid, rows[body.id], gravity) for solid, body in zip(solids, bodies, strict=True)]


def _body(solid: Solid) -> pymunk.Body:
    if solid.outline is None:
        moment = pymunk.moment_for_circle(1.0, 0, solid.radius)
    else:
        moment = pymunk.moment_for_poly(1.0, solid.outline.tolist())
    body = pymunk.Body(1.0, moment)
    body.position, body.velocity = solid.position, solid.velocity
    body.angle, body.angular_velocity = solid.angle, solid.spin
    shape = pymunk.Circle(body, solid.radius) if solid.outline is None else pymunk.Poly(body, solid.outline.tolist())
    shape.elasticity, shape.friction = solid.bounciness, solid.friction
    return body


def _advance(space: pymunk.Space, rows: dict[int, list[np.ndarray]]) -> None:
    """One check's worth of steps; appends [steps, 6] (x, y, angle, vx, vy, spin) to every moving body's rows."""
    buffer = pymunk.batch.Buffer()
    for _ in range(_STEPS_A_CHECK):
        pymunk.batch.get_space_bodies(space, _RECORD, buffer)
        space.step(1 / STEPS_A_SECOND)
    values = np.frombuffer(buffer.float_buf(), dtype=np.float64).reshape(_STEPS_A_CHECK, -1, 6)
    ids = np.frombuffer(buffer.int_buf(), dtype=np.int64).reshape(_STEPS_A_CHECK, -1)[0]
    for column, body_id in enumerate(ids):
        if int(body_id) in rows:
            rows[int(body_id)].append(values[:, column].copy())


def _settle(
    body: pymunk.Body,
    index: int,
    settled: set[int],
    recent: np.ndarray,
    solid: Solid,
    gravity: float,
    quietest_speed: float,
) -> None:
    if index in settled:
        body.velocity = (body.velocity[0] * 0.8, body.velocity[1])
        body.angular_velocity *= 0.9
        return
    jump = np.abs(np.diff(recent[:, 4]) - gravity / STEPS_A_SECOND).max() / (1 + solid.bounciness)
    if 0.02 < jump < quietest_speed:
        settled.add(index)
        for shape in body.shapes:
            shape.elasticity = 0.0


def _track(solid: Solid, rows: list[np.ndarray], gravity: float) -> Motion:
    values = np.concatenate(rows) if rows else np.array([[*solid.position, solid.angle, *solid.velocity, solid.spin]])
    return Motion(solid, values[:, 0:2], values[:, 2], values[:, 3:5], values[:, 5], gravity)
