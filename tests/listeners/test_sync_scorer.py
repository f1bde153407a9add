"""The sync judge: lengths of the public model, windows of a longer clip, the meaning of its classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.encoders.synchformer import SynchformerConfig
from kfjax.listeners.ast import SpectrogramTransformerConfig
from kfjax.listeners.sync_scorer import SyncScorer, SyncScorerConfig, offset_seconds
from kfjax.nn.module import bind, count, shapes

PUBLIC = SyncScorerConfig()
SMALL = SyncScorerConfig(
    visual=SynchformerConfig(size=16, width=12, depth=1, heads=3, mlp_ratio=2),
    audio=SpectrogramTransformerConfig(width=12, depth=1, heads=3, mlp_ratio=2, bands=28),
    width=8, depth=1, heads=2, segments=2, classes=5,
)  # fmt: skip


apply = jax.jit(lambda params, frames, wave: bind(SyncScorer, SMALL, params)(frames, wave))


@pytest.fixture(scope="module")
def params():
    """Drawn in numpy, which costs no compilation."""
    rng = np.random.default_rng(0)
    draw = lambda leaf: (0.3 * rng.standard_normal(leaf.shape) + 0.1).astype(np.float32)
    return jax.tree.map(draw, shapes(SyncScorer, SMALL))


def clip(segments, batch=1):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (batch, 8 * (segments + 1), SMALL.visual.size, SMALL.visual.size, 3), np.uint8)
    return frames, rng.uniform(-1, 1, (batch, 5120 * (segments + 1))).astype(np.float32)


def test_public_window():
    """4.8 s at 25 frames and 16000 samples a second: 14 segments, 198 positions, 21 classes."""
    assert (PUBLIC.visual_tokens, PUBLIC.audio_tokens) == (112, 84)
    assert count(shapes(SyncScorer, PUBLIC)) == 236_869_653
    frames, wave = jnp.zeros((2, 120, 224, 224, 3), jnp.uint8), jnp.zeros((2, 76_800))
    call = lambda params, *inputs: bind(SyncScorer, PUBLIC, params)(*inputs)
    assert jax.eval_shape(call, shapes(SyncScorer, PUBLIC), frames, wave).shape == (2, 21)


def test_windows_of_a_clip_are_clips(params):
    """The halves see each segment alone, so tokens of a long clip may be cut into windows."""
    frames, wave = clip(segments=3)

    @jax.jit
    def last_window(params, frames, wave):
        judge = bind(SyncScorer, SMALL, params)
        visual, audio = judge.visual(frames), judge.audio(wave)
        return judge.compare(visual[:, -SMALL.visual_tokens :], audio[:, -SMALL.audio_tokens :])

    want = apply(params, frames[:, 8:], wave[:, 5120:])
    np.testing.assert_allclose(last_window(params, frames, wave), want, rtol=1e-4, atol=1e-5)


def test_half_precision_stays_near(params):
    want = apply(params, *clip(segments=2))
    got = apply(jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), *clip(segments=2))
    assert got.dtype == jnp.bfloat16
    assert np.linalg.norm(got.astype(np.float32) - want) / np.linalg.norm(want) < 0.05


def test_another_number_of_segments_is_refused(params):
    with pytest.raises(ValueError, match=r"got 24 tokens of the picture and 18 of the sound, expected 16 and 12"):
        jax.eval_shape(apply, params, *clip(segments=3))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="got width=768 and heads=7"):
        SyncScorerConfig(heads=7)


def test_offsets_are_the_public_grid():
    seconds = offset_seconds(jnp.eye(21))
    np.testing.assert_allclose(seconds, np.arange(-10, 11) / 5, atol=1e-6)
