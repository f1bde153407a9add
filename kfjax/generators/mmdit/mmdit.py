"""The generator: a multimodal diffusion transformer that predicts the flow's velocity on audio latents.

    conditions = bind(MMDiT, cfg, params).prepare(features, latents=345)     # once per sampling
    velocity = bind(MMDiT, cfg, params)(x, t, conditions)                    # every step

Source: Kling-Foley (arXiv 2506.19774) §3; where the paper is silent, MMAudio's public network.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from kfjax.generators.mmdit.blocks import FinalLayer, JointBlock, SingleBlock
from kfjax.generators.mmdit.config import MMDiTConfig
from kfjax.nn.alignment import align
from kfjax.nn.layers import MLP, ConvMLP, conv, linear, rope
from kfjax.nn.module import AnyArray, scan_blocks, stack
from kfjax.rates import Rates
from kfjax.structs import Conditions, Features
from kfjax.xla.sharding import pin

SECONDS_ROWS = 513  # learned rows of the discrete duration embedding: 0 to 512 seconds


class TimestepEmbedding(nnx.Module):
    """cos and sin of t at geometric frequencies, then two dense layers."""

    def __init__(self, cfg: MMDiTConfig, *, rngs: nnx.Rngs):
        self.features, self.scale = cfg.timestep_features or cfg.width, cfg.timestep_scale
        normal = nnx.initializers.normal(0.02)
        self.inner = nnx.Linear(self.features, cfg.width, kernel_init=normal, rngs=rngs)
        self.outer = nnx.Linear(cfg.width, cfg.width, kernel_init=normal, rngs=rngs)

    def __call__(self, t: Float[AnyArray, " b"]) -> Float[Array, "b h"]:
        # Float64 on the host: one ulp of a frequency near 1e4 is visible in the output.
        index = np.arange(0, self.features, 2, dtype=np.float64) / self.features
        frequencies = jnp.asarray(self.scale * 1e4**-index, jnp.float32)
        angle = t.astype(jnp.float32)[:, None] * frequencies[None]
        embedding = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
        return self.outer(jax.nn.silu(self.inner(embedding.astype(self.inner.kernel[...].dtype))))


class DurationEmbedding(nnx.Module):
    """Where the excerpt starts and how long the whole is, in seconds -> a global vector (paper §3.5).

    discrete: one learned row per whole second, clamped; fourier: fixed sinusoids of the real number.
    """

    def __init__(self, cfg: MMDiTConfig, *, rngs: nnx.Rngs):
        self.kind, self.width = cfg.duration, cfg.width
        if self.kind == "discrete":
            table = nnx.initializers.normal(0.02)
            self.start = nnx.Param(table(rngs.params(), (SECONDS_ROWS, cfg.width)))
            self.total = nnx.Param(table(rngs.params(), (SECONDS_ROWS, cfg.width)))
        self.mlp = MLP(2 * cfg.width, cfg.hidden, cfg.width, rngs=rngs)

    def __call__(self, start: Float[Array, " b"], total: Float[Array, " b"]) -> Float[Array, "b h"]:
        if self.kind == "discrete":
            row = lambda x: jnp.clip(jnp.round(x).astype(jnp.int32), 0, SECONDS_ROWS - 1)
            parts = self.start[...][row(start)], self.total[...][row(total)]
        else:
            frequencies = 1e3 ** -(jnp.arange(self.width // 2, dtype=jnp.float32) / (self.width // 2))
            angles = (x.astype(jnp.float32)[:, None] * frequencies[None] for x in (start, total))
            parts = [jnp.concatenate([jnp.cos(a), jnp.sin(a)], -1) for a in angles]
            parts = [p.astype(self.mlp.w1.kernel[...].dtype) for p in parts]
        return self.mlp(jnp.concatenate(parts, -1))


class MMDiT(nnx.Module):
    """Velocity network on latents [b n d] under video, text and duration conditions."""

    def __init__(self, cfg: MMDiTConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        h, hidden = cfg.width, cfg.hidden
        self.audio_in, self.audio_mlp = conv(cfg.latent_dim, h, 7, rngs), ConvMLP(h, hidden, 7, rngs=rngs)
        self.clip_in, self.clip_mlp = linear(cfg.clip_dim, h, rngs), ConvMLP(h, hidden, 3, rngs=rngs)
        self.sync_in, self.sync_mlp = conv(cfg.sync_dim, h, 7, rngs), ConvMLP(h, hidden, 3, rngs=rngs)
        self.text_in, self.text_mlp = linear(cfg.text_dim, h, rngs), MLP(h, hidden, h, rngs=rngs)
        zeros = lambda *shape: nnx.Param(jnp.zeros(shape))
        self.sync_position = zeros(8, cfg.sync_dim)
        self.empty_clip, self.empty_sync = zeros(cfg.clip_dim), zeros(cfg.sync_dim)
        self.empty_text = zeros(cfg.empty_text_tokens, cfg.text_dim)
        self.clip_pool, self.text_pool = linear(h, h, rngs), linear(h, h, rngs)
        self.pool_mlp = MLP(h, hidden, h, rngs=rngs)
        if cfg.duration != "none":
            self.duration = DurationEmbedding(cfg, rngs=rngs)
        self.timestep = TimestepEmbedding(cfg, rngs=rngs)
        if cfg.joint_depth > 1:
            self.joint = stack(lambda r: JointBlock(cfg, rngs=r), cfg.joint_depth - 1, rngs)
        self.joint_last = JointBlock(cfg, rngs=rngs, last=True)
        self.single = stack(lambda r: SingleBlock(cfg, rngs=r), cfg.single_depth, rngs)
        self.final = FinalLayer(cfg, rngs=rngs)

    def prepare(self, features: Features, latents: int, rates: Rates) -> Conditions:
        """Everything that depends on neither x nor t. Masked features are replaced by the learned empty ones.

        Args:
          latents: length of what is generated.
          rates: the system's, in which sync tokens and latents have their times.
        """
        given = features.given
        video, text = given.has_video[:, None, None], given.has_text[:, None, None]
        words = text & given.text_mask[..., None]
        clip = jnp.where(video, features.clip, self.empty_clip[None, None])
        heeded = video & (self.cfg.sync == "seen")
        sync = jnp.where(heeded, features.sync, self.empty_sync[None, None])
        text = jnp.where(words, features.text, self.empty_text[None])
        segments = sync.reshape(sync.shape[0], -1, *self.sync_position.shape)
        sync = (segments + self.sync_position[None, None]).reshape(sync.shape)

        inner, outer = (jax.nn.silu, jax.nn.silu) if self.cfg.activation == "silu" else (jax.nn.selu, lambda x: x)
        clip = self.clip_mlp(outer(self.clip_in(clip)))
        sync = self.sync_mlp(inner(self.sync_in(sync)))
        text = self.text_mlp(outer(self.text_in(text)))
        pooled = self.pool_mlp(self.clip_pool(clip.mean(1)) + self.text_pool(text.mean(1)))
        if self.cfg.duration != "none":
            pooled = pooled + self.duration(jnp.asarray(given.seconds_start), jnp.asarray(given.seconds_total))
        return Conditions(clip, text, align(sync, latents, self.cfg.sync_align, rates), pooled)

    def join(self, first: Conditions, second: Conditions) -> Conditions:
        """Conditions of two excerpts, one after the other, under the words and the duration of the second."""
        both = lambda name: jnp.concatenate([getattr(first, name), getattr(second, name)], 1)
        return second._replace(clip=both("clip"), align=both("align"))

    def __call__(
        self,
        x: Float[AnyArray, "b n d"],
        t: Float[AnyArray, " b"] | Float[AnyArray, "b n"],
        conditions: Conditions,
    ) -> Float[Array, "b n d"]:
        """Velocity at (x, t), t in [0, 1]: 0 is noise, 1 is data. One t for all latents of an example, or one for each;
        clip and text, which belong to all of them, then have the smallest."""
        cfg, clip, text = self.cfg, jnp.asarray(conditions.clip), jnp.asarray(conditions.text)
        time = t if t.ndim == 1 else t.min(1)
        pooled = pin((self.timestep(time) + conditions.pooled)[:, None], "b _ h")
        own = pooled
        if t.ndim == 2:
            own = self.timestep(t.reshape(-1)).reshape(*t.shape, -1) + conditions.pooled[:, None]
        extended = pin(own + conditions.align, "b n h")
        tables = self._tables(x.shape[1], clip.shape[1])
        # silu once, outside the scan: inside it would be recomputed, and resharded, by every block.
        pooled_act, extended_act = jax.nn.silu(pooled), jax.nn.silu(extended)

        audio_act = jax.nn.silu if cfg.activation == "silu" else jax.nn.selu
        streams = pin(self.audio_mlp(audio_act(self.audio_in(x))), "b n h"), pin(clip, "b n h"), pin(text, "b n h")
        if cfg.joint_depth > 1:
            joint = lambda block, s: block(s, extended_act, pooled_act, tables)
            streams = scan_blocks(self.joint, streams, joint, remat=cfg.remat, unroll=cfg.unroll)
        h = self.joint_last(streams, extended_act, pooled_act, tables)[0]
        h = scan_blocks(self.single, h, lambda b, h: b(h, extended_act, tables[0]), remat=cfg.remat, unroll=cfg.unroll)
        return self.final(h, extended if cfg.final_cond == "extended" else pooled)

    def _tables(self, n: int, v: int) -> tuple[Array | None, Array | None]:
        """Rotation tables of the audio and clip streams; aligned RoPE puts both on one time axis."""
        if self.cfg.rope == "none":
            return None, None
        dim = self.cfg.width // self.cfg.heads
        return rope(n, dim), rope(v, dim, scale=n / v if self.cfg.rope == "aligned" else 1.0)
