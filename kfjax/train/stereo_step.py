"""The loss of Mono2Stereo, on its own or as a term of the joint step."""
from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kfjax import module
from kfjax.codec.stereo import Mono2Stereo, StereoConfig

#: Log-ratios beyond this (35 dB) are one ear's silence, not a position.
_MAX_LOG_RATIO = 4.0


def stereo_loss(
    params: module.Params,
    cfg: StereoConfig,
    mel_mono: Float[Array, "b f m"],
    target_left_mel: Float[Array, "b f m"],
    target_right_mel: Float[Array, "b f m"],
    clip: Float[Array, "b v i"],
    has_video: Bool[Array, " b"],
) -> Float[Array, ""]:
    """Mean absolute error of log(left / right), each bin weighted by the square root of its linear mel.

    Bins that carry sound decide; the square root lets a quiet stroke count beside a loud one. Weights sum to one
    over the batch. The mels are natural-log; the ratio's median without video is 0, so it stays near mono there.
    """
    r = module.bind(Mono2Stereo, cfg, params)(mel_mono, clip, has_video).astype(jnp.float32)
    target = jnp.clip(target_left_mel - target_right_mel, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    weight = jnp.exp(0.5 * mel_mono)
    return jnp.sum(weight * jnp.abs(r - target)) / jnp.sum(weight)
