"""Frames and captions become features: one place, one set of masks."""

import dataclasses

import jax
import numpy as np

from kfjax import features
from kfjax.rates import lengths
from kfjax.structs import Video
from tests.tiny.system import CONFIG, tiny_system

SIZE = lengths(1.0, CONFIG.rates)
FRAMES = np.random.default_rng(0).integers(0, 256, (SIZE.sync_frames, 32, 32, 3), np.uint8)
VIDEO = Video(FRAMES[: SIZE.clip], FRAMES, 1.0)


def excerpt(video, *prompts):
    return features.make_excerpt(CONFIG, tiny_system().tokenizer, SIZE, 1.0, video, prompts)


def encode(batch):
    return jax.jit(features.encode, static_argnums=1)(tiny_system().params, CONFIG, batch)


def test_frames_are_read_as_the_encoders_want_them():
    clip, sync = features.frame_specs(CONFIG)
    assert (clip.rate_hz, clip.size, clip.resize) == (8.0, 32, "stretch")
    assert (sync.rate_hz, sync.size, sync.resize) == (25.0, 32, "crop")
    stretched = dataclasses.replace(CONFIG, sync_resize="stretch")
    assert features.frame_specs(stretched)[1].resize == "stretch"


def test_every_prompt_gets_the_same_video():
    got = excerpt(VIDEO, "rain on a roof", "", "  ")
    assert got.given.has_video.tolist() == [True] * 3
    assert got.given.has_text.tolist() == [True, False, False]
    assert got.given.text_mask.any(1).tolist() == [True, False, False]
    for b in range(3):
        np.testing.assert_array_equal(got.sync_frames[b], FRAMES)
        np.testing.assert_array_equal(got.clip_frames[b], FRAMES[: SIZE.clip])
    assert got.given.seconds_start.tolist() == [0] * 3 and got.given.seconds_total.tolist() == [1] * 3


def test_without_a_video_frames_are_black_and_masked():
    got = excerpt(None, "rain on a roof")
    assert not got.given.has_video.any() and got.given.has_text.all()
    assert got.clip_frames.shape == (1, SIZE.clip, 32, 32, 3) and not got.clip_frames.any()
    assert got.sync_frames.shape == (1, SIZE.sync_frames, 32, 32, 3) and not got.sync_frames.any()


def test_features_have_the_systems_widths():
    got = encode(excerpt(VIDEO, "rain on a roof", ""))
    assert got.clip.shape == (2, SIZE.clip, CONFIG.clip.out_dim)
    assert got.sync.shape == (2, SIZE.sync, CONFIG.sync.width)
    assert got.text.shape == (2, CONFIG.text_tokens, CONFIG.text.width)
    assert got.given.has_video.tolist() == [True, True] and got.given.has_text.tolist() == [True, False]
    assert all(np.isfinite(x).all() for x in (got.clip, got.sync, got.text))


def test_video_features_come_from_frames_and_text_features_from_words():
    one, two = encode(excerpt(VIDEO, "rain", "a bell")), encode(excerpt(None, "rain", "a bell"))
    np.testing.assert_array_equal(one.text, two.text)
    assert not np.allclose(one.clip, two.clip) and not np.allclose(one.sync, two.sync)
    np.testing.assert_allclose(one.clip[0], one.clip[1], atol=1e-6)
    assert not np.allclose(one.text[0, 0], one.text[1, 0])
