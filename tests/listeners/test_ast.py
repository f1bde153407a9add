"""The hearing half of Synchformer: its spectrogram against closed forms, its ViT against transformers' AST."""

import jax
import numpy as np
import pytest

from kfjax import dsp
from kfjax.listeners.ast import (
    SpectrogramTransformer,
    SpectrogramTransformerConfig,
    cut_segments,
    normalized_log_mel,
)
from kfjax.nn.module import bind, shapes

PUBLIC = SpectrogramTransformerConfig()
SMALL = SpectrogramTransformerConfig(width=12, depth=2, heads=3, mlp_ratio=2, bands=38)


def test_public_lengths():
    assert (PUBLIC.rows, PUBLIC.steps) == (12, 6)
    wave = np.zeros((1, 128_000), np.float32)  # 8 s
    assert cut_segments(wave, PUBLIC).shape == (1, 24, 10240)
    assert cut_segments(wave[:, :76_800], PUBLIC).shape == (1, 14, 10240)  # 4.8 s


def test_segments_overlap_by_half():
    wave = np.arange(2 * 16000, dtype=np.float32)[None]
    segments = np.asarray(cut_segments(wave, PUBLIC))
    np.testing.assert_array_equal(segments[0, :, 0], 5120 * np.arange(5))
    np.testing.assert_array_equal(segments[0, 1, :5120], segments[0, 0, 5120:])


@pytest.mark.parametrize("shape", [(1, 10239), (10240,)])
def test_a_short_or_flat_wave_is_refused(shape):
    with pytest.raises(ValueError, match="at least 10240 samples at 16000 Hz"):
        cut_segments(np.zeros(shape, np.float32), PUBLIC)


def test_spectrogram_is_torchaudios():
    torch, torchaudio = pytest.importorskip("torch"), pytest.importorskip("torchaudio")
    segments = np.random.default_rng(0).uniform(-1, 1, (2, 10240)).astype(np.float32)
    mel = torchaudio.transforms.MelSpectrogram(16000, n_fft=1024, win_length=400, hop_length=160, n_mels=128)
    want = torch.log(mel(torch.from_numpy(segments)) + 1e-6).transpose(1, 2).numpy()
    got = np.asarray(normalized_log_mel(segments, PUBLIC))[:, :65] * 2 * PUBLIC.log_std + PUBLIC.log_mean
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_silence_and_padding():
    """65 frames hold the floor's logarithm; the 66th is appended after the logarithm and so reads as log 1."""
    got = np.asarray(normalized_log_mel(np.zeros((1, 10240), np.float32), PUBLIC))
    assert got.shape == (1, 66, 128)
    np.testing.assert_allclose(got[:, :65], (np.log(1e-6) - PUBLIC.log_mean) / (2 * PUBLIC.log_std), rtol=1e-6)
    np.testing.assert_allclose(got[:, 65], -PUBLIC.log_mean / (2 * PUBLIC.log_std), rtol=1e-6)


def test_a_click_appears_when_it_sounds():
    """Sample n is in the frames whose centres, multiples of the hop, lie within half a window."""
    wave = np.zeros((1, 10240), np.float32)
    wave[0, 3210] = 1
    got = np.asarray(normalized_log_mel(wave, PUBLIC))[0, :65].mean(-1)
    floor = (np.log(1e-6) - PUBLIC.log_mean) / (2 * PUBLIC.log_std)
    assert np.flatnonzero(got > floor + 1e-3).tolist() == [19, 20, 21]


def test_a_tone_is_loudest_in_its_band():
    wave = np.sin(2 * np.pi * 1000 * np.arange(10240) / 16000, dtype=np.float32)[None]
    got = np.asarray(normalized_log_mel(wave, PUBLIC))[0, 32]
    assert got.argmax() == dsp.mel_filters(128, 1024, 16000, scale="htk")[64].argmax()  # bin 64 of 15.625 Hz


def ast_params(w, cfg):
    """Parameters from transformers' names; the last layer, which its AST does not have, is not called."""

    def dense(name):
        return {"kernel": w[f"{name}.weight"].T, "bias": w[f"{name}.bias"]}

    def norm(name):
        return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}

    def block(at):
        projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
        return {
            **{ours: dense(f"{at}.attention.{theirs}") for ours, theirs in projections.items()},
            **{name: dense(f"{at}.mlp.{name}") for name in ("fc1", "fc2")},
            "norm1": norm(f"{at}.layernorm_before"),
            "norm2": norm(f"{at}.layernorm_after"),
        }

    at, blocks = "embeddings.", [block(f"layers.{i}") for i in range(cfg.depth)]
    patches = at + "patch_embeddings.projection."
    return shapes(SpectrogramTransformer, cfg) | {
        "cls_token": w[at + "cls_token"][0, 0],
        "distillation_token": w[at + "distillation_token"][0, 0],
        "pos_embed": w[at + "position_embeddings"][0],
        "patch_embed": {"kernel": w[patches + "weight"].transpose(2, 3, 1, 0), "bias": w[patches + "bias"]},
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
        "norm": norm("layernorm"),
    }


def test_vit_is_transformers_ast():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers", "5.23")  # its names change
    cfg = SMALL
    torch.manual_seed(0)
    model = transformers.ASTModel(
        transformers.ASTConfig(
            hidden_size=cfg.width, num_hidden_layers=cfg.depth, num_attention_heads=cfg.heads,
            intermediate_size=cfg.mlp_ratio * cfg.width, num_mel_bins=cfg.bands, max_length=cfg.frames,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Hardly anything enters the first norm: another epsilon would show.
            parameter.normal_(0.1, 0.3).mul_(1e-3 if name.startswith("embeddings") else 1)
    spectrogram = np.random.default_rng(0).standard_normal((2, cfg.frames, cfg.bands)).astype(np.float32)
    want = model(torch.from_numpy(spectrogram)).last_hidden_state.detach().numpy()
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    got = np.asarray(bind(SpectrogramTransformer, cfg, ast_params(state, cfg)).hidden(spectrogram))
    assert np.linalg.norm(got - want) / np.linalg.norm(want) <= 1e-5
