"""Measures of pictures, on frames with planted faults and without."""

import numpy as np
import pytest

from kfjax.data.clean.measures import picture
from tests.tiny.crawl import luma, pictures

CASES = range(40)


def still_share(frames: np.ndarray) -> float:
    return picture.still_share(luma(frames))


def border_share(frames: np.ndarray) -> float:
    return picture.border_share(luma(frames))


def coded(frames: np.ndarray, seed: int) -> np.ndarray:
    """What a codec adds: noise of two levels, another in every frame."""
    noise = np.random.default_rng(seed).normal(0, 2, frames.shape)
    return (frames + noise).clip(0, 255).astype(np.uint8)


def barred(frames: np.ndarray, seed: int) -> np.ndarray:
    """Black bars on two opposite sides of 6 to 25 % each."""
    rng, frames = np.random.default_rng(seed), frames.copy()
    axis = 1 + seed % 2
    bar = round(rng.uniform(0.06, 0.25) * frames.shape[axis])
    turned = np.moveaxis(frames, axis, 1)
    turned[:, :bar] = turned[:, -bar:] = 0
    return frames


def test_a_still_picture_is_told_from_a_moving_one():
    """Of 40 each: all."""
    for seed in CASES:
        moving = pictures(seed)
        assert still_share(coded(moving, seed)) <= 0.5, seed
        assert still_share(coded(np.repeat(moving[:1], 8, axis=0), seed)) == 1, seed


def test_still_is_a_share_of_the_steps():
    moving = pictures(0, 5)
    frames = np.concatenate([moving, np.repeat(moving[-1:], 4, axis=0)])
    assert still_share(frames) == 0.5
    assert still_share(moving[:1]) == 1
    assert still_share(moving[:, ::3, ::3][:, :31]) < 1  # any size


def test_bars_are_told_from_pictures():
    """Of 40 each, above a share of 0.05: all."""
    for seed in CASES:
        assert border_share(coded(pictures(seed), seed)) <= 0.05, seed
        assert border_share(coded(barred(pictures(seed), seed), seed)) > 0.05, seed


@pytest.mark.parametrize("axis", [1, 2])
def test_a_border_is_a_share_of_the_area(axis):
    frames = pictures(0)
    turned = np.moveaxis(frames, axis, 1)
    turned[:, : turned.shape[1] // 8] = 0
    assert border_share(frames) == 0  # on one side: a dark sky
    turned[:, -(turned.shape[1] // 8) :] = 0
    assert border_share(frames) == pytest.approx(0.25, abs=0.02)
    assert border_share(np.zeros_like(frames)) == 1


def test_a_bar_is_black_in_every_frame():
    frames = pictures(0)
    frames[:4, :24] = frames[:4, -24:] = 0
    assert border_share(frames) == 0
