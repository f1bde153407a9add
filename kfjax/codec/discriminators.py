"""Multi-scale patch discriminator on mels: the picture [f m] is scored patch by patch at several sizes.

After PatchGAN (Isola et al. 2017) and its multi-scale form (Wang et al. 2018); the paper names it without sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kfjax.nn.layers import linear
from kfjax.nn.module import AnyArray


@dataclass(frozen=True)
class DiscriminatorConfig:
    """`scales` networks, each on a picture half as large as the one before; `layers` halvings, width doubling."""

    scales: int = 3
    layers: int = 3
    width: int = 32


class PatchDiscriminator(nnx.Module):
    """One scale: 4x4 convolutions of stride 2, then one score a patch (22 x 22 elements of the picture)."""

    def __init__(self, cfg: DiscriminatorConfig, *, rngs: nnx.Rngs):
        widths = [1] + [cfg.width * 2**i for i in range(cfg.layers)]
        self.layers = nnx.List([linear(16 * i, o, rngs) for i, o in pairwise(widths)])
        self.out = linear(widths[-1], 1, rngs)

    def __call__(self, image: Float[AnyArray, "b f m 1"]) -> Float[Array, "b y x"]:
        for layer in self.layers:
            image = jax.nn.leaky_relu(layer(neighbourhoods(image)), 0.2)
        return self.out(image)[..., 0]


class MelDiscriminator(nnx.Module):
    """Standardised mels [b f m] -> one map of patch scores a scale, the finest first."""

    def __init__(self, cfg: DiscriminatorConfig, *, rngs: nnx.Rngs):
        self.scales = nnx.List([PatchDiscriminator(cfg, rngs=rngs) for _ in range(cfg.scales)])

    def __call__(self, mel: Float[AnyArray, "b f m"]) -> list[Float[Array, "b y x"]]:
        image, scores = mel[..., None], []
        for i, discriminator in enumerate(self.scales):
            image = _fold(image).mean(-1, keepdims=True) if i else image
            scores.append(discriminator(image))
        return scores


def neighbourhoods(image: Float[AnyArray, "b f m c"]) -> Float[Array, "b (f+1)//2 (m+1)//2 16*c"]:
    """The 4x4 surroundings of every second element, zero beyond the border: a product with them is a convolution.

    As slices and a matrix product, its gradient and the gradient of that (R1) cost what they should on a CPU too.
    """
    rows, columns = -(-image.shape[1] // 2), -(-image.shape[2] // 2)
    folded = _fold(jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0))))
    return jnp.concatenate([folded[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)], -1)


def _fold(image: Float[AnyArray, "b f m c"]) -> Float[Array, "b (f+1)//2 (m+1)//2 4*c"]:
    """2x2 squares into channels; an odd border is repeated."""
    batch, rows, columns, channels = image.shape
    image = jnp.pad(image, ((0, 0), (0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")
    squares = image.reshape(batch, -(-rows // 2), 2, -(-columns // 2), 2, channels)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(*squares.shape[:2], squares.shape[3], 4 * channels)
