import numpy as np
import pytest

from kfjax.evals.networks.synchrony import desync_seconds, window_starts
from kfjax.media import FrameSpec


class FlashJudge:
    """Takes the brightest frame and the loudest sample for the same event; answers on Synchformer's grid of 0.2 s."""

    name, sample_rate_hz, frame_spec, seconds, step_seconds = "flash", 16000, FrameSpec(25.0, 4, "crop"), 4.8, 0.32

    def __init__(self):
        self.seen = []

    def offset_seconds(self, frames, waves):
        assert frames.shape == (2, 120, 4, 4, 3) and waves.shape == (2, 76800)
        self.seen.append((frames, waves))
        shown = frames.reshape(2, 120, -1).mean(-1).argmax(1) / 25.0
        heard = np.abs(waves).argmax(1) / 16000
        return np.clip(np.round((shown - heard) / 0.2) * 0.2, -2, 2).astype(np.float32)


def clip(flashes, clicks, seconds=8.0):
    frames = np.zeros((round(25 * seconds), 4, 4, 3), np.uint8)
    wave = np.zeros(round(16000 * seconds), np.float32)
    frames[np.round(np.array(flashes) * 25).astype(int)] = 255
    wave[np.round(np.array(clicks) * 16000).astype(int)] = 1
    return frames, wave


@pytest.mark.parametrize("late", [0.0, 0.4, -0.6, 1.0])
def test_desync_of_a_shifted_track_is_the_shift(late):
    flashes = np.array([1.6, 6.4])
    assert desync_seconds(FlashJudge(), *clip(flashes, flashes + late)) == pytest.approx(abs(late), abs=1e-6)


def test_desync_averages_absolute_offsets_of_both_windows():
    """Early by 0.4 in one window and late by 0.8 in the other is out by 0.6 on average, not by 0.2."""
    assert desync_seconds(FlashJudge(), *clip([1.6, 6.4], [1.2, 7.2])) == pytest.approx(0.6, abs=1e-6)


def test_windows_are_those_of_the_public_benchmark():
    """Of n segments (16 frames, step 8) the first and the last 14."""
    for seconds in (4.8, 5.0, 8.0, 9.97, 10.0):
        segments = (int(25 * seconds + 1e-6) - 16) // 8 + 1
        assert window_starts(seconds, 4.8, 0.32) == pytest.approx((0, (segments - 14) * 8 / 25))
    judge = FlashJudge()
    frames, wave = clip([1.0, 7.0], [1.0, 7.0])
    desync_seconds(judge, frames, wave)
    np.testing.assert_array_equal(judge.seen[0][0][1], frames[80:])
    np.testing.assert_array_equal(judge.seen[0][1][1], wave[51200:])


def test_a_short_clip_is_not_judged():
    with pytest.raises(ValueError, match=r"at least 4.8 s"):
        desync_seconds(FlashJudge(), *clip([1.0], [1.0], seconds=4.0))
