from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from kfjax.encoders.t5 import T5Config, T5Encoder, relative_buckets
from kfjax.nn.module import bind, count, init, shapes

CFG = T5Config(vocab=20, width=16, depth=2, heads=2, head_dim=8, hidden=32)


@partial(jax.jit, static_argnames="cfg")
def apply(params, ids, mask, cfg=CFG):
    return bind(T5Encoder, cfg, params)(ids, mask)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: init(T5Encoder, CFG, jax.random.key(0)))()


def test_gain_multiplies_the_output(params):
    ids, mask = np.arange(9, dtype=np.int32)[None], np.ones((1, 9), bool)
    loud = apply(params, ids, mask, replace(CFG, gain=4.0))
    np.testing.assert_allclose(loud, 4 * apply(params, ids, mask), rtol=1e-5, atol=1e-6)


def test_masked_tokens_do_not_matter(params):
    ids = np.random.default_rng(0).integers(0, 20, (2, 9)).astype(np.int32)
    mask = np.arange(9) < np.array([[5], [9]])
    one, two = apply(params, ids, mask), apply(params, np.where(mask, ids, 7), mask)
    np.testing.assert_allclose(one[mask], two[mask], rtol=1e-5, atol=1e-6)


def test_an_empty_text_is_finite_forward_and_backward(params):
    ids, mask = np.zeros((1, 9), np.int32), np.zeros((1, 9), bool)
    grads = jax.jit(jax.grad(lambda p: (apply(p, ids, mask) ** 2).sum()))(params)
    assert np.isfinite(apply(params, ids, mask)).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_buckets_tell_direction_and_saturate():
    buckets = relative_buckets(400, 32, 128)
    assert buckets[0, 0] == 0 and buckets[1, 0] == 1 and buckets[0, 1] == 17
    assert buckets[399, 0] == 15 and buckets[0, 399] == 31
    assert (np.diff(buckets[0]) >= 0).sum() == 399  # monotone in the distance


def test_public_size():
    assert count(shapes(T5Encoder, T5Config())) == 109_628_544  # T5-Base's encoder with its embedding
