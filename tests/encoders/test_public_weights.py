"""Synchformer and CLIP against the public PyTorch code's outputs, on weights rebuilt from their names.

The references lie outside the repository: in the folder that the environment variable KFJAX_SHARED names, else in
`shared` beside the repository. Where they are absent nothing of this file runs.
"""

import dataclasses
import importlib.util
import json
import os
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.convert.tables import clip, synchformer
from kfjax.encoders.clip import CLIPText, CLIPVision
from kfjax.encoders.synchformer import Synchformer
from kfjax.nn.module import bind
from tests.reference.states import assert_same_bytes

FIXTURES = Path(os.environ.get("KFJAX_SHARED", Path(__file__).parents[3] / "shared")) / "fixtures"
TOLERANCE = 1e-5  # relative L2
BFLOAT16_TOLERANCE = 3.5e-2


#: Fast, against PyTorch's networks at other sizes: test_transformers_parity.py.
SLOW = {"clip_h14_small", "clip_bigG14_small"}


def references(*names):
    return [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in (FIXTURES / "mmaudio" / f"{name}.npz" for name in names)
        if path.is_file()
    ]


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


def half(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), tree)


@pytest.mark.parametrize("frames", [16, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", references("synchformer"))
def test_synchformer(path, frames):
    """16 frames are the first of the two segments."""
    weights, reference, cfg = public_weights(path), np.load(path), synchformer.CONFIGS["synchformer"]
    parts = synchformer.FAMILY.from_torch(weights, cfg)
    assert_same_bytes(synchformer.FAMILY.to_torch(parts, cfg), weights)
    del parts["sync"]["unused"]
    film = (uniform("input/sync_video", reference["in/sync_video"].shape, -1, 1)[:, :frames] + 1) / 2
    got = bind(Synchformer, cfg, parts["sync"])(film.transpose(0, 1, 3, 4, 2))
    assert distance(got, reference["out/features_25_frames"][:, : len(got[0])]) < TOLERANCE
    assert len(got[0]) == 8 * (frames // 8 - 1)


@pytest.mark.parametrize("path", references("clip_h14_small", "clip_bigG14_small"))
def test_clip(path):
    weights, reference = public_weights(path), np.load(path)
    cfg = shallow(path)
    parts = clip.FAMILY.from_torch(weights, cfg)
    assert_same_bytes(clip.FAMILY.to_torch(parts, cfg), weights)
    del parts["text"]["unused"]

    frames = uniform(f"input/{path.stem}/image", reference["in/image"].shape, 0, 1).transpose(0, 1, 3, 4, 2)
    vectors = bind(CLIPVision, cfg.vision, parts["clip"])(frames)
    assert distance(vectors, reference["out/image"]) < TOLERANCE
    lower = bind(CLIPVision, cfg.vision, half(parts["clip"]))(frames)
    assert distance(lower.astype(np.float32), reference["out/image"]) < BFLOAT16_TOLERANCE

    ids = reference["in/tokens"].astype(np.int32)
    hidden = bind(CLIPText, cfg.text, parts["text"])(ids)
    assert distance(hidden, reference["out/text"]) < TOLERANCE
    longer = bind(CLIPText, dataclasses.replace(cfg.text, normalize=False), parts["text"])(ids)
    assert distance(longer, reference["out/text_unnormalized"]) < TOLERANCE
    lower = bind(CLIPText, cfg.text, half(parts["text"]))(ids)
    assert distance(lower.astype(np.float32), reference["out/text"]) < BFLOAT16_TOLERANCE


def shallow(path):
    """The published sizes with the two layers a tower that the reference was made with."""
    name = "dfn5b-vit-h-14-384" if "h14" in path.stem else "metaclip-vit-bigG-14-quickgelu"
    cfg = clip.CONFIGS[name]
    used = json.loads(str(np.load(path)["__meta__"]))["used_config"]
    return clip.CLIPConfig(
        vision=dataclasses.replace(cfg.vision, depth=used["vision_cfg"]["layers"]),
        text=dataclasses.replace(cfg.text, depth=used["text_cfg"]["layers"]),
    )
