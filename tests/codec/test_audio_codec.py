import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from kfjax.codec import audio_codec
from kfjax.codec.audio_codec import CodecConfig
from kfjax.codec.mel import MelConfig
from kfjax.codec.stereo import StereoConfig
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.codec.vocoder import Vocoder, VocoderConfig
from kfjax.nn import module

CFG = CodecConfig(
    mel=MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=20, fmax_hz=8000.0),
    vae=VAEConfig(bands=20, latent_dim=8, width=16, mel_blocks=1, latent_blocks=1),
    stereo=StereoConfig(bands=20, width=16, depth=1, clip_dim=6, mel_hz=125.0),
    vocoder=VocoderConfig(
        bands=20, width=16, hidden=32, depth=1, n_fft=512, hop=128, sample_rate_hz=16000, rounds=1, matches=1
    ),
)
CLIP, SEEN = np.ones((2, 4, 6), np.float32), np.array([True, False])


@pytest.fixture(scope="module")
def params():
    return jax.device_get(jax.jit(lambda: audio_codec.init(CFG, jax.random.key(0)))())


@pytest.fixture(scope="module")
def placed(params):
    """Parameters whose stereo part says something."""
    out = {"kernel": params["stereo"]["out"]["kernel"] + 0.1, "bias": params["stereo"]["out"]["bias"] + 0.3}
    return params | {"stereo": params["stereo"] | {"out": out}}


def latents(n: int = 8) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, n, 8), dtype=np.float32)


@partial(jax.jit, static_argnames="coherent")
def decode(params, x, coherent=True):
    TRACED.append(x.shape)
    return audio_codec.decode(params, CFG, x, CLIP, SEEN, coherent=coherent)


TRACED = []


@jax.jit
def mono(params, x):
    mel = module.bind(MelVAE, CFG.vae, params["vae"]).decode(x)
    return module.bind(Vocoder, CFG.vocoder, params["vocoder"])(mel)


@pytest.mark.parametrize("coherent", [True, False])
def test_lengths_there_and_back(params, coherent):
    wave = decode(params, latents(), coherent=coherent)
    assert wave.shape == (2, 8 * 2 * 128, 2)
    posterior = jax.jit(lambda p, wave: audio_codec.encode(p, CFG, wave.mean(-1)))(params, wave)
    assert posterior.mean.shape == posterior.std.shape == (2, 8, 8)


@pytest.mark.parametrize("coherent", [True, False])
def test_untrained_stereo_is_exact_mono(params, coherent):
    wave = np.asarray(decode(params, latents(), coherent=coherent))
    scale = np.abs(wave).max()
    np.testing.assert_allclose(wave[..., 0] / scale, wave[..., 1] / scale, atol=0 if coherent else 1e-4)


def test_coherent_mode_folds_down_to_the_mono(placed):
    wave, expected = np.asarray(decode(placed, latents())), np.asarray(mono(placed, latents()))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(wave.mean(-1) / scale, expected / scale, atol=1e-5)
    assert np.abs(wave[..., 0] - wave[..., 1]).max() > 0.01 * scale


def test_one_trace_per_length(params):
    TRACED.clear()
    for n in (4, 6, 4, 6):
        decode.eval_shape(params, latents(n))
    assert len(TRACED) == 2


def test_shapes_agree_with_init(params):
    want = jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), audio_codec.shapes(CFG)) == want


def test_parts_that_disagree_are_named_together():
    with pytest.raises(ValueError, match=r"vae\.bands: got 21, expected 20.*vocoder\.hop: got 64, expected 128"):
        dataclasses.replace(CFG, vae=VAEConfig(bands=21), vocoder=dataclasses.replace(CFG.vocoder, hop=64))
