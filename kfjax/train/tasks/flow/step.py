"""The generator's training step: encoders (where they train), masks, a point on the path, the velocity, the update.

    step = jax.jit(make_step(system, FlowStepConfig(), tx), donate_argnums=0)
    state, metrics = step(state, batch, key)

Under `jax.set_mesh(mesh)` the same step runs on a mesh (`sharding.py`): its results are those of one device.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from kfjax import features
from kfjax.flow import matching
from kfjax.generators import generator_of
from kfjax.nn.layers import layer_norm
from kfjax.nn.module import Params, bind
from kfjax.structs import Array, Conditions, FeatureBatch, Features, FlowBatch, Posterior
from kfjax.system import ENCODERS, SystemConfig
from kfjax.train.engine import update
from kfjax.train.engine.validation import Figures
from kfjax.train.tasks.lora import LoRAConfig, merge, with_words
from kfjax.train.tasks.stereo_step import batch_loss, in_stereo
from kfjax.xla.sharding import axis_size, pin, scattered

TIME_BINS = 10  # of equal width, for the loss by t
Metrics = dict[str, jax.Array]
Batch = FlowBatch | FeatureBatch


@dataclass(frozen=True)
class FlowStepConfig:
    """Loss terms, dropout and precision of the step.

    Attributes:
      draws: noise and time draws per example; the encoders run once for all of them.
      early_times: share of the times drawn that lie at the start of the path (`matching.sample_times`).
      known: share of the noise draws in which some latents are given (`matching.sample_known`), as the codec's means;
        the loss is that of the others. Weights so trained take given latents "clean" (`SystemConfig.known_as`).
      drop_video, drop_text: probability of masking a modality, drawn per noise draw (classifier-free guidance).
      train_encoders: gradients reach the encoders; False freezes them.
      stereo_weight: weight of the Mono2Stereo loss that trains along; 0 = not trained.
      align_weight: weight of a linear read-out of the latents' mean from the align features alone; 0 = none. It teaches
        encoders trained from scratch the times of events much earlier than the flow loss does.
      caption_weight: weight of a linear read-out of the caption's words from the clip's mean feature alone, in place of
        CLIP's contrastive loss; 0 = none. It teaches an image tower trained from scratch to recognise sources.
      sound_weight: weight of a linear read-out of the latents' mean and deviation over time from the caption's mean
        feature alone; 0 = none. If video and caption always come together, a text encoder trained from scratch is never
        needed and collapses to a constant; this loss prevents that.
      ema_decay: of the averaged weights.
      lora: where its rank is not 0, LoRA's pairs (and rows of new words) are all that trains, on a frozen network.
      accumulate: micro-batches that a batch is cut into; gradients are summed over them, one after the other. What is
        drawn, the loss and its gradients are those of the whole batch at once, but for the read-outs' and the stereo
        loss, which are means over the examples that have what they need: each micro-batch then has its own mean.
      compute_dtype: of activations and of a cast copy of the weights. Master weights, EMA, optimiser state, summed
        gradients, norms, softmax, the path and the losses are float32 either way.

    Raises:
      ValueError: LoRA together with anything else that trains; no micro-batch; a share that is none.
    """

    draws: int = 1
    early_times: float = 0.0
    known: float = 0.0
    drop_video: float = 0.1
    drop_text: float = 0.1
    train_encoders: bool = False
    stereo_weight: float = 0.0
    align_weight: float = 0.0
    caption_weight: float = 0.0
    sound_weight: float = 0.0
    ema_decay: float = 0.999
    lora: LoRAConfig = field(default_factory=lambda: LoRAConfig(rank=0))
    accumulate: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        if self.accumulate < 1:
            raise ValueError(f"step: got accumulate {self.accumulate}, expected 1 or more")
        if not 0 <= self.known <= 1:
            raise ValueError(f"step: got known {self.known}, expected a share from 0 to 1")
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
    zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
    readout = lambda inputs, outputs: {"kernel": zeros(inputs, outputs), "bias": zeros(outputs)}
    readouts = {}
    if cfg.align_weight:
        readouts["readout"] = readout(system.mmdit.width, system.mmdit.latent_dim)
    if cfg.caption_weight:
        readouts["caption"] = readout(system.clip.out_dim, system.text.vocab)
    if cfg.sound_weight:
        readouts["sound"] = readout(system.text.width, 2 * system.mmdit.latent_dim)
    return readouts


def trained(params: Params, cfg: FlowStepConfig) -> Params:
    """The parameters that have gradients, an optimiser state and an average; the others never change."""
    if cfg.lora.rank:
        return {name: params[name] for name in ("lora", "words") if name in params}
    weights = {"readout": cfg.align_weight, "caption": cfg.caption_weight, "sound": cfg.sound_weight}
    readouts = (name for name, weight in weights.items() if weight)
    return {name: params[name] for name in (*trained_parts(cfg), *readouts)}


def merged(params: Params, cfg: FlowStepConfig) -> Params:
    """The parameters with the system's parts as they run: what LoRA trains is in the network and the table of words."""
    if not cfg.lora.rank:
        return params
    text = {"text": with_words(params["text"], params["words"])} if "words" in params else {}
    return params | text | {"mmdit": merge(params["mmdit"], params["lora"], cfg.lora)}


class Draws(NamedTuple):
    """All that is random in a step: r draws for each example of the batch."""

    posterior: jax.Array  # f32 [b r n d], standard normal
    noise: jax.Array  # f32 [b r n d], the path's start x0
    time: jax.Array  # f32 [b r]
    keep_video: jax.Array  # bool [b r]
    keep_text: jax.Array  # bool [b r]
    known: jax.Array | None = None  # bool [b r n], latents that are given; None: no latents are


def draw(key: jax.Array, shape: tuple[int, ...], cfg: FlowStepConfig) -> Draws:
    """Noise, times and masks for latents of `shape` (b, n, d), each example on its own, video and text apart."""
    posterior, noise, time, drop = jax.random.split(key, 4)
    video, text = jax.random.split(drop)
    b, n, d = shape
    rows, known = (b, cfg.draws), None
    if cfg.known:  # a further key: the other draws stay as they are
        masks = matching.sample_known(jax.random.fold_in(key, 4), b * cfg.draws, n, cfg.known)
        known = masks.reshape(*rows, n)
    draws = Draws(
        posterior=jax.random.normal(posterior, (*rows, n, d), jnp.float32),
        noise=jax.random.normal(noise, (*rows, n, d), jnp.float32),
        time=matching.sample_times(time, b * cfg.draws, start=cfg.early_times).reshape(rows),
        keep_video=~jax.random.bernoulli(video, jnp.float32(cfg.drop_video), rows),
        keep_text=~jax.random.bernoulli(text, jnp.float32(cfg.drop_text), rows),
        known=known,
    )
    return jax.tree.map(_split_over_batch, draws)


def lacking(cfg: FlowStepConfig) -> list[str]:
    """The settings that need what extracted features do not have, in words."""
    lacks = {"train_encoders": "frames", "caption_weight": "token ids"}
    return [f"step.{name} {getattr(cfg, name)} needs {what}" for name, what in lacks.items() if getattr(cfg, name)]


def encode(params: Params, batch: Batch, system: SystemConfig, cfg: FlowStepConfig) -> Features:
    """What the generator reads: from the encoders, or as it was extracted.

    Raises:
      ValueError: features extracted beforehand for a step that needs what they were extracted from.
    """
    if isinstance(batch, FlowBatch):
        encoded = features.encode(params, system, batch.excerpt)
    else:
        if wrong := lacking(cfg):
            raise ValueError(
                f"step: got a batch of extracted features, but {', '.join(wrong)}; unset, or train on clips"
            )
        encoded = batch.features
    clip, sync, text = (jnp.asarray(x, cfg.compute_dtype) for x in (encoded.clip, encoded.sync, encoded.text))
    return encoded._replace(clip=clip, sync=sync, text=text)


def loss(
    params: Params, batch: Batch, key: jax.Array, system: SystemConfig, cfg: FlowStepConfig
) -> tuple[jax.Array, Metrics]:
    """`loss_of` with what is drawn from `key`."""
    return loss_of(params, batch, draw(key, batch.posterior.mean.shape, cfg), system, cfg)


def loss_of(
    params: Params, batch: Batch, draws: Draws, system: SystemConfig, cfg: FlowStepConfig
) -> tuple[jax.Array, Metrics]:
    """Flow-matching loss (paper eq. 1) and, where asked for, the stereo loss and the read-outs', mean over the batch.

    Args:
      params: of the three encoders (where the batch is not encoded yet), "mmdit", with a stereo weight "stereo", with
        LoRA "lora" and perhaps "words", and the read-outs.

    Returns:
      What is minimised, and figures: "loss" is the flow's part alone; see `by_kind` for its parts.
    """
    params, dtype = merged(computing(params, cfg), cfg), cfg.compute_dtype
    encoded = encode(params, batch, system, cfg)
    repeat = lambda tree: jax.tree.map(lambda x: jnp.repeat(x, cfg.draws, 0), tree)
    drawn = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), draws)

    posterior = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), repeat(batch.posterior))
    x1, t = posterior.mean + posterior.std * drawn.posterior, drawn.time
    x, _ = matching.interpolate(drawn.noise, x1, t)
    velocity, known, times = matching.expected_velocity(x, t, posterior), drawn.known, t
    if known is not None:
        x, times = matching.with_known(x, t, posterior.mean, known)
    kept = repeat(encoded)
    given = kept.given
    kept = kept._replace(
        given=given._replace(has_video=given.has_video & drawn.keep_video, has_text=given.has_text & drawn.keep_text)
    )
    mmdit = bind(generator_of(system.mmdit), system.mmdit, params["mmdit"])
    conditions = mmdit.prepare(kept, x.shape[1], system.rates)
    predicted = mmdit(pin(jnp.asarray(x, dtype), "b n d"), times, conditions)
    per_sample = matching.loss(predicted, velocity, known)
    flow = per_sample.mean()
    others = {
        "stereo": (cfg.stereo_weight, lambda: batch_loss(params, batch, encoded, system)),
        "align": (cfg.align_weight, lambda: _align(params, conditions, posterior, kept)),
        "caption": (cfg.caption_weight, lambda: _caption(params, _clips(batch), encoded, system)),
        "sound": (cfg.sound_weight, lambda: _sound(params, batch, encoded)),
    }
    figures = {name: value() for name, (weight, value) in others.items() if weight}
    total = flow + sum(others[name][0] * value for name, value in figures.items())
    kinds = by_kind(per_sample, t, kept.given.has_video, kept.given.has_text, None if known is None else known.any(1))
    return total, {"loss": flow} | figures | kinds


def computing(params: Params, cfg: FlowStepConfig) -> Params:
    """The weights in `compute_dtype`. They are cast before the all-gather, which halves its traffic."""
    dtype = jnp.dtype(cfg.compute_dtype)
    if all(x.dtype == dtype for x in jax.tree.leaves(params)):
        return params
    return scattered(jax.tree.map(lambda x: jnp.asarray(x, dtype), params))


def by_kind(
    per_sample: jax.Array, t: jax.Array, has_video: jax.Array, has_text: jax.Array, known: jax.Array | None = None
) -> Metrics:
    """The mean loss in each tenth of t ("loss_t0" to "loss_t9"), with each set of conditions ("loss_video_text" ..) and
    of the examples with `known` latents ("loss_known"). t is that of the latents that are not known.

    Beside each NAME stands NAME_count, the number of examples it is the mean of; where that is 0, NAME is 0.
    """
    bins = jnp.clip(jnp.floor(t * TIME_BINS), 0, TIME_BINS - 1)
    kinds = {f"loss_t{i}": bins == i for i in range(TIME_BINS)} | {
        "loss_video_text": has_video & has_text,
        "loss_video": has_video & ~has_text,
        "loss_text": ~has_video & has_text,
        "loss_no_condition": ~has_video & ~has_text,
    }
    if known is not None:
        kinds["loss_known"] = known
    member = jnp.stack(list(kinds.values()))
    count = member.sum(1).astype(jnp.float32)
    mean = jnp.where(member, per_sample[None], 0).sum(1) / jnp.maximum(count, 1)
    return dict(zip(kinds, mean, strict=True)) | dict(zip((f"{k}_count" for k in kinds), count, strict=True))


def gradients(
    new: Params, params: Params, batch: Batch, key: jax.Array, system: SystemConfig, cfg: FlowStepConfig
) -> tuple[tuple[jax.Array, Metrics], Params]:
    """((what is minimised, figures), float32 gradients) by the parameters in `new`, which replace those of `params`.

    Raises:
      ValueError: a batch that does not divide into `cfg.accumulate` micro-batches, or these not over the mesh.
    """
    rows, latents, _ = batch.posterior.mean.shape
    _check_divides(rows, latents, cfg.accumulate)
    draws = draw(key, batch.posterior.mean.shape, cfg)
    new, params = computing(new, cfg), computing(params, cfg)  # once, not in every micro-batch
    objective = lambda new, batch, draws: loss_of(params | new, batch, draws, system, cfg)
    gradient = jax.value_and_grad(objective, has_aux=True)
    exact = lambda grads: scattered(jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), grads))
    if cfg.accumulate == 1:
        result, grads = gradient(new, batch, draws)
        return result, exact(grads)

    def add(total, micro):
        batch, draws = jax.tree.map(_split_over_batch, micro)
        result, grads = gradient(new, batch, draws)
        return jax.tree.map(jnp.add, total, exact(grads)), result

    zeros = scattered(jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), new))
    total, (values, figures) = jax.lax.scan(add, zeros, _micro_batches((batch, draws), cfg.accumulate))
    mean = scattered(jax.tree.map(lambda g: g / cfg.accumulate, total))
    return (values.mean(), _mean_figures(figures)), mean


def make_step(system: SystemConfig, cfg: FlowStepConfig, tx: optax.GradientTransformation) -> update.Step:
    """(state, batch, key) -> (state, metrics). The optimiser state is that of `trained(params, cfg)`."""
    return update.make_step(
        lambda new, params, batch, key: gradients(new, params, batch, key, system, cfg),
        tx,
        lambda params: trained(params, cfg),
        cfg.ema_decay,
    )


def flow_figures(system: SystemConfig, cfg: FlowStepConfig) -> Figures:
    """The flow step's loss and its parts by time and conditions, for a `FlowBatch` or a `FeatureBatch`.

    No condition is dropped. Every example has one noise and one time, and a batch's times are spread evenly over the
    path, whatever their training distribution: "loss" compares between runs; with the training loss only its parts by
    time compare ("loss_t0" to "loss_t9").
    """
    cfg = replace(cfg, draws=1, accumulate=1)

    def figures(params: Params, batch: Batch, key: jax.Array) -> Metrics:
        found = loss_of(params, batch, _fixed_draws(key, batch.posterior.mean.shape), system, cfg)[1]
        return found | ({"stereo_count": in_stereo(batch)} if cfg.stereo_weight else {})

    return figures


def _fixed_draws(key: jax.Array, shape: tuple[int, ...]) -> Draws:
    posterior, noise, time = jax.random.split(key, 3)
    b, n, d = shape
    normal = lambda key: jax.random.normal(key, (b, 1, n, d), jnp.float32)
    kept = jnp.ones((b, 1), bool)
    return Draws(normal(posterior), normal(noise), spread_times(time, b)[:, None], kept, kept)


def spread_times(key: jax.Array, count: int) -> Float[jax.Array, " b"]:
    """Times in [0, 1), one in each of `count` equal intervals, in random order."""
    order, place = jax.random.split(key)
    shuffled = jnp.argsort(jax.random.uniform(order, (count,), jnp.float32))
    return (shuffled + jax.random.uniform(place, (count,), jnp.float32)) / count


def _check_divides(batch: int, latents: int, accumulate: int) -> None:
    data, fsdp, context = (axis_size(axis) for axis in ("data", "fsdp", "context"))
    if batch % (least := data * fsdp * accumulate):
        raise ValueError(
            f"batch of {batch} in {accumulate} micro-batches on data {data} x fsdp {fsdp}: expected a multiple of "
            f"{least}; change data.batch or step.accumulate"
        )
    if latents % context:
        raise ValueError(
            f"{latents} latents: context {context} does not divide them; change loop.mesh, or the buckets to durations "
            "whose latents divide"
        )


def _micro_batches(tree: Any, parts: int) -> Any:
    """[b ..] -> [parts, b / parts, ..]: every parts-th row, so that each device cuts up the rows that it has."""
    return jax.tree.map(lambda x: jnp.swapaxes(jnp.reshape(x, (-1, parts, *x.shape[1:])), 0, 1), tree)


def _mean_figures(figures: Metrics) -> Metrics:
    """Of figures [parts] of micro-batches: means, by their counts where they have some; counts are summed."""
    merged = {}
    for name, values in figures.items():
        counts = figures.get(f"{name}_count")
        if name.endswith("_count"):
            merged[name] = values.sum()
        elif counts is None:
            merged[name] = values.mean()
        else:
            merged[name] = (values * counts).sum() / jnp.maximum(counts.sum(), 1)
    return merged


def _split_over_batch(x: jax.Array) -> jax.Array:
    return pin(x, " ".join(("b", *"_" * (x.ndim - 1))))


def _clips(batch: Batch) -> FlowBatch:
    assert isinstance(batch, FlowBatch)  # `encode` refuses others
    return batch


def _align(params: Params, conditions: Conditions, posterior: Posterior, kept: Features) -> jax.Array:
    readout = _linear(params["readout"], layer_norm(jnp.asarray(conditions.align)))
    return _mean_where(matching.loss(readout, jnp.asarray(posterior.mean)), kept.given.has_video)


def _caption(params: Params, batch: FlowBatch, encoded: Features, system: SystemConfig) -> jax.Array:
    words = caption_words(batch.excerpt.text_ids, batch.excerpt.given.text_mask, system.text.vocab)
    logits = _linear(params["caption"], layer_norm(encoded.clip.mean(1))).astype(jnp.float32)
    missed = optax.sigmoid_binary_cross_entropy(logits, words).mean(-1) * system.text.vocab / words.sum(-1).mean()
    return _mean_where(missed, encoded.given.has_video & encoded.given.has_text)


def _sound(params: Params, batch: Batch, encoded: Features) -> jax.Array:
    heard = _linear(params["sound"], layer_norm(_mean_of_words(encoded.text, encoded.given.text_mask)))
    mean = jnp.asarray(batch.posterior.mean, jnp.float32)
    missed = jnp.square(heard - jnp.concatenate([mean.mean(1), mean.std(1)], -1)).mean(-1)
    return _mean_where(missed, encoded.given.has_text)


def caption_words(ids: Array, mask: Array, vocab: int) -> jax.Array:
    """1 for every word of the vocabulary that the caption has, else 0. ids, mask [b l] -> [b vocab]"""
    return jnp.max(jax.nn.one_hot(ids, vocab, dtype=jnp.float32) * mask[..., None], axis=1)


def _mean_of_words(text: Array, mask: Array) -> jax.Array:
    """[b l h], [b l] -> [b h]"""
    weight = mask[..., None].astype(text.dtype)
    return (text * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


def _linear(params: Params, x: jax.Array) -> jax.Array:
    y = x @ params["kernel"]
    return y + jnp.broadcast_to(params["bias"], y.shape)


def _mean_where(x: jax.Array, mask: Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(mask.sum(), 1)
