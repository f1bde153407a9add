"""How much the codec loses, beside Griffin-Lim: the classical way from a mel back to a waveform."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kfjax.codec.mel import MelConfig
from kfjax.metrics.reconstruction import mel_l1, multi_resolution_stft_distance


class CodecScore(NamedTuple):
    """Mean distances from the true sounds; 0 is perfect."""

    mel_l1: float
    stft: float
    sounds: int


def codec_scores(
    true: Sequence[np.ndarray], made: Mapping[str, Sequence[np.ndarray]], sample_rate_hz: int
) -> dict[str, CodecScore]:
    """Scores of several ways to give back the same true sounds [t]; way -> its sounds."""
    return {
        way: CodecScore(
            float(np.mean([mel_l1(out, wave, sample_rate_hz) for out, wave in zip(sounds, true, strict=True)])),
            float(np.mean([multi_resolution_stft_distance(out, wave) for out, wave in zip(sounds, true, strict=True)])),
            len(true),
        )
        for way, sounds in made.items()
    }


def griffin_lim(log_mel: np.ndarray, cfg: MelConfig, iterations: int = 60) -> np.ndarray:
    """A wave [f · hop] from a log-mel [f, m]: magnitudes by non-negative least squares, phases by Griffin-Lim."""
    import librosa  # slow to import

    parameters = inspect.signature(librosa.griffinlim).parameters
    seed: dict[str, Any] = {"rng" if "rng" in parameters else "random_state": 0}  # its name until librosa 1.0
    mel = np.exp(np.asarray(log_mel, np.float32).T * (np.log(10) if cfg.log == "log10" else 1.0))
    magnitude = librosa.feature.inverse.mel_to_stft(
        mel, sr=cfg.sample_rate_hz, n_fft=cfg.n_fft, power=1.0, fmin=cfg.fmin_hz, fmax=cfg.fmax_hz
    )
    made = librosa.griffinlim(magnitude, n_iter=iterations, hop_length=cfg.hop, n_fft=cfg.n_fft, **seed)
    # librosa centres its frames on multiples of the hop, our mel on the middles between them.
    return np.pad(made, (cfg.hop // 2, cfg.hop))[: mel.shape[1] * cfg.hop].astype(np.float32)
