"""Mono2Stereo: how much of every band belongs to the left channel, from the mono log-mel and what the camera sees.

    left = 2σ(r) · mono,  right = 2(1 − σ(r)) · mono   in linear mel: their mean is the mono, r = log(left / right)

Where a source stands cannot be heard in mono; without video the learned empty embedding leads to r near 0.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int8, UInt8

from kfjax import dsp
from kfjax.codec.configs import StereoConfig
from kfjax.codec.mel import MelConfig
from kfjax.nn import layers, module
from kfjax.nn.module import AnyArray

#: Log-ratios are clipped to this (35 dB): beyond it one channel is silent.
MAX_LOG_RATIO = 4.0


class Block(nnx.Module):
    """Residual ConvMLP of kernel 3 behind a LayerNorm."""

    def __init__(self, cfg: StereoConfig, *, rngs: nnx.Rngs):
        self.mlp = layers.ConvMLP(cfg.width, 2 * cfg.width, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "b f h"]) -> Float[Array, "b f h"]:
        return x + self.mlp(layers.layer_norm(x))


class Mono2Stereo(nnx.Module):
    """(log_mel [b f m], clip [b v clip_dim], has_video [b]) -> logit r [b f m]. Untrained it is exact mono, r = 0."""

    def __init__(self, cfg: StereoConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.hear = layers.linear(cfg.bands, cfg.width, rngs)
        self.see = layers.linear(cfg.clip_dim, cfg.width, rngs)
        self.empty = nnx.Param(jnp.zeros((cfg.width,)))
        self.blocks = module.stack(lambda r: Block(cfg, rngs=r), cfg.depth, rngs)
        self.out = layers.linear(cfg.width, cfg.bands, rngs, zero=True)

    def __call__(
        self,
        log_mel: Float[AnyArray, "b f m"],
        clip: Float[AnyArray, "_b v i"],
        has_video: Bool[AnyArray, " _b"],
    ) -> Float[Array, "b f m"]:
        """The logit r of the left channel's share.

        Args:
          log_mel: natural-log mel of the mono.
          clip: the video's per-frame features; frame k is what was seen at k / clip_hz seconds. Or one row for every
            mel frame, as `at_mel_times` makes them.
          has_video: where False, `clip` does not matter.
        """
        heard = self.hear(0.25 * log_mel + 1.5)
        seen, frames = self.see(clip), log_mel.shape[1]
        seen = seen if seen.shape[1] == frames else at_mel_times(seen, frames, self.cfg)
        seen = jnp.where(has_video[:, None, None], seen, self.empty[...][None, None])
        x = module.scan_blocks(self.blocks, heard + seen, lambda block, x: block(x), unroll=True)
        return self.out(layers.layer_norm(x))


def at_mel_times(x: Float[AnyArray, "b v h"], frames: int, cfg: StereoConfig, first: int = 0) -> Float[Array, "b f h"]:
    """Features of the clip's frames read at the middle of every mel frame: linear in true time, ends held.

    Args:
      frames, first: how many mel frames, and the first of them.
    """
    count = x.shape[1]
    at = np.clip((first + np.arange(frames) + 0.5) / cfg.mel_hz * cfg.clip_hz, 0, count - 1)
    before = np.floor(at).astype(np.int32)
    after = np.minimum(before + 1, count - 1)
    part = jnp.asarray(at - before, x.dtype)[None, :, None]
    return x[:, before] * (1 - part) + x[:, after] * part


def split(
    log_mel: Float[Array, "b f m"], r: Float[Array, "b f m"]
) -> tuple[Float[Array, "b f m"], Float[Array, "b f m"]]:
    """Log-mels of the left and the right channel; in linear mel their mean is the mono's."""
    twice = log_mel + math.log(2)
    return twice + jax.nn.log_sigmoid(r), twice + jax.nn.log_sigmoid(-r)


def join(left: Float[AnyArray, "b f m"], right: Float[AnyArray, "b f m"]) -> tuple[Array, Array]:
    """(log-mel of the mono, log-ratio of left and right, clipped) [b f m] of two log-mels: `split` backwards."""
    left, right = jnp.asarray(left), jnp.asarray(right)
    return jnp.logaddexp(left, right) - math.log(2), jnp.clip(left - right, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def to_bytes(
    mono: Float[AnyArray, "b f m"], ratio: Float[AnyArray, "b f m"], cfg: MelConfig
) -> tuple[UInt8[Array, "b f m"], Int8[Array, "b f m"]]:
    """What `join` gives, in a byte each.

    The log-mel lies between `floor` and the most that a wave in [-1, 1] has, in steps of 0.06 (0.5 dB) for the default
    mel; the ratio is stored in steps of 0.03 (0.3 dB).
    """
    low, step = _levels(cfg)
    level = jnp.clip(jnp.round((mono - low) / step), 0, 255).astype(jnp.uint8)
    return level, jnp.round(ratio * (127 / MAX_LOG_RATIO)).astype(jnp.int8)


def from_bytes(
    level: UInt8[AnyArray, "b f m"], ratio: Int8[AnyArray, "b f m"], cfg: MelConfig
) -> tuple[Float[Array, "b f m"], Float[Array, "b f m"]]:
    """(log-mel of the mono, log-ratio), float32: `to_bytes` backwards."""
    low, step = _levels(cfg)
    return low + step * jnp.asarray(level, jnp.float32), jnp.asarray(ratio, jnp.float32) * (MAX_LOG_RATIO / 127)


def _levels(cfg: MelConfig) -> tuple[float, float]:
    """(lowest natural log-mel, a byte's step). No bin of a Hann window's spectrum is above n_fft / 2, and a band's
    weights sum up to the n_fft / sample_rate_hz bins of a hertz."""
    low, high = math.log(cfg.floor), math.log(cfg.n_fft**2 / (2 * cfg.sample_rate_hz))
    return low, (high - low) / 255


def pan(wave: Float[Array, "b t"], r: Float[Array, "b f m"], cfg: MelConfig) -> Float[Array, "b t 2"]:
    """Coherent mode: the ratio as a gain on the short-time spectrum of one waveform.

    The channels differ in level and never in phase, and (left + right) / 2 is the waveform itself.
    """
    share = jax.nn.sigmoid(r.astype(jnp.float32) @ dsp.mel_to_bins(cfg.bands, cfg.n_fft, cfg.sample_rate_hz))
    side = dsp.istft((2 * share - 1) * dsp.stft(wave, cfg.n_fft, cfg.hop), cfg.n_fft, cfg.hop)
    return jnp.stack([wave + side, wave - side], -1)
