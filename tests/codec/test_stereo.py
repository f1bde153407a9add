import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.codec.mel import MelConfig, log_mel
from kfjax.codec.stereo import Mono2Stereo, StereoConfig, at_mel_times, from_bytes, join, pan, split, to_bytes
from kfjax.nn import module
from kfjax.train.tasks.stereo_step import stereo_loss

CFG = StereoConfig(bands=20, width=16, depth=2, clip_dim=6)
MEL = MelConfig(sample_rate_hz=16000, n_fft=512, hop=128, bands=20, fmax_hz=8000.0)


@pytest.fixture(scope="module")
def params():
    return jax.device_get(jax.jit(lambda: module.init(Mono2Stereo, CFG, jax.random.key(0)))())


@pytest.fixture(scope="module")
def trained(params):
    """As after training: every parameter moved off its initial value."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + np.float32(0.1) * rng.standard_normal(x.shape, dtype=np.float32), params)


def inputs(seed: int = 0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    return normal(2, 30, 20) - 5, normal(2, 4, 6)


@jax.jit
def levels(params, mel, clip):
    """Level ratios of two mels; of the second the picture is not seen."""
    return module.bind(Mono2Stereo, CFG, params)(mel, clip, jnp.array([True, False]))


ears = jax.jit(split)


@jax.jit
def loss_of(params, mel, left, right, clip):
    return stereo_loss(params, CFG, mel, join(left, right)[1], clip, jnp.array([True, True]))


def test_untrained_is_exact_mono(params):
    mel, clip = inputs()
    r = levels(params, mel, clip)
    assert (r == 0).all()
    left, right = ears(mel, r)
    np.testing.assert_allclose(left, mel, atol=1e-6)
    np.testing.assert_allclose(right, mel, atol=1e-6)


def test_masked_video_does_not_matter(trained):
    mel, clip = inputs()
    a, b = np.asarray(levels(trained, mel, clip)), np.asarray(levels(trained, mel, clip + 1))
    np.testing.assert_array_equal(a[1], b[1])
    assert np.abs(a[0] - b[0]).max() > 1e-3


def test_mean_of_the_ears_is_the_mono():
    mel, _ = inputs()
    left, right = ears(mel, 3 * np.sin(np.arange(mel.size, dtype=np.float32)).reshape(mel.shape))
    np.testing.assert_allclose(0.5 * (np.exp(left) + np.exp(right)), np.exp(mel), rtol=1e-5)


def test_pan_keeps_the_mono_and_moves_the_level():
    wave = np.float32(0.1) * np.random.default_rng(0).standard_normal((2, 30 * 128), dtype=np.float32)
    r = np.stack([np.zeros((30, 20), np.float32), np.full((30, 20), 1.5, np.float32)])
    both = np.asarray(jax.jit(lambda wave, r: pan(wave, r, MEL))(wave, r))
    np.testing.assert_allclose(both.mean(-1), wave, atol=1e-6)
    assert (both[0, :, 0] == both[0, :, 1]).all()
    level = np.sqrt(np.mean(both[1] ** 2, 0))
    np.testing.assert_allclose(np.log(level[0] / level[1]), 1.5, atol=1e-3)


def test_features_are_read_at_true_times():
    x = np.arange(8, dtype=np.float32)[None, :, None]  # frame k at k / 8 s
    read = at_mel_times(x, 86, CFG)[0, :, 0]
    seconds = (np.arange(86) + 0.5) * 512 / 44100
    np.testing.assert_allclose(read, np.minimum(8 * seconds, 7), atol=1e-5)
    assert at_mel_times(x[:, :1], 5, CFG).shape == (1, 5, 1)


def test_loss_counts_the_bins_with_energy(params):
    mel, clip = inputs()
    mel[:, 15:] = -11.5
    left, right = map(np.asarray, ears(mel, np.zeros_like(mel)))
    loss = lambda right: loss_of(params, mel, left, right, clip)
    early = np.arange(mel.shape[1])[None, :, None] < 15
    assert loss(right) < 1e-6
    loud, quiet = loss(right - early), loss(right - ~early)
    assert loud > 10 * quiet > 0


def test_learns_where_the_source_stands(params):
    mel, clip = inputs()
    place = clip[:, :1, :1]
    left, right = ears(mel, np.broadcast_to(place, mel.shape))
    clip = np.broadcast_to(clip[:, :1], clip.shape)

    @jax.jit
    def descend(params):
        loss, gradient = jax.value_and_grad(loss_of)(params, mel, left, right, clip)
        return loss, jax.tree.map(lambda x, y: x - 0.05 * y, params, gradient)

    first, p = None, params
    for _ in range(60):
        loss, p = descend(p)
        first = loss if first is None else first
    assert loss < 0.5 * first


def test_join_is_split_backwards():
    mel, _ = inputs()
    r = np.linspace(-3, 3, mel.size, dtype=np.float32).reshape(mel.shape)
    mono, ratio = join(*split(jnp.asarray(mel), jnp.asarray(r)))
    np.testing.assert_allclose(mono, mel, atol=1e-5)
    np.testing.assert_allclose(ratio, r, atol=1e-5)
    assert float(join(mel + 9, mel)[1].max()) == 4.0


@pytest.mark.parametrize("cfg", [MelConfig(), MEL])
def test_a_byte_holds_every_mel_there_is(cfg):
    """Silence, full-scale noise, a square wave and a click."""
    rng, t = np.random.default_rng(0), np.arange(8 * cfg.n_fft)
    waves = [0 * t, rng.choice([-1.0, 1.0], t.shape), np.sign(np.sin(t * 0.3)), t == 4000, np.sin(t * 0.05)]
    mel = np.asarray(log_mel(np.stack(waves).astype(np.float32), cfg))
    ratio = np.clip(mel - mel[::-1], -4, 4)
    levels, ratios = to_bytes(mel, ratio, cfg)
    assert (levels.dtype, ratios.dtype) == (np.uint8, np.int8) and int(levels.min()) == 0 and int(levels.max()) < 255
    got, got_ratio = from_bytes(levels, ratios, cfg)
    np.testing.assert_allclose(got, mel, atol=0.034)
    np.testing.assert_allclose(got_ratio, ratio, atol=0.016)
