"""The codec of mels, a `kfjax.codec.Codec`: mono waveform -> latents, latents and the video's features -> stereo.

Public systems have no Mono2Stereo (`stereo=None`): both channels are then the mono sound. Their vocoder is BigVGAN.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from kfjax.codec import stereo
from kfjax.codec.configs import CodecConfig
from kfjax.codec.mel import log_mel
from kfjax.codec.pieces import Overlap
from kfjax.codec.stereo import Mono2Stereo
from kfjax.codec.vae import MelVAE
from kfjax.nn import module
from kfjax.structs import Array, Posterior


def init(cfg: CodecConfig, key: jax.Array) -> module.Params:
    """Parameters of the parts: {"vae", "stereo" where there is one, "vocoder"}."""
    parts = cfg.parts()
    keys = jax.random.split(key, len(parts))
    return {name: module.init(*part, k) for (name, part), k in zip(parts.items(), keys, strict=True)}


def shapes(cfg: CodecConfig) -> module.Params:
    """The nested dict of `init` with shapes for leaves."""
    return jax.eval_shape(lambda: init(cfg, jax.random.key(0)))


def encode(params: module.Params, cfg: CodecConfig, wave: Float[Array, "b t"]) -> Posterior:
    """Posterior over normalised latents [b n d] of a mono waveform in [-1, 1] whose length is n · 2 · hop samples."""
    return module.bind(MelVAE, cfg.vae, params["vae"]).encode(log_mel(jnp.asarray(wave), cfg.mel))


def decode(
    params: module.Params,
    cfg: CodecConfig,
    latents: Float[Array, "b n d"],
    seen: Float[Array, "b v i"] | None,
    has_video: Bool[Array, " b"],
    *,
    overlap: Overlap | None = None,
    coherent: bool = True,
) -> Float[jax.Array, "b t 2"]:
    """Stereo waveform of n · 2 · hop samples.

    Args:
      latents: normalised, as `encode` and the generator make them.
      seen: the video's per-frame features, which tell where the sources are; not read without Mono2Stereo.
      has_video: where False, `seen` does not matter.
      overlap: what is known of a piece of a long sound, see `pieces`; None with BigVGAN.
      coherent: vocode once and pan; (left + right) / 2 is then exactly the mono waveform. Otherwise each channel's mel
        is vocoded by itself, as in the paper.
    """
    mel = module.bind(MelVAE, cfg.vae, params["vae"]).decode(latents)
    vocoder = module.bind(*cfg.parts()["vocoder"], params["vocoder"])
    if overlap is not None:
        known = overlap.wave.mean(-1) if coherent else jnp.concatenate(jnp.unstack(overlap.wave, axis=-1))
        vocoder = partial(vocoder, overlap=overlap._replace(wave=known))
    if cfg.stereo is None:
        return jnp.repeat(vocoder(mel)[..., None], 2, -1)
    r = module.bind(Mono2Stereo, cfg.stereo, params["stereo"])(mel, seen, has_video)
    if coherent:
        return stereo.pan(vocoder(mel), r, cfg.mel)
    left, right = jnp.split(vocoder(jnp.concatenate(stereo.split(mel, r))), 2)
    return jnp.stack([left, right], -1)
