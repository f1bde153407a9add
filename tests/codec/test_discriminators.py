"""The mel discriminator: its convolution, its scales, its patches."""

import jax
import numpy as np
import pytest

from kfjax.codec.discriminators import DiscriminatorConfig, MelDiscriminator, neighbourhoods
from kfjax.nn import module

SMALL = DiscriminatorConfig(scales=3, layers=2, width=4)


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def discriminator(cfg):
    params = jax.jit(lambda: module.init(MelDiscriminator, cfg, jax.random.key(0)))()
    return jax.jit(lambda mel: module.bind(MelDiscriminator, cfg, params)(mel))


@pytest.mark.parametrize("rows, columns", [(8, 6), (7, 6), (8, 5)])
def test_neighbourhoods_make_a_strided_convolution(rows, columns):
    image, kernel = draw((2, rows, columns, 3)), draw((4, 4, 3, 5), 1)
    pad = [(1, 1 + rows % 2), (1, 1 + columns % 2)]
    axes = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(image, kernel, (2, 2), pad, dimension_numbers=axes)
    # Rows of the product: which half of the 4x4 square (y, x), then the place inside its 2x2 (y, x), then channels.
    rearranged = kernel.reshape(2, 2, 2, 2, 3, 5).transpose(0, 2, 1, 3, 4, 5).reshape(-1, 5)
    np.testing.assert_allclose(np.asarray(neighbourhoods(image)) @ rearranged, expected, atol=1e-5)


def test_one_map_of_scores_a_scale():
    scores = discriminator(SMALL)(draw((2, 22, 16)))
    assert [s.shape for s in scores] == [(2, 6, 4), (2, 3, 2), (2, 2, 1)]


def test_a_patch_score_depends_on_its_patch_only():
    cfg = DiscriminatorConfig(scales=1, layers=2, width=4)
    judge = discriminator(cfg)
    gradient = jax.jit(jax.grad(lambda x: judge(x)[0][0, 3, 3]))(draw((1, 32, 32)))
    touched = np.argwhere(np.asarray(gradient[0]) != 0)
    assert (touched.min(0) == 9).all() and (touched.max(0) == 18).all()  # 10 x 10 elements around (12..15)


def test_coarser_scales_see_averages():
    """A checkerboard is invisible to every scale but the finest."""
    judge = discriminator(SMALL)
    mel = draw((1, 16, 16))
    board = np.float32(1 - 2 * (np.indices((16, 16)).sum(0) % 2))
    plain, noisy = judge(mel), judge(mel + board[None])
    assert not np.allclose(plain[0], noisy[0], atol=1e-3)
    for a, b in zip(plain[1:], noisy[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
