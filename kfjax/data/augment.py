"""Clips made of clips: pure functions of waveform, frames and caption; what is left to chance is drawn by `rng`.

    montage([ClipPart(dog, 1.0, 4.0), ClipPart(car, 0.5, 6.0)], "a dog barks, then a car passes")
    during(dog, car, rng, caption="a dog barks while a car passes")
    wave, kinds = degraded(wave, 44100, np.random.default_rng(3))

All are of pictures and samples, before any encoder: of latents no mixture, no damage and no mirror image can be made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from kfjax import media
from kfjax.data.captions import phrases

#: A level so far below the peak ends an event.
_EVENT_DB = -30.0
#: Where two pieces meet both are faded for so long, so that nothing clicks.
_FADE_SECONDS = 0.005
_FRAME_SECONDS = 0.02
Wave = Float[np.ndarray, "t *c"]


class Clip(NamedTuple):
    """An excerpt of some seconds.

    Attributes:
      wave: f32 [t] or [t, 2], -1 to 1; beyond the seconds there may be a tail.
      wave_hz: its rate.
      frames: u8 [f, h, w, 3] at each rate that is needed; () without a picture.
      frames_hz: their rates.
      caption: "" for none.
    """

    wave: Wave
    wave_hz: int
    frames: tuple[Shaped[np.ndarray, "f h w 3"], ...]
    frames_hz: tuple[float, ...]
    caption: str
    seconds: float


class ClipPart(NamedTuple):
    """A part of a clip."""

    clip: Clip
    start_seconds: float
    seconds: float


def montage(pieces: Sequence[ClipPart], caption: str) -> Clip:
    """The pieces one after the other, sound and picture; without a picture if one of them has none.

    Sound is as long as the first clip's: the last piece goes on to its end. Every clip has the first one's rates.
    """
    first = pieces[0].clip
    ends = np.cumsum([piece.seconds for piece in pieces])
    borders = [0, *(round(end * first.wave_hz) for end in ends[:-1]), len(first.wave)]
    waves = [
        _faded(_samples(piece, stop - start), first.wave_hz, into=k > 0, out=k < len(pieces) - 1)
        for k, (piece, (start, stop)) in enumerate(zip(pieces, pairwise(borders), strict=True))
    ]
    frames = ()
    if all(piece.clip.frames for piece in pieces):
        frames = tuple(_frames_of(pieces, ends, kind) for kind in range(len(first.frames)))
    return first._replace(wave=np.concatenate(waves), frames=frames, caption=caption, seconds=float(ends[-1]))


def before(first: Clip, second: Clip, rng: np.random.Generator, *, caption: str | None = None) -> Clip:
    """The loudest part of `first`, then the loudest of `second`: together as long as `first`, cut near the middle.

    Args:
      caption: instead of one that says what comes first.
    """
    lengths = np.array([at := float(rng.uniform(0.35, 0.65)), 1 - at]) * first.seconds
    pieces = [
        ClipPart(clip, loudest(clip, length), length) for clip, length in zip((first, second), lengths, strict=True)
    ]
    return montage(pieces, phrases.before(first.caption, second.caption, rng) if caption is None else caption)


def after(first: Clip, second: Clip, rng: np.random.Generator) -> Clip:
    """`first` comes after `second`, and is named before it."""
    return before(second, first, rng, caption=phrases.after(second.caption, first.caption, rng))


def during(one: Clip, other: Clip, rng: np.random.Generator, *, caption: str | None = None) -> Clip:
    """Both at once: pictures side by side, each squeezed to half the width, and the sound of each on its side.

    The other's level is within 6 dB of the first's. Mono is added. Without a picture if one of them has none.
    """
    turn = 1 if rng.random() < 0.5 else -1
    gain = _rms(one.wave) / max(_rms(other.wave), 1e-9) * 10 ** (rng.uniform(-6, 6) / 20)
    sides = (one, other._replace(wave=other.wave * np.float32(gain)))[::turn]
    left, right = (_narrowed(clip.wave, k) for k, clip in enumerate(sides))
    frames = ()
    if one.frames and other.frames:
        pairs = zip(sides[0].frames, sides[1].frames, strict=True)
        frames = tuple(np.concatenate([_squeezed(a), _squeezed(b)], 2) for a, b in pairs)
    caption = phrases.during(one.caption, other.caption, rng) if caption is None else caption
    return one._replace(wave=_bounded(left + right), frames=frames, caption=caption)


def repeated(clip: Clip, rng: np.random.Generator) -> Clip | None:
    """Its event twice to four times at equal intervals; None if it lasts too long for that, or is never quiet."""
    start, stop = sounding(clip)
    most = int(min(4, clip.seconds / max(stop - start, 1e-3)))
    if most < 2:
        return None
    times = int(rng.integers(2, most + 1))
    period = clip.seconds / times
    start = max(0.0, min(start - rng.uniform(0, period - (stop - start)), clip.seconds - period))
    return montage([ClipPart(clip, start, period)] * times, phrases.repeated(clip.caption, times))


def mirrored(clip: Clip, rng: np.random.Generator) -> Clip:
    """The picture mirrored, channels and the words left and right swapped; another level (±6 dB) and polarity."""
    wave = clip.wave[:, ::-1] if clip.wave.ndim == 2 else clip.wave
    gain = 10 ** (rng.uniform(-6, 6) / 20) * rng.choice([-1, 1])
    frames = tuple(frames[:, :, ::-1] for frames in clip.frames)
    return clip._replace(wave=_bounded(wave * np.float32(gain)), frames=frames, caption=phrases.turned(clip.caption))


def loudest(clip: Clip, seconds: float) -> float:
    """Where the `seconds` with the most energy begin, to 20 ms."""
    energy = np.concatenate([[0.0], np.cumsum(_energies(clip))])
    size = min(len(energy) - 1, round(seconds / _FRAME_SECONDS))
    start = int(np.argmax(energy[size:] - energy[: len(energy) - size])) * _FRAME_SECONDS
    return max(0.0, min(start, clip.seconds - seconds))


def sounding(clip: Clip) -> tuple[float, float]:
    """From where to where it is louder than 30 dB below its loudest 20 ms, seconds."""
    energy = _energies(clip)
    loud = np.flatnonzero(energy > energy.max(initial=0.0) * 10 ** (_EVENT_DB / 10))
    if not len(loud):
        return 0.0, clip.seconds
    return float(loud[0]) * _FRAME_SECONDS, min(clip.seconds, float(loud[-1] + 1) * _FRAME_SECONDS)


def degraded(wave: Wave, rate_hz: int, rng: np.random.Generator) -> tuple[Wave, tuple[str, ...]]:
    """The wave with one to three of `FAULTS`, and which; onsets stay where they are, and copied mono stays mono."""
    kinds = sorted(rng.choice(len(FAULTS), int(rng.integers(1, 4)), replace=False))
    names = tuple(list(FAULTS)[k] for k in kinds)
    copied = wave.ndim == 2 and np.array_equal(wave[:, 0], wave[:, 1])
    made = wave[:, 0] if copied else wave
    for name in names:
        made = FAULTS[name](made, rate_hz, rng)
    made = _bounded(made)
    return (np.stack([made, made], 1) if copied else made), names


def narrow_band(wave: Wave, rate_hz: int, rng: np.random.Generator) -> Wave:
    """As if it had been sampled at 8, 11 or 16 kHz."""
    from scipy.signal import butter, sosfiltfilt

    cutoff_hz = 0.45 * float(rng.choice([8000, 11025, 16000]))
    return sosfiltfilt(butter(8, cutoff_hz, fs=rate_hz, output="sos"), wave, axis=0).astype(np.float32)


def room(wave: Wave, rate_hz: int, rng: np.random.Generator) -> Wave:
    """Reverberation of 0.4 to 1.2 s (60 dB) at -12 to -3 dB."""
    from scipy.signal import fftconvolve

    seconds = rng.uniform(0.4, 1.2)
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    tail = rng.standard_normal((len(t), *wave.shape[1:])) * (10 ** (-3 * t / seconds)).reshape(
        -1, *[1] * (wave.ndim - 1)
    )
    wet = fftconvolve(wave, tail / np.sqrt(np.sum(np.square(tail), 0, keepdims=True)), axes=0)[: len(wave)]
    return (wave + 10 ** (rng.uniform(-12, -3) / 20) * wet).astype(np.float32)


def overdriven(wave: Wave, rate_hz: int, rng: np.random.Generator) -> Wave:
    """Clipped at 6 to 18 dB below its peak."""
    limit = np.abs(wave).max(initial=1e-9) * 10 ** (-rng.uniform(6, 18) / 20)
    return np.clip(wave, -limit, limit)


def windy(wave: Wave, rate_hz: int, rng: np.random.Generator) -> Wave:
    """Wind on the microphone, in gusts, at -25 to -8 dB of the peak."""
    from scipy.signal import butter, sosfilt

    gusts = np.interp(np.arange(len(wave)), *_knots(len(wave), rate_hz, rng)).reshape(-1, *[1] * (wave.ndim - 1))
    noise = sosfilt(butter(2, 150, fs=rate_hz, output="sos"), rng.standard_normal(wave.shape), axis=0) * gusts
    peak = np.abs(wave).max(initial=1e-9) * 10 ** (rng.uniform(-25, -8) / 20)
    return (wave + noise / max(np.abs(noise).max(initial=0.0), 1e-9) * peak).astype(np.float32)


def noisy(wave: Wave, rate_hz: int, rng: np.random.Generator) -> Wave:
    """Pink noise, or hum of 50 or 60 Hz with overtones, of -55 to -35 dB of full scale."""
    level = 10 ** (rng.uniform(-55, -35) / 20)
    if rng.random() < 0.5:
        t = np.arange(len(wave)) / rate_hz * float(rng.choice([50, 60]))
        noise = np.sum([np.sin(2 * np.pi * (k * t + rng.random())) / k for k in range(1, 7)], 0)
        noise = np.broadcast_to(noise.reshape(-1, *[1] * (wave.ndim - 1)), wave.shape)
    else:
        spectrum = np.fft.rfft(rng.standard_normal(wave.shape), axis=0)
        weight = 1 / np.sqrt(np.maximum(1, np.arange(len(spectrum))))
        noise = np.fft.irfft(spectrum * weight.reshape(-1, *[1] * (wave.ndim - 1)), len(wave), axis=0)
    return (wave + noise / max(_rms(noise), 1e-9) * level).astype(np.float32)


def lossy(wave: Wave, rate_hz: int, rng: np.random.Generator) -> Wave:
    """Through AAC or MP3 of 32 to 48 kbit/s."""
    codec, bits = "aac" if rng.random() < 0.5 else "mp3", int(rng.choice([32_000, 40_000, 48_000]))
    return media.through_codec(wave.reshape(len(wave), -1), rate_hz, codec, bits).reshape(wave.shape)


#: What recordings suffer from, in the order in which it happens to them.
FAULTS: dict[str, Callable[[Wave, int, np.random.Generator], Wave]] = {
    "room": room, "windy": windy, "noisy": noisy, "overdriven": overdriven, "narrow band": narrow_band,
    "lossy": lossy,
}  # fmt: skip


def _samples(piece: ClipPart, count: int) -> Wave:
    """`count` samples from its start on; silent beyond the clip's end."""
    first = round(piece.start_seconds * piece.clip.wave_hz)
    part = piece.clip.wave[first : first + count]
    return np.concatenate([part, np.zeros((count - len(part), *part.shape[1:]), part.dtype)])


def _faded(wave: Wave, rate_hz: int, *, into: bool, out: bool) -> Wave:
    size = min(len(wave) // 2, round(_FADE_SECONDS * rate_hz))
    gain = np.ones(len(wave), np.float32)
    ramp = np.linspace(0, 1, size, endpoint=False, dtype=np.float32)
    if into:
        gain[:size] = ramp
    if out:
        gain[len(gain) - size :] = ramp[::-1]
    return wave * gain.reshape(-1, *[1] * (wave.ndim - 1))


def _frames_of(pieces: Sequence[ClipPart], ends: np.ndarray, kind: int) -> np.ndarray:
    """What is seen at the time of each frame."""
    count, rate_hz = len(pieces[0].clip.frames[kind]), pieces[0].clip.frames_hz[kind]
    shown = []
    for k in range(count):
        which = min(int(np.searchsorted(ends, k / rate_hz + 1e-6, side="right")), len(pieces) - 1)
        piece = pieces[which]
        inside = k / rate_hz - (ends[which] - piece.seconds) + piece.start_seconds
        own = piece.clip.frames[kind]
        shown.append(own[min(len(own) - 1, max(0, int(inside * rate_hz + 1e-3)))])
    return np.stack(shown)


def _narrowed(wave: Wave, side: int) -> Wave:
    """Stereo on the left (0) or right (1) half of the stage: one channel stays, the other comes from the middle."""
    if wave.ndim == 1:
        return wave
    outer, inner = wave[:, side], wave[:, 1 - side] / np.float32(np.sqrt(2))
    pair = (outer + inner, inner)
    return np.stack(pair if side == 0 else pair[::-1], -1)


def _squeezed(frames: np.ndarray) -> np.ndarray:
    """Half as wide: the mean of two columns each."""
    width = frames.shape[2] // 2
    pairs = frames[:, :, : 2 * width].reshape(*frames.shape[:2], width, 2, frames.shape[3])
    return pairs.mean(3, dtype=np.float32).round().astype(np.uint8)


def _bounded(wave: Wave) -> Wave:
    """At most full scale, by one gain."""
    return (wave / np.float32(max(1.0, np.abs(wave).max(initial=0.0)))).astype(np.float32)


def _energies(clip: Clip) -> np.ndarray:
    """Mean square of every 20 ms within the seconds."""
    size = max(1, round(_FRAME_SECONDS * clip.wave_hz))
    wave = clip.wave[: round(clip.seconds * clip.wave_hz)]
    whole = wave[: len(wave) // size * size].reshape(-1, size * wave[0].size)
    return np.mean(np.square(whole, dtype=np.float64), 1)


def _rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def _knots(count: int, rate_hz: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places and heights of gusts, 0.3 to 2 s apart."""
    at = np.cumsum(rng.uniform(0.3, 2.0, 2 + int(count / rate_hz / 0.3))) * rate_hz
    return at, rng.uniform(0, 1, len(at)) ** 2
