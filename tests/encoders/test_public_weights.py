"""Synchformer and CLIP against the public PyTorch code's outputs, on weights rebuilt from their names.

The references lie outside the repository: in the folder that the environment variable KFJAX_SHARED names, else in
`shared` beside the repository. Where they are absent nothing of this file runs.
"""

import importlib.util
import json
import os
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from kfjax.encoders.clip import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig, unit
from kfjax.encoders.synchformer import Synchformer, SynchformerConfig
from kfjax.module import bind

FIXTURES = Path(os.environ.get("KFJAX_SHARED", Path(__file__).parents[3] / "shared")) / "fixtures"
TOLERANCE = 1e-5  # relative L2


def references(*names):
    return [path for path in (FIXTURES / "mmaudio" / f"{name}.npz" for name in names) if path.is_file()]


def public_weights(path):
    spec = importlib.util.spec_from_file_location("keyed_weights", FIXTURES / "keyed_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.state_dict(path)


def uniform(name, shape, low, high):
    """The references' exact inputs; the files hold them rounded to float16."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([0, zlib.crc32(name.encode())])))
    return rng.random(shape, np.float32) * np.float32(high - low) + np.float32(low)


def distance(got, want):
    assert got.shape == want.shape
    return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


def dense(w, name):
    return {"kernel": w[f"{name}.weight"].T, "bias": w[f"{name}.bias"]}


def packed(w, name):
    return {"kernel": w[f"{name}.in_proj_weight"].T, "bias": w[f"{name}.in_proj_bias"]}


def norm(w, name):
    return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}


def layers(tree, depth):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(tree(i) for i in range(depth)))


def synchformer_params(w, depth):
    def block(i):
        at = f"blocks.{i}."
        attentions = {k: {p: dense(w, f"{at}{k}.{p}") for p in ("qkv", "proj")} for k in ("attn", "timeattn")}
        norms = {k: norm(w, at + k) for k in ("norm1", "norm2", "norm3")}
        return {**attentions, **norms, "mlp": {k: dense(w, f"{at}mlp.{k}") for k in ("fc1", "fc2")}}

    agg = "spatial_attn_agg."
    kernel = w["patch_embed_3d.proj.weight"]  # (out, colour, frame, y, x)
    return {
        "cls_token": w["cls_token"][0, 0],
        "pos_embed": w["pos_embed"][0],
        "temp_embed": w["temp_embed"][0],
        "patch_embed": {
            "proj": {
                "kernel": kernel.transpose(2, 3, 4, 1, 0).reshape(-1, kernel.shape[0]),
                "bias": w["patch_embed_3d.proj.bias"],
            }
        },
        "blocks": layers(block, depth),
        "norm": norm(w, "norm"),
        "spatial_attn_agg": {
            "cls_token": w[agg + "cls_token"][0, 0],
            "self_attn": {
                "in_proj": packed(w, agg + "self_attn"),
                "out_proj": dense(w, agg + "self_attn.out_proj"),
            },
            **{k: dense(w, agg + k) for k in ("linear1", "linear2")},
            **{k: norm(w, agg + k) for k in ("norm1", "norm2")},
        },
    }


def clip_blocks(w, prefix, depth):
    def block(i):
        at = f"{prefix}.resblocks.{i}."
        return {
            "ln_1": norm(w, at + "ln_1"),
            "ln_2": norm(w, at + "ln_2"),
            "attn": {"in_proj": packed(w, at + "attn"), "out_proj": dense(w, at + "attn.out_proj")},
            "mlp": {k: dense(w, f"{at}mlp.{k}") for k in ("c_fc", "c_proj")},
        }

    return layers(block, depth)


@pytest.mark.parametrize("path", references("synchformer"), ids=lambda p: p.stem)
def test_synchformer(path):
    weights = {k.removeprefix("vfeat_extractor."): v for k, v in public_weights(path).items()}
    reference, cfg = np.load(path), SynchformerConfig()
    frames = (uniform("input/sync_video", reference["in/sync_video"].shape, -1, 1) + 1) / 2
    got = bind(Synchformer, cfg, synchformer_params(weights, cfg.depth))(frames.transpose(0, 1, 3, 4, 2))
    assert distance(got, reference["out/features_25_frames"]) < TOLERANCE


def clip_vision_distance(w, reference, config, name):
    sizes, shape = config["vision_cfg"], reference["in/image"].shape
    cfg = CLIPVisionConfig(
        size=shape[-1], patch=sizes["patch_size"], width=sizes["width"], depth=sizes["layers"],
        heads=sizes["width"] // sizes["head_width"], out_dim=config["embed_dim"],
        mlp_width=len(w["visual.transformer.resblocks.0.mlp.c_fc.bias"]),
    )  # fmt: skip
    params = {
        "conv1": {"kernel": w["visual.conv1.weight"].transpose(2, 3, 1, 0).reshape(-1, cfg.width)},
        "class_embedding": w["visual.class_embedding"],
        "positional_embedding": w["visual.positional_embedding"],
        "ln_pre": norm(w, "visual.ln_pre"),
        "ln_post": norm(w, "visual.ln_post"),
        "blocks": clip_blocks(w, "visual.transformer", cfg.depth),
        "proj": w["visual.proj"],
    }
    frames = uniform(f"input/{name}/image", shape, 0, 1).transpose(0, 1, 3, 4, 2)
    return distance(bind(CLIPVision, cfg, params)(frames), reference["out/image"])


def clip_text_distances(w, reference, config):
    sizes = config["text_cfg"]
    cfg = CLIPTextConfig(
        vocab=sizes["vocab_size"], length=sizes["context_length"], width=sizes["width"], depth=sizes["layers"],
        heads=sizes["heads"], mlp_width=4 * sizes["width"], normalize=False,
    )  # fmt: skip
    params = {
        "token_embedding": {"embedding": w["token_embedding.weight"]},
        "positional_embedding": w["positional_embedding"],
        "blocks": clip_blocks(w, "transformer", cfg.depth),
        "ln_final": norm(w, "ln_final"),
    }
    hidden = bind(CLIPText, cfg, params)(reference["in/tokens"].astype(np.int32))
    return distance(hidden, reference["out/text_unnormalized"]), distance(unit(hidden), reference["out/text"])


@pytest.mark.parametrize("path", references("clip_h14_small", "clip_bigG14_small"), ids=lambda p: p.stem)
def test_clip(path):
    weights, reference = public_weights(path), np.load(path)
    config = json.loads(str(reference["__meta__"]))["used_config"]
    assert clip_vision_distance(weights, reference, config, path.stem) < TOLERANCE
    assert max(clip_text_distances(weights, reference, config)) < TOLERANCE
