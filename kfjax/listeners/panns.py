"""PANNs' Cnn14 (arXiv 1912.10211): what is heard in a sound, by the 527 classes of AudioSet.

    embedding, logits = bind(Cnn14, cfg, params)(wave)     # f32 [b t] -> [b 2048], [b 527]

Fréchet distance, KL and inception score of generated sound are measured on it. Order and sizes are those published in
github.com/qiuqiangkong/audioset_tagging_cnn, `pytorch/models.py`; the spectrogram is torchlibrosa's, whose windowed
transform and Slaney mel filters (50 to 14000 Hz, at 16 kHz 50 to 8000 Hz) are weights of the file like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kfjax import dsp
from kfjax.nn.layers import linear

#: Power below which torchlibrosa's decibels do not go.
POWER_FLOOR = 1e-10


@dataclass(frozen=True)
class Cnn14Config:
    """Sizes. The defaults are the public model at 32 kHz.

    Raises:
      ValueError: an odd n_fft, or no more bands than the poolings leave one of.
    """

    sample_rate_hz: int = 32000
    n_fft: int = 1024
    hop: int = 320
    bands: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)  # of the convolutional blocks
    classes: int = 527
    eps: float = 1e-5  # of the batch norms

    def __post_init__(self):
        if self.n_fft % 2 or self.bands < self.shrinkage:
            raise ValueError(
                f"Cnn14: got n_fft={self.n_fft} and bands={self.bands}, expected an even n_fft and at least "
                f"{self.shrinkage} bands for {len(self.widths)} blocks; change them"
            )

    @property
    def shrinkage(self) -> int:
        """Frames, and bands, that become one: every block but the last halves them."""
        return 2 ** (len(self.widths) - 1)

    @property
    def least_samples(self) -> int:
        """The shortest sound that leaves a frame after the last block."""
        return max(self.n_fft // 2 + 1, (self.shrinkage - 1) * self.hop)


class Tagged(NamedTuple):
    """What the network makes of sounds."""

    embedding: Float[Array, "b d"]  # of the last hidden layer, from 0 up
    logits: Float[Array, "b classes"]  # of independent classes: a sigmoid gives probabilities


class Spectrogram(nnx.Module):
    """Log-mel in decibels: 10 log10 max(mel power, 1e-10). Frame i is centred on sample i * hop, ends are reflected."""

    def __init__(self, cfg: Cnn14Config, *, rngs: nnx.Rngs):
        init, bins = nnx.initializers.lecun_normal(), cfg.n_fft // 2 + 1
        self.cfg = cfg
        self.real = nnx.Param(init(rngs.params(), (cfg.n_fft, bins)))
        self.imaginary = nnx.Param(init(rngs.params(), (cfg.n_fft, bins)))
        self.mel = nnx.Param(init(rngs.params(), (bins, cfg.bands)))

    def __call__(self, wave: Float[Array, "b t"]) -> Float[Array, "b frames bands"]:
        cfg = self.cfg
        padded = jnp.pad(wave, ((0, 0), (cfg.n_fft // 2, cfg.n_fft // 2)), mode="reflect")
        framed = dsp.frames(padded, cfg.n_fft, cfg.hop)
        power = jnp.square(framed @ self.real[...]) + jnp.square(framed @ self.imaginary[...])
        return 10 * jnp.log10(jnp.maximum(power @ self.mel[...], POWER_FLOOR))


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias, with the mean and variance that training has left."""

    def __init__(self, width: int, eps: float):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.var = nnx.Param(jnp.zeros(width)), nnx.Param(jnp.ones(width))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b h"]) -> Float[Array, "*b h"]:
        scale = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.eps)
        over = lambda row: jnp.expand_dims(row, range(x.ndim - 1))
        return (x - over(self.mean[...])) * over(scale) + over(self.bias[...])


class ConvBlock(nnx.Module):
    """Two 3 x 3 convolutions without bias, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, eps: float, *, rngs: nnx.Rngs):
        conv = lambda channels: nnx.Conv(channels, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.conv1, self.conv2 = conv(inputs), conv(outputs)
        self.bn1, self.bn2 = BatchNorm(outputs, eps), BatchNorm(outputs, eps)

    def __call__(self, x: Float[Array, "b f m i"]) -> Float[Array, "b f m o"]:
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        return jax.nn.relu(self.bn2(self.conv2(x)))


class Cnn14(nnx.Module):
    """Sound -> embedding and logits.

    Args:
      wave: `[b t]`, mono at `cfg.sample_rate_hz`, full scale 1; at least `cfg.least_samples` (0.31 s).
    Returns:
      `Tagged(embedding [b widths[-1]], logits [b classes])`.
    Raises:
      ValueError: a shorter sound.
    """

    def __init__(self, cfg: Cnn14Config, *, rngs: nnx.Rngs):
        self.cfg, width = cfg, cfg.widths[-1]
        self.spectrogram = Spectrogram(cfg, rngs=rngs)
        self.bn0 = BatchNorm(cfg.bands, cfg.eps)
        self.blocks = nnx.List([ConvBlock(i, o, cfg.eps, rngs=rngs) for i, o in pairwise((1, *cfg.widths))])
        self.fc1 = linear(width, width, rngs)
        self.fc_audioset = linear(width, cfg.classes, rngs)

    def __call__(self, wave: Float[Array, "b t"]) -> Tagged:
        if wave.ndim != 2 or wave.shape[1] < self.cfg.least_samples:
            raise ValueError(
                f"Cnn14: got a wave {list(wave.shape)}, expected [batch, at least {self.cfg.least_samples} samples at "
                f"{self.cfg.sample_rate_hz} Hz]; mix to mono, resample, or pad a short sound with silence"
            )
        x = self.bn0(self.spectrogram(wave))[..., None]  # [b frames bands 1]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < len(self.blocks) - 1:
                x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        x = x.mean(axis=2)
        embedding = jax.nn.relu(self.fc1(x.max(axis=1) + x.mean(axis=1)))
        return Tagged(embedding, self.fc_audioset(embedding))
