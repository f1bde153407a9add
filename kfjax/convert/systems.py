"""The systems of public weights: MMAudio's five, each a flow network with the parts that it was trained with."""

from __future__ import annotations

from dataclasses import replace

from kfjax.codec.configs import CodecConfig
from kfjax.codec.mel import MelConfig
from kfjax.convert.tables import bigvgan, clip, mmaudio, synchformer, vae
from kfjax.rates import Rates
from kfjax.system import Defaults, SystemConfig

MELS = {
    "16k": MelConfig(sample_rate_hz=16000, n_fft=1024, hop=256, bands=80, fmax_hz=8000.0, log="log10"),
    "44k": MelConfig(),
}
CLIP = "dfn5b-vit-h-14-384"


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
