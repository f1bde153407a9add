"""Signal-to-noise ratio from the distribution of amplitudes alone (WADA-SNR).

C. Kim and R. M. Stern, "Robust signal-to-noise ratio estimation based on waveform amplitude distribution analysis",
Interspeech 2008. Speech has amplitudes of a gamma distribution of shape 0.4, noise is Gaussian: of their sum
G = ln E|z| - E ln|z| grows with the ratio. What is no speech but Gaussian itself (rain, a waterfall) reads as noise.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float

#: The range of the estimate, dB.
LOWEST_DB, HIGHEST_DB = -20, 100
_SHAPE = 0.4
_FAR = 30.0


def snr_db(wave: Float[np.ndarray, "t c"]) -> float:
    """Signal-to-noise ratio of the mean of the channels, dB, -20 to 100; samples of exactly 0 are left out.

    -20 for silence.
    """
    amplitude = np.abs(np.asarray(wave, np.float32).mean(1))
    amplitude = amplitude[amplitude > 0]
    if not len(amplitude):
        return float(LOWEST_DB)
    found = np.log(amplitude.mean(dtype=np.float64)) - np.log(amplitude).mean(dtype=np.float64)
    return float(np.interp(found, *table()))


@cache
def table() -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(G, dB): the statistic at each whole dB, integrated numerically."""
    from scipy.special import erf, gammaln

    ratios = np.arange(LOWEST_DB, HIGHEST_DB + 1)
    log_x = np.linspace(np.log(1e-20), np.log(60.0), 4000)
    x = np.exp(log_x)
    # Density of the signal's amplitude over ln x: x p(x) of a gamma distribution of scale 1.
    density = np.exp(_SHAPE * log_x - x - gammaln(_SHAPE)) * (log_x[1] - log_x[0])
    density /= density.sum()
    signal_power = _SHAPE * (_SHAPE + 1)
    statistic = []
    for ratio in ratios:
        scale = np.sqrt(10 ** (ratio / 10) / signal_power)  # noise has a power of 1
        u = scale * x
        # The mean of |u + v| for Gaussian v: that of a folded normal distribution.
        mean = np.sqrt(2 / np.pi) * np.exp(-(u**2) / 2) + u * erf(u / np.sqrt(2))
        statistic.append(np.log(density @ mean) - density @ _mean_log(u))
    return np.maximum.accumulate(statistic), ratios.astype(float)


def _mean_log(u: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """E ln|u + v| of standard normal v: half the mean logarithm of a noncentral chi-square of one degree."""
    far = np.maximum(u, 1.0)
    return np.where(u < _FAR, np.interp(u, *_mean_logs()), np.log(far) - 0.5 / far**2)


@cache
def _mean_logs() -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(u, E ln|u + v|) up to `_FAR`, where the asymptotic form takes over."""
    from scipy.special import gammaln, psi

    u = np.concatenate([[0.0], np.geomspace(1e-4, _FAR, 400)])
    k, half = np.arange(900), u[1:, None] ** 2 / 2
    weight = np.exp(k * np.log(half) - half - gammaln(k + 1))  # Poisson
    alone = psi(0.5)  # without a signal
    return u, (np.log(2) + np.append(alone, weight @ psi(k + 0.5))) / 2
