"""T5's layout: the published sizes, files of the encoder and of the whole model, exact round trips."""

import math

import jax
import ml_dtypes
import numpy as np
import pytest

from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables import t5
from kfjax.encoders.t5 import T5Config, T5Encoder
from kfjax.nn import module
from tests.reference.states import assert_same_bytes, random_state

SMALL = T5Config(vocab=30, width=10, depth=3, heads=2, head_dim=4, hidden=14, buckets=6)


def test_published_layout():
    cfg = t5.CONFIGS["t5-base"]
    layout = torch_shapes(t5.shapes(cfg), t5.table(cfg))
    assert sum(math.prod(shape) for shape in layout.values()) == 109_628_544
    assert len(layout) == 3 + 12 * 8
    expected = {
        "shared.weight": (32128, 768),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 12),
        "encoder.block.11.layer.0.SelfAttention.o.weight": (768, 768),
        "encoder.block.0.layer.1.DenseReluDense.wi.weight": (3072, 768),
        "encoder.block.0.layer.1.layer_norm.weight": (768,),
        "encoder.final_layer_norm.weight": (768,),
    }
    assert {key: layout[key] for key in expected} == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip_is_exact(dtype):
    before = random_state(t5, SMALL, dtype)
    parts = t5.FAMILY.from_torch(before, SMALL)
    assert_same_bytes(t5.FAMILY.to_torch(parts, SMALL), before)


def test_the_parameters_are_the_encoders():
    params = t5.FAMILY.from_torch(random_state(t5, SMALL), SMALL)["text"]
    ids, mask = np.zeros((2, 5), int), np.ones((2, 5), bool)
    assert jax.eval_shape(lambda p: module.bind(T5Encoder, SMALL, p)(ids, mask), params).shape == (2, 5, 10)


def test_a_whole_models_file_gives_its_encoder():
    encoder = random_state(t5, SMALL)
    whole = encoder | {
        "encoder.embed_tokens.weight": encoder["shared.weight"],
        "decoder.embed_tokens.weight": encoder["shared.weight"],
        "decoder.block.0.layer.1.EncDecAttention.q.weight": np.zeros((8, 10)),
        "decoder.final_layer_norm.weight": np.zeros(10),
        "lm_head.weight": encoder["shared.weight"],
    }
    assert_same_bytes(t5.FAMILY.to_torch(t5.FAMILY.from_torch(whole, SMALL), SMALL), encoder)


def test_an_encoder_with_a_word_table_of_its_own_is_refused():
    state = random_state(t5, SMALL)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight unlike shared\.weight"):
        t5.FAMILY.from_torch(state | {"encoder.embed_tokens.weight": state["shared.weight"] + 1}, SMALL)


def test_a_later_version_is_refused_with_every_difference():
    """v1.1 has a gated feed-forward of two input matrices."""
    state = random_state(t5, SMALL)
    for i in range(3):
        name = f"encoder.block.{i}.layer.1.DenseReluDense"
        state |= {f"{name}.wi_0.weight": state[f"{name}.wi.weight"], f"{name}.wi_1.weight": np.zeros((14, 10))}
        del state[f"{name}.wi.weight"]
    state["shared.weight"] = np.zeros((31, 10))
    with pytest.raises(ValueError) as error:
        t5.FAMILY.from_torch(state, SMALL)
    message = str(error.value)
    assert "missing    encoder.block.2.layer.1.DenseReluDense.wi.weight (14, 10)" in message
    assert "unused     encoder.block.0.layer.1.DenseReluDense.wi_1.weight (14, 10)" in message
    assert "misshapen  shared.weight: got (31, 10), expected (30, 10)" in message
