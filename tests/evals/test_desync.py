"""Synchformer as a judge: what it takes with the public weights, and that it answers what the network says."""
import jax
import numpy as np
import pytest

from kfjax.convert import families, files, synchformer_whole
from kfjax.encoders import sync_judge
from kfjax.encoders.spectrogram_transformer import SpectrogramTransformerConfig
from kfjax.encoders.sync_judge import SyncJudge, SyncJudgeConfig
from kfjax.encoders.synchformer import SynchformerConfig
from kfjax.evals import desync
from kfjax.evals.networks import Unavailable
from kfjax.evals.synchrony import desync_seconds
from kfjax.module import bind

SMALL = SyncJudgeConfig(
    visual=SynchformerConfig(size=16, width=12, depth=1, heads=3, mlp_ratio=2),
    audio=SpectrogramTransformerConfig(width=12, depth=1, heads=3, mlp_ratio=2, bands=28),
    width=8, depth=1, heads=2, segments=2, classes=5,
)  # fmt: skip


def test_the_public_network_judges_excerpts_of_4_8_seconds():
    judge = desync.Synchformer(SyncJudgeConfig(), {})
    assert (judge.sample_rate_hz, *judge.frame_spec) == (16000, 25, 224, "crop")
    assert (judge.seconds, judge.step_seconds) == pytest.approx((4.8, 0.32))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setitem(synchformer_whole.CONFIGS, "synchformer", SMALL)
    rng = np.random.default_rng(0)
    layout = families.named("synchformer-whole").layout("synchformer")
    state = {key: (0.3 * rng.standard_normal(shape) + 0.1).astype(np.float32) for key, shape in layout.items()}
    files.write_state(tmp_path / "synchformer_state_dict.pth", state)
    return tmp_path


def test_answers_are_the_network_s(folder):
    judge = desync.load(folder)
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (1, 40, 16, 16, 3), np.uint8)
    wave = rng.uniform(-1, 1, (1, 40 * 640)).astype(np.float32)
    # Of 1.6 s: 0 to 0.96 and 0.64 to 1.6.
    windows = [(frames[0, a : a + 24], wave[0, a * 640 : (a + 24) * 640]) for a in (0, 16)]
    excerpts = [np.stack(x) for x in zip(*windows, strict=True)]
    params = families.named("synchformer-whole").from_torch(
        files.read_state(folder / "synchformer_state_dict.pth"), SMALL
    )["judge"]
    logits = jax.jit(lambda params, *a: bind(SyncJudge, SMALL, params)(*a))(params, *excerpts)
    want = np.asarray(sync_judge.offset_seconds(logits))
    np.testing.assert_allclose(judge.offset_seconds(*excerpts), want)
    assert set(want.tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
    assert desync_seconds(judge, frames[0], wave[0]) == pytest.approx(np.abs(want).mean())


def test_another_length_is_refused(folder):
    with pytest.raises(ValueError, match="2 segments"):
        desync.load(folder).offset_seconds(np.zeros((1, 32, 16, 16, 3), np.uint8), np.zeros((1, 15360), np.float32))


def test_missing_weights_are_named_in_one_line(tmp_path):
    with pytest.raises(Unavailable, match=r"expected synchformer_state_dict\.pth; get it from https://github\.com"):
        desync.load(tmp_path)
