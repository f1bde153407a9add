"""Cnn14: the published layout, exact round trips, and the same numbers as a PyTorch version."""

import math

import jax
import numpy as np
import pytest

from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables.panns import CONFIGS, FAMILY, part, shapes, table
from kfjax.listeners.panns import Cnn14, Cnn14Config
from kfjax.nn.module import bind, count
from tests.reference.states import assert_same_bytes

#: Sizes that differ wherever they may.
SMALL = Cnn14Config(sample_rate_hz=4000, n_fft=64, hop=20, bands=16, widths=(6, 10, 14), classes=7)
TOLERANCE = 1e-5  # relative L2


def distance(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def random_state(cfg, seed=0):
    """Every tensor away from zero and one; the transform and the filters are true ones, in the file's layout."""
    rng = np.random.default_rng(seed)
    state = {}
    for key, shape in torch_shapes(shapes(cfg), table(cfg)).items():
        scale = 0.5 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        value = scale * rng.standard_normal(shape) + 0.1 * (len(shape) == 1)
        state[key] = (np.abs(value) + 0.5 if key.endswith(("var", "melW")) else value).astype(np.float32)
        if key.endswith("tracked"):
            state[key] = np.array(rng.integers(1, 600_000), np.int64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(cfg.n_fft) / cfg.n_fft)
    turns = np.exp(-2j * np.pi * np.outer(np.arange(cfg.n_fft // 2 + 1), np.arange(cfg.n_fft)) / cfg.n_fft) * window
    state["spectrogram_extractor.stft.conv_real.weight"] = turns.real[:, None].astype(np.float32)
    state["spectrogram_extractor.stft.conv_imag.weight"] = turns.imag[:, None].astype(np.float32)
    return state


def waves(samples=1003, batch=2):
    """Noise and silence at levels from -100 dB up."""
    rng = np.random.default_rng(1)
    levels = 10 ** rng.uniform(-5, 0, (batch, samples // 100 + 1)).repeat(100, axis=1)[:, :samples]
    wave = (levels * rng.standard_normal((batch, samples))).clip(-1, 1)
    wave[:, 300:600] = 0
    return wave.astype(np.float32)


def used(parts, cfg):
    return {name: value for name, value in parts[part(cfg)].items() if name != "unused"}


def test_published_layout():
    """Keys and shapes of Cnn14_mAP=0.431.pth; the authors give 80,753,615 trained parameters."""
    layout = torch_shapes(shapes(CONFIGS["32k"]), table(CONFIGS["32k"]))
    fixed = ("stft", "melW", "running", "tracked")
    assert sum(math.prod(shape) for key, shape in layout.items() if not any(f in key for f in fixed)) == 80_753_615
    assert count(used(shapes(CONFIGS["32k"]), CONFIGS["32k"])) == 81_853_327
    assert len(layout) == 3 + 5 + 6 * (2 + 2 * 5) + 4
    expected = {
        "spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024),
        "logmel_extractor.melW": (513, 64),
        "bn0.running_mean": (64,),
        "bn0.num_batches_tracked": (),
        "conv_block1.conv1.weight": (64, 1, 3, 3),
        "conv_block6.conv2.weight": (2048, 2048, 3, 3),
        "conv_block6.bn2.running_var": (2048,),
        "fc1.weight": (2048, 2048),
        "fc_audioset.weight": (527, 2048),
    }
    assert {key: layout[key] for key in expected} == expected
    at_16k = torch_shapes(shapes(CONFIGS["16k"]), table(CONFIGS["16k"]))
    assert at_16k["spectrogram_extractor.stft.conv_imag.weight"] == (257, 1, 512)
    assert at_16k["logmel_extractor.melW"] == (257, 64)


def test_public_sizes_make_ten_seconds_one_embedding():
    for cfg in CONFIGS.values():
        call = lambda params, wave, cfg=cfg: bind(Cnn14, cfg, params)(wave)
        heard = jax.eval_shape(call, used(shapes(cfg), cfg), np.zeros((2, 10 * cfg.sample_rate_hz), np.float32))
        assert (heard.embedding.shape, heard.logits.shape) == ((2, 2048), (2, 527))


def test_round_trip_is_exact():
    before = random_state(SMALL)
    parts = FAMILY.from_torch(before, SMALL)
    assert jax.tree.map(np.shape, parts) == jax.tree.map(lambda x: x.shape, shapes(SMALL))
    assert_same_bytes(FAMILY.to_torch(parts, SMALL), before)


def test_every_difference_is_named_at_once():
    state = random_state(SMALL)
    del state["fc1.bias"]
    with pytest.raises(ValueError, match=r"(?s)missing    fc1\.bias \(14,\).*unused     fc2\.bias"):
        FAMILY.from_torch(state | {"fc2.bias": np.zeros(3, np.float32)}, SMALL)


@pytest.fixture(scope="module")
def heard():
    params = used(FAMILY.from_torch(random_state(SMALL), SMALL), SMALL)
    apply = jax.jit(lambda params, wave: bind(Cnn14, SMALL, params)(wave))
    return lambda wave: apply(params, wave)


@pytest.mark.parametrize("level", [1, 0], ids=["sound", "silence"])
def test_matches_torch(heard, level):
    torch = pytest.importorskip("torch")
    from tests.reference import panns as torch_panns

    reference = torch_panns.Cnn14(SMALL).eval()
    reference.load_state_dict({key: torch.from_numpy(x) for key, x in random_state(SMALL).items()}, strict=True)
    with torch.no_grad():
        want = reference(torch.from_numpy(level * waves()))
    got = heard(level * waves())
    assert np.count_nonzero(got.embedding) > 3
    assert distance(got.embedding, want[0]) <= TOLERANCE
    assert distance(got.logits, want[1]) <= TOLERANCE


def test_the_spectrogram_is_in_decibels():
    """A full-scale sine fills its bin with (n_fft / 4)²; a filter of 1 over all bins adds the two neighbours."""
    state = random_state(SMALL)
    state["logmel_extractor.melW"] = np.ones_like(state["logmel_extractor.melW"])
    params = used(FAMILY.from_torch(state, SMALL), SMALL)
    sine = np.sin(2 * np.pi * 8 * np.arange(1000) / SMALL.n_fft).astype(np.float32)
    apply = jax.jit(lambda params, wave: bind(Cnn14, SMALL, params).spectrogram(wave))
    sounding, silent = np.asarray(apply(params, np.stack([sine, 0 * sine])))
    np.testing.assert_allclose(sounding[10:-10], 10 * np.log10((SMALL.n_fft / 4) ** 2 * 1.5), atol=1e-3)
    np.testing.assert_allclose(silent, -100, atol=1e-4)


def test_the_shortest_sound_leaves_one_frame():
    call = lambda params, wave: bind(Cnn14, SMALL, params)(wave)
    wave = np.zeros((1, SMALL.least_samples), np.float32)
    assert jax.eval_shape(call, used(shapes(SMALL), SMALL), wave).logits.shape == (1, 7)


def test_too_short_a_sound_is_refused(heard):
    with pytest.raises(ValueError, match="at least 60 samples at 4000 Hz"):
        heard(np.zeros((1, SMALL.least_samples - 1), np.float32))
