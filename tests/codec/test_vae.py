"""The Mel-VAE: lengths, the two latent spaces, locality, sizes."""

import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kfjax.codec import vae as vae_module
from kfjax.codec.vae import MelVAE, MPConv, VAEConfig, convolve
from kfjax.convert.tables.vae import CONFIGS, FAMILY
from kfjax.nn import module
from tests.reference.states import assert_same_bytes

SMALL = VAEConfig(bands=16, latent_dim=5, width=24, mel_blocks=1, latent_blocks=2)
EDM2 = VAEConfig(variant="edm2", bands=16, latent_dim=5, width=8)
SHARED = Path(os.environ.get("KFJAX_SHARED", Path(__file__).parents[3] / "shared"))
REFERENCE = SHARED / "fixtures/mmaudio/vae_44k.npz"


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def random_params(cfg):
    """Every parameter drawn at random: the zeros of a fresh network would hide what they multiply."""
    leaves, tree = jax.tree.flatten(module.shapes(MelVAE, cfg))
    leaves = [np.float32(0.3) * draw(leaf.shape, i) for i, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(tree, leaves)
    for name in ("mel_std", "latent_std"):
        params[name] = np.exp(params[name])
    return params


@partial(jax.jit, static_argnums=0)
def run(method, params, x):
    """One method of the small network, compiled once for each shape."""
    return getattr(module.bind(MelVAE, SMALL, params), method)(x)


@pytest.fixture(scope="module")
def params():
    return random_params(SMALL)


def test_convolve_is_the_library_convolution():
    x, kernel = draw((2, 9, 3)), draw((5, 3, 4), 1)
    expected = jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    np.testing.assert_allclose(convolve(x, kernel), expected, atol=1e-5)


def test_shapes_and_lengths(params):
    posterior = run("encode", params, draw((2, 20, 16)))
    assert posterior.mean.shape == posterior.std.shape == (2, 10, 5)
    assert (posterior.std > 0).all()
    assert run("decode", params, posterior.mean).shape == (2, 20, 16)


def test_latents_outside_are_normalised(params):
    """encode and decode differ from posterior and decode_raw by the latent statistics alone."""
    mel = draw((2, 20, 16))
    raw, outside = run("posterior", params, mel), run("encode", params, mel)
    mean, std = np.asarray(params["latent_mean"]), np.asarray(params["latent_std"])
    np.testing.assert_allclose(np.asarray(outside.mean) * std + mean, raw.mean, atol=1e-5)
    np.testing.assert_allclose(np.asarray(outside.std) * std, raw.std, rtol=1e-5)
    back, raw_back = run("decode", params, outside.mean), run("decode_raw", params, raw.mean)
    np.testing.assert_allclose(back, raw_back, atol=1e-4)


def test_mel_statistics_standardise_each_band(params):
    """Moving a band together with its statistics leaves the latents alone and moves the output."""
    mel, shift, scale = draw((2, 20, 16)), draw((1, 1, 16), 1), np.exp(draw((1, 1, 16), 2))
    mean, std = params["mel_mean"] * scale[0, 0] + shift[0, 0], params["mel_std"] * scale[0, 0]
    moved = params | {"mel_mean": mean, "mel_std": std}
    latent = run("encode", params, mel).mean
    np.testing.assert_allclose(run("encode", moved, mel * scale + shift).mean, latent, atol=1e-4)
    expected = run("decode", params, latent) * scale + shift
    np.testing.assert_allclose(run("decode", moved, latent), expected, atol=1e-4)


def test_a_frame_depends_on_its_neighbourhood_only(params):
    """The far end of a long excerpt leaves the latents at its beginning alone, so windows can be joined."""
    mel = draw((1, 80, 16))
    whole, part = run("encode", params, mel).mean, run("encode", params, mel[:, :40]).mean
    np.testing.assert_allclose(part[:, :12], whole[:, :12], atol=1e-5)


def test_odd_number_of_frames_is_refused(params):
    with pytest.raises(ValueError, match="got 21 frames, expected an even number"):
        module.bind(MelVAE, SMALL, params).encode(draw((1, 21, 16)))


def test_default_has_the_papers_32_convolutions_a_side():
    flat = module.flatten(module.shapes(MelVAE, VAEConfig()))
    for side in ("encoder", "decoder"):
        kernels = {path: leaf for path, leaf in flat.items() if path.startswith(side) and "/conv" in path}
        shapes = [leaf.shape for path, leaf in kernels.items() if path.endswith("kernel")]
        count = sum(shape[0] if len(shape) == 4 else 1 for shape in shapes)
        assert count + 1 == 32  # the one that changes the rate is a matrix over pairs of frames


@pytest.mark.parametrize("blocks", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_edm2_trains(blocks, monkeypatch):
    """The public code cannot train this network; here every parameter but the statistics receives a gradient.

    With one block a level instead of two or three there are the same kinds of layer.
    """
    if blocks:
        level = vae_module.MPLevel
        monkeypatch.setattr(vae_module, "MPLevel", lambda i, o, depth, rate, **how: level(i, o, blocks, rate, **how))
    params, mel = random_params(EDM2), draw((2, 8, 16))

    def loss(params):
        vae = module.bind(MelVAE, EDM2, params)
        posterior = vae.posterior(mel)
        made = vae.decode_raw(posterior.sample(jax.random.key(0)))
        return jnp.mean(jnp.square(made - mel)), (posterior, made)

    gradient, (posterior, made) = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert posterior.mean.shape == posterior.std.shape == (2, 4, 5)
    assert made.shape == (2, 8, 16)
    found = {path: np.any(g) for path, g in module.flatten(gradient).items() if path.startswith(("enc", "dec"))}
    assert all(found.values()) and len(found) > 30


def test_edm2_convolution_preserves_magnitude():
    """Unit variance stays unit variance, whatever the scale of the kernel."""
    conv = MPConv(64, 64, 3, rngs=nnx.Rngs(0))
    conv.kernel[...] = 100 * draw((3, 64, 64), 1)
    assert np.std(conv(draw((4, 64, 64)))) == pytest.approx(1, abs=0.05)


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.exists(), reason="reference outputs are not at hand")
def test_edm2_equals_the_public_vae(monkeypatch):
    monkeypatch.syspath_prepend(REFERENCE.parents[1])
    import keyed_weights

    cfg, reference = CONFIGS["44k"], dict(np.load(REFERENCE))
    weights = keyed_weights.state_dict(REFERENCE)
    weights |= {name: reference[f"const/{name}"] for name in ("data_mean", "data_std")}
    params = FAMILY.from_torch(weights, cfg)["vae"]
    assert_same_bytes(FAMILY.to_torch({"vae": params}, cfg), weights)
    # No statistics of latents: the reference's are the network's own.
    params |= {"latent_mean": np.zeros(40, np.float32), "latent_std": np.ones(40, np.float32)}
    encode = jax.jit(lambda p, mel: module.bind(MelVAE, cfg, p).posterior(mel))
    decode = jax.jit(lambda p, latent: module.bind(MelVAE, cfg, p).decode_raw(latent))
    ours = lambda name: reference[name].transpose(0, 2, 1)
    relative = lambda got, name: np.linalg.norm(got - ours(name)) / np.linalg.norm(ours(name))
    posterior = encode(params, ours("in/mel"))
    assert relative(posterior.mean, "out/mean") < 1e-5
    assert relative(posterior.std, "out/std") < 1e-5
    latent = posterior.mean + posterior.std * ours("in/eps")
    assert relative(decode(params, ours("out/mean")), "out/decoded") < 1e-5
    assert relative(latent, "out/sample_with_eps") < 1e-5
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    lower = decode(half, jnp.asarray(ours("out/mean"), jnp.bfloat16))
    assert lower.dtype == jnp.bfloat16
    assert relative(lower.astype(jnp.float32), "out/decoded") < 3.5e-2
