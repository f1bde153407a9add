"""open_clip's layout: the published sizes, exact round trips of both towers and of what no tower reads."""

import dataclasses
import math

import jax
import ml_dtypes
import numpy as np
import pytest

from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables import clip
from kfjax.encoders.clip import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig
from kfjax.nn import module
from tests.reference.states import assert_same_bytes, random_state

SMALL = clip.CLIPConfig(
    vision=CLIPVisionConfig(size=30, patch=7, width=12, depth=3, heads=2, mlp_width=20, out_dim=10),
    text=CLIPTextConfig(vocab=40, length=9, width=8, depth=2, heads=2, mlp_width=24),
)
#: Parameters of a file: open_clip's own list says 986.11 million at 224 pixels (here 473 positions more) and 2539.57.
COUNTS = {"dfn5b-vit-h-14-384": 986_714_881, "metaclip-vit-bigG-14-quickgelu": 2_539_567_105}


@pytest.mark.parametrize("name", clip.CONFIGS)
def test_published_layout(name):
    cfg = clip.CONFIGS[name]
    layout = torch_shapes(clip.shapes(cfg), clip.table(cfg))
    assert sum(math.prod(shape) for shape in layout.values()) == COUNTS[name]
    wide, narrow = cfg.vision.width, cfg.text.width
    expected = {
        "visual.conv1.weight": (wide, 3, 14, 14),
        "visual.class_embedding": (wide,),
        "visual.positional_embedding": (257 if "bigG" in name else 730, wide),
        "visual.ln_pre.weight": (wide,),
        f"visual.transformer.resblocks.{cfg.vision.depth - 1}.attn.in_proj_weight": (3 * wide, wide),
        "visual.transformer.resblocks.0.mlp.c_fc.weight": (8192 if "bigG" in name else 5120, wide),
        "visual.proj": (wide, cfg.vision.out_dim),
        "token_embedding.weight": (49408, narrow),
        "positional_embedding": (77, narrow),
        f"transformer.resblocks.{cfg.text.depth - 1}.mlp.c_proj.weight": (narrow, 4 * narrow),
        "ln_final.bias": (narrow,),
        "text_projection": (narrow, narrow),
        "logit_scale": (),
    }
    assert {key: layout[key] for key in expected} == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("reads_text", [True, False])
def test_round_trip_is_exact(dtype, reads_text):
    cfg = dataclasses.replace(SMALL, reads_text=reads_text)
    before = random_state(clip, cfg, dtype)
    parts = clip.FAMILY.from_torch(before, cfg)
    assert set(parts) == ({"clip", "text"} if reads_text else {"clip"})
    assert_same_bytes(clip.FAMILY.to_torch(parts, cfg), before)


def test_the_towers_are_those_of_the_encoders():
    parts = clip.FAMILY.from_torch(random_state(clip, SMALL), SMALL)
    del parts["text"]["unused"]
    frames = np.zeros((1, 2, 30, 30, 3), np.uint8)
    vectors = jax.eval_shape(lambda p: module.bind(CLIPVision, SMALL.vision, p)(frames), parts["clip"])
    hidden = jax.eval_shape(lambda p: module.bind(CLIPText, SMALL.text, p)(np.zeros((1, 9), int)), parts["text"])
    assert (vectors.shape, hidden.shape) == ((1, 2, 10), (1, 9, 8))


def test_a_patch_is_read_row_by_row():
    state = random_state(clip, SMALL)
    kernel = clip.FAMILY.from_torch(state, SMALL)["clip"]["conv1"]["kernel"]
    y, x, colour = 2, 5, 1
    np.testing.assert_array_equal(kernel[(y * 7 + x) * 3 + colour], state["visual.conv1.weight"][:, colour, y, x])


def test_the_mask_is_not_kept():
    before = random_state(clip, SMALL)
    parts = clip.FAMILY.from_torch(before | {"attn_mask": np.zeros((9, 9))}, SMALL)
    assert_same_bytes(clip.FAMILY.to_torch(parts, SMALL), before)


def test_another_size_is_refused_with_every_difference():
    other = dataclasses.replace(SMALL, text=dataclasses.replace(SMALL.text, depth=3, mlp_width=16))
    broken = random_state(clip, SMALL) | {"logit_bias": np.zeros(())}
    del broken["visual.proj"]
    with pytest.raises(ValueError) as error:
        clip.FAMILY.from_torch(broken, other)
    message = str(error.value)
    for line in (
        "missing    transformer.resblocks.2.ln_1.weight (8,)",
        "missing    visual.proj (12, 10)",
        "unused     logit_bias ()",
        "misshapen  transformer.resblocks.0.mlp.c_fc.weight: got (24, 8), expected (16, 8)",
    ):
        assert line in message
