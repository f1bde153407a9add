"""The generator's training step: encoders (where they train), masks, a point on the path, the velocity, the update."""
from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import optax

from kfjax import features
from kfjax.flow import matching
from kfjax.layers import layer_norm
from kfjax.mmdit.mmdit import MMDiT
from kfjax.module import Params, bind
from kfjax.structs import FeatureBatch, Features, FlowBatch, TrainState
from kfjax.system import SystemConfig
from kfjax.train.lora import LoRAConfig, merge
from kfjax.train.optim import ema, guarded_update
from kfjax.train.stereo_step import stereo_loss

ENCODERS = ("text", "clip", "sync")


@dataclass(frozen=True)
class FlowStepConfig:
    """Switches of the step.

    Attributes:
      draws: noise and time draws per example; the encoders run once for all of them.
      drop_video, drop_text: probability of masking a modality, drawn per noise draw (classifier-free guidance).
      train_encoders: gradients reach the encoders; False freezes them.
      stereo_weight: weight of the Mono2Stereo loss that trains along; 0 = not trained.
      align_weight: weight of a linear read-out of the latents' mean from the align features alone; 0 = none. Encoders
        that start from nothing find the moments of events by it long before the flow asks for them.
      caption_weight: weight of a linear read-out of the caption's words from the clip's mean feature alone, in place of
        CLIP's contrast with text; 0 = none. An image tower that starts from nothing sees what is there by it.
      sound_weight: weight of a linear read-out of the latents' mean and deviation over time from the caption's mean
        feature alone; 0 = none. Where film and caption come together a young text encoder is never needed, and sinks to
        a constant; by this it tells rain from a bell.
      ema_decay: of the averaged weights.
      lora: where its rank is not 0, LoRA's pairs are all that trains, on a frozen network.

    Raises:
      ValueError: LoRA together with anything else that trains.
    """

    draws: int = 1
    drop_video: float = 0.1
    drop_text: float = 0.1
    train_encoders: bool = False
    stereo_weight: float = 0.0
    align_weight: float = 0.0
    caption_weight: float = 0.0
    sound_weight: float = 0.0
    ema_decay: float = 0.999
    lora: LoRAConfig = field(default_factory=lambda: LoRAConfig(rank=0))

    def __post_init__(self):
        others = ("train_encoders", "stereo_weight", "align_weight", "caption_weight", "sound_weight")
        both = [f"{name} {getattr(self, name)}" for name in others if getattr(self, name)]
        if self.lora.rank and both:
            raise ValueError(f"step: got lora.rank {self.lora.rank}, {', '.join(both)}; LoRA trains alone, unset them")


def trained_parts(cfg: FlowStepConfig) -> tuple[str, ...]:
    """Parts whose own parameters the step updates."""
    if cfg.lora.rank:
        return ()
    return (*(ENCODERS if cfg.train_encoders else ()), "mmdit", *(("stereo",) if cfg.stereo_weight else ()))


def init_readouts(system: SystemConfig, cfg: FlowStepConfig) -> Params:
    """The linear read-outs that the step asks for, at zero. They help to train and are no part of the system."""
    zeros = lambda inputs, outputs: {"kernel": jnp.zeros((inputs, outputs)), "bias": jnp.zeros((outputs,))}
    readouts = {}
    if cfg.align_weight:
        readouts["readout"] = zeros(system.mmdit.width, system.mmdit.latent_dim)
    if cfg.caption_weight:
        readouts["caption"] = zeros(system.clip.out_dim, system.text.vocab)
    if cfg.sound_weight:
        readouts["sound"] = zeros(system.text.width, 2 * system.mmdit.latent_dim)
    return readouts


def trained(params: Params, cfg: FlowStepConfig) -> Params:
    """The parameters that have gradients, an optimiser state and an average; the others never change."""
    if cfg.lora.rank:
        return {"lora": params["lora"]}
    weights = {"readout": cfg.align_weight, "caption": cfg.caption_weight, "sound": cfg.sound_weight}
    readouts = (name for name, weight in weights.items() if weight)
    return {name: params[name] for name in (*trained_parts(cfg), *readouts)}


def network(params: Params, cfg: FlowStepConfig) -> Params:
    """The weights that the flow network runs with: "mmdit", with "lora" added where that trains."""
    return merge(params["mmdit"], params["lora"], cfg.lora) if cfg.lora.rank else params["mmdit"]


def encode(params: Params, batch: FlowBatch | FeatureBatch, system: SystemConfig, cfg: FlowStepConfig) -> Features:
    """What the generator reads: from the frozen or training encoders, or as it was extracted.

    Raises:
      ValueError: features extracted beforehand for a step that needs what they were extracted from.
    """
    if isinstance(batch, FlowBatch):
        return features.encode(params, system, batch.excerpt)
    lacks = {"train_encoders": "frames", "stereo_weight": "mels of both ears", "caption_weight": "token ids"}
    lacking = [f"{name} {getattr(cfg, name)} needs {what}" for name, what in lacks.items() if getattr(cfg, name)]
    if lacking:
        raise ValueError(f"step: got a batch of extracted features, but {', '.join(lacking)}; unset, or train on clips")
    return batch.features


def drop(encoded: Features, key: jax.Array, cfg: FlowStepConfig) -> Features:
    """Mask video and text independently, each example on its own."""
    video_key, text_key = jax.random.split(key)
    shape = encoded.has_video.shape
    return encoded._replace(
        has_video=encoded.has_video & ~jax.random.bernoulli(video_key, cfg.drop_video, shape),
        has_text=encoded.has_text & ~jax.random.bernoulli(text_key, cfg.drop_text, shape),
    )


def loss(
    params: Params, batch: FlowBatch | FeatureBatch, key: jax.Array, system: SystemConfig, cfg: FlowStepConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Flow-matching loss (paper eq. 1) and, where asked for, the stereo loss and the read-outs', mean over the batch.

    Args:
      params: of the three encoders (where the batch is not encoded yet), "mmdit", with a stereo weight "stereo", with
        LoRA "lora", and the read-outs.

    Returns:
      What is minimised, and figures: "loss" is the flow's part alone, early and late where t < 0.3 and t > 0.7.
    """
    keys = dict(zip(("posterior", "noise", "time", "drop"), jax.random.split(key, 4), strict=True))
    encoded = encode(params, batch, system, cfg)
    repeat = lambda tree: jax.tree.map(lambda x: jnp.concatenate([x] * cfg.draws), tree)

    posterior = jax.tree.map(lambda x: x.astype(jnp.float32), repeat(batch.posterior))  # stored in half of that
    x1 = posterior.sample(keys["posterior"])
    x0 = jax.random.normal(keys["noise"], x1.shape, x1.dtype)
    t = matching.sample_times(keys["time"], x1.shape[0])
    x, _ = matching.interpolate(x0, x1, t)
    velocity = matching.expected_velocity(x, t, posterior)
    mmdit = bind(MMDiT, system.mmdit, network(params, cfg))
    kept = drop(repeat(encoded), keys["drop"], cfg)
    conditions = mmdit.prepare(kept, x.shape[1])
    per_sample = matching.loss(mmdit(x, t, conditions), velocity)
    total = flow = per_sample.mean()
    early, late = _mean_where(per_sample, t < 0.3), _mean_where(per_sample, t > 0.7)
    metrics = {"loss": flow, "loss_early": early, "loss_late": late}
    if cfg.stereo_weight:
        left, right = batch.mel_left, batch.mel_right
        mono = jnp.logaddexp(left, right) - jnp.log(2.0)  # the channels' mean, as the split defines it
        seen = features.seen_by_stereo(system, encoded, batch.posterior.mean.shape[1])
        stereo = stereo_loss(params["stereo"], system.codec.stereo, mono, left, right, seen, encoded.has_video)
        total, metrics["stereo"] = total + cfg.stereo_weight * stereo, stereo
    if cfg.align_weight:
        readout = _linear(params["readout"], layer_norm(conditions.align))
        aligned = _mean_where(matching.loss(readout, posterior.mean), kept.has_video)
        total, metrics["align"] = total + cfg.align_weight * aligned, aligned
    if cfg.caption_weight:
        words = caption_words(batch.excerpt.text_ids, batch.excerpt.text_mask, system.text.vocab)
        logits = _linear(params["caption"], layer_norm(encoded.clip.mean(1)))
        missed = optax.sigmoid_binary_cross_entropy(logits, words).mean(-1) * system.text.vocab / words.sum(-1).mean()
        caption = _mean_where(missed, encoded.has_video & encoded.has_text)
        total, metrics["caption"] = total + cfg.caption_weight * caption, caption
    if cfg.sound_weight:
        heard = _linear(params["sound"], layer_norm(_mean_of_words(encoded.text, encoded.text_mask)))
        mean = batch.posterior.mean
        missed = jnp.square(heard - jnp.concatenate([mean.mean(1), mean.std(1)], -1)).mean(-1)
        total, metrics["sound"] = total + cfg.sound_weight * (sound := _mean_where(missed, encoded.has_text)), sound
    return total, metrics


def make_step(system: SystemConfig, cfg: FlowStepConfig, tx: optax.GradientTransformation):
    """(state, batch, key) -> (state, metrics). The optimiser state is that of `trained(params, cfg)`."""

    def step(state: TrainState, batch: FlowBatch | FeatureBatch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        old = trained(state.params, cfg)
        objective = lambda new: loss(state.params | new, batch, key, system, cfg)
        (value, metrics), grads = jax.value_and_grad(objective, has_aux=True)(old)
        new, opt_state, finite, norm = guarded_update(tx, grads, old, state.opt_state, value)
        # A young average forgets its random start quickly.
        decay = jnp.minimum(cfg.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        averaged = ema(trained(state.ema, cfg), new, jnp.where(finite, decay, 1.0))
        skipped = jnp.where(finite, 0, state.skipped + 1)
        metrics |= {"gradient_norm": norm, "skipped": skipped}
        return TrainState(state.step + 1, state.params | new, opt_state, state.ema | averaged, skipped), metrics

    return step


def caption_words(ids: jax.Array, mask: jax.Array, vocab: int) -> jax.Array:
    """1 for every word of the vocabulary that the caption has, else 0. ids, mask [b l] -> [b vocab]"""
    return jnp.max(jax.nn.one_hot(ids, vocab) * mask[..., None], axis=1)


def _mean_of_words(text: jax.Array, mask: jax.Array) -> jax.Array:
    """[b l h], [b l] -> [b h]"""
    weight = mask[..., None].astype(text.dtype)
    return (text * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


def _linear(params: Params, x: jax.Array) -> jax.Array:
    y = x @ params["kernel"]
    return y + jnp.broadcast_to(params["bias"], y.shape)


def _mean_where(x: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(mask.sum(), 1)
