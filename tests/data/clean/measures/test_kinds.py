"""Classes of sound: by AudioSet's classes, and by the rule on made sounds."""

import numpy as np
import pytest

from kfjax.data.clean.measures import kinds
from kfjax.scenes import waves

RATE_HZ, SECONDS = 44100, 4


def made(kind: str, seed: int) -> np.ndarray:
    wave = getattr(waves, kind)(np.random.default_rng((seed, 3)), SECONDS * RATE_HZ, RATE_HZ)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)[:, None]


def accuracy(seeds: range) -> float:
    """Of the rule on as many made pieces of music as other made sounds."""
    hits = []
    for seed in seeds:
        other = ("voice", "noise", "clicks", "scene")[seed % 4]
        for kind, expected in (("music", kinds.MUSIC), (other, kinds.EFFECTS)):
            hits.append(kinds.by_rule(made(kind, seed), RATE_HZ, 0.0) == expected)
    return float(np.mean(hits))


def test_the_rule_tells_music_from_other_sounds():
    assert accuracy(range(4)) == 1


@pytest.mark.slow
def test_the_rule_on_more_sounds():
    """Of 80 it judges 75 right; of the five, four are scenes with a piano or bells."""
    assert accuracy(range(40)) >= 0.93


def test_speech_is_what_the_detector_says():
    silence = np.zeros((RATE_HZ, 1), np.float32)
    assert kinds.by_rule(silence, RATE_HZ, 0.8) == kinds.SPEECH
    assert kinds.by_rule(silence, RATE_HZ, 0.1) == kinds.EFFECTS
    assert kinds.by_rule(silence, RATE_HZ, None) is None  # it may be speech
    assert kinds.by_rule(made("music", 0), RATE_HZ, None) == kinds.MUSIC
    assert kinds.tones(silence[:100], RATE_HZ) == (0, 0, 0)


@pytest.mark.parametrize(
    ("loud", "kind"),
    [
        ({0: 0.8}, "speech"), ({7: 0.6, 137: 0.5}, "speech"), ({137: 0.9, 27: 0.1}, "music"), ({282: 0.4}, "music"),
        ({137: 0.9, 27: 0.3}, "singing"), ({37: 0.7}, "singing"), ({74: 0.9, 0: 0.8}, "effects"),
        ({283: 0.5}, "effects"),
    ],
)  # fmt: skip
def test_audioset_classes_speak_for_a_kind(loud, kind):
    probabilities = np.full(527, 0.01)
    probabilities[list(loud)] = list(loud.values())
    assert kinds.of_tags(probabilities) == kind
