"""The sound of a scene: its events rendered to a stereo waveform."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kfjax.scenes.world import modal, space, texture
from kfjax.scenes.world.event import SOURCES, STRUCK, Event

NOISE_FLOOR_DB = -75.0
PEAK = 0.95
#: Below this the output is untouched; above it the soft limiter bends towards `PEAK`.
_KNEE = 0.7
#: Sustained sounds swell and fade over this time, so that they make no onset of their own.
_FADE_SECONDS = {"rain": 0.6, "wind": 0.8, "fire": 0.5, "engine": 0.6, "rolling": 0.3, "sliding": 0.3}
#: Levels of the sustained sources relative to `texture.SUSTAINED_RMS`: the ear is deaf to rumble, sharp for hiss.
_LEVEL = {"rain": 0.4, "wind": 0.8, "fire": 0.8, "engine": 0.8, "rolling": 0.9, "sliding": 0.5}


def render_sound(
    events: Sequence[Event], duration_seconds: float, seed: int, sample_rate_hz: int = 44100
) -> np.ndarray:
    """Render the events of a scene to sound.

    Gains are fixed, never normalised per clip: an event of twice the loudness has twice the amplitude (up to the
    soft limit). Without events there is only the noise floor.

    Args:
      events: what sounds, in any order; what reaches beyond the clip is cut. A sustained event's `path` gives its
        position and loudness at scene times; without one it stays at `x` with `loudness`.
      duration_seconds: length of the clip, > 0.
      seed: seed of all noise and of the small variation between strokes.
      sample_rate_hz: sample rate.

    Returns:
      float32 [round(duration_seconds * sample_rate_hz), 2], left and right, |values| <= 0.95.

    Raises:
      ValueError: the duration is not positive, or an event has an unknown source or material.
    """
    if not duration_seconds > 0:
        raise ValueError(f"duration {duration_seconds} seconds: expected more than 0")
    size = round(duration_seconds * sample_rate_hz)
    floor = np.random.default_rng(seed).standard_normal((size, 2), dtype=np.float32)
    mix = floor * np.float32(10 ** (NOISE_FLOOR_DB / 20))
    for index, event in enumerate(events):
        rng = np.random.default_rng((seed, index + 1))
        start = max(0, round(event.time_seconds * sample_rate_hz))
        if start < size:
            render = _struck if event.struck else _sustained
            sound = render(event, rng, sample_rate_hz)[: size - start]
            mix[start : start + len(sound)] += sound
    return _soft_limit(mix)


def _struck(event: Event, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    if event.source not in STRUCK:
        raise ValueError(f"a struck event (duration 0) of source {event.source!r}: expected one of {', '.join(STRUCK)}")
    if event.source == "footsteps":
        sound = modal.footstep(event.material or "wood", event.pitch, rng, sample_rate_hz)
    else:
        sound = modal.strike(event.source, event.pitch, rng, sample_rate_hz)
    return space.place(np.float32(event.loudness) * sound, event.x, sample_rate_hz)


def _sustained(event: Event, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    size = round(event.duration_seconds * sample_rate_hz)
    x, loudness = _along_path(event, size, sample_rate_hz)
    level = loudness * _fade(size, _FADE_SECONDS.get(event.source, 0.1), sample_rate_hz)
    level *= np.float32(texture.SUSTAINED_RMS * _LEVEL.get(event.source, 1.0))
    match event.source:
        case "rain" | "wind":
            weather = texture.rain if event.source == "rain" else texture.wind
            left, right = (level * weather(size, ear_rng, sample_rate_hz) for ear_rng in rng.spawn(2))
            return space.place_wide(left, right, event.x)
        case "fire":
            mono = texture.fire(size, rng, sample_rate_hz)
        case "engine":
            mono = texture.engine(x, event.pitch, rng, sample_rate_hz)
        case "rolling":
            mono = texture.rolling(x, event.material or "wood", rng, sample_rate_hz)
        case "sliding":
            mono = texture.sliding(x, event.material or "wood", rng, sample_rate_hz)
        case _:
            raise ValueError(
                f"a sustained event of source {event.source!r}: expected rain, wind, fire, engine, "
                f"rolling or sliding, of {', '.join(SOURCES)}"
            )
    return space.place_moving(level * mono, x, sample_rate_hz)


def _along_path(event: Event, size: int, sample_rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Position and loudness at every sample of a sustained event, float32 [size] each."""
    if not event.path:
        return np.full(size, event.x, np.float32), np.full(size, event.loudness, np.float32)
    times, xs, loudness = np.asarray(event.path, np.float64).T
    at = event.time_seconds + np.arange(size) / sample_rate_hz
    return np.interp(at, times, xs).astype(np.float32), np.interp(at, times, loudness).astype(np.float32)


def _fade(size: int, fade_seconds: float, sample_rate_hz: int) -> np.ndarray:
    """Gain that rises by a steady number of dB a second from -48 dB and falls so at the end; float32 [size].

    A fade that is even in amplitude would begin, in dB, with a jump: an onset where nothing was struck. A short
    event therefore fades in over most of its length, and out quickly.
    """
    samples = np.arange(size, dtype=np.float32)
    rising = samples / max(1.0, min(fade_seconds * sample_rate_hz, 0.6 * size))
    falling = samples[::-1] / max(1.0, min(fade_seconds * sample_rate_hz, 0.2 * size))
    ramp = np.minimum(1, np.minimum(rising, falling))
    return 10 ** (np.float32(2.4) * (ramp - 1)) * np.minimum(1, 10 * ramp)


def _soft_limit(mix: np.ndarray) -> np.ndarray:
    room = np.float32(PEAK - _KNEE)
    loud = np.abs(mix) > _KNEE
    excess = np.abs(mix[loud]) - np.float32(_KNEE)
    mix[loud] = np.sign(mix[loud]) * (np.float32(_KNEE) + room * np.tanh(excess / room))
    return mix
