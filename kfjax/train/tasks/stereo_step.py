"""The loss of Mono2Stereo, on its own or as a term of the joint step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kfjax import features, module
from kfjax.codec.stereo import Mono2Stereo, StereoConfig
from kfjax.structs import FlowBatch, TrainState
from kfjax.system import SystemConfig
from kfjax.train.engine.optim import OptimConfig, ema, guarded_update, make_optimizer

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


def make_loss(system: SystemConfig) -> Callable[[module.Params, FlowBatch], Array]:
    """(parameters of "stereo" and of the frozen encoders, batch) -> the loss of Mono2Stereo alone."""

    def loss(params: module.Params, batch: FlowBatch) -> Array:
        encoded = features.encode(params, system, batch.excerpt)
        seen = features.seen_by_stereo(system, encoded, batch.posterior.mean.shape[1])
        left, right = batch.mel_left, batch.mel_right
        mono = jnp.logaddexp(left, right) - jnp.log(2.0)  # the channels' mean, as the split defines it
        return stereo_loss(params["stereo"], system.codec.stereo, mono, left, right, seen, encoded.given.has_video)

    return loss


def make_step(loss: Callable[[module.Params, FlowBatch], Array], optim: OptimConfig):
    """(state, batch, key) -> (state, metrics): one update of "stereo" by what `make_loss` gives."""
    tx = make_optimizer(optim)

    def step(state: TrainState, batch: FlowBatch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        own = {"stereo": state.params["stereo"]}
        value, grads = jax.value_and_grad(lambda own: loss(state.params | own, batch))(own)
        own, opt_state, finite, norm = guarded_update(tx, grads, own, state.opt_state, value)
        decay = jnp.minimum(optim.ema_decay, (1 + state.step) / (10 + state.step))
        averaged = ema({"stereo": state.ema["stereo"]}, own, decay)
        skipped = jnp.where(finite, 0, state.skipped + 1)
        state = TrainState(state.step + 1, state.params | own, opt_state, state.ema | averaged, skipped)
        return state, {"loss": value, "gradient_norm": norm}

    return step
