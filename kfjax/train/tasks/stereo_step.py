"""The loss of Mono2Stereo, on its own or as a term of the joint step."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kfjax import features
from kfjax.codec.stereo import Mono2Stereo, StereoConfig
from kfjax.nn import module
from kfjax.structs import Features, FlowBatch
from kfjax.system import SystemConfig
from kfjax.train.engine import update
from kfjax.train.engine.optim import OptimConfig, make_optimizer

#: Log-ratios are clipped to this (35 dB): beyond it one channel is silent.
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

    Loud bins weigh most; the square root keeps quiet strokes from vanishing beside loud ones. Weights sum to one
    over the batch. The mels are natural-log; the ratio's median without video is 0, so it stays near mono there.
    """
    r = module.bind(Mono2Stereo, cfg, params)(mel_mono, clip, has_video).astype(jnp.float32)
    target = jnp.clip(target_left_mel - target_right_mel, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    weight = jnp.exp(0.5 * mel_mono)
    return jnp.sum(weight * jnp.abs(r - target)) / jnp.sum(weight)


def batch_loss(params: module.Params, batch: FlowBatch, encoded: Features, system: SystemConfig) -> Array:
    """`stereo_loss` of a batch whose features are `encoded`, by the parameters of "stereo" in `params`."""
    assert system.codec.stereo is not None
    seen = features.seen_by_stereo(system, encoded, batch.posterior.mean.shape[1])
    left, right = jnp.asarray(batch.mel_left), jnp.asarray(batch.mel_right)
    mono = jnp.logaddexp(left, right) - jnp.log(2.0)  # the channels' mean, as the split defines it
    has_video = jnp.asarray(encoded.given.has_video)
    return stereo_loss(params["stereo"], system.codec.stereo, mono, left, right, seen, has_video)


def make_loss(system: SystemConfig) -> Callable[[module.Params, FlowBatch], Array]:
    """(parameters of "stereo" and of the frozen encoders, batch) -> the loss of Mono2Stereo alone."""

    def loss(params: module.Params, batch: FlowBatch) -> Array:
        return batch_loss(params, batch, features.encode(params, system, batch.excerpt), system)

    return loss


def make_step(loss: Callable[[module.Params, FlowBatch], Array], optim: OptimConfig) -> update.Step:
    """(state, batch, key) -> (state, metrics): one update of "stereo" by what `make_loss` gives."""

    def figures(params: module.Params, batch: FlowBatch, key: Array) -> tuple[Array, dict[str, Array]]:
        del key  # nothing here is drawn
        value = loss(params, batch)
        return value, {"loss": value}

    own = lambda params: {"stereo": params["stereo"]}
    return update.make_step(update.gradients_of(figures), make_optimizer(optim), own, optim.ema_decay)
