"""Fingerprints of what made features: of a whole system, and of each of its parts. Nothing here touches a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: The parts of a system that make features and latents.
PARTS = ("clip", "sync", "text", "vae")


class Marks(NamedTuple):
    """Fingerprints of the encoders and the codec that made features, and their system's name.

    Attributes:
      whole: changes with any of the parts.
      parts: part -> its own; empty where an earlier version extracted.
    """

    whole: str
    parts: Mapping[str, str] = {}
    system: str = ""

    def differing(self, other: Marks) -> list[str]:
        """The parts that differ; all where those of one side are not known and the wholes differ."""
        if not (self.parts and other.parts):
            return [] if self.whole == other.whole else [*PARTS]
        return [name for name in PARTS if self.parts[name] != other.parts[name]]

    def unlike(self, expected: Marks) -> str:
        """What was got, what was expected, what to do."""
        told = self.told(expected)
        return (
            f"{self.whole}, expected those of {expected.whole}"
            + (f" ({self.system} and {expected.system}: {told})" if told else "")
            + "; extract them with this model, or train with the model that made them"
        )

    def told(self, other: Marks) -> str:
        """What differs and what does not, for people; empty where it is not known."""
        if not (self.parts and other.parts):
            return ""
        differing = self.differing(other)
        same = [name for name in PARTS if name not in differing]
        return f"other {', '.join(differing)}" + (f", the same {', '.join(same)}" if same else "")
