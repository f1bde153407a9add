"""Ranges of the arguments of a generation, checked before anything is loaded."""

from __future__ import annotations

import math
import operator

from kfjax.rates import MAX_SECONDS

TEXT_ONLY_SECONDS = 8.0  # of sound for a prompt alone, unless told
MAX_SEED = 2**32 - 1
MAX_STEPS = 1000
MAX_SAMPLES = 64
MAX_SCALE = 100.0  # of guidance, and of a video's own sound
MAX_PROMPT_CHARACTERS = 1000  # several times what 77 tokens hold


def check(
    *,
    prompt: str = "",
    negative_prompt: str = "",
    seed: int = 0,
    samples: int = 1,
    steps: int | None = None,
    guidance: float | None = None,
    video_guidance: float | None = None,
    text_guidance: float | None = None,
    negative_guidance: float | None = None,
    method: str = "euler",
    batch: int | None = None,
    keep_original: float | None = None,
    schedule: str | None = None,
    guidance_interval: tuple[float, float] | None = None,
    strength: float | None = None,
    window: int | None = None,
    overlap: int | None = None,
    music_prompt: str = "",
    music_gain: float = 1.0,
    music_seed: int | None = None,
    loudness: float | None = None,
) -> None:
    """The arguments of `Model.generate` that need neither a model nor a file; None: the model's own.

    Raises:
      ValueError: one that is out of its range, or does not go with the others.
    """
    for name, text in (("prompt", prompt), ("negative prompt", negative_prompt), ("music prompt", music_prompt)):
        if len(text) > MAX_PROMPT_CHARACTERS:
            most = f"at most {MAX_PROMPT_CHARACTERS}"
            raise ValueError(f"{name}: got {len(text)} characters, expected {most}; say what is heard in a sentence")
    _whole("seed", seed, 0, MAX_SEED)
    if music_seed is not None:
        _whole("music seed", music_seed, 0, MAX_SEED)
    _whole("samples", samples, 1, MAX_SAMPLES)
    if batch is not None:
        _whole("batch", batch, 1, MAX_SAMPLES)
    if steps is not None:
        _whole("steps", steps, 1, MAX_STEPS)
    scales = {"guidance": guidance, "video guidance": video_guidance, "text guidance": text_guidance,
              "negative guidance": negative_guidance, "keep original": keep_original,
              "music gain": music_gain}  # fmt: skip
    for name, value in scales.items():
        if value is not None:
            _scale(name, value)
    if negative_guidance and not negative_prompt.strip():
        got = f"got {negative_guidance:g} but no negative prompt"
        raise ValueError(f"negative guidance: {got}; give one or leave it out")
    if strength is not None and not 0 < strength <= 1:
        raise ValueError(f"strength: got {strength:g}, expected above 0 and up to 1; 1 makes everything anew")
    if loudness is not None and not -70 < loudness <= 0:
        raise ValueError(f"loudness: got {loudness:g}, expected above -70 and up to 0 LUFS, such as -23")
    for name, value in (("window", window), ("overlap", overlap)):
        if value is not None:
            _whole(name, value, 1, int(MAX_SECONDS))
    if guidance_interval is not None and not 0 <= guidance_interval[0] < guidance_interval[1] <= 1:
        got = "{:g} to {:g}".format(*guidance_interval)
        raise ValueError(f"guidance interval: got {got}, expected two times from 0 to 1, the smaller one first")
    if schedule not in (None, "uniform", "sway"):
        raise ValueError(f"schedule: got {schedule!r}, expected 'uniform' or 'sway'")
    if method not in ("euler", "heun"):
        raise ValueError(f"method: got {method!r}, expected 'euler' or 'heun'")


def _scale(name: str, value: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= MAX_SCALE):
        raise ValueError(f"{name}: got {value}, expected a number from 0 to {MAX_SCALE:g}")


def _whole(name: str, value: int, least: int, most: int) -> None:
    try:
        number = operator.index(value)  # an integer, of numpy too
    except TypeError:
        number = None
    if isinstance(value, bool) or number is None or not least <= number <= most:
        raise ValueError(f"{name}: got {value}, expected a whole number from {least} to {most}")
