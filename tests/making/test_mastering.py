"""The limiter and the gain to a loudness."""

import numpy as np
import pytest

from kfjax.making.mastering import CEILING, Limiter, limited, to_loudness
from kfjax.metrics.levels import loudness_lufs, true_peak_db

RATE = 44100
TIME = np.arange(3 * RATE) / RATE


def sine(hz, db, phase=0.0):
    """f32 [t, 2], the same in both ears."""
    return np.repeat(10 ** (db / 20) * np.sin(2 * np.pi * hz * TIME + phase)[:, None], 2, axis=1).astype(np.float32)


def bursts(seed=0):
    """Noise whose level jumps ten times a second by up to 40 dB, another in each ear; up to +12 dB."""
    rng = np.random.default_rng(seed)
    level = np.repeat(10 ** (rng.uniform(-40, 0, 30) / 20), RATE // 10)[:, None]
    return (rng.standard_normal((len(level), 2)) * level * [1.0, 0.5]).astype(np.float32)


SOUNDS = {
    "bursts": bursts(), "a quarter of the rate": sine(RATE / 4, 0, np.pi / 4) * 1.2, "low": sine(60, 9),
    "clicks": np.where(np.arange(3 * RATE)[:, None] % 5000 == 77, np.float32(4), np.float32(0)) * [[1, -1]],
    "square": (1.5 * np.sign(sine(997, 0))).astype(np.float32), "near the end": bursts()[::-1][:700] * 3,
}  # fmt: skip


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("ceiling", [CEILING, 1.0, 0.5])
@pytest.mark.parametrize("name", SOUNDS)
def test_the_ceiling_holds_between_samples_too(name, ceiling, rate):
    wave = SOUNDS[name].astype(np.float32)
    out = limited(wave, rate, ceiling)
    assert out.shape == wave.shape and out.dtype == np.float32
    assert true_peak_db(wave) > 20 * np.log10(ceiling)
    assert true_peak_db(out) <= 20 * np.log10(ceiling)
    assert np.abs(out).max() <= ceiling
    assert true_peak_db(out) > 20 * np.log10(ceiling) - 0.5  # and is used


@pytest.mark.parametrize("sizes", [[1], [7, 1000, 0, 3], [RATE], [441], [20000]])
def test_pieces_change_nothing(sizes):
    wave, limiter, at, pieces = bursts()[: RATE if sizes != [1] else 3000], Limiter(RATE), 0, []
    while at < len(wave):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(limiter.feed(wave[at : at + size]))
        at += size
    lag = min(at, len(wave)) - sum(map(len, pieces))
    pieces.append(limiter.end())
    assert lag == 441 + 20 == len(pieces[-1])
    np.testing.assert_allclose(np.concatenate(pieces), limited(wave, RATE), rtol=0, atol=1e-7)


def test_through_is_feed_and_end():
    wave = bursts()
    pieces = [*Limiter(RATE).through(iter([wave[:5], wave[5:5], wave[5:]]))]
    np.testing.assert_array_equal(np.concatenate(pieces), limited(wave, RATE))


def test_what_is_below_the_ceiling_is_unchanged_bit_for_bit():
    quiet = (bursts() * 0.05).astype(np.float32)
    assert true_peak_db(quiet) < -1
    np.testing.assert_array_equal(limited(quiet, RATE), quiet)
    loud = quiet.copy()
    loud[RATE] = 1.5  # 4.5 dB too much, which takes 0.12 s to come back from
    out, changed = limited(loud, RATE), slice(RATE - 480, RATE + round(0.14 * RATE))
    np.testing.assert_array_equal(out[: changed.start], loud[: changed.start])
    np.testing.assert_array_equal(out[changed.stop :], loud[changed.stop :])
    assert (out[changed] != loud[changed]).any()


def test_the_gain_is_smooth_and_both_ears_share_it():
    wave = np.ones((RATE, 2), np.float32) * np.float32([0.5, 0.25])
    wave[RATE // 2] *= 3
    out = limited(wave, RATE)
    gain = np.delete(out / wave, RATE // 2, axis=0)
    np.testing.assert_allclose(gain[:, 0], gain[:, 1], rtol=1e-6)
    steps = np.diff(20 * np.log10(gain[:, 0].astype(np.float64)))
    fall, depth = -steps.min(), -20 * np.log10(gain.min())
    assert 4 < depth < 6 and fall < 1.1 * 2 * depth / 441  # a raised cosine's steepest step is twice the mean
    assert steps.max() < 1.01 * 40 / RATE
    assert np.abs(np.diff(steps)).max() < 0.01 * depth


def test_to_loudness_of_a_sine():
    """997 Hz at -23 dB of full scale (peak) in both ears is -0.691 + 10 lg(2 · 10^-2.3 / 2) + 0.691 = -23 LUFS."""
    wave = sine(997, -23)
    assert loudness_lufs(wave, RATE) == pytest.approx(-23, abs=0.01)
    np.testing.assert_allclose(to_loudness(wave, RATE, -23), wave, rtol=2e-3)
    out = to_loudness(wave, RATE, -14)
    assert loudness_lufs(out, RATE) == pytest.approx(-14, abs=0.01)
    np.testing.assert_allclose(out, wave * 10 ** (9 / 20), rtol=2e-3)


def test_to_loudness_keeps_peaks_below_the_ceiling():
    wave = bursts()
    out = to_loudness(wave, RATE, -5)
    assert true_peak_db(out) <= -1
    assert -13 < loudness_lufs(out, RATE) < -5  # noise has peaks 12 dB above its level


def test_to_loudness_of_short_and_silent_sounds():
    short = sine(997, -30)[: RATE // 5]
    assert loudness_lufs(to_loudness(short, RATE, -23), RATE) == pytest.approx(-23, abs=0.01)
    silent = np.zeros((RATE, 2), np.float32)
    np.testing.assert_array_equal(to_loudness(silent, RATE, -23), silent)
    for lufs in (-70, 1, np.nan):
        with pytest.raises(ValueError, match=r"loudness: got .* LUFS, expected above -70 to 0"):
            to_loudness(short, RATE, lufs)
