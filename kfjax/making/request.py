"""What a sound is asked for with: a person's arguments, checked and resolved for one model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from kfjax import media, rates
from kfjax.codec.pieces import halo
from kfjax.command import local_path
from kfjax.flow import sampler
from kfjax.making import limits, recording
from kfjax.making.limits import TEXT_ONLY_SECONDS
from kfjax.making.recording import Recording, ReferenceSound, Span
from kfjax.media.duration import excerpt_seconds, sound_seconds
from kfjax.structs import Schedule, Video
from kfjax.system import SystemConfig


class Asked(TypedDict, total=False):
    """The arguments that `Model.generate` and `Model.stream` share; `Model.generate` says what they mean."""

    negative_prompt: str
    duration: float | None
    steps: int | None
    schedule: sampler.ScheduleKind | None
    method: sampler.Method
    guidance: float | None
    video_guidance: float | None
    text_guidance: float | None
    negative_guidance: float | None
    guidance_interval: tuple[float, float] | None
    seed: int
    keep_original: float | None
    audio: str | Path | np.ndarray | None
    keep: Sequence[Span]
    redo: Sequence[Span]
    strength: float | None
    reference: str | Path | None
    window: int | None
    overlap: int | None
    music_prompt: str
    music_gain: float
    music_seed: int | None


@dataclass(frozen=True)
class Request:
    """One sound, ready to be made.

    Attributes:
      seconds: of the sound.
      weights: of the branches of guidance.
      windows: (seconds, overlap) of the windows; None: one pass.
      music: what is made beside it, without the picture.
      original: f32 [t, 2], the video's own sound that is mixed in, times its gain.
    """

    video: Path | Video | None
    prompt: str
    negative_prompt: str
    seconds: float
    seed: int
    method: sampler.Method
    schedule: Schedule
    weights: dict[sampler.Branch, float]
    windows: tuple[int, int] | None
    original: np.ndarray | None
    recording: Recording | None
    reference: ReferenceSound | None
    reference_path: Path | None
    music: Request | None
    music_gain: float

    @property
    def avoids(self) -> bool:
        """The negative prompt counts."""
        return "negative" in self.weights

    @property
    def branches(self) -> tuple[sampler.Branch, ...]:
        return tuple(self.weights)


def resolve(
    cfg: SystemConfig,
    video: str | Path | Video | None,
    prompt: str,
    *,
    negative_prompt: str = "",
    duration: float | None = None,
    steps: int | None = None,
    schedule: sampler.ScheduleKind | None = None,
    method: sampler.Method = "euler",
    guidance: float | None = None,
    video_guidance: float | None = None,
    text_guidance: float | None = None,
    negative_guidance: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    seed: int = 0,
    keep_original: float | None = None,
    audio: str | Path | np.ndarray | None = None,
    keep: Sequence[Span] = (),
    redo: Sequence[Span] = (),
    strength: float | None = None,
    reference: str | Path | None = None,
    window: int | None = None,
    overlap: int | None = None,
    music_prompt: str = "",
    music_gain: float = 1.0,
    music_seed: int | None = None,
) -> Request:
    """The request of these arguments; files are looked into, those of sound are read.

    Raises:
      ValueError: an argument out of its range, or that does not go with the others.
      MediaError: a file that can't be read; a ValueError too.
    """
    limits.check(
        prompt=prompt, negative_prompt=negative_prompt, seed=seed, steps=steps, guidance=guidance,
        video_guidance=video_guidance, text_guidance=text_guidance, negative_guidance=negative_guidance,
        method=method, keep_original=keep_original, schedule=schedule, guidance_interval=guidance_interval,
        strength=strength, window=window, overlap=overlap, music_prompt=music_prompt, music_gain=music_gain,
        music_seed=music_seed,
    )  # fmt: skip
    if video is None and not prompt.strip():
        raise ValueError("got neither a video nor a prompt, expected at least one; give a file, a prompt or both")
    video = video if video is None or isinstance(video, Video) else local_path(video)
    seconds = _seconds(video, duration)
    if audio is None and (keep or redo or strength is not None):
        raise ValueError("keep, redo and strength: got no audio, expected the recording they speak of; give one")
    rate = cfg.rates.sample_rate_hz
    heard = None if reference is None else recording.read_reference(reference, cfg.rates)
    given = None
    if audio is not None:
        given = recording.read_recording(audio, cfg.rates, seconds, keep=keep, redo=redo, strength=strength)
    count = cfg.defaults.steps if steps is None else steps
    times = sampler.schedule(count, schedule, guidance_interval)
    if given is not None and given.strength < 1:
        first = min(count - 1, round((1 - given.strength) * count))
        times = times._replace(first=np.int32(first), taken=np.int32(count - first))
    scales = _scales(cfg, guidance, video_guidance, text_guidance, negative_guidance, bool(negative_prompt.strip()))
    weights = scales.weights(has_video=video is not None)
    if guidance_interval is not None:
        alone: dict[sampler.Branch, float] = {"full": 0.0}  # it counts by itself outside the interval
        weights = alone | weights
    music = None
    if music_prompt.strip():
        music = resolve(
            cfg, None, music_prompt, duration=seconds, steps=steps, schedule=schedule, method=method,
            guidance=guidance, guidance_interval=guidance_interval, seed=seed if music_seed is None else music_seed,
            window=window, overlap=overlap,
        )  # fmt: skip
    return Request(
        video, prompt, negative_prompt if scales.negative else "", seconds, seed, method, times, weights,
        _windows(cfg, seconds, window, overlap, heard), _original(video, keep_original, seconds, rate),
        given, heard, None if reference is None else local_path(reference), music, music_gain,
    )  # fmt: skip


def _seconds(video: Path | Video | None, duration: float | None) -> float:
    """How long the sound is. Raises ValueError for a duration that is impossible or longer than the video."""
    if isinstance(video, Video):
        rates.check_seconds(float(video.seconds), rates.LONGEST_SECONDS)
        return excerpt_seconds(float(video.seconds), duration, "the video")
    if video is not None:
        return sound_seconds(video, duration)
    if duration is not None:
        rates.check_seconds(duration, rates.LONGEST_SECONDS)
    return TEXT_ONLY_SECONDS if duration is None else float(duration)


def _scales(cfg: SystemConfig, guidance, video, text, negative, avoided: bool) -> sampler.Guidance:
    general = cfg.defaults.guidance if guidance is None else guidance
    return sampler.Guidance(
        video=general if video is None else video,
        text=general if text is None else text,
        negative=(cfg.defaults.negative if negative is None else negative) if avoided else 0.0,
    )


def _windows(
    cfg: SystemConfig, seconds: float, window: int | None, overlap: int | None, reference: ReferenceSound | None
) -> tuple[int, int] | None:
    """Seconds of the windows and of their overlap; None where one pass does, the reference before it included.

    Raises:
      ValueError: a window that is longer than one pass may be.
    """
    before = 0.0 if reference is None else len(reference.wave) / cfg.rates.sample_rate_hz
    whole = int(cfg.defaults.window - before) if window is None else window
    least = math.ceil((2 * halo(cfg.codec) + 2) / cfg.rates.latent_hz)  # a codec's window must have a middle
    if not least <= whole <= rates.MAX_SECONDS - before:
        most = int(rates.MAX_SECONDS - before)
        raise ValueError(f"window: got {whole} s, expected {least} to {most} s; choose another")
    if seconds <= (cfg.defaults.longest - before if window is None else window):
        return None
    return whole, min(cfg.defaults.overlap, whole - 1) if overlap is None else overlap


def _original(video: Path | Video | None, gain: float | None, seconds: float, sample_rate_hz: int) -> np.ndarray | None:
    """The video's own sound times `gain`; None without a gain."""
    if gain is None:
        return None
    if video is None or isinstance(video, Video):
        raise ValueError("keep original: got no video file, expected one with sound; give one or leave the gain out")
    return np.float32(gain) * media.read_audio(video, sample_rate_hz, duration_seconds=seconds)
