import numpy as np
import pytest

from kfjax.metrics.onsets import detect_onsets, onset_f1
from kfjax.scenes.scores import stereo_correlation
from kfjax.scenes.world.event import STRUCK, Event
from kfjax.scenes.world.sound import render_sound

RATE = 44100
TIMES = (0.5, 0.9, 1.6, 2.1, 2.9)


def strokes(source, x=0.0):
    material = "stone" if source == "footsteps" else ""
    return [Event(t, source, "impact", x, 0.9 * 0.8**i, material=material) for i, t in enumerate(TIMES)]


def weather(source, seconds=4.0):
    return Event(0.0, source, "weather", 0.0, 0.4, seconds)


@pytest.mark.parametrize("source", STRUCK)
def test_onsets_of_every_struck_source_are_found(source):
    found = detect_onsets(render_sound(strokes(source), 4.0, 0), RATE)
    np.testing.assert_allclose(found, TIMES, atol=0.015)


@pytest.mark.parametrize("source", ["rain", "wind", "fire"])
def test_onsets_under_weather(source):
    found = detect_onsets(render_sound([*strokes("wood"), weather(source)], 4.0, 0), RATE)
    assert onset_f1(found, TIMES).f1 >= 0.85


def test_silence_and_steady_sound_have_no_onsets():
    assert len(detect_onsets(np.zeros((RATE, 2)), RATE)) == 0
    assert len(detect_onsets(render_sound([], 2.0, 0), RATE)) == 0
    assert len(detect_onsets(render_sound([weather("rain")], 4.0, 0), RATE)) == 0


def test_onsets_do_not_depend_on_channels_or_much_on_rate():
    wave = render_sound(strokes("metal"), 4.0, 0)
    np.testing.assert_allclose(detect_onsets(wave[:, 0], RATE), TIMES, atol=0.015)
    np.testing.assert_allclose(detect_onsets(wave[::2], RATE // 2), TIMES, atol=0.015)


def test_matching_is_one_to_one_and_best():
    score = onset_f1([1.00, 1.04], [1.03, 1.08])  # greedy by distance would pair 1.04 with 1.03 and lose one
    assert score.pairs == ((0, 0), (1, 1)) and score.f1 == 1.0
    score = onset_f1([1.0, 1.01, 3.0], [1.0, 2.0])
    assert (score.precision, score.recall) == (pytest.approx(1 / 3), 0.5) and score.f1 == pytest.approx(0.4)


def test_matching_merges_close_truths_and_keeps_their_indices():
    score = onset_f1([1.0, 2.0], [2.0, 1.03, 1.0])
    assert score.f1 == 1.0 and score.pairs == ((0, 2), (1, 0))


@pytest.mark.parametrize(("detected", "true", "f1"), [([], [], 1.0), ([1.0], [], 0.0), ([], [1.0], 0.0)])
def test_matching_of_nothing(detected, true, f1):
    assert onset_f1(detected, true).f1 == f1


def test_stereo_correlation_of_true_and_mirrored_sound():
    scenes = [
        [Event(t, "wood", "impact", x, 0.8) for t, x in zip(TIMES, xs, strict=True)]
        for xs in ((-0.9, -0.4, 0.1, 0.4, 0.9), (0.7, -0.7, 0.0, 0.3, -0.2))
    ]
    waves = [render_sound(scene, 4.0, seed) for seed, scene in enumerate(scenes)]
    assert stereo_correlation(waves, scenes, RATE) > 0.95
    assert stereo_correlation([wave[:, ::-1] for wave in waves], scenes, RATE) < -0.95
    assert np.isnan(stereo_correlation([], [], RATE))
