"""The public vocoders: published sizes, exact round trips, both names of weight norm, filters that must be ours."""

import math

import jax
import ml_dtypes
import numpy as np
import pytest

from kfjax.codec.bigvgan import FILTER, BigVGAN, BigVGANConfig
from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables import bigvgan
from kfjax.nn import module
from tests.reference.states import assert_same_bytes, random_state

SMALL = BigVGANConfig(bands=5, width=16, rates=(4, 2), block_kernels=(3, 7), dilations=(1, 3))
#: Parameters of the published generators, with weight norm.
COUNTS = {"16k": 112_231_250, "44k": 122_184_529}


def public(cfg, dtype=np.float32):
    """A whole public state dict: random parameters and the filters."""
    return random_state(bigvgan, cfg, dtype) | dict.fromkeys(bigvgan.filters(cfg), FILTER[None, None])


@pytest.mark.parametrize("name", bigvgan.CONFIGS)
def test_published_layout(name):
    cfg = bigvgan.CONFIGS[name]
    layout = torch_shapes(bigvgan.shapes(cfg), bigvgan.table(cfg))
    assert sum(math.prod(shape) for shape in layout.values()) == COUNTS[name]
    expected = {
        "conv_pre.weight_g": (1536, 1, 1),
        "conv_pre.weight_v": (1536, cfg.bands, 7),
        "ups.0.0.weight_g": (1536, 1, 1),
        "ups.0.0.weight_v": (1536, 768, 16 if name == "44k" else 8),
        "ups.0.0.bias": (768,),
        "ups.5.0.weight_v": (48, 24, 4),
        "resblocks.2.convs1.2.weight_v": (768, 768, 11),
        "resblocks.17.convs2.0.bias": (24,),
        "resblocks.17.activations.5.act.beta": (24,),
        "activation_post.act.alpha": (24,),
        "conv_post.weight_v": (1, 24, 7),
    }
    assert {key: layout[key] for key in expected} == expected
    assert ("conv_post.bias" in layout) == (name == "16k")
    # 18 blocks of 6 activations and the last one, two filters each; 667 tensors in the 44 kHz file with g and v as one.
    assert len(bigvgan.filters(cfg)) == 218
    if name == "44k":
        whole = {key.replace("_g", "").replace("_v", "") for key in layout} | bigvgan.filters(cfg)
        assert len(whole) == 667


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip_is_exact(dtype):
    before = public(SMALL, dtype)
    parts = bigvgan.FAMILY.from_torch(before, SMALL)
    assert jax.tree.map(np.shape, parts["vocoder"]) == jax.tree.map(lambda x: x.shape, module.shapes(BigVGAN, SMALL))
    assert_same_bytes(bigvgan.FAMILY.to_torch(parts, SMALL), before)


def test_new_names_and_missing_filters_are_taken():
    before = public(SMALL)
    new = {old: name for name, old in bigvgan.NEW_NAMES.items()}
    renamed = {}
    for key, value in random_state(bigvgan, SMALL).items():
        stem, dot, last = key.rpartition(".")
        renamed[stem + new.get(dot + last, dot + last)] = value
    assert "conv_pre.parametrizations.weight.original0" in renamed
    assert_same_bytes(bigvgan.FAMILY.to_torch(bigvgan.FAMILY.from_torch(renamed, SMALL), SMALL), before)


def test_another_filter_is_refused():
    key = "activation_post.downsample.lowpass.filter"
    with pytest.raises(ValueError, match=rf"(?s){key}: got .*, expected the Kaiser-sinc filter"):
        bigvgan.FAMILY.from_torch(public(SMALL) | {key: FILTER[None, None] * 2}, SMALL)


def test_another_layout_is_refused_with_every_difference():
    state = public(SMALL)
    state["conv_pre.weight"] = state.pop("conv_pre.weight_v")
    state["conv_post.weight_v"] = np.zeros((1, 5, 7), np.float32)
    with pytest.raises(ValueError) as error:
        bigvgan.FAMILY.from_torch(state, SMALL)
    message = str(error.value)
    assert "missing    conv_pre.weight_v (16, 5, 7)" in message
    assert "unused     conv_pre.weight" in message
    assert "misshapen  conv_post.weight_v: got (1, 5, 7), expected (1, 4, 7)" in message


def test_pytorch_loads_what_is_written():
    torch = pytest.importorskip("torch")
    network = pytest.importorskip("tests.reference.bigvgan").TorchBigVGAN(SMALL)
    written = bigvgan.FAMILY.to_torch(bigvgan.FAMILY.from_torch(public(SMALL), SMALL), SMALL)
    network.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in written.items()}, strict=True)
