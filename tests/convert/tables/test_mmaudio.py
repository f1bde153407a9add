"""MMAudio's layout: the published counts and shapes, exact round trips, statistics set apart."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables.mmaudio import CONFIGS, FAMILY, shapes, table

#: Parameters of the published files, the latents' mean and deviation included.
COUNTS = {
    "small_16k": 157_283_644,
    "small_44k": 157_409_144,
    "medium_44k": 621_805_944,
    "large_44k": 1_030_002_168,
    "large_44k_v2": 1_030_575_608,
}


def shrink(name, **changes):
    sizes = {"width": 32, "heads": 2, "clip_dim": 6, "sync_dim": 5, "text_dim": 7, "hidden_multiple": 16}
    depths = {"joint_depth": 3, "single_depth": 2, "latent_dim": 4, "empty_text_tokens": 9}
    features = {"timestep_features": 8} if CONFIGS[name].timestep_features else {}
    return dataclasses.replace(CONFIGS[name], **sizes | depths | features | changes)


def state(cfg):
    rng = np.random.default_rng(0)
    layout = torch_shapes(shapes(cfg), table(cfg))
    return {key: rng.standard_normal(shape, dtype=np.float32) for key, shape in layout.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_published_layout(name):
    cfg = CONFIGS[name]
    layout = torch_shapes(shapes(cfg), table(cfg))
    assert sum(math.prod(shape) for shape in layout.values()) == COUNTS[name]
    width, last = cfg.width, cfg.joint_depth - 1
    second = 2 if name.endswith("v2") else 1
    expected = {
        "sync_pos_emb": (1, 1, 8, 768),
        "empty_clip_feat": (1, 1024),
        "empty_string_feat": (77, 1024),
        "latent_std": (1, 1, cfg.latent_dim),
        "audio_input_proj.2.w2.weight": (width, cfg.hidden, 7),
        f"text_input_proj.{second}.w1.weight": (cfg.hidden, width),
        "t_embed.mlp.0.weight": (width, width if name.endswith("v2") else 256),
        "joint_blocks.0.latent_block.attn.qkv.weight": (3 * width, width),
        "joint_blocks.0.text_block.linear1.weight": (width, width),
        f"joint_blocks.{last}.clip_block.adaLN_modulation.1.weight": (2 * width, width),
        f"fused_blocks.{cfg.single_depth - 1}.ffn.w3.weight": (cfg.hidden, width, 3),
        "final_layer.conv.weight": (cfg.latent_dim, width, 7),
    }
    assert {key: layout[key] for key in expected} == expected
    assert f"joint_blocks.{last}.clip_block.linear1.weight" not in layout
    if name == "small_16k":
        assert len(layout) == 251


@pytest.mark.parametrize("name, joint_depth", [("small_16k", 3), ("large_44k_v2", 3), ("small_44k", 1)])
def test_round_trip_is_exact(name, joint_depth):
    cfg = shrink(name, joint_depth=joint_depth)
    before = state(cfg)
    parts = FAMILY.from_torch(before, cfg)
    assert jax.tree.map(np.shape, parts) == jax.tree.map(lambda x: x.shape, shapes(cfg))
    np.testing.assert_array_equal(parts["mmdit"]["unused"]["latent"]["std"], before["latent_std"][0, 0])
    after = FAMILY.to_torch(parts, cfg)
    assert {key: value.tobytes() for key, value in after.items()} == {k: v.tobytes() for k, v in before.items()}


def test_old_buffers_are_dropped():
    cfg = shrink("small_16k")
    before = state(cfg)
    FAMILY.from_torch(before | {"latent_rot": np.zeros(3), "t_embed.freqs": np.zeros(4)}, cfg)


def test_another_variant_is_refused_with_every_difference():
    with pytest.raises(ValueError) as error:
        FAMILY.from_torch(state(shrink("large_44k_v2")), shrink("small_16k"))
    message = str(error.value)
    assert "missing    clip_input_proj.1.w1.weight" in message
    assert "unused     clip_input_proj.2.w1.weight" in message
    assert "misshapen  t_embed.mlp.0.weight: got (32, 32), expected (32, 8)" in message
