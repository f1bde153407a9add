"""Synthetic training sounds for the vocoder: scenes, voices, music, noises and mixtures of them.

A vocoder must generalise to unseen sounds, so the material is wider than the built-in scenes:
harmonic sounds of every pitch with moving formants, chords, sweeps, coloured noise and clicks. None are recordings.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.signal import butter, sosfilt

from kfjax.scenes.world.event import STRUCK, SUSTAINED, Event
from kfjax.scenes.world.modal import GROUNDS
from kfjax.scenes.world.sound import render_sound
from kfjax.scenes.world.texture import ROLLING_HZ

#: Envelopes of voices and notes are drawn at this rate and interpolated.
_CONTROL_HZ = 200
_KINDS = {"scene": 0.3, "voice": 0.25, "music": 0.25, "noise": 0.1, "clicks": 0.1}


def training_wave(seed: int, seconds: float, sample_rate_hz: int = 44100) -> np.ndarray:
    """One mono training sound: a pure function of its arguments.

    Returns:
      float32 [round(seconds * sample_rate_hz)], peak 0.1 to 0.9 before the random gain that training applies.
    """
    rng = np.random.default_rng((seed, 7))
    size = round(seconds * sample_rate_hz)
    wave = _sound(rng, size, sample_rate_hz)
    if rng.random() < 0.25:
        wave = wave + np.float32(10 ** (rng.uniform(-20, 0) / 20)) * _sound(rng, size, sample_rate_hz)
    wave = _tilt(wave, rng.uniform(-4, 4), sample_rate_hz)
    return (wave * (rng.uniform(0.1, 0.9) / max(np.abs(wave).max(), 1e-4))).astype(np.float32)


def _sound(rng: np.random.Generator, size: int, sample_rate_hz: int) -> np.ndarray:
    kind = rng.choice(list(_KINDS), p=list(_KINDS.values()))
    make = {"scene": scene, "voice": voice, "music": music, "noise": noise, "clicks": clicks}[kind]
    wave = make(rng, size, sample_rate_hz)
    return wave / np.float32(max(np.abs(wave).max(), 1e-4))


def scene(rng: np.random.Generator, size: int, sample_rate_hz: int) -> np.ndarray:
    """Random events with the sounds of the built-in scenes, without their physics; mono float32 [size]."""
    seconds = size / sample_rate_hz
    events = [_struck_event(rng, seconds) for _ in range(rng.integers(1, 7))]
    if rng.random() < 0.4:
        events = events[: rng.integers(0, 3)]
        events += [_sustained_event(rng, seconds) for _ in range(rng.integers(1, 3))]
    return render_sound(events, seconds, int(rng.integers(1 << 31)), sample_rate_hz).mean(1)[:size]


def _struck_event(rng: np.random.Generator, seconds: float) -> Event:
    source = str(rng.choice(STRUCK))
    pitch = 2.0 ** rng.uniform(-1.5, 1.5) if source == "piano" else rng.uniform(0.7, 1.4)
    material = str(rng.choice(list(GROUNDS))) if source == "footsteps" else ""
    return Event(
        rng.uniform(0, seconds),
        source,
        "impact",
        rng.uniform(-1, 1),
        rng.uniform(0.1, 1.0),
        pitch=pitch,
        material=material,
    )


def _sustained_event(rng: np.random.Generator, seconds: float) -> Event:
    source = str(rng.choice(SUSTAINED))
    material = str(rng.choice(list(ROLLING_HZ))) if source in ("rolling", "sliding") else ""
    start, x, loudness = rng.uniform(-0.5, 0.3 * seconds), rng.uniform(-1, 1), rng.uniform(0.3, 1.0)
    duration = rng.uniform(0.5, 1.0) * seconds
    times = np.linspace(max(start, 0.0), max(start, 0.0) + duration, int(30 * duration) + 2)
    xs = np.clip(x + rng.uniform(-1, 1) * np.linspace(0, 1, len(times)), -1, 1)
    path = tuple((float(t), float(at), float(loudness)) for t, at in zip(times, xs, strict=True))
    return Event(float(times[0]), source, "slide", x, loudness, duration, rng.uniform(0.7, 1.5), path, material)


def voice(rng: np.random.Generator, size: int, sample_rate_hz: int) -> np.ndarray:
    """Speech-like babble: voiced syllables with gliding pitch and formants, breath, hisses, bursts, pauses."""
    wave = np.zeros(size, np.float32)
    pitch_hz, at = rng.uniform(75, 380), int(rng.uniform(0, 0.2) * sample_rate_hz)
    while at < size:
        length = int(rng.uniform(0.05, 0.4) * sample_rate_hz)
        part = _syllable if rng.random() < 0.65 else _hiss
        sound = part(rng, length, pitch_hz * 2 ** rng.uniform(-0.4, 0.4), sample_rate_hz)[: size - at]
        wave[at : at + len(sound)] += np.float32(10 ** (rng.uniform(-15, 0) / 20)) * sound
        at += int(length * rng.uniform(0.6, 1.0))
        if rng.random() < 0.2:
            at += int(rng.uniform(0, 0.3) * sample_rate_hz)
    return wave


def _syllable(rng: np.random.Generator, size: int, pitch_hz: float, sample_rate_hz: int) -> np.ndarray:
    knots = max(4, round(size / sample_rate_hz * _CONTROL_HZ))
    glide = np.linspace(rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), knots) + 0.005 * rng.standard_normal(knots)
    f0 = pitch_hz * 2.0**glide
    centres = np.array([[rng.uniform(*r) for r in ((250, 900), (800, 2500), (2000, 3500), (3300, 5000))] for _ in "ab"])
    formants = centres[0] + np.linspace(0, 1, knots)[:, None] * (centres[1] - centres[0])  # [knots, 4]
    widths, slope = rng.uniform(60, 200, 4), rng.uniform(0.6, 1.4)
    harmonics = np.arange(1, max(2, int(min(12000, 0.45 * sample_rate_hz) / f0.max())))
    hz = f0[:, None] * harmonics
    resonances = 1 / (1 + ((hz[..., None] - formants[:, None]) / (0.5 * widths)) ** 2)
    gains = (resonances @ np.array([1, 0.6, 0.35, 0.2]) + 0.003) / harmonics**slope
    wave = additive(f0, gains, size, sample_rate_hz, rng.uniform(0, 2 * np.pi))
    wave /= max(np.abs(wave).max(), 1e-6)
    breath = _band_noise(rng, size, (1000, 9000), sample_rate_hz) * np.float32(10 ** (rng.uniform(-45, -20) / 20))
    return (wave + breath) * _swell(size, rng.uniform(0.005, 0.05), rng.uniform(0.02, 0.1), sample_rate_hz)


def _hiss(rng: np.random.Generator, size: int, _: float, sample_rate_hz: int) -> np.ndarray:
    low = rng.uniform(400, 6000)
    wave = 0.3 * _band_noise(rng, size, (low, low * rng.uniform(1.5, 3.5)), sample_rate_hz)
    attack = 0.001 if rng.random() < 0.5 else 0.03
    if attack == 0.001:  # a burst decays at once
        wave *= np.exp(-np.arange(size) / (rng.uniform(0.005, 0.05) * sample_rate_hz))
    return wave * _swell(size, attack, 0.03, sample_rate_hz)


def music(rng: np.random.Generator, size: int, sample_rate_hz: int) -> np.ndarray:
    """Notes and chords of a drawn timbre, plucked or held, with vibrato, perhaps over a drum; float32 [size]."""
    wave, at = np.zeros(size, np.float32), 0
    beat = rng.uniform(0.12, 0.7)
    partials = np.arange(1, rng.integers(2, 24))
    timbre = rng.uniform(0.1, 1.0, len(partials)) / partials ** rng.uniform(0.3, 2.0)
    note = partial(_note, rng, timbre, rng.choice([0.0, 2e-4]), rng.random() < 0.5)
    drum = rng.random() < 0.4
    while at < size:
        root = 55 * 2 ** (rng.integers(0, 48) / 12)
        for step in rng.choice([0, 3, 4, 5, 7, 9, 10, 12, 16], rng.integers(1, 4), replace=False):
            sound = note(root * 2 ** (step / 12), int(rng.uniform(0.8, 3) * beat * sample_rate_hz), sample_rate_hz)
            wave[at : at + len(sound)] += sound[: size - at]
        if drum:
            hit = _drum(rng, sample_rate_hz)[: size - at]
            wave[at : at + len(hit)] += hit
        at += int(beat * sample_rate_hz * rng.choice([0.5, 1, 1, 2]))
    return wave


def _note(
    rng: np.random.Generator,
    timbre: np.ndarray,
    stiffness: float,
    plucked: bool,
    f0_hz: float,
    size: int,
    sample_rate_hz: int,
) -> np.ndarray:
    knots = max(4, round(size / sample_rate_hz * _CONTROL_HZ))
    seconds = np.linspace(0, size / sample_rate_hz, knots)
    vibrato = rng.choice([0, 0, 0.003, 0.01]) * np.sin(2 * np.pi * rng.uniform(4, 7) * seconds)
    partials = np.arange(1, len(timbre) + 1)
    keep = f0_hz * partials < min(18000, 0.45 * sample_rate_hz)
    decay = np.exp(-seconds[:, None] * (1.5 + 0.6 * partials) * rng.uniform(0.3, 3)) if plucked else 1.0
    gains = (np.ones((knots, 1)) * timbre * decay)[:, keep]
    stretch = np.sqrt(1 + stiffness * partials**2)[keep]
    wave = additive(f0_hz * (1 + vibrato), gains, size, sample_rate_hz, rng.uniform(0, 2 * np.pi), stretch)
    attack = rng.uniform(0.001, 0.01) if plucked else rng.uniform(0.01, 0.1)
    return wave * np.float32(rng.uniform(0.3, 1)) * _swell(size, attack, 0.03, sample_rate_hz)


def _drum(rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    size = int(0.25 * sample_rate_hz)
    seconds = np.arange(size) / sample_rate_hz
    sweep = 2 * np.pi * np.cumsum(45 + rng.uniform(50, 250) * np.exp(-seconds / 0.03)) / sample_rate_hz
    skin = rng.uniform(0, 2) * np.sin(sweep) * np.exp(-seconds / 0.08)
    snare = _band_noise(rng, size, (rng.uniform(300, 6000), 14000), sample_rate_hz)
    return (skin + rng.uniform(0, 0.6) * snare * np.exp(-seconds / rng.uniform(0.02, 0.1))).astype(np.float32)


def noise(rng: np.random.Generator, size: int, sample_rate_hz: int) -> np.ndarray:
    """Bands of noise, steady or pulsing, and perhaps a slow sine sweep; float32 [size]."""
    seconds = np.arange(size) / sample_rate_hz
    wave = np.zeros(size)
    for _ in range(rng.integers(1, 4)):
        low = 40 * 2 ** rng.uniform(0, 8)
        band = _band_noise(rng, size, (low, low * 2 ** rng.uniform(0.2, 4)), sample_rate_hz)
        pulse = 1 + rng.uniform(0, 1) * np.sin(2 * np.pi * rng.uniform(0.5, 40) * seconds)
        wave += rng.uniform(0.05, 1) * band * pulse
    if rng.random() < 0.4:
        octaves = np.linspace(rng.uniform(0, 8), rng.uniform(0, 8), size)
        wave += rng.uniform(0.3, 3) * np.sin(2 * np.pi * np.cumsum(40 * 2**octaves) / sample_rate_hz)
    return wave.astype(np.float32)


def clicks(rng: np.random.Generator, size: int, sample_rate_hz: int) -> np.ndarray:
    """Short strokes of drawn colour at drawn times, from single samples to ringing taps; float32 [size]."""
    wave = np.zeros(size, np.float32)
    for start in rng.integers(0, size, rng.integers(1, 16)):
        length = int(sample_rate_hz * 10 ** rng.uniform(-4, -0.7)) + 1
        tail = np.exp(-np.arange(3 * length) / length)
        body = (
            rng.standard_normal(3 * length)
            if rng.random() < 0.5
            else np.sin(
                2 * np.pi * 50 * 2 ** rng.uniform(0, 8) / sample_rate_hz * np.arange(3 * length) + rng.uniform(0, 6.3)
            )
        )
        sound = (rng.uniform(0.1, 1) * tail * body).astype(np.float32)[: size - start]
        wave[start : start + len(sound)] += sound
    floor = 10 ** (rng.uniform(-90, -40) / 20)
    return wave + np.float32(floor) * rng.standard_normal(size, dtype=np.float32)


def additive(
    f0_hz: np.ndarray,
    gains: np.ndarray,
    size: int,
    sample_rate_hz: int,
    phase: float,
    stretch: np.ndarray | None = None,
) -> np.ndarray:
    """sum_k gain_k(t) sin(stretch_k · k · angle(t)), float32 [size], from f0 [knots] and gains [knots, k]."""
    at = np.linspace(0, len(f0_hz) - 1, size)
    angle = 2 * np.pi * np.cumsum(np.interp(at, np.arange(len(f0_hz)), f0_hz)) / sample_rate_hz + phase
    wave = np.zeros(size, np.float32)
    index = np.minimum(at.astype(np.int32), len(f0_hz) - 2)
    part = (at - index).astype(np.float32)
    for k, gain in enumerate(gains.T.astype(np.float32)):
        ratio = (k + 1) * (1.0 if stretch is None else stretch[k])
        slope = gain[1:] - gain[:-1]
        wave += (gain[index] + part * slope[index]) * np.sin(np.mod(angle * ratio, 2 * np.pi).astype(np.float32))
    return wave


def _band_noise(rng: np.random.Generator, size: int, band_hz: tuple[float, float], sample_rate_hz: int) -> np.ndarray:
    low, high = band_hz[0], min(band_hz[1], 0.45 * sample_rate_hz)
    sos = butter(2, (min(low, 0.8 * high), high), "bandpass", fs=sample_rate_hz, output="sos")
    wave = np.asarray(sosfilt(sos, rng.standard_normal(size)))
    return (wave / max(wave.std(), 1e-6)).astype(np.float32)


def _swell(size: int, attack_seconds: float, release_seconds: float, sample_rate_hz: int) -> np.ndarray:
    at = np.arange(size, dtype=np.float32) / sample_rate_hz
    return np.minimum(1, np.minimum(at / attack_seconds, at[::-1] / release_seconds)).astype(np.float32)


def _tilt(wave: np.ndarray, db_per_octave: float, sample_rate_hz: int) -> np.ndarray:
    spectrum = np.fft.rfft(wave)
    hz = np.fft.rfftfreq(len(wave), 1 / sample_rate_hz)
    octaves = np.log2(np.clip(hz, 50, 16000) / 1000)
    return np.fft.irfft(spectrum * 10 ** (db_per_octave * octaves / 20), len(wave)).astype(np.float32)
