"""A kind of scene that the built-in world lacks: frogs that croak. Drawn and synthesised with the same tools.

A frog sits on a lily pad; with every croak its throat swells and it rises a little. A croak is a quick series of damped
pulses, deeper and slower the larger the frog.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kfjax.scenes import Event, Scene
from kfjax.scenes.world.backdrop import FAMILIES, make_backdrop
from kfjax.scenes.world.draw import ROUND, Camera, Canvas, Colour, shade
from kfjax.scenes.world.modal import STRUCK_PEAK, damped_sinusoids
from kfjax.scenes.world.recipes import held_out_family, random_stream
from kfjax.scenes.world.scene import WIDE_SIZES
from kfjax.scenes.world.sound import render_sound
from kfjax.scenes.world.space import place
from kfjax.scenes.world.stage import Setting, Stage, heard

FROG, RECIPE = "frog", "croaking"
GREEN: Colour = (88.0, 176.0, 36.0)
THROAT: Colour = (250.0, 236.0, 120.0)
PAD: Colour = (24.0, 104.0, 72.0)
_RADIUS = 0.15  # of a frog of pitch 1, picture heights
_PULSES_HZ, _MODES_HZ, _GAINS = 40.0, (640.0, 1480.0, 2350.0), (1.0, 0.7, 0.35)
_PULSES, _PULSE_SECONDS = 11, 0.07  # a pulse falls by 40 dB
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class FrogScene(Scene):
    """A scene whose sound is croaks."""

    def sound(self, sample_rate_hz: int = 44100) -> np.ndarray:
        """float32 [samples, 2] within ±0.95, the noise floor of all scenes included."""
        mix = render_sound([], self.duration_seconds, self.seed, sample_rate_hz)
        for index, event in enumerate(self.events):
            mono = event.loudness * croak(event.pitch, np.random.default_rng((self.seed, index)), sample_rate_hz)
            start = round(event.time_seconds * sample_rate_hz)
            stereo = place(mono, event.x, sample_rate_hz)[: max(0, len(mix) - start)]
            mix[start : start + len(stereo)] += stereo
        return np.clip(mix, -0.95, 0.95)


@dataclass(frozen=True)
class Frog:
    """Where a frog sits, how large it is, and when it croaks [n], seconds."""

    x: float
    y: float
    radius: float
    times: np.ndarray
    colour: Colour

    @property
    def pitch(self) -> float:
        return _RADIUS / self.radius

    def swell(self, time_seconds: float) -> float:
        """How far the throat is blown up, 0 to 1: at once with a croak, then it sinks until the next."""
        before = int(np.searchsorted(self.times, time_seconds + 0.01)) - 1
        if before < 0:
            return 0.0
        age = time_seconds + 0.01 - self.times[before]
        return float(min(1.0, age / 0.05) * np.clip(1 - (age - _PULSES / pulses_hz(self.pitch)) / 0.15, 0, 1))

    def __call__(self, canvas: Canvas, time_seconds: float) -> None:
        blown, r = self.swell(time_seconds), self.radius
        x, y = self.x, self.y - 0.12 * blown * r
        at = lambda dx, dy, wide, high: np.array([x + dx * r, y + dy * r]) + r * ROUND * (wide, high)
        canvas.polygon(np.array([self.x, self.y + 0.75 * r]) + r * ROUND * (1.9, 0.32), PAD)
        for side in (-1, 1):
            canvas.polygon(at(0.85 * side, 0.45, 0.45, 0.4), shade(self.colour, 0.75))
        canvas.polygon(at(0.0, 0.0, 1.0, 0.75), self.colour)
        for side in (-1, 1):
            canvas.polygon(at(0.5 * side, -0.65, 0.3, 0.3), self.colour)
            canvas.polygon(at(0.5 * side, -0.7, 0.17, 0.17), (20.0, 20.0, 20.0))
        canvas.polygon(at(0.0, 0.3 + 0.2 * blown, 0.3 + 0.55 * blown, 0.16 + 0.5 * blown), THROAT)


def make_frog_scene(seed: int, *, duration_seconds: float = 4.0, split: str = "train") -> FrogScene:
    """Scene `seed` of a split: one frog, or two that take turns; "heldout" before backgrounds that "train" lacks."""
    rng = random_stream(seed, split, RECIPE)
    held = held_out_family(RECIPE, FROG)
    family = held if split == "heldout" else str(rng.choice([name for name in FAMILIES if name != held]))
    width, height = WIDE_SIZES[int(rng.integers(len(WIDE_SIZES)))]
    aspect = width / height
    setting = Setting(duration_seconds, aspect, float(rng.uniform(0.82, 0.92)), Camera(), 0.02, aspect - 0.02)
    backdrop = make_backdrop(family, setting.floor, [GREEN, THROAT, PAD], rng)
    frogs = _frogs(setting, rng)
    events = heard([event for frog in frogs for event in _croaks(frog, setting, rng)], duration_seconds)
    stage = Stage(aspect, backdrop, setting.camera, float(rng.uniform(0.85, 1.12)), list(frogs))
    return FrogScene(
        seed=seed, split=split, recipe=RECIPE, duration_seconds=duration_seconds, size=(width, height), events=events,
        caption=_caption(len(frogs), len(events), rng), sources=(FROG,) if events else (),
        combination=f"{FROG}|{RECIPE}|{family}", stage=stage,
    )  # fmt: skip


def croak(pitch: float, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """A croak of loudness 1, mono float32: pulses that follow one another so fast that only the first is an onset."""
    modes = np.array(_MODES_HZ) * pitch * (1 + 0.01 * rng.standard_normal())
    gains = np.array(_GAINS) * np.exp(0.1 * rng.standard_normal(len(modes)))
    pulse = damped_sinusoids(modes, gains, np.full(len(modes), _PULSE_SECONDS), sample_rate_hz)
    starts = np.round(np.arange(_PULSES) / pulses_hz(pitch) * sample_rate_hz).astype(int)
    wave = np.zeros(starts[-1] + len(pulse), np.float32)
    for index, start in enumerate(starts):
        wave[start : start + len(pulse)] += pulse * np.float32(0.92**index)
    return wave * np.float32(STRUCK_PEAK / np.abs(wave).max())


def pulses_hz(pitch: float) -> float:
    """Large frogs are slower."""
    return _PULSES_HZ * pitch**0.5


def _frogs(setting: Setting, rng: np.random.Generator) -> list[Frog]:
    count = 2 if rng.uniform() < 0.3 else 1
    room = setting.width / count
    frogs = []
    for index in range(count):
        radius = float(rng.uniform(0.12, min(0.2, 0.24 * room)))
        left = setting.left + index * room
        x = float(rng.uniform(left + 1.2 * radius, left + room - 1.2 * radius))
        times, time = [], float(rng.uniform(0.2, 0.9))
        while time < setting.duration_seconds - 0.3:
            times.append(time)
            time += float(rng.uniform(0.6, 1.6)) * count
        colour = shade(GREEN, rng.uniform(0.85, 1.15))
        frogs.append(Frog(x, setting.floor - 0.6 * radius, radius, np.array(times), colour))
    return frogs


def _croaks(frog: Frog, setting: Setting, rng: np.random.Generator) -> list[Event]:
    return [
        Event(float(time), FROG, "croak", setting.seen_x(frog.x, time), float(rng.uniform(0.45, 1.0)), pitch=frog.pitch)
        for time in frog.times
    ]


def _caption(frogs: int, croaks: int, rng: np.random.Generator) -> str:
    if not croaks:
        return "silence"
    if frogs > 1:
        return str(rng.choice(["two frogs croak", "frogs croaking", "the croaking of two frogs"]))
    times = f"a frog croaks {_NUMBERS[croaks]} times" if 1 < croaks < len(_NUMBERS) else "a frog croaks once"
    return str(rng.choice(["a frog croaks", "a frog croaking", "the croaking of a frog", times]))
