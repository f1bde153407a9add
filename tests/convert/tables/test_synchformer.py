"""Synchformer's visual branch: the published sizes, visual and whole files, exact round trips."""

import math

import jax
import ml_dtypes
import numpy as np
import pytest

from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables import synchformer
from kfjax.encoders.synchformer import Synchformer, SynchformerConfig
from kfjax.nn import module
from tests.reference.states import assert_same_bytes, random_state

SMALL = SynchformerConfig(size=12, width=6, depth=2, heads=2, patch=4, frames=8, segment_step=4)


def test_published_layout():
    cfg = synchformer.CONFIGS["synchformer"]
    layout = torch_shapes(synchformer.shapes(cfg), synchformer.table(cfg))
    assert sum(math.prod(shape) for shape in layout.values()) == 122_440_704
    unused = [key for key in layout if ".patch_embed." in key]
    assert sum(math.prod(layout[key]) for key in unused) == 590_592
    expected = {
        "vfeat_extractor.cls_token": (1, 1, 768),
        "vfeat_extractor.pos_embed": (1, 197, 768),
        "vfeat_extractor.temp_embed": (1, 8, 768),
        "vfeat_extractor.patch_embed.proj.weight": (768, 3, 16, 16),
        "vfeat_extractor.patch_embed_3d.proj.weight": (768, 3, 2, 16, 16),
        "vfeat_extractor.blocks.11.timeattn.qkv.weight": (2304, 768),
        "vfeat_extractor.blocks.0.mlp.fc1.weight": (3072, 768),
        "vfeat_extractor.spatial_attn_agg.self_attn.in_proj_weight": (2304, 768),
        "vfeat_extractor.spatial_attn_agg.cls_token": (1, 1, 768),
    }
    assert {key: layout[key] for key in expected} == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip_is_exact(dtype):
    before = random_state(synchformer, SMALL, dtype)
    parts = synchformer.FAMILY.from_torch(before, SMALL)
    assert_same_bytes(synchformer.FAMILY.to_torch(parts, SMALL), before)


def test_the_parameters_are_the_encoders():
    params = synchformer.FAMILY.from_torch(random_state(synchformer, SMALL), SMALL)["sync"]
    del params["unused"]
    frames = np.zeros((2, 12, 12, 12, 3), np.uint8)
    tokens = jax.eval_shape(lambda p: module.bind(Synchformer, SMALL, p)(frames), params)
    assert tokens.shape == (2, 8, 6)


def test_tokens_match_torch():
    torch = pytest.importorskip("torch")
    from tests.reference.synchformer import Visual

    state = {key: value * np.float32(0.3) for key, value in random_state(synchformer, SMALL).items()}
    theirs = Visual(SMALL).eval()
    theirs.load_state_dict(
        {key.removeprefix(synchformer.VISUAL): torch.from_numpy(value) for key, value in state.items()}, strict=True
    )
    frames = np.random.default_rng(1).integers(0, 256, (2, 21, 12, 12, 3), np.uint8)
    with torch.no_grad():
        want = theirs(torch.from_numpy(frames)).flatten(1, 2).numpy()
    params = synchformer.FAMILY.from_torch(state, SMALL)["sync"]
    del params["unused"]
    got = jax.jit(module.bind(Synchformer, SMALL, params))(frames)
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-5


def test_a_tubelet_is_read_frame_by_frame():
    state = random_state(synchformer, SMALL)
    kernel = synchformer.FAMILY.from_torch(state, SMALL)["sync"]["patch_embed"]["proj"]["kernel"]
    frame, y, x, colour = 1, 2, 3, 1
    row = ((frame * 4 + y) * 4 + x) * 3 + colour
    source = state["vfeat_extractor.patch_embed_3d.proj.weight"]
    np.testing.assert_array_equal(kernel[row], source[:, colour, frame, y, x])


def test_a_whole_models_file_gives_its_visual_branch():
    visual = random_state(synchformer, SMALL)
    others = ("afeat_extractor.ast.x", "vproj.weight", "aproj.bias", "transformer.OFF_tok")
    parts = synchformer.FAMILY.from_torch(visual | dict.fromkeys(others, np.zeros(3)), SMALL)
    assert_same_bytes(synchformer.FAMILY.to_torch(parts, SMALL), visual)


def test_one_error_names_everything():
    broken = random_state(synchformer, SMALL)
    broken |= {"vfeat_extractor.head.weight": np.zeros(2), "vfeat_extractor.pos_embed": np.zeros((1, 5, 6))}
    del broken["vfeat_extractor.blocks.1.norm3.bias"]
    with pytest.raises(ValueError) as error:
        synchformer.FAMILY.from_torch(broken, SMALL)
    message = str(error.value)
    assert "missing    vfeat_extractor.blocks.1.norm3.bias (6,)" in message
    assert "unused     vfeat_extractor.head.weight (2,)" in message
    assert "misshapen  vfeat_extractor.pos_embed: got (1, 5, 6), expected (1, 10, 6)" in message


def test_our_own_stem_has_no_public_file():
    with pytest.raises(ValueError, match="expected 'patch'"):
        synchformer.table(SynchformerConfig(stem="conv", size=32, frames=8, segment_step=4))
