"""Scenes that are encoded once: the same sounds as by the long way, and the same latents in whatever batch."""

import numpy as np
import pytest

from kfjax.flow.sampler import Guidance
from kfjax.metrics.reconstruction import mel_l1
from kfjax.scenes import render_corpus
from kfjax.scenes import sounds as scene_sounds
from kfjax.scenes.encoded import EncodedScenes
from kfjax.scenes.sounds import SceneSounds
from tests.tiny.system import tiny_system

CAPTIONS = ["a bell rings", "rain on a roof", "wind and footsteps", "", "a ball bounces on wood"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return render_corpus(folder, 5, seed=4, split="heldout", durations={1.0: 1}, size=32).buckets[1.0]


@pytest.fixture(autouse=True)
def batches_of_four(monkeypatch):
    monkeypatch.setattr(scene_sounds, "_LARGEST_BATCH", 4)


@pytest.fixture(scope="module")
def scenes(bucket) -> EncodedScenes:
    return EncodedScenes(tiny_system(), CAPTIONS, 1.0, films=(bucket, range(5)))


def test_sounds_are_those_of_the_evaluation(bucket, scenes):
    latents = scenes.latents(Guidance(3, 3), 2, seed=1)
    long_way = SceneSounds(tiny_system(), steps=2, guidance=3, seed=1).generate(CAPTIONS, 1.0, films=(bucket, range(5)))
    for made, true in zip(scenes.sounds(latents), long_way, strict=True):
        made = made / max(1.0, np.abs(made).max())
        assert made.shape == true.shape == (44100, 2)
        assert mel_l1(made, true, 44100) < 0.05


def test_a_scene_does_not_depend_on_its_batch(bucket, scenes):
    alone = EncodedScenes(tiny_system(), CAPTIONS[4:], 1.0, films=(bucket, [4]))
    together = scenes.latents(Guidance(2, 2), 2, "heun", seed=3)
    assert len(scenes) == len(together) == 5 and len(alone) == 1
    np.testing.assert_allclose(alone.latents(Guidance(2, 2), 2, "heun", seed=3)[0], together[4], rtol=1e-3, atol=1e-4)
    assert len(scenes.latents(Guidance(2, 2), 1, batches=1)) == 4


def test_outside_its_interval_guidance_is_off(scenes):
    made = lambda scale, **how: scenes.latents(Guidance(scale, scale), 2, seed=1, batches=1, kind="uniform", **how)
    np.testing.assert_allclose(made(3, guided=(0.0, 1.0)), made(3), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made(0, guided=(0.6, 1.0)), made(1), rtol=1e-4, atol=1e-5)
    assert not np.allclose(made(3, guided=(0.4, 1.0)), made(3), atol=1e-3)


def test_both_ways_to_two_ears_have_the_mono_mel(scenes):
    latents = scenes.latents(Guidance(3, 3), 1)[:2]
    mels = list(scenes.mels(latents))
    assert mels[0].shape == (2 * latents.shape[1], 128)
    coherent, separate = (np.stack(list(scenes.sounds(latents, coherent=way))) for way in (True, False))
    assert coherent.shape == separate.shape
    assert not np.allclose(coherent, separate)
