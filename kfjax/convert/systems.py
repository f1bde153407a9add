"""The systems that have a name: MMAudio's five, each a flow network with the parts that it was trained with, and
Kling-Foley's three sizes, whose generator is trained here."""

from __future__ import annotations

from dataclasses import replace

from kfjax.codec.configs import CodecConfig, StereoConfig
from kfjax.codec.mel import MelConfig
from kfjax.convert.tables import bigvgan, clip, mmaudio, synchformer, t5, vae
from kfjax.generators.mmdit.sizes import SIZES
from kfjax.rates import Rates
from kfjax.system import Defaults, SystemConfig

MELS = {
    "16k": MelConfig(sample_rate_hz=16000, n_fft=1024, hop=256, bands=80, fmax_hz=8000.0, log="log10"),
    "44k": MelConfig(),
}
CLIP, META_CLIP, T5 = "dfn5b-vit-h-14-384", "metaclip-vit-bigG-14-quickgelu", "t5-base"


def rate_of(variant: str) -> str:
    """ "16k" or "44k"."""
    return "16k" if "16k" in variant else "44k"


def mmaudio_system(variant: str) -> SystemConfig:
    """Flow network `variant` (a key of `mmaudio.CONFIGS`) and the parts that go with it. Its sound is mono."""
    rate = rate_of(variant)
    mel, towers = MELS[rate], clip.CONFIGS[CLIP]
    return SystemConfig(
        name="mmaudio-" + variant.replace("_", "-"),
        mmdit=mmaudio.CONFIGS[variant],
        text=towers.text,
        clip=replace(towers.vision, frames_at_once=16),
        sync=replace(synchformer.CONFIGS["synchformer"], segments_at_once=8),
        codec=CodecConfig(mel=mel, vae=vae.CONFIGS[rate], stereo=None, vocoder=bigvgan.CONFIGS[rate]),
        rates=Rates(sample_rate_hz=mel.sample_rate_hz, hop=mel.hop),
        defaults=Defaults(steps=25, guidance=4.5),
        text_tokens=towers.text.length,
    )


SYSTEMS = {variant: mmaudio_system(variant) for variant in mmaudio.CONFIGS}


def kling_system(size: str) -> SystemConfig:
    """The paper's system with a generator of `size` (a key of `SIZES`), of which there are no public weights.

    The codec is a slot: MMAudio's public 44 kHz VAE and BigVGAN-v2, until another takes their place. That VAE has the
    paper's rate, 44100 / 1024 = 43.07 latents a second, and 40 channels, which the paper leaves open; its network is
    another (magnitude-preserving convolutions and attention, not 32 stacked convolutions). Mono2Stereo is ours.
    """
    towers = clip.CONFIGS[META_CLIP]
    codec = CodecConfig(
        mel=MELS["44k"], vae=vae.CONFIGS["44k"], stereo=StereoConfig(clip_dim=towers.vision.out_dim),
        vocoder=bigvgan.CONFIGS["44k"],
    )  # fmt: skip
    text, sync = t5.CONFIGS[T5], synchformer.CONFIGS["synchformer"]
    dims = {"clip_dim": towers.vision.out_dim, "sync_dim": sync.width, "text_dim": text.width}
    return SystemConfig(
        name=f"kling-foley-{size}",
        mmdit=replace(SIZES[size], sync_align="timed", latent_dim=codec.vae.latent_dim, **dims),
        text=text,
        clip=replace(towers.vision, frames_at_once=16),
        sync=replace(sync, segments_at_once=8),
        codec=codec,
    )


KLING = {size: kling_system(size) for size in SIZES}


def named(name: str) -> SystemConfig | None:
    """The system of that name; None where there is none."""
    return next((cfg for cfg in (*SYSTEMS.values(), *KLING.values()) if cfg.name == name), None)
