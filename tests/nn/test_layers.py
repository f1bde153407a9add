"""Layers that every network shares: what computes them may differ, what they compute may not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import TypeCheckError

from kfjax.nn import layers
from kfjax.nn.layers import ATTENTION, CONVOLUTION, attention, conv, convolve, fused_attention
from kfjax.xla.sharding import make_mesh

WAYS = ("library", "gemms", "unfolded")


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def far(a, b) -> float:
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_annotated_shapes_are_checked_in_tests():
    pytest.importorskip("beartype")
    with pytest.raises(TypeCheckError, match="shift"):
        layers.modulate(normal(0, 2, 3, 4), normal(1, 2, 1, 5), normal(2, 2, 1, 4))


@pytest.mark.parametrize("how", WAYS[1:])
@pytest.mark.parametrize("taps, length, stride", [(3, 23, 1), (7, 16, 1), (1, 5, 1), (4, 9, 1), (3, 2, 1), (3, 23, 2)])
def test_convolutions_of_all_kinds_are_one(how, taps, length, stride):
    """Forward, and the gradients of input and kernel."""
    x, kernel = normal(0, 2, length, 6), normal(1, taps, 6, 10)

    @partial(jax.jit, static_argnums=0)
    def run(how):
        y, back = jax.vjp(lambda x, kernel: convolve(x, kernel, stride=stride, how=how), x, kernel)
        return y, *back(jnp.cos(y))

    for got, expected in zip(run(how), run("library"), strict=True):
        assert got.shape == expected.shape
        assert far(got, expected) < 1e-6


@pytest.mark.parametrize("how", WAYS)
def test_the_layer_computes_as_its_platform_says(how, monkeypatch):
    layer = conv(6, 10, 3, nnx.Rngs(0))
    x = normal(2, 2, 9, 6)
    expected = nnx.Conv.__call__(layer, x)
    monkeypatch.setitem(CONVOLUTION, "cpu", how)
    assert far(layer(x), expected) < 1e-6
    operations = str(jax.make_jaxpr(layer)(x))
    assert ("conv_general_dilated" in operations) == (how == "library")
    assert operations.count("dot_general") == {"library": 0, "gemms": 3, "unfolded": 1}[how]
    assert layer(x.astype(jnp.bfloat16)).dtype == jnp.float32  # as flax does: the wider of both


def test_the_platform_is_that_of_the_mesh(monkeypatch):
    """A program may be compiled for chips that are not here."""
    assert layers._platform() == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert layers._platform() == "tpu"
    with jax.set_mesh(make_mesh({"data": 8})):
        assert layers._platform() == "cpu"


@pytest.mark.parametrize("n, j", [(11, 21), (16, 8)])
def test_fused_attention_does_not_heed_what_is_filled_up(n, j, monkeypatch):
    q, k, v = normal(0, 2, n, 3, 8), normal(1, 2, j, 3, 8), normal(2, 2, j, 3, 8)

    def run(f):
        def both_ways(*args):
            y, back = jax.vjp(f, *args)
            return y, *back(jnp.cos(y))

        return jax.jit(both_ways)(q, k, v)

    fused = lambda q, k, v: fused_attention(q, k, v, scale=0.3, implementation="xla")
    for got, expected in zip(run(fused), run(lambda q, k, v: attention(q, k, v, scale=0.3)), strict=True):
        assert got.shape == expected.shape
        assert far(got, expected) < 1e-6


def test_cudnn_is_asked_for_half_precision_without_mask_and_bias(monkeypatch):
    asked, ours = [], jax.nn.dot_product_attention

    def watched(*args, implementation=None, **rest):
        asked.append((args[0].shape[1], implementation))
        return ours(*args, **rest)

    monkeypatch.setattr(jax.nn, "dot_product_attention", watched)
    q = normal(0, 1, 11, 2, 8)
    half, mask = q.astype(jnp.bfloat16), jnp.ones((1, 1, 1, 11), bool)
    attention(half, half, half)
    monkeypatch.setitem(ATTENTION, "cpu", "cudnn")
    attention(q, q, q)
    attention(half, half, half, mask=mask)
    assert attention(half, half, half).shape == half.shape
    assert asked == [(11, None), (11, None), (11, None), (16, "cudnn")]
