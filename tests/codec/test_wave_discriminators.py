"""Discriminators of waveforms against plain PyTorch ones, written from the papers' descriptions."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.codec.wave_discriminators import WaveDiscriminatorConfig, WaveDiscriminators, magnitudes
from kfjax.nn import module

SMALL = WaveDiscriminatorConfig(periods=(3,), resolutions=((64, 10, 48),), width=2)


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def wave(samples=700, batch=2, seed=5):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (batch, samples)).astype(np.float32)


def torch_conv(torch, *args, **settings):
    return torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(*args, **settings))


def torch_period(torch, width):
    """Table 2 of HiFi-GAN's appendix: kernels (5, 1), four strides of (3, 1)."""
    widths = [1, width, 4 * width, 16 * width, 32 * width]
    layers = [torch_conv(torch, i, o, (5, 1), stride=(3, 1), padding=(2, 0)) for i, o in pairwise(widths)]
    layers.append(torch_conv(torch, 32 * width, 32 * width, (5, 1), padding=(2, 0)))
    return torch.nn.ModuleList([*layers, torch_conv(torch, 32 * width, 1, (3, 1), padding=(1, 0))])


def torch_resolution(torch, width):
    """Pictures [bin, frame]: kernels (3, 9), three of them with a stride of 2 along the frames."""
    strides = [(1, 1), (1, 2), (1, 2), (1, 2)]
    inputs = [1, width, width, width]
    layers = [
        torch_conv(torch, i, width, (3, 9), stride=s, padding=(1, 4)) for i, s in zip(inputs, strides, strict=True)
    ]
    layers.append(torch_conv(torch, width, width, (3, 3), padding=(1, 1)))
    return torch.nn.ModuleList([*layers, torch_conv(torch, width, 1, (3, 3), padding=(1, 1))])


def fill(torch, layers, params):
    """Our parameters in PyTorch's layers; `taps` of a picture are (frame, bin) here and (bin, frame) there."""
    ours = [*(params["layers"][i] for i in range(len(layers) - 1)), params["out"]]
    for layer, own in zip(layers, ours, strict=True):
        high, wide = layer.kernel_size
        v = own["v"].reshape(wide, high, *own["v"].shape[1:]).transpose(3, 2, 1, 0)
        with torch.no_grad():
            layer.bias.copy_(torch.from_numpy(own["bias"]))
            layer.parametrizations.weight.original0.copy_(torch.from_numpy(own["g"].reshape(-1, 1, 1, 1)))
            layer.parametrizations.weight.original1.copy_(torch.from_numpy(v.copy()))


def said_by(torch, picture, layers):
    said = []
    for layer in layers[:-1]:
        picture = torch.nn.functional.leaky_relu(layer(picture), 0.1)
        said.append(picture)
    return [*said, layers[-1](picture)]


def assert_close(got, want):
    assert got.shape == want.shape
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@pytest.fixture(scope="module")
def said():
    params = drawn(module.shapes(WaveDiscriminators, SMALL))
    return params, jax.jit(lambda x: module.bind(WaveDiscriminators, SMALL, params)(x))(wave())


def test_periods_are_pytorchs(said):
    torch = pytest.importorskip("torch")
    params, (ours, _) = said
    layers = torch_period(torch, SMALL.width)
    fill(torch, layers, params["periods"][0])
    x = torch.from_numpy(wave())[:, None]
    x = torch.nn.functional.pad(x, (0, 2), mode="reflect").reshape(2, 1, -1, 3)  # 700 = 3 · 234 - 2
    for got, want in zip(ours, said_by(torch, x, layers), strict=True):
        want = want.detach().numpy()  # [b, c, n, period]
        assert_close(got.reshape(2, 3, *got.shape[1:]), want.transpose(0, 3, 2, 1))


def test_resolutions_are_pytorchs(said):
    torch = pytest.importorskip("torch")
    params, (_, ours) = said
    layers = torch_resolution(torch, SMALL.width)
    fill(torch, layers, params["resolutions"][0])
    n_fft, hop, window = SMALL.resolutions[0]
    x = torch.nn.functional.pad(torch.from_numpy(wave()), ((n_fft - hop) // 2,) * 2, mode="reflect")
    spectrum = torch.stft(x, n_fft, hop, window, torch.ones(window), center=False, return_complex=True)
    for got, want in zip(ours, said_by(torch, spectrum.abs()[:, None], layers), strict=True):
        assert_close(np.asarray(got), want.detach().numpy().transpose(0, 3, 2, 1))


def test_full_size_has_the_published_parameters():
    torch = pytest.importorskip("torch")
    shapes = module.shapes(WaveDiscriminators, WaveDiscriminatorConfig())
    with torch.device("meta"):
        period, resolution = torch_period(torch, 32), torch_resolution(torch, 32)
    count = lambda layers: sum(parameter.numel() for parameter in layers.parameters())
    assert [module.count(own) for own in shapes["periods"].values()] == [count(period)] * 5
    assert [module.count(own) for own in shapes["resolutions"].values()] == [count(resolution)] * 3
    assert module.count(shapes) == 5 * count(period) + 3 * count(resolution)


@pytest.mark.parametrize("grid", [(1024, 120, 600), (512, 50, 240), (64, 16, 64)])
def test_magnitudes_of_a_tone_at_a_bin(grid):
    """A sine at bin k has magnitude window / 2 there; frames are as many as hops fit."""
    n_fft, hop, window = grid
    k, samples = n_fft // 8, 4 * n_fft
    tone = np.sin(2 * np.pi * k / n_fft * np.arange(samples)).astype(np.float32)[None]
    got = jax.jit(lambda tone: magnitudes(tone, *grid))(tone)
    assert got.shape == (1, samples // hop, n_fft // 2 + 1)
    middle = got[0, got.shape[1] // 2]
    assert int(np.argmax(middle)) == k
    assert float(middle[k]) == pytest.approx(window / 2, rel=0.05)


def test_silence_has_a_gradient():
    summed = lambda x: jnp.sum(magnitudes(x, *SMALL.resolutions[0]))
    gradient = jax.jit(jax.grad(summed))(np.zeros((1, 100), np.float32))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("values, message", [
    ({"periods": (), "resolutions": ()}, "got no period and no resolution"),
    ({"periods": (1, 2)}, r"periods: got \(1, 2\), expected 2 or more"),
    ({"resolutions": ((512, 50, 600),)}, "n_fft 512, hop 50, window 600; expected 0 < hop <= window <= n_fft"),
])  # fmt: skip
def test_bad_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        WaveDiscriminatorConfig(**values)


def test_a_wave_that_is_too_short_is_named():
    with pytest.raises(ValueError, match="got 20 samples, expected more than 27 for n_fft 64, hop 10"):
        magnitudes(np.zeros((1, 20), np.float32), *SMALL.resolutions[0])
