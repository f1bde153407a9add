"""The spine: encoders -> sampling -> codec, for a batch of any number of examples, each with its own seed.

    encoded = encode(encoders, excerpt, cfg=cfg)
    x = draw(noise, shape=(345, 40))
    latents = sample(mmdit, encoded, None, weights, schedule, x, cfg=cfg, branches=("full", "empty"), method="euler")
    waves = decode(codec, latents, encoded, cfg=cfg)

Each is a program that is kept for the next process (`kfjax.xla.programs`); `begin` compiles all of them side by side,
before their inputs are there. `generate` is all three in one function, for whoever traces a batch of excerpts.
An example's latents do not depend on the batch they are made in, but for rounding. The samples of a vocoder without
iterations do not either; the light vocoder may answer rounding in the latents with other phases of the same spectrum.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from kfjax import features, rates, system
from kfjax.codec import codec_of
from kfjax.codec.configs import VocoderConfig
from kfjax.codec.pieces import Overlap
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.flow import sampler
from kfjax.generators import generator_of
from kfjax.nn.module import Params, bind
from kfjax.structs import Excerpt, Features, Known, Noise, Reference, Schedule, Video
from kfjax.system import ENCODERS, SystemConfig
from kfjax.xla import sharding
from kfjax.xla.programs import Begun, Program


@Program
def encode(params: Params, excerpt: Excerpt, *, cfg: SystemConfig) -> Features:
    """Features of a batch. `params` has the parts clip, sync and text."""
    return features.encode(params, cfg, excerpt)


@Program
def draw(noise: Noise, *, shape: tuple[int, int]) -> Float[Array, "b n d"]:
    """The noise that each example begins with, [n, d] = `shape`."""
    return sampler.noise_of(noise, shape)


@Program
def sample(
    params: Params,
    encoded: Features,
    negative: Features | None,
    weights: Float[Array, " g"],
    schedule: Schedule,
    x: Float[Array, "b n d"],
    reference: Reference | None = None,
    known: Known | None = None,
    *,
    cfg: SystemConfig,
    branches: tuple[sampler.Branch, ...],
    method: sampler.Method,
) -> Float[Array, "b n d"]:
    """Latents after the schedule's steps from `x`, which is `draw`'s noise where they begin with step 0.

    Args:
      params: of the part mmdit.
      encoded: of each example, or one for all of them; so are negative, reference and known.
      reference: a sound that stands before each example while it is sampled.
      known: latents of the examples that are given.
    """
    network = bind(generator_of(cfg.mmdit), cfg.mmdit, params)
    prepare = lambda seen, n: network.prepare(sampler.branch_features(seen, branches, negative), n, cfg.rates)
    conditions, before = prepare(encoded, x.shape[1]), 0
    if reference is not None:
        before = reference.known.latents.shape[1]
        conditions = network.join(prepare(reference.features, before), conditions)
        known = _after(reference.known, known, x)
        x = jnp.concatenate([known.latents[:, :before], x], 1)
    if known is not None:
        known = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(x), *leaf.shape[1:])), known)
    if versions := len(x) // len(encoded.clip) - 1:
        conditions = jax.tree.map(lambda c: jnp.repeat(c, versions + 1, 0), conditions)
    made = sampler.sample(
        network, conditions, x, weights, schedule, method, branches=branches, known=known, known_as=cfg.known_as
    )
    return made[:, before:]


def sample_on(mesh: Mesh | None, params: Params, *args: Any, **constants: Any) -> Float[Array, "b n d"]:
    """`sample`, its examples split over the devices of a mesh, each with all weights; without a mesh, on one device.

    Raises:
      ValueError: the examples do not divide by the number of devices.
    """
    if mesh is None:
        return sample(params, *args, **constants)
    whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    encoded, negative, weights, schedule, x, reference, known = args
    if len(x) % mesh.size:
        raise ValueError(f"batch: got {len(x)} for {mesh.size} devices; expected a multiple of them")
    of_each = lambda leaf: jax.device_put(leaf, split if len(leaf) == len(x) else whole)
    encoded, negative, x, known = jax.tree.map(of_each, (encoded, negative, x, known))
    weights, schedule, reference = jax.device_put((weights, schedule, reference), whole)
    return sample.jitted(
        jax.device_put(params, whole), encoded, negative, weights, schedule, x, reference, known, **constants
    )


def _after(reference: Known, known: Known | None, x: Float[Array, "b n d"]) -> Known:
    """What is known of the reference and of x, one after the other."""
    if known is None:
        blank = jnp.zeros_like(x)
        known = Known(blank, jnp.zeros(x.shape[:2], bool), blank)
    wide = lambda leaf: jnp.broadcast_to(leaf, (len(x), *leaf.shape[1:]))
    return jax.tree.map(lambda *parts: jnp.concatenate([*map(wide, parts)], 1), reference, known)


@Program
def decode(
    params: Params, latents: Float[Array, "b n d"], encoded: Features, *, cfg: SystemConfig, coherent: bool = True
) -> Float[Array, "b t 2"]:
    """Waveforms of a batch of latents, which may go beyond ±1. `params` has the codec's parts.

    Args:
      encoded: of each example, or one for all of them.
      coherent: see `codec.Codec.decode`.
    """
    seen = None if cfg.codec.stereo is None else features.seen_by_stereo(cfg, encoded, latents.shape[1])
    return codec_of(cfg.codec).decode(params, cfg.codec, latents, seen, encoded.given.has_video, coherent=coherent)


@Program
def seen(encoded: Features, *, cfg: SystemConfig, latents: int) -> Float[Array, "b f i"]:
    """What Mono2Stereo sees of a window of `latents`: a row for each of its mel frames, for `decode_piece`."""
    from kfjax.codec.stereo import at_mel_times

    assert cfg.codec.stereo is not None
    found = features.seen_by_stereo(cfg, encoded, latents)
    return at_mel_times(found, latents * cfg.rates.downsample, cfg.codec.stereo)


@Program
def decode_piece(
    params: Params,
    latents: Float[Array, "b n d"],
    rows: Float[Array, "b f i"] | None,
    has_video: Bool[Array, " b"],
    overlap: Overlap | None,
    *,
    cfg: SystemConfig,
) -> Float[Array, "b t 2"]:
    """Waveforms of a window of a long sound, see `codec.pieces`; what is given is given as there."""
    return codec_of(cfg.codec).decode(params, cfg.codec, latents, rows, has_video, overlap=overlap)


def generate(
    params: Params,
    cfg: SystemConfig,
    excerpt: Excerpt,
    noise: Noise,
    guidance: dict[sampler.Branch, Float[Array, ""]] | dict[sampler.Branch, float],
    schedule: Schedule,
    latents: int,
    *,
    avoided: tuple[Int[Array, "b l"], Int[Array, "b l"]] | None = None,
    method: sampler.Method = "euler",
) -> Float[Array, "b t 2"]:
    """Waveforms of a batch of excerpts, which may go beyond ±1; to be traced.

    Args:
      params: of all parts.
      guidance: the weight of every branch, see `Guidance.weights`.
      latents: how many each example gets.
      avoided: token ids and mask of the negative prompts, for the branch "negative".
    """
    encoded, negative = encode.jitted(params, excerpt, cfg=cfg), None
    if avoided is not None:
        text, mask = features.encode_text(params["text"], cfg, *avoided)
        has_text = jnp.ones_like(encoded.given.has_text)
        negative = encoded._replace(text=text, given=encoded.given._replace(text_mask=mask, has_text=has_text))
    x = draw.jitted(noise, shape=(latents, cfg.mmdit.latent_dim))
    known: tuple[sampler.Branch, ...] = get_args(sampler.Branch)  # in its order: jit sorts a dict's keys
    branches: tuple[sampler.Branch, ...] = tuple(branch for branch in known if branch in guidance)
    weights = jnp.stack([jnp.asarray(guidance[branch], jnp.float32) for branch in branches])
    made = sample.jitted(
        params["mmdit"], encoded, negative, weights, schedule, x,
        cfg=cfg, branches=branches, method=method,
    )  # fmt: skip
    return decode.jitted(params, made, encoded, cfg=cfg)


def batches(count: int, size: int) -> Iterator[tuple[Int[np.ndarray, " b"], int]]:
    """(rows, how many of them count): a short last batch repeats itself, so that one program makes all of them."""
    for first in range(0, count, size):
        kept = min(size, count - first)
        yield first + np.arange(size) % kept, kept


ONE_STEP = Schedule.whole(1)
BLANK_NOISE = Noise(np.empty(0), np.empty(0))  # shapes take its place


class StageProgram(NamedTuple):
    """A stage that is being compiled, and the shapes of its weights."""

    weights: Params
    begun: Begun


def begin(
    cfg: SystemConfig,
    dtype: jnp.dtype,
    tokenizer: Tokenizer,
    lengths: rates.Lengths,
    *,
    count: int = 1,
    windows: bool = False,
    has_video: bool = True,
    branches: tuple[sampler.Branch, ...] = ("full", "empty"),
    method: sampler.Method = "euler",
    schedule: Schedule = ONE_STEP,
    reference: Reference | None = None,
    known: Known | None = None,
) -> dict[str, StageProgram]:
    """Start to compile what the generation for one clip will call: "encode", "sample", "decode".

    Args:
      dtype: of encoders and generator.
      lengths: of the sound, and of the video where there is one.
      count: how many are sampled as one batch: versions of a clip's sound, which are decoded as one batch too; or
      windows: windows of a long sound, each with features of its own and decoded by itself.
      schedule, reference, known: arrays, or shapes, as `sample` gets them.
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
    rows, versions = (count, 1) if windows else (1, count)
    numbers = jax.ShapeDtypeStruct((versions,), np.uint32)
    draw.begin(jax.tree.map(lambda _: numbers, BLANK_NOISE), shape=(lengths.latents, cfg.mmdit.latent_dim))
    scales = jax.ShapeDtypeStruct((len(branches),), np.float32)
    latents = jax.ShapeDtypeStruct((count, lengths.latents, cfg.mmdit.latent_dim), np.float32)
    many = lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
    sampled = sample.begin(
        weights["mmdit"], *jax.tree.map(many, (read, negative)), scales, schedule, latents, reference,
        known and jax.tree.map(many, known)._replace(noise=latents),
        cfg=cfg, branches=branches, method=method,
    )  # fmt: skip
    final = jax.ShapeDtypeStruct((versions, *latents.shape[1:]), np.float32)
    decoded = _begin_pieces(codec, final, read, cfg) if windows else decode.begin(codec, final, read, cfg=cfg)
    stages = (encoders, encoded), (weights["mmdit"], sampled), (codec, decoded)
    return {name: StageProgram(*stage) for name, stage in zip(("encode", "sample", "decode"), stages, strict=True)}


def _begin_pieces(codec: Params, latents: jax.ShapeDtypeStruct, read: Features, cfg: SystemConfig) -> Begun:
    """Start to compile what decodes a window of a long sound."""
    length, rows, overlap = latents.shape[1], None, None
    if cfg.codec.stereo is not None:
        rows = seen.begin(read, cfg=cfg, latents=length).outputs
    if isinstance(cfg.codec.vocoder, VocoderConfig):
        samples = length * cfg.rates.downsample * cfg.rates.hop
        blank = Overlap(np.empty((1, samples, 2), np.float32), np.empty(samples, np.float32))
        overlap = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), blank)
    return decode_piece.begin(codec, latents, rows, jax.ShapeDtypeStruct((1,), bool), overlap, cfg=cfg)


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
