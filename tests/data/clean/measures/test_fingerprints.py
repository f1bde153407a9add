"""Fingerprints: copies of an excerpt are near, others are not."""

from itertools import combinations

import numpy as np
import pytest

from kfjax import media
from kfjax.data.clean.measures.fingerprints import differing_share, picture_fingerprint, sound_fingerprint
from kfjax.data.clean.measures.sound import undrawn
from tests.tiny import media_files
from tests.tiny.crawl import RATE_HZ, luma, pictures, recording

NEAR = 0.2


@pytest.fixture(scope="module")
def sounds():
    return [recording(seed) for seed in range(12)]


def test_copies_of_a_sound_are_near_and_others_are_not(sounds, tmp_path):
    """Another level, mono, noise at -50 dB, another rate, AAC at 64 kbit/s, without treble; all pairs of 12 sounds."""
    from scipy.signal import resample_poly

    marks = [sound_fingerprint(wave, RATE_HZ) for wave in sounds]
    for wave, mark in zip(sounds[:4], marks, strict=False):
        noise = 10 ** (-50 / 20) * np.abs(wave).max() * np.random.default_rng(0).standard_normal(wave.shape)
        low = resample_poly(wave, 160, 441, axis=0)
        media_files.write_sound(tmp_path / "a.m4a", wave, RATE_HZ, b="64000")
        heard = media.read_audio(tmp_path / "a.m4a", RATE_HZ)
        copies = [(0.25 * wave, RATE_HZ), (wave[:, :1], RATE_HZ), (wave + 0.3 * noise, RATE_HZ), (low, 16000),
                  (heard, RATE_HZ), undrawn(wave, RATE_HZ)]  # fmt: skip
        distances = [differing_share(mark, sound_fingerprint(*copy)) for copy in copies]
        assert max(distances) < NEAR, distances
    assert min(differing_share(one, other) for one, other in combinations(marks, 2)) > 0.3


def test_copies_of_a_picture_are_near_and_others_are_not():
    """Darker, coarser and noisy; all pairs of 24 pictures."""
    films = [luma(pictures(seed)) for seed in range(24)]
    marks = [picture_fingerprint(frames) for frames in films]
    for frames, mark in zip(films, marks, strict=True):
        noise = np.random.default_rng(0).normal(0, 3, frames.shape)
        for copy in (0.7 * frames, frames[:, ::2, ::2], frames + noise):
            copied = picture_fingerprint(copy.clip(0, 255).astype(np.uint8))
            assert differing_share(mark, copied) < NEAR
    assert min(differing_share(one, other) for one, other in combinations(marks, 2)) > 0.2


def test_nothing_has_no_fingerprint():
    assert sound_fingerprint(np.zeros((RATE_HZ, 2)), RATE_HZ) == ""
    assert sound_fingerprint(np.ones((10, 2)), RATE_HZ) == ""
    assert picture_fingerprint(np.full((4, 96, 128), 90, np.uint8)) == ""
    assert len(sound_fingerprint(recording(0), RATE_HZ)) == len(picture_fingerprint(luma(pictures(0)))) == 64


def test_a_flat_ground_has_no_marks():
    """What a codec adds to a wall, half a level, changes nothing."""
    rng, frames = np.random.default_rng(0), np.full((8, 128, 128), 120, np.uint8)
    frames[:, 50:90, 30:70] = 200
    noise = np.kron(rng.uniform(-0.6, 0.6, (8, 16, 16)), np.ones((1, 8, 8)))
    other = np.clip(frames + noise + rng.uniform(-0.5, 0.5, frames.shape), 0, 255).round().astype(np.uint8)
    assert differing_share(picture_fingerprint(frames), picture_fingerprint(other)) < 0.02
