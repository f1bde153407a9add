"""Sizes of the codec's parts. Nothing here knows a network: a model whose programs are kept is loaded without them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from kfjax.codec.mel import MelConfig

#: Windows of n_fft / r samples and hops of hop / r, from the mel's own resolution to the finest in time.
RATIOS = (1, 2, 4)


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of a Mel-VAE.

    plain: `width` channels throughout; `mel_blocks` residual blocks of two convolutions at the mel rate and
    `latent_blocks` at the latent rate, on each side. The default is the paper's 32 convolutions a side: one
    at the mel's end, 2 · 15 in blocks, one that changes the rate.
    edm2: `width` is the finest level's (512 in the public 44 kHz weights; the next ones have 2 and 4 times as
    many channels); the number of blocks is that of the public weights.
    """

    variant: Literal["plain", "edm2"] = "plain"
    bands: int = 128
    latent_dim: int = 40
    width: int = 512
    mel_blocks: int = 7
    latent_blocks: int = 8


@dataclass(frozen=True)
class StereoConfig:
    """Sizes of Mono2Stereo. `mel_hz` and `clip_hz` are the rates of its two inputs."""

    bands: int = 128
    width: int = 128
    depth: int = 4
    clip_dim: int = 1280
    mel_hz: float = 44100 / 512
    clip_hz: float = 8.0


@dataclass(frozen=True)
class VocoderConfig:
    """Sizes of the vocoder. `bands`, `n_fft`, `hop`, `sample_rate_hz` and `floor` are those of the natural-log mel.

    `rounds` and `matches` say how often steps 2 and 3 of the synthesis are done; they hold no parameters.
    """

    kind: Literal["istft"] = "istft"
    bands: int = 128
    width: int = 256
    hidden: int = 768
    depth: int = 6
    n_fft: int = 2048
    hop: int = 512
    sample_rate_hz: int = 44100
    floor: float = 1e-5
    rounds: int = 16
    matches: int = 16

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(window, hop) of each resolution."""
        return tuple((self.n_fft // r, self.hop // r) for r in RATIOS)


@dataclass(frozen=True)
class BigVGANConfig:
    """Sizes of a BigVGAN; the default is `bigvgan_v2_44khz_128band_512x`.

    `width` channels before the first step, half as many after each; step i raises the rate `rates[i]` times with a
    kernel of twice that length. Every residual block holds one pair of convolutions for each of the `dilations`.

    Raises:
      ValueError: an odd rate, or more halvings than the width allows.
    """

    bands: int = 128
    width: int = 1536
    rates: tuple[int, ...] = (8, 4, 2, 2, 2, 2)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    output: Literal["clamp", "tanh"] = "clamp"
    output_bias: bool = False
    kind: Literal["bigvgan"] = "bigvgan"

    def __post_init__(self):
        if any(rate % 2 for rate in self.rates):
            raise ValueError(f"rates: got {self.rates}, expected even ones; change the odd ones")
        if self.width % 2 ** len(self.rates):
            raise ValueError(
                f"width: got {self.width}, expected a multiple of {2 ** len(self.rates)} for {len(self.rates)} "
                "halvings; change width or rates"
            )

    @property
    def hop(self) -> int:
        """Samples a mel frame."""
        return math.prod(self.rates)


@dataclass(frozen=True)
class CodecConfig:
    """The mel and the three parts, which must agree on what a mel is. Without `stereo` the sound is mono.

    Raises:
      ValueError: they do not; all disagreements at once.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    stereo: StereoConfig | None = field(default_factory=StereoConfig)
    vocoder: VocoderConfig | BigVGANConfig = field(default_factory=VocoderConfig)

    def __post_init__(self):
        mel, vocoder = self.mel, self.vocoder
        pairs: dict[str, tuple[object, object]] = {
            "vae.bands": (self.vae.bands, mel.bands),
            "vocoder.bands": (vocoder.bands, mel.bands),
            "vocoder.hop": (vocoder.hop, mel.hop),
        }
        if isinstance(vocoder, VocoderConfig):
            pairs |= {
                f"vocoder.{name}": (getattr(vocoder, name), getattr(mel, name))
                for name in ("n_fft", "sample_rate_hz", "floor")
            }
        if self.stereo is not None:
            pairs["stereo.bands"] = self.stereo.bands, mel.bands
            pairs["stereo.mel_hz"] = self.stereo.mel_hz, mel.sample_rate_hz / mel.hop
        if self.stereo is not None or isinstance(vocoder, VocoderConfig):
            pairs |= {
                "mel.log": (mel.log, "natural"),
                "mel.fmin_hz": (mel.fmin_hz, 0.0),
                "mel.fmax_hz": (mel.fmax_hz, mel.sample_rate_hz / 2),
            }
        wrong = [f"{name}: got {got}, expected {want}" for name, (got, want) in pairs.items() if got != want]
        if wrong:
            raise ValueError(f"codec parts disagree: {'; '.join(wrong)}; change one side")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts."""
        return ("vae", "vocoder") if self.stereo is None else ("vae", "stereo", "vocoder")

    def parts(self) -> dict[str, tuple[type, object]]:
        """Name -> (module class, its configuration)."""
        from kfjax.codec.bigvgan import BigVGAN
        from kfjax.codec.stereo import Mono2Stereo
        from kfjax.codec.vae import MelVAE
        from kfjax.codec.vocoder import Vocoder

        vocoder = Vocoder if isinstance(self.vocoder, VocoderConfig) else BigVGAN
        stereo = {} if self.stereo is None else {"stereo": (Mono2Stereo, self.stereo)}
        return {"vae": (MelVAE, self.vae), **stereo, "vocoder": (vocoder, self.vocoder)}
