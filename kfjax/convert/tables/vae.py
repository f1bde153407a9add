"""MMAudio's Mel-VAE (16 and 44 kHz) in kfjax's MelVAE of variant `edm2`, and back.

    params = FAMILY.from_torch(state_dict, CONFIGS["44k"])["vae"]
    state_dict = FAMILY.to_torch({"vae": params}, CONFIGS["44k"])

The names are the public ones: kernels turn, and the mel's mean and deviation lose their axes of length 1. The latents'
mean and deviation are not in this file but in the flow network's (`mmaudio.py`), so a VAE is complete, and `bind`
takes it, only with both: params |= {"latent_mean": ..., "latent_std": ...}. On the way back they may be there or not.
"""

from __future__ import annotations

from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.convert.family import Family
from kfjax.convert.rules import TRANSPOSE, How, Rule, under
from kfjax.nn import module

CONFIGS = {
    "16k": VAEConfig(variant="edm2", bands=80, latent_dim=20, width=384),
    "44k": VAEConfig(variant="edm2", bands=128, latent_dim=40, width=512),
}

#: Parameters of ours that come from another file.
LATENT = ("latent_mean", "latent_std")
#: (1, bands, 1) <-> (bands,)
_BANDS = How(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1))


def shapes(cfg: VAEConfig) -> module.Params:
    """Shapes of the part that the table fills."""
    return {"vae": {name: shape for name, shape in module.shapes(MelVAE, cfg).items() if name not in LATENT}}


def table(cfg: VAEConfig) -> list[Rule]:
    """The whole correspondence for one variant.

    Raises:
      ValueError: a configuration of our own network, which no public file has.
    """
    if cfg.variant != "edm2":
        raise ValueError(f"VAE: got variant={cfg.variant!r}, expected 'edm2', the network of the public weights")
    networks = {name: shape for name, shape in shapes(cfg)["vae"].items() if name in ("encoder", "decoder")}
    made = [
        *(_rule(path) for path in module.flatten(networks)),
        Rule("data_mean", "mel_mean", _BANDS),
        Rule("data_std", "mel_std", _BANDS),
    ]
    return under("vae", made)


def _rule(path: str) -> Rule:
    name = path.replace("/", ".")
    if name.endswith(".kernel"):
        return Rule(f"{name.removesuffix('kernel')}weight", f"{path}", TRANSPOSE)
    return Rule(name, f"{path}")


FAMILY = Family(
    "mmaudio-vae", "decoder.mid.attn_1.qkv.weight", CONFIGS, table, shapes,
    files=lambda variant: f"v1-{variant.removesuffix('k')}.pth", elsewhere=[f"vae/{name}" for name in LATENT],
)  # fmt: skip
