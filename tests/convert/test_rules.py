"""The two-way table: exact in every dtype, and all complaints in one message."""

import ml_dtypes
import numpy as np
import pytest

from kfjax.convert.rules import SAME, TRANSPOSE, Rule, interleaved, leading, to_jax, to_torch, torch_shapes

TABLE = [
    Rule("in.weight", "first/kernel", TRANSPOSE),
    Rule("in.bias", "first/bias"),
    Rule("blocks.{i}.qkv.weight", "blocks/qkv/kernel", interleaved(2).then(TRANSPOSE)),
    Rule("blocks.{i}.qkv.bias", "blocks/qkv/bias", interleaved(2)),
    Rule("blocks.{i}.conv.weight", "blocks/conv/kernel", TRANSPOSE),
    Rule("mean", "mean", leading(2)),
    Rule("gain", "gain"),
]
SHAPES = {
    "in.weight": (5, 7),
    "in.bias": (5,),
    "mean": (1, 1, 3),
    "gain": (),
    **{f"blocks.{i}.qkv.weight": (24, 5) for i in range(3)},
    **{f"blocks.{i}.qkv.bias": (24,) for i in range(3)},
    **{f"blocks.{i}.conv.weight": (6, 5, 3) for i in range(3)},
}


def params(dtype=np.float32):
    zeros = lambda *shape: np.zeros(shape, dtype)
    return {
        "first": {"kernel": zeros(7, 5), "bias": zeros(5)},
        "blocks": {"qkv": {"kernel": zeros(3, 5, 24), "bias": zeros(3, 24)}, "conv": {"kernel": zeros(3, 3, 5, 6)}},
        "mean": zeros(3),
        "gain": zeros(),
    }


def state(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in SHAPES.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64])
def test_round_trip_is_exact(dtype):
    before = state(dtype)
    middle = to_jax(before, TABLE, params())
    after = to_torch(middle, TABLE)
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert after[key].dtype == value.dtype
        assert after[key].shape == value.shape
        assert after[key].tobytes() == value.tobytes()
        assert after[key].flags.c_contiguous


def test_values_land_where_they_should():
    source = state()
    made = to_jax(source, TABLE, params())
    np.testing.assert_array_equal(made["first"]["kernel"], source["in.weight"].T)
    np.testing.assert_array_equal(made["blocks"]["conv"]["kernel"][1, 2], source["blocks.1.conv.weight"][:, :, 2].T)
    # Row h·12 + c·3 + part of the fused projection goes to column part·8 + h·4 + c.
    np.testing.assert_array_equal(
        made["blocks"]["qkv"]["kernel"][2][:, 2 * 8 + 1 * 4 + 3], source["blocks.2.qkv.weight"][1 * 12 + 3 * 3 + 2]
    )
    assert made["mean"].shape == (3,)


def test_layout_is_known_without_values():
    assert torch_shapes(params(), TABLE) == SHAPES


def test_one_error_names_everything():
    broken = state()
    del broken["in.bias"], broken["blocks.2.qkv.bias"]
    broken["blocks.3.qkv.bias"] = np.zeros(24)
    broken["extra"] = np.zeros(1)
    broken["mean"] = np.zeros((1, 3))
    broken["blocks.0.conv.weight"] = np.zeros((6, 5, 5))
    with pytest.raises(ValueError) as error:
        to_jax(broken, TABLE, params())
    message = str(error.value)
    for line in (
        "missing    blocks.2.qkv.bias (24,)",
        "missing    in.bias (5,)",
        "unused     blocks.3.qkv.bias (24,)",
        "unused     extra (1,)",
        "misshapen  blocks.0.conv.weight: got (6, 5, 5), expected (6, 5, 3)",
        "misshapen  mean: got (1, 3), expected (1, 1, 3)",
    ):
        assert line in message


def test_parameters_must_fit_the_table():
    wrong = params()
    del wrong["gain"]
    wrong["first"]["scale"] = np.zeros(5)
    with pytest.raises(ValueError, match=r"missing \['gain'\], unknown \['first/scale'\]"):
        to_torch(wrong, TABLE)


def test_same_is_the_identity():
    value = np.arange(6).reshape(2, 3)
    assert SAME.to_jax(value) is value
    assert SAME.to_torch(value) is value
