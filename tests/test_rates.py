"""Seconds become lengths: the golden values of the design, and what is refused."""

import math

import pytest

from kfjax.rates import MAX_SECONDS, MIN_SECONDS, Rates, exact_samples, lengths, sync_token_seconds

GOLDEN = {  # seconds: samples, mel, latents, clip, sync frames, sync tokens
    1.0: (45056, 88, 44, 8, 25, 16),
    2.5: (110592, 216, 108, 20, 62, 48),
    5.0: (221184, 432, 216, 40, 125, 112),
    8.0: (353280, 690, 345, 64, 200, 192),
    10.0: (441344, 862, 431, 80, 250, 240),
    13.0: (573440, 1120, 560, 104, 325, 312),
}


@pytest.mark.parametrize("seconds", GOLDEN)
def test_golden_lengths(seconds):
    assert lengths(seconds, Rates()) == GOLDEN[seconds]


@pytest.mark.parametrize("seconds", [MIN_SECONDS, 0.64, 0.65, 2.6, 3.7, 7.999, 12.34, MAX_SECONDS])
def test_the_codec_covers_the_excerpt_and_no_latent_more(seconds):
    size = lengths(seconds, Rates())
    assert size.samples == 512 * size.mel == 1024 * size.latents
    assert 0 <= size.samples - exact_samples(seconds, Rates()) < 1024
    assert size.clip >= 1 and size.sync_frames >= 16 and size.sync % 8 == 0 and size.sync >= 8


def test_no_frame_is_lost_to_binary_rounding():
    assert [lengths(frames / 25, Rates()).sync_frames for frames in range(16, 400)] == list(range(16, 400))
    assert [lengths(frames / 8, Rates()).clip for frames in range(1, 200)] == list(range(1, 200))
    assert [lengths(1024 * n / 44100, Rates()).latents for n in range(5, 2000)] == list(range(5, 2000))


@pytest.mark.parametrize("seconds", [0, 0.0, -1.0, 0.05, 60.01, 1e9, math.inf, -math.inf, math.nan])
def test_senseless_durations_are_refused(seconds):
    with pytest.raises(ValueError, match=r"duration: got .* s, expected 0\.1 to 60 s; choose another"):
        lengths(seconds, Rates())


def test_soundtracks_are_exact_to_the_sample():
    assert [exact_samples(s, Rates()) for s in (1.0, 2.5, 5.0, 8.0, 13.0)] == [44100, 110250, 220500, 352800, 573300]
    assert exact_samples(1.0, Rates(sample_rate_hz=16000)) == 16000


def test_other_clocks():
    size = lengths(8.0, Rates(sample_rate_hz=16000, hop=256))
    assert size.latents == 250 and size.samples == 128000
    assert Rates().latent_hz == pytest.approx(43.066, abs=1e-3)


def test_sync_tokens_lie_in_their_segments():
    times = sync_token_seconds(24, Rates())
    assert times[:8] == pytest.approx([0.04 + 0.08 * k for k in range(8)])
    assert times[8:16] == pytest.approx([0.32 + t for t in times[:8]])  # segments start every 8 frames
    assert len(times) == 24
