import numpy as np
import pytest
from scipy.signal import resample

from kfjax.metrics.levels import (
    SILENCE_LUFS,
    level_difference_db,
    loudness_lufs,
    position_correlation,
    silence_share,
    true_peak_db,
    true_peaks,
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


def test_loudness_of_a_long_sound_is_that_of_its_pieces():
    """Two minutes are filtered in three pieces; a change of level in the middle of one is heard as it is in one."""
    rng = np.random.default_rng(0)
    wave = (rng.standard_normal(8000 * 125) * 0.1).astype(np.float32)
    one, two = loudness_lufs(wave[: 8000 * 59], 8000), loudness_lufs(wave, 8000)
    assert two == pytest.approx(one, abs=0.02)
    assert loudness_lufs(wave[8000 * 30 : 8000 * 100], 8000) == pytest.approx(one, abs=0.02)


def test_true_peak():
    """A sine at a quarter of the rate, 45 degrees off, has its samples 3.01 dB below its peaks."""
    wave = 0.5 * np.sin(np.pi / 2 * np.arange(RATE) + np.pi / 4)
    assert np.abs(wave).max() == pytest.approx(0.5 / np.sqrt(2))
    assert true_peak_db(wave[100:-100]) == pytest.approx(-6.02, abs=0.2)
    assert true_peak_db(0.5 * sine(997)) == pytest.approx(-6.02, abs=0.02)
    noise = np.random.default_rng(0).standard_normal(4000)
    assert true_peak_db(noise) == pytest.approx(20 * np.log10(np.abs(resample(noise, 16 * 4000)).max()), abs=0.3)
    assert true_peak_db(np.stack([0.1 * noise, noise], 1)) == true_peak_db(noise)
    assert true_peak_db(np.zeros((100, 2))) == -np.inf
    assert true_peak_db(np.ones(1)) == pytest.approx(0, abs=1e-9)
    assert np.argmax(true_peaks(np.eye(1, 100, 50).reshape(100, 1))) == 40


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
