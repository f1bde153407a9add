"""A whole system, real in shape and tiny in size, with random weights that let every input matter."""

from functools import lru_cache
from pathlib import Path

import jax
import numpy as np

from kfjax import system
from kfjax.codec.audio_codec import CodecConfig
from kfjax.codec.mel import MelConfig
from kfjax.codec.stereo import StereoConfig
from kfjax.codec.vae import VAEConfig
from kfjax.codec.vocoder import VocoderConfig
from kfjax.encoders.clip import CLIPVisionConfig
from kfjax.encoders.synchformer import SynchformerConfig
from kfjax.encoders.t5 import T5Config
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.generators.mmdit.mmdit import MMDiTConfig

CAPTIONS = ["a ball bounces on wood", "rain on a roof", "a bell rings", "wind and footsteps"]

CONFIG = system.SystemConfig(
    mmdit=MMDiTConfig(
        width=64, heads=1, joint_depth=1, single_depth=1, latent_dim=8, clip_dim=16, sync_dim=32, text_dim=16,
        hidden_multiple=64,
    ),
    text=T5Config(vocab=64, width=16, depth=1, heads=1, head_dim=16, hidden=32),
    clip=CLIPVisionConfig(size=32, patch=16, width=32, depth=1, heads=1, mlp_width=32, out_dim=16),
    sync=SynchformerConfig(size=32, width=32, depth=1, heads=1, patch=16),
    codec=CodecConfig(
        mel=MelConfig(),
        vae=VAEConfig(latent_dim=8, width=32, mel_blocks=1, latent_blocks=1),
        stereo=StereoConfig(width=32, depth=1, clip_dim=16),
        vocoder=VocoderConfig(width=32, hidden=32, depth=1, rounds=2, matches=1),  # unoptimised, each takes its time
    ),
    defaults=system.Defaults(steps=2, guidance=3.0),
    text_tokens=16,
    name="tiny",
)  # fmt: skip


@lru_cache(maxsize=1)
def tiny_system() -> system.System:
    """Every weight moved away from its start, zeros included: untrained output layers would hide all conditions."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: (0.05 * rng.standard_normal(x.shape)).astype(np.float32), system.part_shapes(CONFIG)
    )
    for name in ("mel_std", "latent_std"):
        params["vae"][name] = np.ones_like(params["vae"][name])
    params["vae"]["mel_mean"] = params["vae"]["mel_mean"] - 4.0  # audible, but well below full scale
    tokenizer = Tokenizer.train(CAPTIONS, vocab_size=CONFIG.text.vocab, length=CONFIG.text_tokens)
    return system.System(CONFIG, params, tokenizer)


def write_model(directory: Path) -> Path:
    """The tiny system as a model directory."""
    system.save(directory, tiny_system(), card="Random weights for tests.\n")
    return directory
