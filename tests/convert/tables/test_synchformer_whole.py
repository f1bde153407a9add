"""The whole Synchformer: the published layout, exact round trips, and the same numbers as a PyTorch version."""

import math

import jax
import numpy as np
import pytest

from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables import synchformer_whole
from kfjax.convert.tables.synchformer_whole import CONFIGS, FAMILY, shapes, table
from kfjax.encoders.synchformer import SynchformerConfig
from kfjax.listeners.ast import SpectrogramTransformerConfig
from kfjax.listeners.sync_scorer import SyncScorer, SyncScorerConfig, offset_seconds
from kfjax.nn.module import bind
from tests.reference.states import assert_same_bytes

#: The public model's parts at sizes that differ wherever they may.
SMALL = SyncScorerConfig(
    visual=SynchformerConfig(size=32, width=24, depth=2, heads=3, mlp_ratio=2),
    audio=SpectrogramTransformerConfig(width=20, depth=2, heads=2, mlp_ratio=3, bands=38),
    width=28, depth=2, heads=4, mlp_ratio=2, segments=3, classes=5,
)  # fmt: skip
#: Parameters of each part of the published file, the layer that nobody calls included.
COUNTS = {
    "vfeat_extractor": 122_440_704,
    "afeat_extractor": 92_400_384,
    "vproj": 590_592,
    "aproj": 590_592,
    "transformer": 21_437_973,
}
TOLERANCE = 1e-5  # relative L2


def distance(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def random_state(cfg):
    """Every tensor away from zero and one, so that no branch can be wrong unnoticed; matrices keep their scale."""
    rng = np.random.default_rng(0)
    layout = torch_shapes(shapes(cfg), table(cfg))
    scale = lambda shape: 0.5 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
    return {
        key: (scale(shape) * rng.standard_normal(shape) + 0.1 * (len(shape) == 1)).astype(np.float32)
        for key, shape in layout.items()
    }


def inputs(cfg, segments, batch=2):
    """Frames of noise, and a wave with clicks, tones and silence at levels from -100 dB up."""
    rng = np.random.default_rng(1)
    frames = cfg.visual.frames + (segments - 1) * cfg.visual.segment_step
    samples = cfg.audio.segment_samples + (segments - 1) * cfg.audio.segment_step
    levels = 10 ** rng.uniform(-5, 0, (batch, samples // 800 + 1)).repeat(800, axis=1)[:, :samples]
    wave = (levels * rng.standard_normal((batch, samples))).clip(-1, 1)
    wave[:, 3000:5000] = 0
    picture = rng.integers(0, 256, (batch, frames, cfg.visual.size, cfg.visual.size, 3), np.uint8)
    return picture, wave.astype(np.float32)


def test_published_layout():
    cfg = CONFIGS["synchformer"]
    layout = torch_shapes(shapes(cfg), table(cfg))
    parts = {
        part: sum(math.prod(shape) for key, shape in layout.items() if key.split(".")[0] == part) for part in COUNTS
    }
    assert parts == COUNTS
    assert sum(math.prod(shape) for shape in layout.values()) == 237_460_245
    assert len(layout) == 513
    expected = {
        "vfeat_extractor.patch_embed_3d.proj.weight": (768, 3, 2, 16, 16),
        "vfeat_extractor.patch_embed.proj.weight": (768, 3, 16, 16),
        "vfeat_extractor.blocks.11.timeattn.qkv.weight": (2304, 768),
        "vfeat_extractor.spatial_attn_agg.self_attn.in_proj_weight": (2304, 768),
        "afeat_extractor.ast.embeddings.position_embeddings": (1, 74, 768),
        "afeat_extractor.ast.embeddings.patch_embeddings.projection.weight": (768, 1, 16, 16),
        "afeat_extractor.ast.encoder.layer.11.attention.attention.query.weight": (768, 768),
        "afeat_extractor.ast.encoder.layer.0.intermediate.dense.weight": (3072, 768),
        "afeat_extractor.freq_attn_agg.cls_token": (1, 1, 768),
        "transformer.pos_emb_cfg.pos_emb": (1, 198, 768),
        "transformer.OFF_tok": (1, 1, 768),
        "transformer.blocks.2.mlp.2.weight": (768, 3072),
        "transformer.off_head.weight": (21, 768),
    }
    assert {key: layout[key] for key in expected} == expected


def test_round_trip_is_exact():
    before = random_state(SMALL)
    parts = FAMILY.from_torch(before, SMALL)
    assert jax.tree.map(np.shape, parts) == jax.tree.map(lambda x: x.shape, shapes(SMALL))
    assert_same_bytes(FAMILY.to_torch(parts, SMALL), before)


def test_a_file_without_the_sound_is_refused_by_name():
    state = {key: value for key, value in random_state(SMALL).items() if not key.startswith("afeat_extractor")}
    with pytest.raises(ValueError, match=r"missing    afeat_extractor\.ast\.embeddings\.cls_token \(1, 1, 20\)"):
        FAMILY.from_torch(state, SMALL)


@pytest.fixture(scope="module")
def reference():
    """The PyTorch version, holding the random weights under a strict load."""
    torch = pytest.importorskip("torch")
    from tests.reference.synchformer import Synchformer

    model = Synchformer(SMALL).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in random_state(SMALL).items()}, strict=True)
    return lambda call, *arrays: call(model, *map(torch.from_numpy, arrays)).detach().numpy()


@pytest.fixture(scope="module")
def judge():
    params = synchformer_whole.judge(FAMILY.from_torch(random_state(SMALL), SMALL))
    # One compilation a method, as a program would have it.
    return lambda method, *arrays: jax.jit(lambda params, *a: method(bind(SyncScorer, SMALL, params), *a))(
        params, *arrays
    )


def test_sound_matches_torch(reference, judge):
    _, wave = inputs(SMALL, segments=2)
    want = reference(lambda model, wave: model.afeat_extractor(wave).flatten(1, 2), wave)
    assert distance(judge(lambda model, wave: model.audio(wave), wave), want) <= TOLERANCE


def test_silence_matches_torch(reference, judge):
    """All patches of silence are alike: only positions tell them apart."""
    wave = np.zeros((1, SMALL.audio.segment_samples), np.float32)
    want = reference(lambda model, wave: model.afeat_extractor(wave).flatten(1, 2), wave)
    assert distance(judge(lambda model, wave: model.audio(wave), wave), want) <= TOLERANCE


def test_logits_match_torch(reference, judge):
    picture, wave = inputs(SMALL, segments=SMALL.segments)
    want = reference(lambda model, *a: model(*a), picture, wave)
    got = judge(lambda model, *a: model(*a), picture, wave)
    assert distance(got, want) <= TOLERANCE
    np.testing.assert_allclose(offset_seconds(got), np.linspace(-2, 2, SMALL.classes)[want.argmax(-1)])


def test_comparison_matches_torch_where_epsilons_show(reference, judge):
    """Tokens hardly above zero: a norm with another epsilon gives another answer."""
    rng = np.random.default_rng(2)
    make = lambda tokens, width: (1e-3 * rng.standard_normal((2, tokens, width))).astype(np.float32)
    tokens = make(SMALL.visual_tokens, 28), make(SMALL.audio_tokens, 28)
    want = reference(lambda model, *a: model.transformer(*a), *tokens)
    assert distance(judge(lambda model, *a: model.transformer(*a), *tokens), want) <= TOLERANCE
