"""MMAudio's VAE: the published sizes, exact round trips, and the statistics that another file holds."""

import dataclasses
import math

import jax
import ml_dtypes
import numpy as np
import pytest

from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.convert.rules import torch_shapes
from kfjax.convert.tables import vae
from kfjax.nn import module
from tests.reference.states import assert_same_bytes, random_state

SMALL = VAEConfig(variant="edm2", bands=6, latent_dim=3, width=4)
#: Parameters of the published networks; the mel's mean and deviation are not among them.
COUNTS = {"16k": 171_657_218, "44k": 305_479_682}


@pytest.mark.parametrize("name", vae.CONFIGS)
def test_published_layout(name):
    cfg = vae.CONFIGS[name]
    layout = torch_shapes(vae.shapes(cfg), vae.table(cfg))
    assert sum(math.prod(shape) for shape in layout.values()) == COUNTS[name] + 2 * cfg.bands
    w = cfg.width
    expected = {
        "data_mean": (1, cfg.bands, 1),
        "data_std": (1, cfg.bands, 1),
        "encoder.learnable_gain": (),
        "encoder.conv_in.weight": (w, cfg.bands, 3),
        "encoder.down.0.downsample.conv2.weight": (w, w, 1),
        "encoder.down.2.block.0.nin_shortcut.weight": (4 * w, 2 * w, 1),
        "encoder.mid.attn_1.qkv.weight": (12 * w, 4 * w, 1),
        "encoder.conv_out.weight": (2 * cfg.latent_dim, 4 * w, 3),
        "decoder.up.1.upsample.conv.weight": (2 * w, 2 * w, 3),
        "decoder.up.0.block.2.conv1.weight": (w, w, 3),
        "decoder.conv_out.weight": (cfg.bands, w, 3),
    }
    assert {key: layout[key] for key in expected} == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_round_trip_is_exact(dtype):
    before = random_state(vae, SMALL, dtype)
    parts = vae.FAMILY.from_torch(before, SMALL)
    assert_same_bytes(vae.FAMILY.to_torch(parts, SMALL), before)
    statistics = {"latent_mean": np.zeros(3), "latent_std": np.ones(3)}
    assert_same_bytes(vae.FAMILY.to_torch({"vae": parts["vae"] | statistics}, SMALL), before)


def test_a_vae_is_complete_with_the_latents_statistics():
    params = vae.FAMILY.from_torch(random_state(vae, SMALL), SMALL)["vae"]
    with pytest.raises(ValueError, match=r"missing \['latent_mean', 'latent_std'\]"):
        module.bind(MelVAE, SMALL, params)
    params |= {"latent_mean": np.zeros(3, np.float32), "latent_std": np.ones(3, np.float32)}
    mel = np.zeros((2, 8, 6), np.float32)
    posterior = jax.eval_shape(lambda p: module.bind(MelVAE, SMALL, p).encode(mel), params)
    assert posterior.mean.shape == (2, 4, 3)


encode = jax.jit(lambda params, mel: module.bind(MelVAE, SMALL, params).posterior(mel))
decode = jax.jit(lambda params, latent: module.bind(MelVAE, SMALL, params).decode_raw(latent))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_encode_and_decode_match_torch(scale):
    """Small kernels and mels expose the norms' epsilons."""
    torch = pytest.importorskip("torch")
    from tests.reference.vae import VAE

    state = random_state(vae, SMALL)
    state |= {key: value * np.float32(scale) for key, value in state.items() if key.endswith(".weight")}
    state["data_std"] = np.abs(state["data_std"]) + np.float32(0.5)
    theirs = VAE(SMALL)
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    latent = {"latent_mean": np.zeros(3, np.float32), "latent_std": np.ones(3, np.float32)}
    params = vae.FAMILY.from_torch(state, SMALL)["vae"] | latent
    mel = np.random.default_rng(1).standard_normal((2, 10, 6), np.float32) * np.float32(scale)
    with torch.no_grad():
        mean, std = (x.numpy().transpose(0, 2, 1) for x in theirs.encode(torch.from_numpy(mel).transpose(1, 2)))
        decoded = theirs.decode(torch.from_numpy(mean).transpose(1, 2)).numpy().transpose(0, 2, 1)
    posterior = encode(params, mel)
    assert distance(posterior.mean, mean) < 1e-5
    assert distance(posterior.std, std) < 1e-5
    assert distance(decode(params, mean), decoded) < 1e-5


def distance(got, want):
    """Relative L2."""
    assert got.shape == want.shape
    return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


def test_another_rate_is_refused_with_every_difference():
    broken = random_state(vae, SMALL) | {"quant_conv.weight": np.zeros((6, 6, 1))}
    del broken["data_std"]
    with pytest.raises(ValueError) as error:
        vae.FAMILY.from_torch(broken, dataclasses.replace(SMALL, bands=5))
    message = str(error.value)
    assert "missing    data_std (1, 5, 1)" in message
    assert "unused     quant_conv.weight (6, 6, 1)" in message
    assert "misshapen  encoder.conv_in.weight: got (4, 6, 3), expected (4, 5, 3)" in message


def test_the_plain_network_has_no_public_file():
    with pytest.raises(ValueError, match="expected 'edm2'"):
        vae.table(VAEConfig())
