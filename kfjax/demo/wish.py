"""What a visitor asks for, the limits of it, and what it is called."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from kfjax import rates
from kfjax.making.limits import MAX_PROMPT_CHARACTERS, MAX_SAMPLES, MAX_SEED

MAX_SCALE = 20.0
MAX_MUSIC_GAIN = 4.0
LEAST_STRENGTH = 0.1
LEAST_SECONDS = 1.0  # of a sound
LOUDNESS_LUFS = (-60.0, -5.0)
MEGABYTE, MEGAPIXEL = 2**20, 1e6


@dataclass(frozen=True)
class Limits:
    """What one request, one visitor and the whole server may use.

    Attributes:
      seconds: length of a clip or a recording, and of a sound without one.
      megabytes: size of an uploaded file.
      megapixels: size of a clip's picture.
      fps: pictures a second.
      samples, steps: of one request.
      clips, takes: uploads and takes kept for a visitor; beyond that the oldest are deleted.
      requests: of one visitor, being made or waiting.
      waiting: requests of all visitors, besides the one being made.
      idle_seconds: a visitor who asked for nothing for so long is taken to have left.
      unnamed_seconds: an upload that no page asks anything about for so long is deleted.
      folder_megabytes: of all the files together; uploads are refused beyond that.
    """

    seconds: float = 30.0
    megabytes: float = 64.0
    megapixels: float = 9.0
    fps: float = 125.0
    samples: int = 4
    steps: int = 100
    clips: int = 8
    takes: int = 12
    requests: int = 1
    waiting: int = 32
    idle_seconds: float = 3600.0
    unnamed_seconds: float = 120.0
    folder_megabytes: float = 4000.0

    def __post_init__(self):
        if not LEAST_SECONDS <= self.seconds <= rates.LONGEST_SECONDS:
            most = f"{LEAST_SECONDS:g} to {rates.LONGEST_SECONDS:g} s"
            raise ValueError(f"longest clip: got {self.seconds:g} s, expected {most}; give another limit")
        if not self.megabytes > 0 or not 1 <= self.samples <= MAX_SAMPLES:
            got = f"{self.megabytes:g} MB and {self.samples} versions"
            raise ValueError(f"limits: got {got}, expected more than 0 MB and 1 to {MAX_SAMPLES} versions")
        if self.requests < 1:
            raise ValueError(f"limits: got {self.requests} requests of a visitor, expected 1 or more")


@dataclass(frozen=True)
class Wish:
    """A request as the page sends it: not checked yet.

    Attributes:
      seconds: length of the sound, from the start of the clip; None: all of the clip, or 8 without one.
      reference: a file whose sound this shall be like.
      music_prompt, music_gain: of music beside the sound.
      loudness: LUFS; None: as it is made.
      music_seed: None: the seed.
      take: the number of the take that is changed; with it one of
      redo: from and to, in seconds, which are made anew, or
      strength: how far from the take all of it may go.
    """

    clip: Path | None
    prompt: str
    negative_prompt: str
    video_guidance: float
    text_guidance: float
    negative_guidance: float
    steps: int
    seed: int
    samples: int
    seconds: float | None
    reference: Path | None = None
    music_prompt: str = ""
    music_gain: float = 1.0
    loudness: float | None = None
    music_seed: int | None = None
    take: int | None = None
    redo: tuple[float, float] | None = None
    strength: float | None = None

    def check(self, limits: Limits) -> None:
        """Raises ValueError, one line for the visitor, for texts and numbers out of their bounds."""
        texts = {"prompt": self.prompt, "negative prompt": self.negative_prompt, "music prompt": self.music_prompt}
        for name, text in texts.items():
            if not isinstance(text, str) or len(text) > MAX_PROMPT_CHARACTERS:
                raise ValueError(f"The {name} is too long: at most {MAX_PROMPT_CHARACTERS} characters, please.")
        if self.clip is None and not self.prompt.strip():
            raise ValueError("There is nothing to go by: give a clip, a prompt, or both.")
        within("The number of steps", self.steps, 1, limits.steps, whole=True)
        within("The number of versions", self.samples, 1, limits.samples, whole=True)
        within("The seed", self.seed, 0, MAX_SEED, whole=True)
        for name in ("video", "text", "negative"):
            within(f"The {name} guidance", getattr(self, f"{name}_guidance"), 0, MAX_SCALE)
        if self.music_seed is not None:
            within("The seed of the music", self.music_seed, 0, MAX_SEED, whole=True)
        within("The gain of the music", self.music_gain, 0, MAX_MUSIC_GAIN)
        if self.loudness is not None:
            within("The loudness", self.loudness, *LOUDNESS_LUFS)
        if self.strength is not None:
            within("The strength", self.strength, LEAST_STRENGTH, 1)


def within(name: str, value: float | None, least: float, most: float, *, whole: bool = False) -> None:
    """Raises ValueError, one line for the visitor, for what is no number from `least` to `most`."""
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and least <= value <= most
        and (not whole or value == int(value))
    )
    if not fits:
        kind = "a whole number" if whole else "a number"
        got = "empty" if value is None else f"{value}"
        raise ValueError(f"{name} is {got}: {kind} from {least:g} to {most:.10g} is needed.")


def name_of(number: int, wish: Wish, version: int) -> str:
    """What a take is called in the visitor's list."""
    about = wish.prompt.strip() or (wish.clip.stem if wish.clip is not None else "")
    about = about if len(about) <= 60 else f"{about[:59].rstrip()}…"
    avoided = f", without {wish.negative_prompt.strip()[:40]}" if wish.negative_prompt.strip() else ""
    if wish.redo is not None:
        return f"{number}. {about}{avoided}, take {wish.take} redone {wish.redo[0]:.4g} to {wish.redo[1]:.4g} s"
    if wish.strength is not None:
        return f"{number}. {about}{avoided}, take {wish.take} varied by {wish.strength:g}"
    several = f", version {version + 1}" if wish.samples > 1 else ""
    return f"{number}. {about}{avoided}, seed {int(wish.seed)}{several}"


def file_stem(name: str) -> str:
    """What a take's files are called, so that downloads are told apart: kfjax-1-a-bell-seed-0."""
    return f"kfjax-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"
