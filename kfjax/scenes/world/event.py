"""What happens in a scene: the ground truth shared by its picture, its sound and its caption."""

from __future__ import annotations

from dataclasses import dataclass

#: The sounding things of the built-in world. One class per source; a classifier must be able to tell them apart.
MATERIALS = ("wood", "metal", "glass", "rubber", "stone")
STRUCK = (*MATERIALS, "footsteps", "clock", "bell", "piano")
SUSTAINED = ("rain", "wind", "fire", "engine", "rolling", "sliding")
SOURCES = (*STRUCK, *SUSTAINED)


@dataclass(frozen=True)
class Event:
    """One sounding event.

    Attributes:
      time_seconds: onset, seconds from the start of the scene.
      source: one of `SOURCES`.
      kind: impact | bounce | step | tick | ring | note (struck) or roll | slide | weather | flame | pass (sustained).
      x: horizontal position at the onset, -1 (left edge of the picture) to 1 (right edge).
      loudness: linear amplitude, 0 to 1, before distance.
      duration_seconds: 0 for a struck event (its decay is the sound's own); the length of a sustained one.
      pitch: frequency multiplier, 1.0 = nominal; for a piano note, the frequency's ratio to 440 Hz.
      path: for sustained or moving events, samples (time_seconds, x, loudness) from onset to end, at least 25 a
        second, in the scene's time; else empty. Its loudness replaces the event's.
      material: what it is made of or moves on, where that matters ("wood" rolling, "gravel" steps); else "".
    """

    time_seconds: float
    source: str
    kind: str
    x: float
    loudness: float
    duration_seconds: float = 0.0
    pitch: float = 1.0
    path: tuple[tuple[float, float, float], ...] = ()
    material: str = ""

    @property
    def struck(self) -> bool:
        """True when the event has a sharp onset that synchrony is measured on."""
        return self.duration_seconds == 0.0
