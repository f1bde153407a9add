"""The three stages of making sound, each one program: encoders, sampling, codec.

    encoded = encode(encoders, excerpt, cfg=cfg)
    latents = sample(mmdit, encoded, None, weights, ..., cfg=cfg.mmdit, branches=("full", "empty"), method="euler")
    sound = decode(codec, latents, encoded, cfg=cfg)

`begin` compiles all of them side by side, before their inputs are there.
"""
from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kfjax import features, rates, system
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.flow import sampler
from kfjax.mmdit.config import MMDiTConfig
from kfjax.module import Params, bind
from kfjax.programs import Begun, Program
from kfjax.structs import Excerpt, Features, Video
from kfjax.system import SystemConfig

ENCODERS = ("clip", "sync", "text")


@Program
def encode(params: Params, excerpt: Excerpt, *, cfg: SystemConfig) -> Features:
    return features.encode(params, cfg, excerpt)


@Program
def sample(
    params: Params,
    encoded: Features,
    negative: Features | None,
    weights: Float[Array, " g"],
    steps: Array,
    seed: Array,
    version: Array,
    x: Float[Array, "1 n d"],
    first: Array,
    last: Array,
    *,
    cfg: MMDiTConfig,
    branches: tuple[sampler.Branch, ...],
    method: sampler.Method,
) -> Float[Array, "1 n d"]:
    """Steps `first` to `last` of `steps`, from `x`; step 0 starts from the version's noise, whatever `x` is."""
    from kfjax.mmdit.mmdit import MMDiT

    network = bind(MMDiT, cfg, params)
    conditions = network.prepare(sampler.branch_features(encoded, branches, negative), x.shape[1])
    key = jax.random.fold_in(jax.random.key(seed), version)
    x = jnp.where(first == 0, jax.random.normal(key, x.shape, jnp.float32), x)
    dtype = conditions.pooled.dtype
    velocity = sampler.guided(lambda x, t: network(x.astype(dtype), t, conditions), weights)
    return sampler.integrate(velocity, x, steps, method, first, last)


@Program
def decode(
    params: Params, latents: Float[Array, "1 n d"], encoded: Features, *, cfg: SystemConfig
) -> Float[Array, "1 t 2"]:
    from kfjax.codec import audio_codec

    seen = None if cfg.codec.stereo is None else features.seen_by_stereo(cfg, encoded, latents.shape[1])
    return audio_codec.decode(params, cfg.codec, latents, seen, encoded.has_video)


class Stage(NamedTuple):
    """A stage that is being compiled, and the shapes of its weights."""

    weights: Params
    begun: Begun


def begin(
    cfg: SystemConfig,
    dtype: jnp.dtype,
    tokenizer: Tokenizer,
    lengths: rates.Lengths,
    *,
    has_video: bool = True,
    branches: tuple[sampler.Branch, ...] = ("full", "empty"),
    method: sampler.Method = "euler",
) -> dict[str, Stage]:
    """Start to compile what a generation will call: "encode", "sample", "decode".

    Args:
      dtype: of encoders and generator.
      lengths: of the sound, and of the video where there is one.
    """
    weights = {
        name: part if name in cfg.codec.names else jax.tree.map(partial(_shape, dtype=dtype), part)
        for name, part in system.stored_shapes(cfg).items()
    }
    encoders, codec = ({name: weights[name] for name in names} for names in (ENCODERS, cfg.codec.names))
    encoding = lambda seen: encode.begin(encoders, _excerpt(cfg, tokenizer, lengths if seen else None), cfg=cfg)
    encoded = encoding(has_video)
    blank = {name: jax.ShapeDtypeStruct((1, length, shape.shape[-1]), shape.dtype) for name, length, shape in (
        ("clip", lengths.clip, encoded.outputs.clip), ("sync", lengths.sync, encoded.outputs.sync),
    )}  # fmt: skip
    read = encoded.outputs._replace(**blank)
    negative = encoding(False).outputs._replace(**blank) if "negative" in branches else None
    number, seed = (jax.ShapeDtypeStruct((), kind) for kind in (np.int32, np.uint32))
    scales = jax.ShapeDtypeStruct((len(branches),), np.float32)
    latents = jax.ShapeDtypeStruct((1, lengths.latents, cfg.mmdit.latent_dim), np.float32)
    sampled = sample.begin(
        weights["mmdit"], read, negative, scales, number, seed, seed, latents, number, number,
        cfg=cfg.mmdit, branches=branches, method=method,
    )  # fmt: skip
    decoded = decode.begin(codec, latents, read, cfg=cfg)
    stages = (encoders, encoded), (weights["mmdit"], sampled), (codec, decoded)
    return {name: Stage(*stage) for name, stage in zip(("encode", "sample", "decode"), stages, strict=True)}


def _excerpt(cfg: SystemConfig, tokenizer: Tokenizer, lengths: rates.Lengths | None) -> Excerpt:
    """What the encoders read, of the right shapes; without lengths, of a prompt alone."""
    if lengths is None:
        return features.make_excerpt(cfg, tokenizer, rates.lengths(rates.MIN_SECONDS, cfg.rates), 1.0, None, ["sound"])
    blank = lambda count, size: np.broadcast_to(np.uint8(0), (count, size, size, 3))
    frames = Video(blank(lengths.clip, cfg.clip.size), blank(lengths.sync_frames, cfg.sync.size), 0.0)
    return features.make_excerpt(cfg, tokenizer, lengths, 1.0, frames, ["sound"])


def _shape(x: jax.ShapeDtypeStruct, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    """Of a weight that is cast to `dtype` where it is a floating-point one."""
    return jax.ShapeDtypeStruct(x.shape, dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)
