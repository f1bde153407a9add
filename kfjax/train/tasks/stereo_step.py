"""The loss of Mono2Stereo, on its own or as a term of the joint step."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kfjax import features
from kfjax.codec import stereo
from kfjax.codec.stereo import Mono2Stereo, StereoConfig
from kfjax.nn import module
from kfjax.structs import FeatureBatch, Features, FlowBatch
from kfjax.system import SystemConfig
from kfjax.train.engine import update
from kfjax.train.engine.optim import OptimConfig, make_optimizer
from kfjax.train.engine.validation import Figures

Batch = FlowBatch | FeatureBatch


def stereo_loss(
    params: module.Params,
    cfg: StereoConfig,
    mel_mono: Float[Array, "b f m"],
    log_ratio: Float[Array, "b f m"],
    clip: Float[Array, "b v i"],
    has_video: Bool[Array, " b"],
    there: Bool[Array, " b"] | None = None,
) -> Float[Array, ""]:
    """Mean absolute error of log(left / right), each bin weighted by the square root of its linear mel.

    Loud bins weigh most; the square root keeps quiet strokes from vanishing beside loud ones. Weights sum to one
    over the batch. The ratio's median without video is 0, so it stays near mono there.

    Args:
      mel_mono, log_ratio: as `codec.stereo.join` makes them of the channels' natural-log mels.
      there: False for recordings in mono, which say nothing of where a source is; the loss of these alone is 0.
    """
    r = module.bind(Mono2Stereo, cfg, params)(mel_mono, clip, has_video).astype(jnp.float32)
    weight = jnp.exp(0.5 * mel_mono)
    if there is None:
        return jnp.sum(weight * jnp.abs(r - log_ratio)) / jnp.sum(weight)
    weight = jnp.where(there[:, None, None], weight, 0)
    return jnp.sum(weight * jnp.abs(r - log_ratio)) / jnp.maximum(jnp.sum(weight), 1e-6)


def batch_loss(params: module.Params, batch: Batch, encoded: Features, system: SystemConfig) -> Array:
    """`stereo_loss` of a batch whose features are `encoded`, by the parameters of "stereo" in `params`."""
    assert system.codec.stereo is not None
    seen = features.seen_by_stereo(system, encoded, batch.posterior.mean.shape[1])
    if isinstance(batch, FlowBatch):
        (mono, ratio), there = stereo.join(jnp.asarray(batch.mel_left), jnp.asarray(batch.mel_right)), None
    else:
        assert batch.stereo is not None
        stored = jnp.asarray(batch.stereo.mono), jnp.asarray(batch.stereo.ratio)
        mono, ratio = stereo.from_bytes(*stored, system.codec.mel)
        there = jnp.asarray(batch.stereo.there)
    has_video = jnp.asarray(encoded.given.has_video)
    return stereo_loss(params["stereo"], system.codec.stereo, mono, ratio, seen, has_video, there)


def in_stereo(batch: Batch) -> Array:
    """How many examples `batch_loss` is of, f32 []: of recordings in mono nothing is learnt."""
    if isinstance(batch, FlowBatch):
        return jnp.float32(batch.posterior.mean.shape[0])
    assert batch.stereo is not None
    return jnp.sum(batch.stereo.there, dtype=jnp.float32)


def make_loss(system: SystemConfig) -> Callable[[module.Params, Batch], Array]:
    """(parameters of "stereo" and, for clips, of the frozen encoders, batch) -> the loss of Mono2Stereo alone."""

    def loss(params: module.Params, batch: Batch) -> Array:
        encoded = features.encode(params, system, batch.excerpt) if isinstance(batch, FlowBatch) else batch.features
        return batch_loss(params, batch, encoded, system)

    return loss


def make_figures(loss: Callable[[module.Params, Batch], Array]) -> Figures:
    """What `make_loss` gives, for `validation.Validation`: a batch counts by its examples in stereo."""
    return lambda params, batch, key: {"loss": loss(params, batch), "loss_count": in_stereo(batch)}


def make_step(loss: Callable[[module.Params, Batch], Array], optim: OptimConfig) -> update.Step:
    """(state, batch, key) -> (state, metrics): one update of "stereo" by what `make_loss` gives."""

    def figures(params: module.Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        del key  # nothing here is drawn
        value = loss(params, batch)
        return value, {"loss": value}

    own = lambda params: {"stereo": params["stereo"]}
    return update.make_step(update.gradients_of(figures), make_optimizer(optim), own, optim.ema_decay)
