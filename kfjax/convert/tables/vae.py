"""MMAudio's Mel-VAE (16 and 44 kHz) in kfjax's MelVAE of variant `edm2`, and back.

    params = from_torch(state_dict, CONFIGS["44k"])
    state_dict = to_torch(params, CONFIGS["44k"])

The names are the public ones: kernels turn, and the mel's mean and deviation lose their axes of length 1. The latents'
mean and deviation are not in this file but in the flow network's (`convert.mmaudio`), so a VAE is complete, and `bind`
takes it, only with both:

    params |= {"latent_mean": statistics.mean, "latent_std": statistics.std}
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kfjax import module
from kfjax.checkpoint import unflatten
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.convert import rules
from kfjax.convert.rules import TRANSPOSE, How, Rule

CONFIGS = {
    "16k": VAEConfig(variant="edm2", bands=80, latent_dim=20, width=384),
    "44k": VAEConfig(variant="edm2", bands=128, latent_dim=40, width=512),
}

#: Parameters of ours that come from another file.
LATENT = ("latent_mean", "latent_std")
#: (1, bands, 1) <-> (bands,)
_BANDS = How(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1))


def from_torch(state: Mapping[str, np.ndarray], cfg: VAEConfig) -> module.Params:
    """Parameters of `MelVAE(cfg)` without the latents' statistics, from a public state dict.

    Raises:
      ValueError: names every missing, unused and misshapen key at once.
    """
    made = rules.to_jax(state, table(cfg), shapes(cfg))
    return unflatten(module.flatten(made))  # modules in a list have integers for names


def to_torch(params: module.Params, cfg: VAEConfig) -> rules.State:
    """The public state dict: the exact inverse of `from_torch`. The latents' statistics may be there or not.

    Raises:
      ValueError: parameters of another tree.
    """
    return rules.to_torch({name: value for name, value in params.items() if name not in LATENT}, table(cfg))


def shapes(cfg: VAEConfig) -> module.Params:
    """Shapes of the tree that the table fills."""
    return {name: shape for name, shape in module.shapes(MelVAE, cfg).items() if name not in LATENT}


def table(cfg: VAEConfig) -> list[Rule]:
    """The whole correspondence for one variant.

    Raises:
      ValueError: a configuration of our own network, which no public file has.
    """
    if cfg.variant != "edm2":
        raise ValueError(f"VAE: got variant={cfg.variant!r}, expected 'edm2', the network of the public weights")
    networks = {name: shape for name, shape in shapes(cfg).items() if name in ("encoder", "decoder")}
    return [
        *(_rule(path) for path in module.flatten(networks)),
        Rule("data_mean", "mel_mean", _BANDS),
        Rule("data_std", "mel_std", _BANDS),
    ]


def _rule(path: str) -> Rule:
    name = path.replace("/", ".")
    if name.endswith(".kernel"):
        return Rule(f"{name.removesuffix('kernel')}weight", path, TRANSPOSE)
    return Rule(name, path)
