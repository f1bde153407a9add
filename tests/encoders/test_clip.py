from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from kfjax.encoders.clip import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig, unit
from kfjax.nn.module import bind, count, init, shapes

CFG = CLIPVisionConfig(size=20, patch=8, width=16, depth=2, heads=2, mlp_width=32, out_dim=12)


@partial(jax.jit, static_argnames="cfg")
def apply(params, frames, cfg=CFG):
    return bind(CLIPVision, cfg, params)(frames)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: init(CLIPVision, CFG, jax.random.key(0)))()


def test_one_unit_vector_per_frame_whatever_its_neighbours(params):
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 20, 3), np.uint8)
    other = frames.copy()
    other[:, 1:] = 0
    one, two = apply(params, frames), apply(params, other)
    assert one.shape == (2, 3, 12)
    np.testing.assert_allclose(np.linalg.norm(one, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(one[:, 0], two[:, 0], rtol=1e-5, atol=1e-6)


def test_rows_that_fill_no_patch_are_not_read(params):
    frames = np.random.default_rng(1).integers(0, 256, (1, 1, 20, 20, 3), np.uint8)
    other = frames.copy()
    other[..., 16:, :, :] = 0
    np.testing.assert_array_equal(apply(params, frames), apply(params, other))


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_both_stems_see_where_something_is(stem):
    cfg = CLIPVisionConfig(
        size=32, patch=16, width=16, depth=1, heads=2, mlp_width=32, out_dim=12, stem=stem, stem_widths=(4, 6, 8),
        position_std=0.5,
    )  # fmt: skip
    weights = jax.jit(lambda: init(CLIPVision, cfg, jax.random.key(0)))()
    left = np.zeros((1, 1, 32, 32, 3), np.uint8)
    left[..., :16, :16, :] = 255
    one, two = (apply(weights, x, cfg) for x in (left, left[:, :, :, ::-1]))
    assert one.shape == (1, 1, 12)
    assert np.linalg.norm(one - two) > 0.01


@pytest.mark.parametrize("frames_at_once", [1, 4, 5])
def test_frames_in_turn_make_the_same_vectors(params, frames_at_once):
    frames = np.random.default_rng(2).integers(0, 256, (2, 5, 20, 20, 3), np.uint8)
    few = replace(CFG, frames_at_once=frames_at_once)
    np.testing.assert_allclose(apply(params, frames, few), apply(params, frames), rtol=1e-5, atol=1e-6)


def test_unit_of_zero_is_zero_with_a_finite_gradient():
    zero = np.zeros((2, 4), np.float32)
    assert (unit(zero) == 0).all()
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(zero)).all()


def test_public_sizes():
    # from the shapes of open_clip's state dicts; the text tower of ViT-H-14 without its projection
    assert count(shapes(CLIPVision, CLIPVisionConfig())) == 1_844_907_264
    assert count(shapes(CLIPText, CLIPTextConfig())) == 352_984_064


def test_refusals():
    with pytest.raises(ValueError, match="multiple of 16"):
        CLIPVisionConfig(size=32, patch=8, stem="conv")
    abstract = shapes(CLIPVision, CFG)
    frames = jax.ShapeDtypeStruct((1, 2, 24, 24, 3), np.uint8)
    with pytest.raises(ValueError, match="resize the frames"):
        jax.eval_shape(lambda p, x: bind(CLIPVision, CFG, p)(x), abstract, frames)
    text = CLIPTextConfig(vocab=10, length=4, width=8, depth=1, heads=2, mlp_width=8)
    ids = jax.ShapeDtypeStruct((1, 5), np.int32)
    with pytest.raises(ValueError, match="at most 4"):
        jax.eval_shape(lambda p, x: bind(CLIPText, text, p)(x), shapes(CLIPText, text), ids)
    with pytest.raises(ValueError, match="multiple of heads"):
        CLIPTextConfig(width=10, heads=3)
    with pytest.raises(ValueError, match="at least one patch"):
        CLIPVisionConfig(size=8, patch=14)
