"""The Mel-VAE: lengths, the two latent spaces, locality, sizes."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import module
from kfjax.codec.vae import MelVAE, VAEConfig, convolve

SMALL = VAEConfig(bands=16, latent_dim=5, width=24, mel_blocks=1, latent_blocks=2)


def draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def params():
    """Every parameter drawn at random: the zeros of a fresh network would hide what they multiply."""
    leaves, tree = jax.tree.flatten(module.shapes(MelVAE, SMALL))
    leaves = [draw(leaf.shape, i) * 0.3 for i, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(tree, leaves)
    for name in ("mel_std", "latent_std"):
        params[name] = jnp.exp(params[name])
    return params


def test_convolve_is_the_library_convolution():
    x, kernel = draw((2, 9, 3)), draw((5, 3, 4), 1)
    expected = jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    np.testing.assert_allclose(convolve(x, kernel), expected, atol=1e-5)


def test_shapes_and_lengths(params):
    vae = module.bind(MelVAE, SMALL, params)
    posterior = vae.encode(draw((2, 20, 16)))
    assert posterior.mean.shape == posterior.std.shape == (2, 10, 5)
    assert (posterior.std > 0).all()
    assert vae.decode(posterior.mean).shape == (2, 20, 16)


def test_latents_outside_are_normalised(params):
    """encode and decode differ from posterior and decode_raw by the latent statistics alone."""
    vae, mel = module.bind(MelVAE, SMALL, params), draw((2, 20, 16))
    raw, outside = vae.posterior(mel), vae.encode(mel)
    mean, std = np.asarray(params["latent_mean"]), np.asarray(params["latent_std"])
    np.testing.assert_allclose(np.asarray(outside.mean) * std + mean, raw.mean, atol=1e-5)
    np.testing.assert_allclose(np.asarray(outside.std) * std, raw.std, rtol=1e-5)
    np.testing.assert_allclose(vae.decode(outside.mean), vae.decode_raw(raw.mean), atol=1e-4)


def test_mel_statistics_standardise_each_band(params):
    """Moving a band together with its statistics leaves the latents alone and moves the output."""
    mel, shift, scale = draw((1, 8, 16)), draw((1, 1, 16), 1), jnp.exp(draw((1, 1, 16), 2))
    mean, std = params["mel_mean"] * scale[0, 0] + shift[0, 0], params["mel_std"] * scale[0, 0]
    moved = params | {"mel_mean": mean, "mel_std": std}
    before, after = module.bind(MelVAE, SMALL, params), module.bind(MelVAE, SMALL, moved)
    latent = before.encode(mel).mean
    np.testing.assert_allclose(after.encode(mel * scale + shift).mean, latent, atol=1e-4)
    np.testing.assert_allclose(after.decode(latent), before.decode(latent) * scale + shift, atol=1e-4)


def test_a_frame_depends_on_its_neighbourhood_only(params):
    """The far end of a long excerpt leaves the latents at its beginning alone, so windows can be joined."""
    vae, mel = module.bind(MelVAE, SMALL, params), draw((1, 80, 16))
    whole, part = vae.encode(mel).mean, vae.encode(mel[:, :40]).mean
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
