"""The four classes of sound: effects, music, speech and singing. Waveforms: f32 [t, c], full scale 1.

Kling-Foley (arXiv 2506.19774, section 5) captions each class in its own way. A classifier tells all four apart
(`of_tags`); the rule tells music from the rest, and speech where a detector of voices has heard it, but not singing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

EFFECTS, MUSIC, SPEECH, SINGING = "effects", "music", "speech", "singing"
#: Class -> its part of AudioSet's 527 in the order of `class_labels_indices.csv`: "Speech" to "Speech synthesizer",
#: "Singing" to "Humming", "Music" to "Scary music" (instruments, genres and moods). All others are effects.
AUDIOSET = {SPEECH: range(0, 8), SINGING: range(27, 38), MUSIC: range(137, 283)}
#: A voice with this probability makes singing of music: in AudioSet what is sung is music too.
SUNG = 0.2
#: Someone speaks in so much of the time: speech.
SPOKEN_SHARE = 0.3

# The spectrum: rate, window and hop; frames so far below the loudest are silence.
_RATE_HZ, _WINDOW, _HOP, _SILENT_DB = 11025, 2048, 512, 40.0
# A peak: above the mean level of its neighbourhood (bins), and above its frame; held for so many frames more.
_NEIGHBOURS, _ABOVE_DB, _BELOW_FRAME_DB, _HELD = 41, 14.0, 30.0, 4
_PITCHES_HZ = (100.0, 2000.0)
# Music has held peaks in so much of its level, in tune with each other, and so many notes.
_LEAST_HELD, _LEAST_TUNED, _LEAST_NOTES = 0.1, 0.75, 2.0


class Tones(NamedTuple):
    """What is held in a sound.

    Attributes:
      held_share: of the power, in spectral peaks that stay in place for 0.2 s; the mean over frames, 0 to 1.
      tuned: how well these agree with one scale of semitones, whatever its tuning, 0 to 1.
      notes: how many semitones they are spread over (perplexity).
    """

    held_share: float
    tuned: float
    notes: float


def of_tags(probabilities: Float[np.ndarray, " classes"]) -> str:
    """The class that AudioSet's classes (527, `AUDIOSET`) speak for: that of the likeliest, and of music that is sung
    singing."""
    named = {kind: float(probabilities[part.start : part.stop].max()) for kind, part in AUDIOSET.items()}
    others = np.ones(len(probabilities), bool)
    for part in AUDIOSET.values():
        others[part.start : part.stop] = False
    kind = max(named, key=named.__getitem__)
    if named[kind] < probabilities[others].max():
        return EFFECTS
    return SINGING if kind == MUSIC and named[SINGING] >= SUNG else kind


def by_rule(wave: Float[np.ndarray, "t c"], sample_rate_hz: int, speech_share: float | None) -> str | None:
    """Speech where someone speaks a third of the time, music where notes are held, else effects.

    A song is one of both. None where no detector has listened for speech and there is no music.
    """
    if speech_share is not None and speech_share >= SPOKEN_SHARE:
        return SPEECH
    found = tones(wave, sample_rate_hz)
    if found.held_share >= _LEAST_HELD and found.tuned >= _LEAST_TUNED and found.notes >= _LEAST_NOTES:
        return MUSIC
    return None if speech_share is None else EFFECTS


def tones(wave: Float[np.ndarray, "t c"], sample_rate_hz: int) -> Tones:
    """The held spectral peaks of a sound; all 0 where there are none.

    Notes are held and lie on one scale; a voice glides, a struck thing rings in modes beside any scale, and what hums
    has one pitch. The agreement of peaks with a scale is that of A. Lerch, "An
    introduction to audio content analysis" (2012), as the length of the mean of their phases on it.
    """
    from scipy.ndimage import maximum_filter, uniform_filter1d
    from scipy.signal import resample_poly, stft

    mono = np.asarray(wave, np.float32).mean(1)
    common = int(np.gcd(_RATE_HZ, sample_rate_hz))
    mono = resample_poly(mono, _RATE_HZ // common, sample_rate_hz // common)
    if len(mono) < _WINDOW or np.abs(mono).max() < 1e-4:
        return Tones(0.0, 0.0, 0.0)
    power = np.abs(stft(mono, _RATE_HZ, nperseg=_WINDOW, noverlap=_WINDOW - _HOP)[2]) ** 2
    level = power.sum(0)
    heard = level > level.max() * 10 ** (-_SILENT_DB / 10)
    level_db = 10 * np.log10(power + 1e-12)
    peaks = level_db > uniform_filter1d(level_db, _NEIGHBOURS, axis=0) + _ABOVE_DB
    peaks &= power == maximum_filter(power, (5, 1))
    peaks &= power > level * 10 ** (-_BELOW_FRAME_DB / 10)
    held, near = peaks.copy(), maximum_filter(peaks, (3, 1))
    for later in range(1, _HELD + 1):
        held[:, :-later] &= near[:, later:]
        held[:, -later:] = False
    share = (power * maximum_filter(held, (5, 1))).sum(0)[heard] / level[heard]
    return Tones(float(share.mean()), *_scale(power, held))


def _scale(power: Float[np.ndarray, "bins frames"], held: np.ndarray) -> tuple[float, float]:
    """(agreement with one scale, number of notes) of peaks, by their amplitudes."""
    bins, frames = np.nonzero(held[1:-1])
    below, peak, above = (np.log(power[bins + k, frames] + 1e-20) for k in (0, 1, 2))
    between = 0.5 * (below - above) / (below - 2 * peak + above - 1e-9)
    frequencies = (bins + 1 + between) * _RATE_HZ / _WINDOW
    low, high = _PITCHES_HZ
    inside = (frequencies > low) & (frequencies < high)
    if not inside.any():
        return 0.0, 0.0
    semitones, weights = 12 * np.log2(frequencies[inside] / 440), np.exp(peak[inside] / 2)
    tuned = np.abs((weights * np.exp(2j * np.pi * semitones)).sum()) / weights.sum()
    numbers = np.round(semitones).astype(int)
    shares = np.bincount(numbers - numbers.min(), weights) / weights.sum()
    shares = shares[shares > 0]
    return float(tuned), float(np.exp(-(shares * np.log(shares)).sum()))
