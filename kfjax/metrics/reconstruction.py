"""How faithfully a codec gives back a waveform: SI-SDR, SDR, LSD, MCD and PESQ, beside mel L1 and STFT distance.

Waveforms are [t] or [t, channels] and of one length. Generated sound may be right and score badly here: another take of
the same event is no copy of the true one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kfjax import dsp

#: A perfect copy scores this; so no table needs to hold infinity.
BEST_DB = 100.0
#: Cepstral coefficients of MCD, the level (0) left out.
CEPSTRA = 13
PESQ_RATE_HZ = 16000
_NEPERS_TO_DB = 20 / np.log(10)


class Reconstruction(NamedTuple):
    """One sound's distances from the true one; NaN where one does not apply."""

    mel_l1: float
    stft: float
    lsd_db: float
    mcd_db: float
    si_sdr_db: float
    sdr_db: float


def reconstruction(made: np.ndarray, true: np.ndarray, sample_rate_hz: int) -> Reconstruction:
    """All measures of two waveforms that need no package, over their common length."""
    size = min(len(made), len(true))
    made, true = made[:size], true[:size]
    return Reconstruction(
        mel_l1(made, true, sample_rate_hz), multi_resolution_stft_distance(made, true), lsd_db(made, true),
        mcd_db(log_mel(made, sample_rate_hz), log_mel(true, sample_rate_hz)), si_sdr_db(made, true), sdr_db(made, true),
    )  # fmt: skip


def log_mel(wave: np.ndarray, sample_rate_hz: int, bands: int = 128) -> np.ndarray:
    """Natural log of the mel magnitudes (floor 1e-5), [bands, frames]; stereo is averaged. Window 46 ms, hop 12 ms."""
    mono = np.asarray(wave, np.float32).reshape(len(wave), -1).mean(axis=1)
    framed = np.lib.stride_tricks.sliding_window_view(np.pad(mono, 1024), 2048)[::512]
    magnitude = np.abs(np.fft.rfft(framed * dsp.hann(2048)))
    return np.log(np.maximum(magnitude @ dsp.mel_filters(bands, 2048, sample_rate_hz), 1e-5)).T


def mel_l1(a: np.ndarray, b: np.ndarray, sample_rate_hz: int) -> float:
    """Mean absolute difference of two waveforms' `log_mel` (natural log units), over their common length."""
    size = min(len(a), len(b))
    return float(np.abs(log_mel(a[:size], sample_rate_hz) - log_mel(b[:size], sample_rate_hz)).mean())


def multi_resolution_stft_distance(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Spectral convergence plus mean absolute log-magnitude difference, averaged over windows of 512, 1024, 2048.

    The measure of Parallel WaveGAN (arXiv:1910.11480, equations 3 to 6); stereo channels are averaged.
    """
    size = min(len(estimate), len(reference))
    channels = [np.asarray(wave[:size], np.float32).reshape(size, -1).T for wave in (estimate, reference)]
    distances = []
    for window in (512, 1024, 2048):
        a, b = (np.maximum(dsp.magnitudes(wave, window, window // 4), 1e-5) for wave in channels)
        convergence = np.linalg.norm(b - a) / np.linalg.norm(b)
        distances.append(convergence + np.abs(np.log(a) - np.log(b)).mean())
    return float(np.mean(distances))


def si_sdr_db(made: np.ndarray, true: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al., arXiv 1811.02508, equation 5), at most `BEST_DB`.

    Means are taken off, and one scale fits all channels. NaN where the true sound is silent.
    """
    made, true = _pair(made, true)
    made, true = made - made.mean(0), true - true.mean(0)
    power = np.sum(true**2)
    if power == 0:
        return float("nan")
    return _ratio_db(target := true * (np.sum(made * true) / power), made - target)


def sdr_db(made: np.ndarray, true: np.ndarray) -> float:
    """Power of the true sound over that of the difference, dB, at most `BEST_DB`: gain and delay count as distortion.

    No filter is fitted, as BSS-eval's SDR does: a codec has to give back the waveform, not a filtered one. NaN where
    the true sound is silent.
    """
    made, true = _pair(made, true)
    return _ratio_db(true, made - true) if np.any(true) else float("nan")


def lsd_db(made: np.ndarray, true: np.ndarray, floor: float = 1e-10) -> float:
    """Log-spectral distance, dB: root mean square over frequency of the levels' difference, mean over frames.

    Frames of 2048 samples every 512; powers below `floor` (of a full sine) count as that. Papers on super-resolution
    give a tenth of it: they take the logarithm's difference and not decibels.
    """
    a, b = (np.log10(np.maximum(_power(wave), floor)) for wave in _pair(made, true))
    return float(10 * np.sqrt(((a - b) ** 2).mean(-1)).mean())


def mcd_db(made: Float[np.ndarray, "m f"], true: Float[np.ndarray, "m f"]) -> float:
    """Mel-cepstral distortion, dB, of two log-mels (natural log of magnitudes) frame by frame, without warping.

    10 / ln 10 · sqrt(2 Σ (c - c')²) over coefficients 1 to 13 (Kubichek, 1993), mean over frames. With c as the
    amplitudes of cosines in the log magnitude it is the root mean square difference in dB of the smoothed spectra.
    """
    if made.shape != true.shape:
        raise ValueError(f"MCD: got log-mels of shapes {made.shape} and {true.shape}, expected the same")
    difference = mel_cepstra(made) - mel_cepstra(true)
    return float((_NEPERS_TO_DB * np.sqrt((difference**2).sum(0) / 2)).mean())


def mel_cepstra(log_mels: Float[np.ndarray, "m f"]) -> Float[np.ndarray, "k f"]:
    """Coefficients 1 to 13 of the log magnitudes' cosine series over the bands."""
    bands = len(log_mels)
    angles = np.pi * np.arange(1, CEPSTRA + 1)[:, None] * (np.arange(bands)[None, :] + 0.5) / bands
    return 2 / bands * np.cos(angles) @ np.asarray(log_mels, np.float64)


def pesq_score(made: Float[np.ndarray, " t"], true: Float[np.ndarray, " t"]) -> float:
    """PESQ (ITU-T P.862.2, wide band) of mono sounds at 16 kHz: about 1 (bad) to 4.64. NaN where it finds no speech,
    and of less than a quarter of a second.

    It was made for telephone speech; of other sounds it says little.

    Raises:
      ModuleNotFoundError: the package `pesq` (extra `eval`) is not installed.
    """
    from pesq import BufferTooShortError, NoUtterancesError, pesq  # pyright: ignore[reportMissingImports]  # an extra

    made, true = (np.asarray(wave, np.float32) for wave in (made, true))
    if not (np.any(true) and np.any(made)):
        return float("nan")
    try:
        return float(pesq(PESQ_RATE_HZ, true, made, "wb"))
    except (NoUtterancesError, BufferTooShortError):
        return float("nan")


def _pair(made: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [t, channels]."""
    made, true = (np.asarray(wave, np.float64).reshape(len(wave), -1) for wave in (made, true))
    if made.shape != true.shape or not len(made):
        raise ValueError(f"got waveforms of shapes {made.shape} and {true.shape}, expected the same, not empty")
    return made, true


def _ratio_db(signal: np.ndarray, distortion: np.ndarray) -> float:
    power, noise = np.sum(signal**2), np.sum(distortion**2)
    if power == 0:
        return -BEST_DB
    power_db, noise_db = 10 * np.log10(np.maximum((power, noise), np.finfo(np.float64).tiny))
    return float(np.clip(power_db - noise_db, -BEST_DB, BEST_DB))


def _power(wave: Float[np.ndarray, "t c"], window: int = 2048, hop: int = 512) -> Float[np.ndarray, "c f k"]:
    """Power spectra of a full sine's scale."""
    mode = "reflect" if len(wave) > window else "constant"
    return (dsp.magnitudes(wave.T, window, hop, mode) / (np.hanning(window).sum() / 2)) ** 2
