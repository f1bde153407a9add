"""The spine in batches: an example's latents and sound are its own, in whatever batch it is made.

Of the light vocoder, which finds phases by iteration, only the spectrum can be compared: a difference of 1e-6 in the
latents, which another order of summation makes, leads it to other phases.
"""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import features, generation, rates
from kfjax.codec.bigvgan import BigVGAN, BigVGANConfig
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.encoders.configs import CLIPTextConfig
from kfjax.flow.sampler import Guidance
from kfjax.nn.module import init
from kfjax.structs import Noise, Schedule
from kfjax.xla import programs
from tests.tiny.system import CAPTIONS, CONFIG, tiny_system

SIZE = rates.lengths(0.5, CONFIG.rates)
SEEDS = np.array([5, 5, 9], np.uint32)
NUMBERS = np.array([0, 1, 0], np.uint32)
PROMPTS = [CAPTIONS[0], "", CAPTIONS[2]]
WEIGHTS = Guidance(3.0, 2.0, 1.0).weights()
AVOIDED = [CAPTIONS[1]] * 3
BIGVGAN = BigVGANConfig(width=16, rates=(8, 8, 8), block_kernels=(3,), dilations=(1,))


@pytest.fixture(scope="module")
def excerpt():
    """Three films of their own, one of them without a prompt."""
    rng = np.random.default_rng(0)
    frames = lambda count: rng.integers(0, 256, (3, count, 32, 32, 3), np.uint8)
    blank = features.make_excerpt(CONFIG, tiny_system().tokenizer, SIZE, 0.5, None, PROMPTS)
    given = blank.given._replace(has_video=np.array([True, True, False]))
    return blank._replace(clip_frames=frames(SIZE.clip), sync_frames=frames(SIZE.sync_frames), given=given)


mel_of = jax.jit(lambda wave: log_mel(wave.reshape(-1, *wave.shape[-2:]).mean(-1), MelConfig()))


def apart(one, other) -> float:
    """Mean difference of two waves' log-mels."""
    return float(np.abs(np.asarray(mel_of(one)) - mel_of(other)).mean())


def made(excerpt, rows, cfg=CONFIG, params=None, steps=3):
    """(latents, waves) of these rows by the three programs; the last with the codec of `cfg`, weights in `params`."""
    system, noise = tiny_system().params, Noise(SEEDS[rows], NUMBERS[rows])
    own = jax.tree.map(lambda x: x[rows], excerpt)
    ids, mask = tiny_system().tokenizer.encode([AVOIDED[row] for row in rows])
    encoded = generation.encode(system, own, cfg=CONFIG)
    given = own.given._replace(text_mask=mask, has_text=np.ones(len(rows), bool))
    negative = generation.encode(system, own._replace(text_ids=ids, given=given), cfg=CONFIG)
    x = generation.draw(noise, shape=(SIZE.latents, CONFIG.mmdit.latent_dim))
    latents = generation.sample(
        system["mmdit"], encoded, negative, np.array([*WEIGHTS.values()], np.float32), Schedule.whole(steps), x,
        cfg=CONFIG, branches=tuple(WEIGHTS), method="euler",
    )  # fmt: skip
    codec = {name: (params or system)[name] for name in cfg.codec.names}
    return np.asarray(latents), np.asarray(generation.decode(codec, latents, encoded, cfg=cfg))


def test_an_example_is_the_same_in_any_batch(excerpt):
    latents, waves = made(excerpt, [0, 1, 2])
    assert np.abs(latents - latents[[1, 2, 0]]).max() > 0.1 and np.abs(waves).max() > 0.01
    for row in range(3):
        alone_latents, alone_waves = made(excerpt, [row])
        np.testing.assert_allclose(alone_latents[0], latents[row], atol=1e-5)
        assert apart(alone_waves[0], waves[row]) < 0.05 < apart(waves[row - 1], waves[row])


def test_a_vocoder_without_iterations_makes_the_same_samples(excerpt):
    """Sampled apart, decoded apart: BigVGAN's samples agree to rounding."""
    cfg = replace(CONFIG, codec=replace(CONFIG.codec, vocoder=BIGVGAN, stereo=None))
    params = dict(tiny_system().params) | {"vocoder": jax.jit(lambda: init(BigVGAN, BIGVGAN, jax.random.key(0)))()}
    _, waves = made(excerpt, [0, 1, 2], cfg, params)
    assert np.abs(waves).max() > 1e-3
    for row in range(3):
        alone = made(excerpt, [row], cfg, params)[1][0]
        assert np.linalg.norm(alone - waves[row]) < 1e-5 * np.linalg.norm(waves[row])


def test_one_function_does_what_the_programs_do(excerpt):
    _, waves = made(excerpt, [0, 1, 2])
    whole = jax.jit(generation.generate, static_argnames=("cfg", "latents"))
    avoided = tiny_system().tokenizer.encode(AVOIDED)
    noise = Noise(SEEDS, NUMBERS)
    got = whole(
        tiny_system().params, CONFIG, excerpt, noise, WEIGHTS, Schedule.whole(3), SIZE.latents, avoided=tuple(avoided)
    )
    assert got.shape == waves.shape and apart(got, waves) < 0.05


def test_versions_share_their_conditions(excerpt):
    """Features of one clip, three noises: as three copies of the features."""
    one = jax.tree.map(lambda x: x[:1], generation.encode(tiny_system().params, excerpt, cfg=CONFIG))
    three = jax.tree.map(lambda x: np.repeat(np.asarray(x), 3, 0), one)
    noise = Noise(np.full(3, 7, np.uint32), np.arange(3, dtype=np.uint32))
    x = generation.draw(noise, shape=(SIZE.latents, CONFIG.mmdit.latent_dim))
    sampled = [
        generation.sample(
            tiny_system().params["mmdit"], encoded, None, np.array([3, -2], np.float32), Schedule.whole(2), x,
            cfg=CONFIG, branches=("full", "empty"), method="heun",
        )
        for encoded in (one, three)
    ]  # fmt: skip
    np.testing.assert_allclose(*sampled, atol=1e-5)
    assert np.abs(np.diff(sampled[0], axis=0)).max() > 0.1


def test_short_batches_repeat_themselves():
    got = [(list(rows), kept) for rows, kept in generation.batches(5, 3)]
    assert got == [([0, 1, 2], 3), ([3, 4, 3], 2)]
    assert list(generation.batches(0, 3)) == []


CLIP_TEXT = CLIPTextConfig(vocab=64, length=16, width=16, depth=1, heads=1, mlp_width=16)


@pytest.mark.parametrize("cfg", [CONFIG, replace(CONFIG, text=CLIP_TEXT)], ids=["T5", "CLIP text"])
def test_half_precision_stays_half(cfg, monkeypatch):
    """What the encoders return has the precision of their weights, and sampling can be traced with it."""
    monkeypatch.setattr(programs, "_COMPILERS", SimpleNamespace(submit=lambda *_: None))  # nothing is run
    for stage in ("encode", "sample", "decode"):
        monkeypatch.setattr(getattr(generation, stage), "_begun", {})
    begun = generation.begin(cfg, np.dtype(jnp.bfloat16), tiny_system().tokenizer, SIZE)
    clip, sync, text, _ = begun["encode"].begun.outputs
    assert clip.dtype == sync.dtype == text.dtype == jnp.bfloat16
    assert begun["sample"].begun.outputs.dtype == begun["decode"].begun.outputs.dtype == np.float32
