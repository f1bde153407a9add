"""WADA-SNR against sounds whose ratio is known, and against published values of its table."""

import numpy as np
import pytest

from kfjax.data.clean.measures import wada


def mixture(ratio_db: float, seed: int = 0, count: int = 300_000) -> np.ndarray:
    """[t, 1]: amplitudes of speech (gamma, shape 0.4) in Gaussian noise."""
    rng = np.random.default_rng(seed)
    signal = rng.gamma(0.4, 1, count) * rng.choice([-1, 1], count)
    noise = rng.standard_normal(count)
    return 0.01 * (signal / signal.std() * 10 ** (ratio_db / 20) + noise)[:, None]


@pytest.mark.parametrize("ratio_db", [0, 5, 10, 20, 30, 40, 60])
def test_the_ratio_of_a_mixture_is_found(ratio_db):
    assert wada.snr_db(mixture(ratio_db)) == pytest.approx(ratio_db, abs=1)
    assert wada.snr_db(0.1 * mixture(ratio_db)) == pytest.approx(wada.snr_db(mixture(ratio_db)), abs=1e-4)


def test_noise_and_silence_have_the_lowest():
    assert wada.snr_db(np.random.default_rng(0).standard_normal((100_000, 2))) < -5
    assert wada.snr_db(np.zeros((100, 2))) == wada.LOWEST_DB


def derived() -> np.ndarray:
    """G at each whole dB, by other formulas than the module's.

    Of amplitudes x with density x^-0.6 exp(-x) / gamma(0.4), w = x^0.4 has the smooth density
    exp(-w^2.5) / (0.4 gamma(0.4)). Of standard normal v, E|u + v| = sqrt(2 / pi) 1F1(-1/2; 1/2; -u^2 / 2), and
    E ln|u + v| is -(Euler's gamma + ln 2) / 2 at 0 with the derivative E 1/(u + v) = sqrt(2) Dawson(u / sqrt(2)).
    """
    from scipy.special import dawsn, gamma, hyp1f1

    w = np.linspace(0, 60**0.4, 8001)
    weight = np.exp(-(w**2.5)) / (0.4 * gamma(0.4)) * (w[1] - w[0])
    weight[[0, -1]] /= 2
    grid = np.concatenate([np.linspace(0, 60, 60001), np.geomspace(60, 1e8, 40001)[1:]])
    slope = np.sqrt(2) * dawsn(grid / np.sqrt(2))
    steps = np.diff(grid) * (slope[1:] + slope[:-1]) / 2
    log_mean = np.concatenate([[0], np.cumsum(steps)]) - (np.euler_gamma + np.log(2)) / 2
    found = []
    for ratio_db in range(-20, 101):
        u = w**2.5 * np.sqrt(10 ** (ratio_db / 10) / (0.4 * 1.4))
        mean = np.where(u < 30, np.sqrt(2 / np.pi) * hyp1f1(-0.5, 0.5, -(np.minimum(u, 30) ** 2) / 2), u)
        found.append(np.log(weight @ mean) - weight @ np.interp(u, grid, log_mean))
    return np.array(found)


def test_every_point_of_the_table_is_derived_again():
    statistic, ratios = wada.table()
    np.testing.assert_array_equal(ratios, np.arange(-20, 101))
    np.testing.assert_allclose(statistic, derived(), atol=1e-4)
    assert (np.diff(statistic) >= 0).all()


def test_the_table_is_the_published_one():
    """Of the table in the authors' program, which was made by sampling."""
    statistic, ratios = wada.table()
    published = {-20: 0.40974774, 0: 0.46221153, 10: 0.66750818, 20: 0.95655449}
    np.testing.assert_allclose(np.interp(list(published), ratios, statistic), list(published.values()), atol=1e-3)


def test_noisy_is_told_from_clean():
    """40 mixtures of each: 0 to 7 dB against 15 to 40 dB, refused below 10 dB; precision and recall are 1."""
    rng = np.random.default_rng(1)
    noisy = [wada.snr_db(mixture(rng.uniform(0, 7), seed, 50_000)) for seed in range(40)]
    clean = [wada.snr_db(mixture(rng.uniform(15, 40), seed, 50_000)) for seed in range(40)]
    assert max(noisy) < 10 < min(clean)
