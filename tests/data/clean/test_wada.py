"""WADA-SNR against sounds whose ratio is known, and against published values of its table."""

import numpy as np
import pytest

from kfjax.data.clean import wada


def mixture(ratio_db: float, seed: int = 0, count: int = 300_000) -> np.ndarray:
    """[t, 1]: amplitudes of speech (gamma, shape 0.4) in Gaussian noise."""
    rng = np.random.default_rng(seed)
    signal = rng.gamma(0.4, 1, count) * rng.choice([-1, 1], count)
    noise = rng.standard_normal(count)
    return 0.01 * (signal / signal.std() * 10 ** (ratio_db / 20) + noise)[:, None]


@pytest.mark.parametrize("ratio_db", [0, 5, 10, 20, 30, 40, 60])
def test_the_ratio_of_a_mixture_is_found(ratio_db):
    assert wada.snr_db(mixture(ratio_db)) == pytest.approx(ratio_db, abs=1)
    assert wada.snr_db(0.1 * mixture(ratio_db)) == pytest.approx(wada.snr_db(mixture(ratio_db)), abs=1e-6)


def test_noise_and_silence_have_the_lowest():
    assert wada.snr_db(np.random.default_rng(0).standard_normal((100_000, 2))) < -5
    assert wada.snr_db(np.zeros((100, 2))) == wada.LOWEST_DB


def test_the_table_is_the_published_one():
    """At -20, -10, 0 and 5 dB, of the table that the authors' program has; it was made by sampling."""
    statistic, ratios = wada.table()
    found = np.interp([-20, 0], ratios, statistic)
    np.testing.assert_allclose(found, [0.40974774, 0.46221153], atol=1e-3)
    assert (np.diff(statistic) >= 0).all()


def test_noisy_is_told_from_clean():
    """40 mixtures of each: 0 to 7 dB against 15 to 40 dB, refused below 10 dB; precision and recall are 1."""
    rng = np.random.default_rng(1)
    noisy = [wada.snr_db(mixture(rng.uniform(0, 7), seed, 50_000)) for seed in range(40)]
    clean = [wada.snr_db(mixture(rng.uniform(15, 40), seed, 50_000)) for seed in range(40)]
    assert max(noisy) < 10 < min(clean)
