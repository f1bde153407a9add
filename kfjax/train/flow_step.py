"""The generator's training step: encoders (where they train), masks, a point on the path, the velocity, the update."""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kfjax import features
from kfjax.flow import matching
from kfjax.mmdit.mmdit import MMDiT
from kfjax.module import Params, bind
from kfjax.structs import Array, Excerpt, Features, Posterior, TrainState
from kfjax.system import SystemConfig
from kfjax.train.optim import ema, guarded_update
from kfjax.train.stereo_step import stereo_loss

ENCODERS = ("text", "clip", "sync")


class FlowBatch(NamedTuple):
    """One bucket's examples. `mel_left` and `mel_right` are read only where the stereo part trains along."""

    excerpt: Excerpt
    posterior: Posterior
    mel_left: Array  # [b, f, m]
    mel_right: Array  # [b, f, m]


@dataclass(frozen=True)
class FlowStepConfig:
    """Switches of the step.

    Attributes:
      draws: noise and time draws per example; the encoders run once for all of them.
      drop_video, drop_text: probability of masking a modality, drawn per noise draw (classifier-free guidance).
      train_encoders: gradients reach the encoders; False freezes them.
      stereo_weight: weight of the Mono2Stereo loss that trains along on the clip features; 0 = not trained.
      ema_decay: of the averaged weights.
    """

    draws: int = 1
    drop_video: float = 0.1
    drop_text: float = 0.1
    train_encoders: bool = False
    stereo_weight: float = 0.0
    ema_decay: float = 0.999


def trained_parts(cfg: FlowStepConfig) -> tuple[str, ...]:
    """Parts whose parameters the step updates."""
    return (*(ENCODERS if cfg.train_encoders else ()), "mmdit", *(("stereo",) if cfg.stereo_weight else ()))


def drop(features: Features, key: jax.Array, cfg: FlowStepConfig) -> Features:
    """Mask video and text independently, each example on its own."""
    video_key, text_key = jax.random.split(key)
    shape = features.has_video.shape
    return features._replace(
        has_video=features.has_video & ~jax.random.bernoulli(video_key, cfg.drop_video, shape),
        has_text=features.has_text & ~jax.random.bernoulli(text_key, cfg.drop_text, shape),
    )


def loss(
    params: Params, batch: FlowBatch, key: jax.Array, system: SystemConfig, cfg: FlowStepConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Flow-matching loss (paper eq. 1) and, where asked for, the stereo loss."""
    keys = dict(zip(("posterior", "noise", "time", "drop"), jax.random.split(key, 4), strict=True))
    encoders = params if cfg.train_encoders else jax.lax.stop_gradient(params)
    encoded = features.encode(encoders, system, batch.excerpt)
    repeat = lambda tree: jax.tree.map(lambda x: jnp.concatenate([x] * cfg.draws), tree)

    x1 = repeat(batch.posterior).sample(keys["posterior"])
    x0 = jax.random.normal(keys["noise"], x1.shape, x1.dtype)
    t = matching.sample_times(keys["time"], x1.shape[0])
    x, velocity = matching.interpolate(x0, x1, t)
    mmdit = bind(MMDiT, system.mmdit, params["mmdit"])
    conditions = mmdit.prepare(drop(repeat(encoded), keys["drop"], cfg), x.shape[1])
    per_sample = matching.loss(mmdit(x, t, conditions), velocity)
    total = flow = per_sample.mean()
    metrics = {"loss": flow, "loss_early": _mean_where(per_sample, t < 0.3), "loss_late": _mean_where(per_sample, t > 0.7)}
    if cfg.stereo_weight:
        left, right = batch.mel_left, batch.mel_right
        mono = jnp.logaddexp(left, right) - jnp.log(2.0)  # the channels' mean, as the split defines it
        stereo = stereo_loss(params["stereo"], system.codec.stereo, mono, left, right, encoded.clip, encoded.has_video)
        total, metrics["stereo"] = total + cfg.stereo_weight * stereo, stereo
    return total, metrics


def make_step(system: SystemConfig, cfg: FlowStepConfig, tx: optax.GradientTransformation):
    """(state, batch, key) -> (state, metrics)."""

    def step(state: TrainState, batch: FlowBatch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key, system, cfg)
        params, opt_state, finite, norm = guarded_update(tx, grads, state.params, state.opt_state, value)
        # A young average forgets its random start quickly.
        decay = jnp.minimum(cfg.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        averaged = ema(state.ema, params, jnp.where(finite, decay, 1.0))
        skipped = jnp.where(finite, 0, state.skipped + 1)
        metrics |= {"gradient_norm": norm, "skipped": skipped}
        return TrainState(state.step + 1, params, opt_state, averaged, skipped), metrics

    return step


def _mean_where(x: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(mask.sum(), 1)
