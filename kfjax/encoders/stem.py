"""What the encoders that are trained from nothing see with: patchify 4, 2, 2 with GELU between.

One matrix per 16 × 16 pixels, as in a ViT, learns next to nothing from a few thousand small films; early
convolutions do (arXiv 2106.14881). They are matrix products over folded squares: no convolution is differentiated.
"""

from __future__ import annotations

from math import prod

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from kfjax.encoders.configs import STEM_STRIDE
from kfjax.nn.layers import linear
from kfjax.nn.module import AnyArray


def fold(
    x: Real[AnyArray, "*b H W c"], factor: int
) -> Real[AnyArray, "*b H//{factor} W//{factor} {factor}*{factor}*c"]:
    """Space to depth: each factor × factor square becomes one vector, ordered (y, x, channel)."""
    *batch, height, width, channels = x.shape
    x = x.reshape(*batch, height // factor, factor, width // factor, factor, channels).swapaxes(-4, -3)
    return x.reshape(*batch, height // factor, width // factor, factor * factor * channels)


def signed(frames: AnyArray, dtype: DTypeLike) -> AnyArray:
    """uint8 0..255 or float 0..1 to -1..1."""
    scale = 2 / 255 if frames.dtype == jnp.uint8 else 2.0
    return frames.astype(dtype) * scale - 1


class ConvStem(nnx.Module):
    """Squares of 4 × 4 pixels, folded -> one vector a patch."""

    def __init__(self, channels: int, widths: tuple[int, int, int], patch: int, width: int, *, rngs: nnx.Rngs):
        first, second, third = widths
        self.factor, self.width = patch // STEM_STRIDE, width
        self.conv1 = linear(4 * 4 * channels, first, rngs)
        self.conv2 = linear(2 * 2 * first, second, rngs)
        self.conv3 = linear(2 * 2 * second, third, rngs)
        self.proj = linear(self.factor**2 * third, width, rngs)

    def __call__(self, x: Float[Array, "*b y x pixels"]) -> Float[Array, "*b l h"]:
        x = jax.nn.gelu(self.conv1(x), approximate=False)
        x = jax.nn.gelu(self.conv2(fold(x, 2)), approximate=False)
        x = jax.nn.gelu(self.conv3(fold(x, 2)), approximate=False)
        x = self.proj(fold(x, self.factor))
        return x.reshape(*x.shape[:-3], prod(x.shape[-3:-1]), self.width)
