"""ImageBind's towers: the published layout, exact round trips, and the same numbers as a PyTorch version."""

import math

import jax
import numpy as np
import pytest

from kfjax.convert import directory
from kfjax.convert.formats import files
from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables.imagebind import CONFIGS, FAMILY, shapes, table
from kfjax.listeners.imagebind import (
    ImageBindAudio,
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindVision,
    ImageBindVisionConfig,
)
from kfjax.nn.module import bind
from tests.reference.states import assert_same_bytes

#: Sizes that differ wherever they may.
SMALL = ImageBindConfig(
    vision=ImageBindVisionConfig(width=24, depth=2, heads=3, mlp_ratio=2, out_dim=10, size=28),
    audio=ImageBindAudioConfig(width=20, depth=2, heads=2, mlp_ratio=3, out_dim=10, bands=38, frames=47),
)
TOLERANCE = 1e-5  # relative L2


def distance(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def random_state(cfg):
    """Every tensor away from zero and one, so that no branch can be wrong unnoticed; matrices keep their scale."""
    rng = np.random.default_rng(0)
    layout = torch_shapes(shapes(cfg), table(cfg))
    scale = lambda shape: 0.5 if len(shape) < 2 or shape[:2] == (1, 1) else math.prod(shape[1:]) ** -0.5
    return {
        key: np.asarray(scale(shape) * rng.standard_normal(shape) + 0.1 * (len(shape) == 1), np.float32)
        for key, shape in layout.items()
    }


def test_published_layout():
    layout = torch_shapes(shapes(CONFIGS["huge"]), table(CONFIGS["huge"]))
    of = lambda part: sum(math.prod(shape) for key, shape in layout.items() if f".{part}." in key)
    # The image tower of open_clip's ViT-H-14, 632.08 million, with a second frame's patches; and a ViT-B.
    block = lambda width: 12 * width**2 + 13 * width
    vision = 1280 + 257 * 1280 + 3 * 2 * 14 * 14 * 1280 + 2 * 1280 + 32 * block(1280) + 2 * 1280 + 1280 * 1024
    audio = 768 + 229 * 768 + 16 * 16 * 768 + 2 * 768 + 12 * (block(768) + 2 * 768) + 2 * 768 + 768 * 1024 + 1
    assert (of("vision"), of("audio")) == (vision, audio) == (632_829_440, 86_235_649)
    assert len(layout) == (3 + 2 + 32 * 12 + 3) + (3 + 2 + 12 * 14 + 3 + 1)
    expected = {
        "modality_preprocessors.vision.cls_token": (1, 1, 1280),
        "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (1280, 3, 2, 14, 14),
        "modality_preprocessors.vision.pos_embedding_helper.pos_embed": (1, 257, 1280),
        "modality_preprocessors.audio.rgbt_stem.proj.weight": (768, 1, 16, 16),
        "modality_preprocessors.audio.rgbt_stem.norm_layer.bias": (768,),
        "modality_preprocessors.audio.pos_embedding_helper.pos_embed": (1, 229, 768),
        "modality_trunks.vision.pre_transformer_layer.0.weight": (1280,),
        "modality_trunks.vision.blocks.31.attn.in_proj_weight": (3840, 1280),
        "modality_trunks.vision.blocks.0.mlp.fc2.weight": (1280, 5120),
        "modality_trunks.audio.blocks.11.attn.bias_k": (1, 1, 768),
        "modality_trunks.audio.blocks.0.norm_2.weight": (768,),
        "modality_heads.audio.0.weight": (768,),
        "modality_heads.vision.2.weight": (1024, 1280),
        "modality_postprocessors.audio.1.log_logit_scale": (),
    }
    assert {key: layout[key] for key in expected} == expected


def test_public_sizes_make_one_vector():
    cfg, params = CONFIGS["huge"], shapes(CONFIGS["huge"])["imagebind"]
    see = lambda params, clips: bind(ImageBindVision, cfg.vision, params)(clips)
    assert jax.eval_shape(see, params["vision"], np.zeros((1, 9, 2, 224, 224, 3), np.uint8)).shape == (1, 1024)
    hear = lambda params, mels: bind(ImageBindAudio, cfg.audio, params)(mels)
    assert jax.eval_shape(hear, params["audio"], np.zeros((2, 3, 128, 204), np.float32)).shape == (2, 1024)


def test_round_trip_is_exact():
    before = random_state(SMALL)
    parts = FAMILY.from_torch(before, SMALL)
    assert jax.tree.map(np.shape, parts) == jax.tree.map(lambda x: x.shape, shapes(SMALL))
    assert_same_bytes(FAMILY.to_torch(parts, SMALL), before)


def test_the_other_towers_are_not_read(tmp_path, monkeypatch):
    before = random_state(SMALL)
    others = {
        "modality_preprocessors.text.mask": np.triu(np.full((77, 77), -np.inf, np.float32), 1),
        "modality_preprocessors.text.pos_embed": np.zeros((1, 77, 4), np.float32),
        "modality_trunks.imu.blocks.0.attn.bias_k": np.zeros((1, 1, 4), np.float32),
        "modality_postprocessors.depth.1.log_logit_scale": np.float32(1),
    }
    assert_same_bytes(FAMILY.to_torch(FAMILY.from_torch(before | others, SMALL), SMALL), before)
    monkeypatch.setitem(CONFIGS, "huge", SMALL)
    files.write_state(tmp_path / "imagebind_huge.pth", before | others)
    found, parts = directory.read_parts(tmp_path / "imagebind_huge.pth")
    assert found.family.name == "imagebind"
    assert_same_bytes(found.family.to_torch(parts, SMALL), before)
    with pytest.raises(ValueError, match=r"unused     modality_heads\.smell\.0\.weight"):
        FAMILY.from_torch(before | {"modality_heads.smell.0.weight": np.zeros(3, np.float32)}, SMALL)


@pytest.fixture(scope="module")
def reference():
    """The PyTorch version, holding the random weights under a strict load."""
    torch = pytest.importorskip("torch")
    from tests.reference.imagebind import ImageBind

    model = ImageBind(SMALL).eval()
    model.load_state_dict({key: torch.from_numpy(x) for key, x in random_state(SMALL).items()}, strict=True)
    return lambda call, *arrays: call(model, *map(torch.from_numpy, arrays)).detach().numpy()


def test_pictures_match_torch(reference):
    clips = np.random.default_rng(1).integers(0, 256, (2, 3, 2, 28, 28, 3), np.uint8)
    apply = jax.jit(lambda params, clips: bind(ImageBindVision, SMALL.vision, params)(clips))
    got = apply(FAMILY.from_torch(random_state(SMALL), SMALL)["imagebind"]["vision"], clips)
    want = reference(lambda model, clips: model.vision(clips), clips)
    assert distance(got, want) <= TOLERANCE
    assert (np.linalg.norm(want, axis=-1) < 1).all()  # a mean of vectors of length 1


def test_sound_matches_torch(reference):
    """Loud, quiet and silent clips; the zeros that stand for missing frames too."""
    rng = np.random.default_rng(2)
    mels = (rng.uniform(-16, 8, (2, 3, 1, 1)) + rng.standard_normal((2, 3, 38, 47))).astype(np.float32)
    mels[:, 1, :, 40:], mels[1, 2] = 0, -15.9
    apply = jax.jit(lambda params, mels: bind(ImageBindAudio, SMALL.audio, params)(mels))
    got = apply(FAMILY.from_torch(random_state(SMALL), SMALL)["imagebind"]["audio"], mels)
    assert distance(got, reference(lambda model, mels: model.audio(mels), mels)) <= TOLERANCE


def test_wrong_shapes_are_refused():
    params = shapes(SMALL)["imagebind"]
    see = lambda params, clips: bind(ImageBindVision, SMALL.vision, params)(clips)
    with pytest.raises(ValueError, match=r"expected \[batch, clips, 2, 28, 28, 3\]"):
        jax.eval_shape(see, params["vision"], np.zeros((1, 2, 28, 28, 3), np.uint8))
    hear = lambda params, mels: bind(ImageBindAudio, SMALL.audio, params)(mels)
    with pytest.raises(ValueError, match=r"expected \[batch, clips, 38, 47\]"):
        jax.eval_shape(hear, params["audio"], np.zeros((1, 3, 38, 46), np.float32))
