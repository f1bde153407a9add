"""Sync tokens at the latents' rate: what the generators condition on, and what Mono2Stereo may read."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from kfjax.nn.module import AnyArray
from kfjax.rates import Rates, sync_token_seconds


def align(
    sync: Float[AnyArray, "b s h"], latents: int, how: Literal["uniform", "timed"], rates: Rates
) -> Float[AnyArray, "b n h"]:
    """Bring the sync tokens to the latents' rate.

    uniform: nearest-exact upsampling that spreads the tokens evenly, as the public weights expect.
    timed: every latent takes the tokens nearest in true time. Segments overlap by half, so evenly spread tokens sit
    up to half a second away from their frames; see docs/decisions.

    Args:
      sync: tokens of an excerpt's segments, in their order.
      latents: length of the result, n.
      rates: the system's, in which tokens and latents have their times.
    """
    tokens = sync.shape[1]
    if how == "uniform":
        # float32 on purpose: exact arithmetic picks other sources at ties.
        step = np.float32(tokens / latents)
        index = np.floor((np.arange(latents, dtype=np.float32) + np.float32(0.5)) * step).astype(np.int32)
        return sync[:, np.minimum(index, tokens - 1)]
    token_time = np.array(sync_token_seconds(tokens, rates))
    latent_time = (np.arange(latents) + 0.5) / rates.latent_hz
    # Soft nearest neighbour, half a token wide: both segments that saw a moment are averaged.
    score = -(((latent_time[:, None] - token_time[None]) / 0.04) ** 2)
    weight = np.exp(score - score.max(1, keepdims=True))
    weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    return jnp.einsum("ns,bsh->bnh", weight.astype(sync.dtype), sync)
