"""Synchformer as a judge: what it takes with the public weights, and that it answers what the network says."""

import jax
import numpy as np
import pytest

from kfjax.convert import families
from kfjax.convert.formats import files
from kfjax.convert.tables import synchformer_whole
from kfjax.encoders.synchformer import SynchformerConfig
from kfjax.evals.networks import desync
from kfjax.evals.networks.base import Unavailable
from kfjax.evals.networks.synchrony import desync_seconds
from kfjax.listeners.ast import SpectrogramTransformerConfig
from kfjax.listeners.sync_scorer import SyncScorerConfig
from kfjax.media import FrameSpec

SMALL = SyncScorerConfig(
    visual=SynchformerConfig(size=16, width=12, depth=1, heads=3, mlp_ratio=2),
    audio=SpectrogramTransformerConfig(width=12, depth=1, heads=3, mlp_ratio=2, bands=28),
    width=8, depth=1, heads=2, segments=2, classes=5,
)  # fmt: skip


def test_the_public_network_judges_excerpts_of_4_8_seconds():
    judge = desync.SynchformerJudge(SyncScorerConfig(), {})
    assert (judge.sample_rate_hz, judge.frame_spec) == (16000, FrameSpec(25, 224, "crop"))
    assert (judge.seconds, judge.step_seconds) == pytest.approx((4.8, 0.32))


def published(folder, likeliest=None):
    """The public file of a small network; one that always says the same class where one is given."""
    rng = np.random.default_rng(0)
    layout = families.named("synchformer-whole").layout("synchformer")
    state = {key: (0.3 * rng.standard_normal(shape) + 0.1).astype(np.float32) for key, shape in layout.items()}
    if likeliest is not None:
        state["transformer.off_head.bias"][likeliest] = 1e3
    files.write_state(folder / "synchformer_state_dict.pth", state)
    return folder


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(synchformer_whole.CONFIGS, "synchformer", SMALL)


def test_the_file_fits_the_network(small, tmp_path):
    judge = desync.load(published(tmp_path))
    excerpts = np.zeros((2, 24, 16, 16, 3), np.uint8), np.zeros((2, 24 * 640), np.float32)
    assert jax.eval_shape(judge._judge, judge._params, *excerpts).shape == (2, 5)


def test_the_likeliest_class_is_the_offset(small, tmp_path):
    judge = desync.load(published(tmp_path))
    judge._judge = lambda params, frames, waves: np.eye(5, dtype=np.float32)[[0, 2, 3]]
    np.testing.assert_array_equal(judge.offset_seconds(None, None), [-2.0, 0.0, 1.0])


@pytest.mark.slow
def test_both_windows_of_a_clip_are_judged(small, tmp_path):
    judge = desync.load(published(tmp_path))
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    wave = rng.uniform(-1, 1, 40 * 640).astype(np.float32)
    # Of 1.6 s: 0 to 0.96 and 0.64 to 1.6.
    windows = [(frames[a : a + 24], wave[a * 640 : (a + 24) * 640]) for a in (0, 16)]
    offsets = judge.offset_seconds(*(np.stack(x) for x in zip(*windows, strict=True)))
    assert set(offsets.tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert desync_seconds(judge, frames, wave) == pytest.approx(np.abs(offsets).mean())


@pytest.mark.slow
@pytest.mark.parametrize("likeliest, seconds", [(0, -2.0), (2, 0.0), (4, 2.0)])
def test_classes_are_seconds(small, tmp_path, likeliest, seconds):
    judge = desync.load(published(tmp_path, likeliest))
    excerpts = np.zeros((2, 24, 16, 16, 3), np.uint8), np.zeros((2, 24 * 640), np.float32)
    np.testing.assert_array_equal(judge.offset_seconds(*excerpts), [seconds, seconds])


def test_another_length_is_refused(small, tmp_path):
    excerpts = np.zeros((1, 32, 16, 16, 3), np.uint8), np.zeros((1, 15360), np.float32)
    with pytest.raises(ValueError, match="2 segments"):
        desync.load(published(tmp_path)).offset_seconds(*excerpts)


def test_missing_weights_are_named_in_one_line(tmp_path):
    with pytest.raises(Unavailable, match=r"expected synchformer_state_dict\.pth; get it from https://github\.com"):
        desync.load(tmp_path)
