import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import module
from kfjax.codec import audio_codec
from kfjax.codec.audio_codec import CodecConfig
from kfjax.codec.mel import MelConfig
from kfjax.codec.stereo import StereoConfig
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.codec.vocoder import Vocoder, VocoderConfig

CFG = CodecConfig(
    mel=MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=20, fmax_hz=8000.0),
    vae=VAEConfig(bands=20, latent_dim=8, width=16, mel_blocks=1, latent_blocks=1),
    stereo=StereoConfig(bands=20, width=16, depth=1, clip_dim=6, mel_hz=125.0),
    vocoder=VocoderConfig(bands=20, width=16, hidden=32, depth=1, n_fft=512, hop=128, sample_rate_hz=16000, rounds=1),
)
CLIP, SEEN = jnp.ones((2, 4, 6)), jnp.array([True, False])


@pytest.fixture(scope="module")
def params():
    return audio_codec.init(CFG, jax.random.key(0))


@pytest.fixture(scope="module")
def placed(params):
    """Parameters whose stereo part says something."""
    out = {"kernel": params["stereo"]["out"]["kernel"] + 0.1, "bias": params["stereo"]["out"]["bias"] + 0.3}
    return params | {"stereo": params["stereo"] | {"out": out}}


def latents(n: int = 8) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (2, n, 8))


def mono(params, x):
    mel = module.bind(MelVAE, CFG.vae, params["vae"]).decode(x)
    return module.bind(Vocoder, CFG.vocoder, params["vocoder"])(mel)


@pytest.mark.parametrize("coherent", [True, False])
def test_lengths_there_and_back(params, coherent):
    wave = audio_codec.decode(params, CFG, latents(), CLIP, SEEN, coherent=coherent)
    assert wave.shape == (2, 8 * 2 * 128, 2)
    posterior = audio_codec.encode(params, CFG, wave.mean(-1))
    assert posterior.mean.shape == posterior.std.shape == (2, 8, 8)


@pytest.mark.parametrize("coherent", [True, False])
def test_untrained_stereo_is_exact_mono(params, coherent):
    wave = audio_codec.decode(params, CFG, latents(), CLIP, SEEN, coherent=coherent)
    scale = jnp.abs(wave).max()
    np.testing.assert_allclose(wave[..., 0] / scale, wave[..., 1] / scale, atol=0 if coherent else 1e-4)


def test_coherent_mode_folds_down_to_the_mono(placed):
    wave = audio_codec.decode(placed, CFG, latents(), CLIP, SEEN)
    expected = mono(placed, latents())
    scale = jnp.abs(expected).max()
    np.testing.assert_allclose(wave.mean(-1) / scale, expected / scale, atol=1e-5)
    assert jnp.abs(wave[..., 0] - wave[..., 1]).max() > 0.01 * scale


def test_one_trace_per_length(params):
    traces = []

    @jax.jit
    def decode(p, x):
        traces.append(x.shape)
        return audio_codec.decode(p, CFG, x, CLIP, SEEN)

    for n in (4, 8, 4, 8):
        decode(params, latents(n))
    assert len(traces) == 2


def test_shapes_agree_with_init(params):
    want = jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), audio_codec.shapes(CFG)) == want


def test_parts_that_disagree_are_named_together():
    with pytest.raises(ValueError, match=r"vae\.bands: got 21, expected 20.*vocoder\.hop: got 64, expected 128"):
        dataclasses.replace(CFG, vae=VAEConfig(bands=21), vocoder=dataclasses.replace(CFG.vocoder, hop=64))
