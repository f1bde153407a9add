import itertools

import numpy as np
import pytest

from kfjax.scenes.world.event import SOURCES, STRUCK, SUSTAINED, Event
from kfjax.scenes.world.modal import GROUNDS
from kfjax.scenes.world.sound import render_sound

RATE = 44100
NOMINAL = {"footsteps": "stone", "rolling": "wood", "sliding": "wood"}


def sounding(source, x=0.0, loudness=0.8, at=0.5, seconds=2.0):
    material = NOMINAL.get(source, "")
    if source in STRUCK:
        return Event(at, source, "impact", x, loudness, material=material)
    path = tuple((t, x, loudness) for t in np.arange(at, at + seconds + 0.04, 0.04))
    return Event(at, source, "roll", x, loudness, seconds, path=path, material=material)


def level_db(wave):
    return 10 * np.log10((np.asarray(wave, float) ** 2).mean(axis=0))


@pytest.mark.parametrize("seconds", [0.2, 1.0, 2.5004, 3.33333])
def test_length_is_exact(seconds):
    wave = render_sound([sounding("wood", at=0.1), sounding("rain", at=0.1)], seconds, seed=0)
    assert wave.shape == (round(seconds * RATE), 2) and wave.dtype == np.float32


def test_same_seed_same_sound_other_seed_other_sound():
    events = [sounding(source) for source in SOURCES]
    once, again, other = (render_sound(events, 3.0, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 0.01


def test_silence_is_only_the_noise_floor():
    np.testing.assert_allclose(level_db(render_sound([], 1.0, 0)), -75, atol=0.5)


def test_peak_is_limited_and_gain_is_fixed():
    crowd = [sounding(source, loudness=1.0) for source in SOURCES for _ in range(6)]
    assert 0.7 < np.abs(render_sound(crowd, 3.0, 0)).max() <= 0.95
    soft, loud = (render_sound([sounding("wood", loudness=level)], 1.0, 0) for level in (0.3, 0.6))
    assert np.abs(loud).max() / np.abs(soft).max() == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("source", STRUCK)
def test_struck_sounds_begin_on_time_and_peak_at_once(source):
    wave = np.abs(render_sound([sounding(source, at=0.5)], 2.0, 3)).max(axis=1)
    assert np.flatnonzero(wave > 0.1 * wave.max())[0] / RATE == pytest.approx(0.5, abs=0.005)
    assert wave[: round(0.505 * RATE)].max() > 0.8 * wave.max()


@pytest.mark.parametrize("source", SUSTAINED)
def test_sustained_sounds_last_as_long_as_their_event(source):
    wave = render_sound([sounding(source, at=1.0, seconds=2.0)], 4.0, 0)
    before, during, after = (
        level_db(wave[round(a * RATE) : round(b * RATE)]).mean() for a, b in ((0, 1), (1.5, 2.5), (3.01, 4))
    )
    assert during > -50 and before < -74 and after < -74


@pytest.mark.parametrize("source", ["wood", "bell", "footsteps", "rain", "engine"])
def test_level_difference_follows_position(source):
    differences = []
    for x in (-1.0, -0.5, 0.0, 0.5, 1.0):
        left, right = level_db(render_sound([sounding(source, x=x)], 3.0, 0)[RATE // 2 :])
        differences.append(right - left)
    assert np.all(np.diff(differences) > 1) and abs(differences[2]) < 0.5


def test_the_farther_ear_hears_later():
    wave = render_sound([sounding("stone", x=-0.5)], 1.0, 0)
    lag = np.correlate(wave[:, 1], wave[RATE // 2 : RATE // 2 + 500, 0], "valid").argmax() - RATE // 2
    assert lag == round(0.5 * 0.00035 * RATE)


def test_moving_source_crosses_from_ear_to_ear():
    path = tuple((t, -1 + 2 * t / 3, 0.8) for t in np.arange(0, 3.01, 0.04))
    wave = render_sound([Event(0.0, "engine", "pass", -1.0, 0.8, 3.0, path=path)], 3.0, 0)
    left, right = level_db(wave[: 2 * RATE // 3]), level_db(wave[-2 * RATE // 3 :])
    assert left[0] > left[1] + 6 and right[1] > right[0] + 6


def test_engine_pitch_falls_as_it_passes():
    path = tuple((t, -1 + t, 0.8) for t in np.arange(0, 2.01, 0.04))
    wave = render_sound([Event(0.0, "engine", "pass", -1.0, 0.8, 2.0, path=path)], 2.0, 0).mean(axis=1)
    coming, going = (fundamental_hz(wave[round(a * RATE) :][: RATE // 2]) for a in (0.4, 1.2))
    assert coming > 1.03 * going


def fundamental_hz(part):
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 18))
    hz = np.fft.rfftfreq(1 << 18, 1 / RATE)
    octave = (hz > 95) & (hz < 150)
    return hz[octave][spectrum[octave].argmax()]


def colour_and_decay(source):
    """Mean and spread of the spectrum (octaves), and the time holding nine tenths of the energy (log2 seconds)."""
    wave = render_sound([sounding(source)], 3.0, 0).mean(axis=1).astype(float)[RATE // 2 :]
    octaves = np.log2(np.fft.rfftfreq(len(wave), 1 / RATE)[1:])
    power = np.abs(np.fft.rfft(wave))[1:] ** 2
    centre = np.average(octaves, weights=power)
    spread = np.sqrt(np.average((octaves - centre) ** 2, weights=power))
    energy = np.cumsum(wave**2) / np.sum(wave**2)
    return centre, spread, np.log2((np.searchsorted(energy, 0.95) - np.searchsorted(energy, 0.05)) / RATE)


def test_sources_differ_pairwise_in_colour_or_decay():
    features = {source: colour_and_decay(source) for source in SOURCES}
    for a, b in itertools.combinations(SOURCES, 2):
        assert np.linalg.norm(np.subtract(features[a], features[b])) > 0.5, (a, b, features[a], features[b])


@pytest.mark.parametrize("ground", GROUNDS)
def test_steps_on_every_ground(ground):
    wave = render_sound([Event(0.1, "footsteps", "step", 0.0, 1.0, material=ground)], 0.6, 0)
    assert 0.25 < np.abs(wave).max() < 0.7


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(0.1, "trumpet", "note", 0, 1), "trumpet"),
        (Event(0.1, "trumpet", "note", 0, 1, 1.0), "trumpet"),
        (Event(0.1, "footsteps", "step", 0, 1, material="lava"), "lava"),
        (Event(0.1, "rolling", "roll", 0, 1, 1.0, material="cheese"), "cheese"),
    ],
)
def test_unknown_source_or_material(event, message):
    with pytest.raises(ValueError, match=message):
        render_sound([event], 1.0, 0)


def test_duration_must_be_positive():
    with pytest.raises(ValueError, match="more than 0"):
        render_sound([], 0.0, 0)


def test_events_beyond_the_clip_are_cut():
    events = [sounding("bell", at=0.9), sounding("wood", at=1.5), sounding("rain", at=0.8, seconds=5.0)]
    assert render_sound(events, 1.0, 0).shape == (RATE, 2)
