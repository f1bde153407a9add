"""Synchformer against a plain numpy restatement (dense masks, a loop over segments), its lengths and its stem."""

from dataclasses import replace
from math import erf, sqrt

import jax
import numpy as np
import pytest

from kfjax.encoders.synchformer import Synchformer, SynchformerConfig
from kfjax.nn.module import bind, shapes
from kfjax.rates import Rates, lengths

PATCH = SynchformerConfig(size=16, width=12, depth=2, heads=3, patch=8, mlp_ratio=2)
CONV = SynchformerConfig(size=32, width=12, depth=1, heads=3, patch=16, stem="conv", stem_widths=(4, 6, 8))


apply = jax.jit(lambda cfg, params, frames: bind(Synchformer, cfg, params)(frames), static_argnums=0)
embed = jax.jit(lambda cfg, params, frames: bind(Synchformer, cfg, params).patch_embed(frames), static_argnums=0)


def random_params(cfg, seed=0):
    """Every tensor away from zero and one, so that no branch can be wrong unnoticed."""
    leaves, tree = jax.tree.flatten(shapes(Synchformer, cfg))
    rng = np.random.default_rng(seed)
    return tree.unflatten([(0.3 * rng.standard_normal(leaf.shape) + 0.1).astype(np.float32) for leaf in leaves])


def random_frames(count, cfg, batch=1):
    return np.random.default_rng(count).integers(0, 256, (batch, count, cfg.size, cfg.size, 3), np.uint8)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x, eps):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * p["scale"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(erf)(x / sqrt(2)))


def masked_attention(qkv, out, x, heads, mask):
    q, k, v = dense(qkv, x).reshape(len(x), 3, heads, -1).transpose(1, 2, 0, 3)
    scores = np.where(mask, q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = (weights / weights.sum(-1, keepdims=True)) @ v
    return dense(out, y.transpose(1, 0, 2).reshape(x.shape))


def segment_tokens(p, cfg, frames):
    """One segment of 16 frames -> its 8 tokens, in float64."""
    pixels = frames / 255.0 * 2 - 1
    side = cfg.size // cfg.patch
    tokens, times, places = [], [], []
    for time in range(cfg.steps):
        for row in range(side):
            for column in range(side):
                ys, xs = (slice(i * cfg.patch, (i + 1) * cfg.patch) for i in (row, column))
                tubelet = pixels[cfg.tubelet * time : cfg.tubelet * (time + 1), ys, xs]
                place = row * side + column
                token = dense(p["patch_embed"]["proj"], tubelet.reshape(-1))
                tokens.append(token + p["pos_embed"][1 + place] + p["temp_embed"][time])
                times.append(time)
                places.append(place)
    x = np.stack([p["cls_token"] + p["pos_embed"][0], *tokens])
    same = {name: np.array([-1, *v])[:, None] == np.array([-1, *v]) for name, v in (("t", times), ("l", places))}
    for mask in same.values():
        mask[0, :] = mask[:, 0] = True
    for i in range(cfg.depth):
        b = jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"])
        time, space = b["timeattn"], b["attn"]
        x = x + masked_attention(time["qkv"], time["proj"], norm(b["norm3"], x, cfg.eps), cfg.heads, same["l"])
        x = x + masked_attention(space["qkv"], space["proj"], norm(b["norm1"], x, cfg.eps), cfg.heads, same["t"])
        x = x + dense(b["mlp"]["fc2"], gelu(dense(b["mlp"]["fc1"], norm(b["norm2"], x, cfg.eps))))
    return aggregate(p["spatial_attn_agg"], cfg, norm(p["norm"], x[1:], cfg.eps).reshape(cfg.steps, cfg.cells, -1))


def aggregate(a, cfg, steps):
    rows = []
    for x in steps:
        x = np.stack([a["cls_token"], *x])
        attn = a["self_attn"]
        x = x + masked_attention(attn["in_proj"], attn["out_proj"], norm(a["norm1"], x, cfg.eps), cfg.heads, True)
        x = x + dense(a["linear2"], gelu(dense(a["linear1"], norm(a["norm2"], x, cfg.eps))))
        rows.append(x[0])
    return np.stack(rows)


def test_equals_the_restatement():
    params, frames = random_params(PATCH), random_frames(33, PATCH)
    got = apply(PATCH, params, frames)[0]
    double = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    want = np.concatenate([segment_tokens(double, PATCH, frames[0, s : s + 16]) for s in (0, 8, 16)])
    assert got.shape == want.shape == (24, 12)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-5


@pytest.mark.parametrize("frames", [25, 62, 100, 125, 200, 325])
def test_lengths_are_those_of_the_rates(frames):
    abstract = shapes(Synchformer, CONV)
    video = jax.ShapeDtypeStruct((2, frames, 32, 32, 3), np.uint8)
    out = jax.eval_shape(lambda p, x: bind(Synchformer, CONV, p)(x), abstract, video)
    assert out.shape == (2, lengths(frames / 25, Rates()).sync, 12)
    assert out.dtype == np.float32


def test_floats_and_bytes_agree():
    params, frames = random_params(CONV), random_frames(16, CONV)
    floats = frames.astype(np.float32) / 255
    np.testing.assert_allclose(embed(CONV, params, frames), embed(CONV, params, floats), rtol=1e-4, atol=1e-4)


def test_batch_rows_are_independent():
    params, frames = random_params(CONV), random_frames(24, CONV, batch=2)
    other = frames.copy()
    other[0] = 0
    one, two = apply(CONV, params, frames), apply(CONV, params, other)
    np.testing.assert_allclose(one[1], two[1], rtol=1e-4, atol=1e-4)
    assert np.abs(one[0] - two[0]).max() > 0.1


def test_overlapping_segments_read_the_same_tubelets():
    """With the patch stem a segment does not depend on where in the video it lies."""
    params, frames = random_params(PATCH), random_frames(33, PATCH)
    later = np.roll(frames, 8, axis=1)
    one, two = apply(PATCH, params, frames), apply(PATCH, params, later)
    np.testing.assert_allclose(one[:, :16], two[:, 8:], rtol=1e-4, atol=1e-4)


def test_motion_stem_sees_one_frame_s_change():
    """A change in a single frame reaches its own tubelet and, as a velocity, the next; no other."""
    frames = random_frames(16, CONV)
    other = frames.copy()
    other[:, 5] ^= 1
    params = random_params(CONV)
    changed = np.abs(np.asarray(embed(CONV, params, frames) - embed(CONV, params, other))).max((0, 2, 3)) > 0
    assert changed.tolist() == [False, False, True, True, False, False, False, False]


def test_patch_32_stem_and_gradients_are_finite():
    cfg = SynchformerConfig(size=64, width=16, depth=2, heads=2, patch=32, stem="conv", stem_widths=(4, 6, 8))
    frames = random_frames(24, cfg)
    loss = jax.jit(jax.value_and_grad(lambda p: (bind(Synchformer, cfg, p)(frames) ** 2).mean()))
    value, grads = loss(random_params(cfg))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_public_size():
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(Synchformer, SynchformerConfig())))
    assert count == 122_440_704 - 590_592  # less the 2-D patch embedding that nothing uses


def test_refusals():
    params = shapes(Synchformer, PATCH)
    for shape in [(1, 15, 16, 16, 3), (1, 16, 24, 24, 3), (16, 16, 16, 3)]:
        frames = jax.ShapeDtypeStruct(shape, np.uint8)
        with pytest.raises(ValueError, match=r"expected .*16"):
            jax.eval_shape(lambda p, x: bind(Synchformer, PATCH, p)(x), params, frames)
    for wrong in [{"size": 225}, {"heads": 7}, {"segment_step": 6}, {"stem": "conv", "patch": 8}]:
        with pytest.raises(ValueError, match="Synchformer: got"):
            SynchformerConfig(**wrong)


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_segments_in_turn_make_the_same_tokens(segments):
    cfg, frames = PATCH, random_frames(40, PATCH, batch=2)  # 4 segments each
    params = random_params(cfg)
    want = apply(cfg, params, frames)
    got = apply(replace(cfg, segments_at_once=segments), params, frames)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
