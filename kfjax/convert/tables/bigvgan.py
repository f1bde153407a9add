"""The public BigVGAN vocoders in kfjax's BigVGAN, and back.

    params = FAMILY.from_torch(state_dict, CONFIGS["44k"])["vocoder"]
    state_dict = FAMILY.to_torch({"vocoder": params}, CONFIGS["44k"])

The files also hold, twice an activation, the filter of the anti-aliasing, which is no parameter: it is compared with
ours on the way in and written on the way out.
"""

from __future__ import annotations

import numpy as np

from kfjax.codec.bigvgan import FILTER, BigVGAN, BigVGANConfig
from kfjax.convert.family import Family
from kfjax.convert.rules import TRANSPOSE, Rule, State, under
from kfjax.nn import module

CONFIGS = {
    # The vocoder of Make-An-Audio 2, which MMAudio's 16 kHz models use.
    "16k": BigVGANConfig(bands=80, rates=(4, 4, 2, 2, 2, 2), output="tanh", output_bias=True),
    # nvidia/bigvgan_v2_44khz_128band_512x
    "44k": BigVGANConfig(),
}
#: Names of weight norm's two tensors since torch 2.1 -> those in the public files.
NEW_NAMES = {".parametrizations.weight.original0": ".weight_g", ".parametrizations.weight.original1": ".weight_v"}


def shapes(cfg: BigVGANConfig) -> module.Params:
    """Shapes of the parameters that the table fills."""
    return {"vocoder": module.shapes(BigVGAN, cfg)}


def filters(cfg: BigVGANConfig) -> set[str]:
    """Keys of the anti-aliasing filters, each (1, 1, 12)."""
    activations = {rule.torch_key.removesuffix(".act.alpha") for rule in table(cfg) if rule.torch_key.endswith("alpha")}
    return {f"{key}.{part}" for key in activations for part in ("upsample.filter", "downsample.lowpass.filter")}


def table(cfg: BigVGANConfig) -> list[Rule]:
    """The whole correspondence for one variant."""
    made = _weight_norm("conv_pre", "conv_pre")
    for i in range(len(cfg.rates)):
        made += _weight_norm(f"ups.{i}.0", f"ups/{i}")
    for i in range(len(cfg.rates) * len(cfg.block_kernels)):
        for j in range(len(cfg.dilations)):
            for convs in ("convs1", "convs2"):
                made += _weight_norm(f"resblocks.{i}.{convs}.{j}", f"resblocks/{i}/{convs}/{j}")
        for j in range(2 * len(cfg.dilations)):
            made += _snake(f"resblocks.{i}.activations.{j}", f"resblocks/{i}/activations/{j}")
    made += _snake("activation_post", "activation_post") + _weight_norm("conv_post", "conv_post", cfg.output_bias)
    return under("vocoder", made)


def _read(state: State, cfg: BigVGANConfig) -> State:
    """Weight norm under its old or its new names; the filters, which may be missing, must be ours."""
    state = {_old_name(key): value for key, value in state.items()}
    for key in sorted(filters(cfg) & state.keys()):
        value = np.asarray(state.pop(key))
        if value.size != FILTER.size or not np.allclose(value.ravel(), FILTER, atol=1e-5):
            raise ValueError(
                f"{key}: got {value.ravel()}, expected the Kaiser-sinc filter {FILTER}; "
                "this vocoder resamples in another way, which kfjax does not have"
            )
    return state


def _weight_norm(torch_key: str, jax_path: str, bias: bool = True) -> list[Rule]:
    # Both kinds of convolution: lengths (n, 1, 1) belong to the first axis in torch and to the last in kfjax.
    made = [Rule(f"{torch_key}.weight_{part}", f"{jax_path}/{part}", TRANSPOSE) for part in "gv"]
    return made + ([Rule(f"{torch_key}.bias", f"{jax_path}/bias")] if bias else [])


def _snake(torch_key: str, jax_path: str) -> list[Rule]:
    return [Rule(f"{torch_key}.act.{part}", f"{jax_path}/{part}") for part in ("alpha", "beta")]


def _old_name(key: str) -> str:
    for new, old in NEW_NAMES.items():
        if key.endswith(new):
            return key.removesuffix(new) + old
    return key


FAMILY = Family(
    "bigvgan", "conv_pre.bias", CONFIGS, table, shapes, inside="generator", read=_read,
    constants=lambda cfg: {key: FILTER.reshape(1, 1, -1) for key in sorted(filters(cfg))},
    files=lambda variant: "best_netG.pt" if variant == "16k" else "bigvgan_generator.pt",
)  # fmt: skip
