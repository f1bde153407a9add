"""The codec: mono waveform -> normalised latents, and latents with what the camera sees -> stereo waveform."""
from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kfjax import module
from kfjax.codec import stereo
from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.stereo import Mono2Stereo, StereoConfig
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.codec.vocoder import Vocoder, VocoderConfig
from kfjax.structs import Posterior


@dataclass(frozen=True)
class CodecConfig:
    """The four parts, which must agree on what a mel is.

    Raises:
      ValueError: they do not; all disagreements at once.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    stereo: StereoConfig = field(default_factory=StereoConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)

    def __post_init__(self):
        mel, vocoder = self.mel, self.vocoder
        pairs = {
            "vae.bands": (self.vae.bands, mel.bands),
            "stereo.bands": (self.stereo.bands, mel.bands),
            "stereo.mel_hz": (self.stereo.mel_hz, mel.sample_rate_hz / mel.hop),
            "mel.log": (mel.log, "natural"),
            "mel.fmin_hz": (mel.fmin_hz, 0.0),
            "mel.fmax_hz": (mel.fmax_hz, mel.sample_rate_hz / 2),
        }
        for name in ("bands", "n_fft", "hop", "sample_rate_hz", "floor"):
            pairs[f"vocoder.{name}"] = (getattr(vocoder, name), getattr(mel, name))
        wrong = [f"{name}: got {got}, expected {want}" for name, (got, want) in pairs.items() if got != want]
        if wrong:
            raise ValueError(f"codec parts disagree: {'; '.join(wrong)}; change one side")


def init(cfg: CodecConfig, key: Array) -> module.Params:
    """Parameters of the parts that have any: {"vae", "stereo", "vocoder"}."""
    parts = {"vae": (MelVAE, cfg.vae), "stereo": (Mono2Stereo, cfg.stereo), "vocoder": (Vocoder, cfg.vocoder)}
    keys = jax.random.split(key, len(parts))
    return {name: module.init(*part, k) for (name, part), k in zip(parts.items(), keys, strict=True)}


def shapes(cfg: CodecConfig) -> module.Params:
    """The nested dict of `init` with shapes for leaves."""
    return jax.eval_shape(lambda: init(cfg, jax.random.key(0)))


def encode(params: module.Params, cfg: CodecConfig, wave: Float[Array, "b t"]) -> Posterior:
    """Posterior over normalised latents [b n d] of a mono waveform in [-1, 1] whose length is n · 2 · hop samples."""
    return module.bind(MelVAE, cfg.vae, params["vae"]).encode(log_mel(wave, cfg.mel))


def decode(
    params: module.Params,
    cfg: CodecConfig,
    latents: Float[Array, "b n d"],
    clip: Float[Array, "b v i"],
    has_video: Bool[Array, " b"],
    *,
    coherent: bool = True,
) -> Float[Array, "b t 2"]:
    """Stereo waveform of n · 2 · hop samples.

    Args:
      latents: normalised, as `encode` and the generator make them.
      clip: the video's per-frame features, which tell where the sources are.
      has_video: where False, `clip` does not matter.
      coherent: vocode once and pan; (left + right) / 2 is then exactly the mono waveform. Otherwise each ear's mel
        is vocoded by itself, as in the paper.
    """
    mel = module.bind(MelVAE, cfg.vae, params["vae"]).decode(latents)
    vocoder = module.bind(Vocoder, cfg.vocoder, params["vocoder"])
    r = module.bind(Mono2Stereo, cfg.stereo, params["stereo"])(mel, clip, has_video)
    if coherent:
        return stereo.pan(vocoder(mel), r, cfg.mel)
    left, right = jnp.split(vocoder(jnp.concatenate(stereo.split(mel, r))), 2)
    return jnp.stack([left, right], -1)
