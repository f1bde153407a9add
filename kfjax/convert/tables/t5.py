"""The encoder of public T5 files (v1.0 layout, e.g. T5-Base) in kfjax's T5Encoder, and back.

    params = FAMILY.from_torch(state_dict, CONFIGS["t5-base"])["text"]
    state_dict = FAMILY.to_torch({"text": params}, CONFIGS["t5-base"])

A file of the whole model is accepted as well as one of the encoder alone. Of the former the decoder and the output
layer are left out: nothing here runs them, and what comes back is an encoder's file, with every value as it was.
"""

from __future__ import annotations

import numpy as np

from kfjax.convert.family import Family
from kfjax.convert.rules import TRANSPOSE, Rule, State, under
from kfjax.encoders.t5 import T5Config, T5Encoder
from kfjax.nn import module

CONFIGS = {"t5-base": T5Config()}

#: Beginnings of the keys that only the decoder reads.
DECODER = ("decoder.", "lm_head.")
EMBEDDING = "shared.weight"
#: The encoder's own name for the shared table, which some files carry too.
COPY = "encoder.embed_tokens.weight"


def shapes(cfg: T5Config) -> module.Params:
    """Shapes of the part that the table fills."""
    return {"text": module.shapes(T5Encoder, cfg)}


def table(cfg: T5Config) -> list[Rule]:
    """The whole correspondence; the same for every size."""
    attention, forward = "encoder.block.{i}.layer.0", "encoder.block.{i}.layer.1"
    first = attention.replace("{i}", "0")
    made = [
        Rule(EMBEDDING, "embed/embedding"),
        Rule(f"{first}.SelfAttention.relative_attention_bias.weight", "relative_bias"),
        Rule(f"{attention}.layer_norm.weight", "blocks/norm1/scale"),
        *(_dense(f"{attention}.SelfAttention.{name}", f"blocks/attention/{name}") for name in "qkvo"),
        Rule(f"{forward}.layer_norm.weight", "blocks/norm2/scale"),
        *(_dense(f"{forward}.DenseReluDense.{name}", f"blocks/feed_forward/{name}") for name in ("wi", "wo")),
        Rule("encoder.final_layer_norm.weight", "norm/scale"),
    ]
    return under("text", made)


def _dense(torch_key: str, jax_path: str) -> Rule:
    return Rule(f"{torch_key}.weight", f"{jax_path}/kernel", TRANSPOSE)


def _read(state: State, cfg: T5Config) -> State:
    if COPY in state and EMBEDDING in state and not np.array_equal(state[COPY], state[EMBEDDING]):
        raise ValueError(f"T5: got {COPY} unlike {EMBEDDING}, expected one word table for both; repair the file")
    return {key: value for key, value in state.items() if key != COPY and not key.startswith(DECODER)}


FAMILY = Family(
    "t5", "encoder.final_layer_norm.weight", CONFIGS, table, shapes, files=lambda variant: "model.safetensors",
    read=_read,
)  # fmt: skip
