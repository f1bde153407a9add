import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import module
from kfjax.codec.mel import MelConfig
from kfjax.codec.stereo import Mono2Stereo, StereoConfig, at_mel_times, pan, split
from kfjax.train.tasks.stereo_step import stereo_loss

CFG = StereoConfig(bands=20, width=16, depth=2, clip_dim=6)
MEL = MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=20, fmax_hz=8000.0)


@pytest.fixture(scope="module")
def params():
    return module.init(Mono2Stereo, CFG, jax.random.key(0))


@pytest.fixture(scope="module")
def trained(params):
    """As after training: every parameter moved off its initial value."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def inputs(seed: int = 0):
    a, b = jax.random.split(jax.random.key(seed))
    return jax.random.normal(a, (2, 30, 20)) - 5, jax.random.normal(b, (2, 4, 6))


def test_untrained_is_exact_mono(params):
    mel, clip = inputs()
    r = module.bind(Mono2Stereo, CFG, params)(mel, clip, jnp.array([True, False]))
    assert (r == 0).all()
    left, right = split(mel, r)
    np.testing.assert_allclose(left, mel, atol=1e-6)
    np.testing.assert_allclose(right, mel, atol=1e-6)


def test_masked_video_does_not_matter(trained):
    mel, clip = inputs()
    run = lambda c: module.bind(Mono2Stereo, CFG, trained)(mel, c, jnp.array([True, False]))
    a, b = run(clip), run(clip + 1.0)
    np.testing.assert_array_equal(a[1], b[1])
    assert jnp.abs(a[0] - b[0]).max() > 1e-3


def test_mean_of_the_ears_is_the_mono():
    mel, _ = inputs()
    left, right = split(mel, 3 * jnp.sin(jnp.arange(mel.size, dtype=jnp.float32)).reshape(mel.shape))
    np.testing.assert_allclose(0.5 * (jnp.exp(left) + jnp.exp(right)), jnp.exp(mel), rtol=1e-5)


def test_pan_keeps_the_mono_and_moves_the_level():
    wave = 0.1 * jax.random.normal(jax.random.key(0), (2, 30 * 128))
    r = jnp.stack([jnp.zeros((30, 20)), jnp.full((30, 20), 1.5)])
    both = pan(wave, r, MEL)
    np.testing.assert_allclose(both.mean(-1), wave, atol=1e-6)
    assert (both[0, :, 0] == both[0, :, 1]).all()
    level = jnp.sqrt(jnp.mean(both[1] ** 2, 0))
    np.testing.assert_allclose(jnp.log(level[0] / level[1]), 1.5, atol=1e-3)


def test_features_are_read_at_true_times():
    x = jnp.arange(8, dtype=jnp.float32)[None, :, None]  # frame k at k / 8 s
    read = at_mel_times(x, 86, CFG)[0, :, 0]
    seconds = (np.arange(86) + 0.5) * 512 / 44100
    np.testing.assert_allclose(read, np.minimum(8 * seconds, 7), atol=1e-5)
    assert at_mel_times(x[:, :1], 5, CFG).shape == (1, 5, 1)


def test_loss_counts_the_bins_with_energy(params):
    mel, clip = inputs()
    mel = mel.at[:, 15:].set(-11.5)
    left, right = split(mel, jnp.zeros_like(mel))
    loss = lambda right, left: stereo_loss(params, CFG, mel, left, right, clip, jnp.array([True, True]))
    assert loss(right, left) < 1e-6
    loud = loss(right.at[:, :15].add(-1.0), left)
    quiet = loss(right.at[:, 15:].add(-1.0), left)
    assert loud > 10 * quiet > 0


def test_learns_where_the_source_stands(params):
    mel, clip = inputs()
    place = clip[:, :1, :1]
    left, right = split(mel, jnp.broadcast_to(place, mel.shape))
    clip, seen = jnp.broadcast_to(clip[:, :1], clip.shape), jnp.array([True, True])
    grad = jax.jit(jax.value_and_grad(lambda p: stereo_loss(p, CFG, mel, left, right, clip, seen)))
    first, p = None, params
    for _ in range(60):
        loss, g = grad(p)
        first = loss if first is None else first
        p = jax.tree.map(lambda x, y: x - 0.05 * y, p, g)
    assert loss < 0.5 * first
