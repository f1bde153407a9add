import numpy as np
import pytest

from kfjax.metrics.levels import (
    SILENCE_LUFS,
    level_difference_db,
    loudness_lufs,
    position_correlation,
    silence_share,
    width_db,
)

RATE = 48000
T = np.arange(4 * RATE) / RATE


def sine(hz: float) -> np.ndarray:
    return np.sin(2 * np.pi * hz * T)


def test_loudness_of_the_standards_sine():
    """BS.1770: 997 Hz at full scale in one channel is -3.01; two channels are twice as loud."""
    assert loudness_lufs(sine(997), RATE) == pytest.approx(-3.01, abs=0.01)
    assert loudness_lufs(np.stack([sine(997)] * 2, 1), RATE) == pytest.approx(0, abs=0.01)
    assert loudness_lufs(0.1 * sine(997), RATE) == pytest.approx(-23.01, abs=0.01)
    assert loudness_lufs(sine(997)[: RATE // 10], RATE) == pytest.approx(-3.01 - 6.02, abs=0.05)


def test_loudness_does_not_count_silence():
    wave = sine(997)
    with_silence = np.concatenate([wave, np.zeros(8 * RATE)])
    assert loudness_lufs(with_silence, RATE) == pytest.approx(-3.01, abs=0.2)  # a few blocks are half silent
    assert loudness_lufs(np.zeros(RATE), RATE) == SILENCE_LUFS


@pytest.mark.parametrize(("rate", "tolerance"), [(16000, 0.2), (44100, 0.05), (48000, 0.05)])
def test_loudness_agrees_with_pyloudnorm(rate, tolerance):
    """In LU: it designs the filters by other formulas, which differ at low rates."""
    pyloudnorm = pytest.importorskip("pyloudnorm")
    rng = np.random.default_rng(0)
    wave = rng.standard_normal((6 * rate, 2)) * np.repeat(rng.uniform(0.001, 0.3, 6), rate)[:, None]
    assert loudness_lufs(wave, rate) == pytest.approx(pyloudnorm.Meter(rate).integrated_loudness(wave), abs=tolerance)


def test_silence_share():
    half = np.concatenate([sine(200)[: 2 * RATE], np.zeros(2 * RATE)])
    assert silence_share(half, RATE) == 0.5
    assert silence_share(np.stack([half, half[::-1]], 1), RATE) == 0
    assert silence_share(1e-4 * sine(200), RATE) == 1 and silence_share(sine(200), RATE) == 0


def test_width_and_position():
    loud = 0.1 * np.random.default_rng(0).standard_normal(len(T))
    pan = lambda x: loud[:, None] * np.stack([10 ** (-x / 40), 10 ** (x / 40)], 1)
    assert width_db(pan(np.full(len(T), 6.0)), RATE) == pytest.approx(6, abs=1e-6)
    assert width_db(loud, RATE) == 0 and width_db(pan(np.zeros(len(T))), RATE) == 0
    moving, still = pan(6 * np.sin(T)), pan(np.zeros(len(T)))
    assert position_correlation(0.3 * moving, moving, RATE) == pytest.approx(1, abs=1e-6)
    assert position_correlation(moving[:, ::-1], moving, RATE) == pytest.approx(-1, abs=1e-6)
    assert position_correlation(moving[:, ::-1], moving[:, ::-1], RATE) == pytest.approx(1, abs=1e-6)
    assert np.isnan([position_correlation(still, moving, RATE), position_correlation(loud, moving, RATE)]).all()


def test_level_difference():
    wave = np.ones((RATE, 2)) * (0.1, 0.2)
    assert level_difference_db(wave, 0.2, 0.1, RATE) == pytest.approx(6.02, abs=0.01)
    assert level_difference_db(np.zeros((RATE, 2)), 0.2, 0.1, RATE) == 0.0
    assert level_difference_db(wave, 5.0, 0.1, RATE) == 0.0
