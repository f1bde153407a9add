"""Generators: networks that predict a flow's velocity on audio latents; a folder for each family, one interface.

    conditions = bind(generator_of(cfg), cfg, params).prepare(features, latents, rates)     # once per sampling
    velocity = bind(generator_of(cfg), cfg, params)(x, t, conditions)                       # every step

A new family is a folder with its configuration (of its own `kind`, in the type of `SystemConfig.mmdit`) and its
network, and a line in `generator_of`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from kfjax.generators.mmdit.config import MMDiTConfig
from kfjax.rates import Rates
from kfjax.structs import Features


@runtime_checkable
class Generator(Protocol):
    """An `nnx.Module` made of its configuration, which says `latent_dim`, `clip_dim`, `sync_dim` and `text_dim`."""

    def prepare(self, features: Features, latents: int, rates: Rates) -> Any:
        """Conditions: all that depends on neither x nor t, a pytree whose every leaf leads with the batch.

        What `features.given` masks must not matter.

        Args:
          features: of a batch of excerpts.
          latents: length of what is generated.
          rates: the system's, in which features and latents have their times.
        """
        ...

    def join(self, first: Any, second: Any) -> Any:
        """Conditions of two excerpts, one after the other, under the words and the duration of the second."""
        ...

    def __call__(
        self, x: Float[Array, "b n d"], t: Float[Array, " b"] | Float[Array, "b n"], conditions: Any
    ) -> Float[Array, "b n d"]:
        """Velocity at (x, t), t in [0, 1]: 0 is noise, 1 is data; t of each example, or of each of its latents."""
        ...


def generator_of(cfg: MMDiTConfig) -> type[Generator]:
    """The network of a configuration."""
    from kfjax.generators.mmdit.mmdit import MMDiT  # slow to import

    networks: dict[type, type[Generator]] = {MMDiTConfig: MMDiT}
    return networks[type(cfg)]
