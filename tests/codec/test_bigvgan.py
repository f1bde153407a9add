"""BigVGAN against a plain PyTorch version at small size, and against the public code's output at full size.

The latter lies outside the repository: in the folder that the environment variable KFJAX_SHARED names, else in
`shared` beside the repository. Where it is absent that test does not run.
"""

import importlib.util
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.codec.bigvgan import FILTER, AntiAliasedSnake, BigVGAN, BigVGANConfig, sin_squared
from kfjax.convert.tables.bigvgan import CONFIGS, FAMILY
from kfjax.nn import module

FIXTURES = Path(os.environ.get("KFJAX_SHARED", Path(__file__).parents[3] / "shared")) / "fixtures"
TOLERANCE = 1e-5  # relative L2, at small size
SMALL = {
    "clamp": BigVGANConfig(bands=5, width=8, rates=(4,), block_kernels=(3, 7), dilations=(1, 3)),
    "tanh": BigVGANConfig(
        bands=5, width=16, rates=(4, 2), block_kernels=(3,), dilations=(5,), output="tanh", output_bias=True
    ),
}


def distance(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@partial(jax.jit, static_argnums=0)
def vocode(cfg, params, log_mel):
    return module.bind(BigVGAN, cfg, params)(log_mel)


def pair_of(cfg):
    """(configuration, PyTorch network, our parameters): the same random weights in both."""
    torch_bigvgan = pytest.importorskip("tests.reference.bigvgan")
    theirs = torch_bigvgan.TorchBigVGAN(cfg).randomise(0).eval()
    state = {key: value.detach().numpy() for key, value in theirs.state_dict().items()}
    return cfg, theirs, FAMILY.from_torch(state, cfg)["vocoder"]


@pytest.fixture(scope="module", params=SMALL)
def pair(request):
    return pair_of(SMALL[request.param])


@pytest.mark.parametrize("frames", [9, 1])
def test_waveform_is_pytorchs(pair, frames):
    torch = pytest.importorskip("torch")
    cfg, theirs, params = pair
    log_mel = draw(1, 2, frames, cfg.bands)
    with torch.no_grad():
        want = theirs(torch.from_numpy(log_mel.transpose(0, 2, 1).copy()))
        folded = theirs.fold()(torch.from_numpy(log_mel.transpose(0, 2, 1).copy()))
        for layer in theirs.modules():
            layer.folded = None
    got = vocode(cfg, params, log_mel)
    assert got.shape == (2, frames * cfg.hop)
    assert 0.01 < np.abs(got).mean() < 0.9  # neither silent nor saturated, where anything would agree
    assert distance(got, want) < TOLERANCE
    assert distance(folded, want) < TOLERANCE


@pytest.mark.slow  # fast: what comes out, in test_waveform_is_pytorchs
@pytest.mark.parametrize("name, dilations", [("clamp", 1), ("clamp", 2), ("tanh", 1)])
def test_gradients_are_pytorchs(name, dilations):
    """Of every tensor in the public layout: weight norm's parts and the snakes' included."""
    torch = pytest.importorskip("torch")
    cfg, theirs, params = pair_of(replace(SMALL[name], dilations=SMALL[name].dilations[-dilations:]))
    log_mel, target = draw(2, 1, 6, cfg.bands), draw(3, 1, 6 * cfg.hop)
    theirs.zero_grad()
    (theirs(torch.from_numpy(log_mel.transpose(0, 2, 1).copy())) * torch.from_numpy(target)).sum().backward()
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(vocode(cfg, p, log_mel) * target)))
    got = FAMILY.to_torch({"vocoder": gradient(params)}, cfg)
    wrong = {
        key: error
        for key, parameter in theirs.named_parameters()
        if (error := distance(got[key], parameter.grad)) > 1e-4
    }
    assert not wrong


def fresh(cfg):
    return jax.jit(lambda: module.init(BigVGAN, cfg, jax.random.key(0)))()


def test_bfloat16_stays_near():
    cfg = SMALL["tanh"]
    params, log_mel = fresh(cfg), draw(4, 2, 9, cfg.bands)
    half = vocode(cfg, *jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), (params, log_mel)))
    assert half.dtype == jnp.bfloat16
    assert distance(half.astype(np.float32), vocode(cfg, params, log_mel)) < 0.05


def test_a_new_vocoder_neither_dies_nor_explodes():
    cfg = SMALL["clamp"]
    wave = vocode(cfg, fresh(cfg), draw(5, 2, 9, cfg.bands))
    assert 0.01 < np.std(wave) < 1


def test_filter_is_the_kaiser_sinc_design():
    beta = 0.1102 * (2.285 * 5 * np.pi * 4 * 0.3 + 7.95 - 8.7)
    design = np.kaiser(12, beta) * np.sinc(0.5 * (np.arange(12) - 5.5))
    np.testing.assert_allclose(FILTER, design / design.sum(), atol=1e-7)


def test_activation_keeps_what_is_constant():
    """At the ends too: both resamplings hold them, and the filters' gains are one."""
    frequency = np.float32([0.5, 3])
    snake = AntiAliasedSnake(2)
    snake.alpha[...] = np.log(frequency)
    x = np.full((1, 20, 2), 0.7, np.float32)
    np.testing.assert_allclose(jax.jit(snake)(x), x + np.sin(x * frequency) ** 2, rtol=5e-3)


def test_sin_squared():
    for reach, error in ((4, 5e-7), (300, 4e-5)):
        x = np.linspace(-reach, reach, 20_001, dtype=np.float32)
        np.testing.assert_allclose(jax.jit(sin_squared)(x), np.sin(x.astype(float)) ** 2, atol=error)


@pytest.mark.parametrize("change", [{"rates": (4, 3)}, {"width": 10}])
def test_impossible_sizes_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}: got .*, expected .*; change"):
        BigVGANConfig(**{"width": 16, "rates": (4, 2)} | change)


def public_weights(path):
    spec = importlib.util.spec_from_file_location("keyed_weights", FIXTURES / "keyed_weights.py")
    keyed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(keyed)
    return keyed.state_dict(path)


def references():
    return [path for path in [FIXTURES / "mmaudio" / "bigvgan_v2_44k.npz"] if path.is_file()]


@pytest.mark.slow  # at full size; small ones are compared whole above, its first layers below
@pytest.mark.parametrize("path", references(), ids=lambda path: path.stem)
def test_public_vocoder(path):
    reference, cfg = np.load(path), CONFIGS["44k"]
    log_mel = reference["in/mel"].transpose(0, 2, 1)
    params = jax.device_put(FAMILY.from_torch(public_weights(path), cfg)["vocoder"])
    assert distance(vocode(cfg, params, log_mel), reference["out/wav"][:, 0]) < 1e-4


@pytest.mark.parametrize("path", references(), ids=lambda path: path.stem)
def test_first_layers_of_the_public_vocoder(path):
    """Their order of axes is PyTorch's in the file."""
    reference, cfg = np.load(path), CONFIGS["44k"]
    params = jax.device_put(FAMILY.from_torch(public_weights(path), cfg)["vocoder"])
    log_mel = reference["in/mel"].transpose(0, 2, 1)

    @jax.jit
    def first_layers(params, log_mel):
        net = module.bind(BigVGAN, cfg, params)
        pre = net.conv_pre(log_mel)
        up = net.ups[0](pre)
        act, block, last = net.resblocks[0].activations[0](up), net.resblocks[0](up), net.resblocks[2](up)
        names = ("conv_pre", "ups.0.0", "resblocks.0.activations.0", "resblocks.0", "resblocks.2")
        return dict(zip(names, (pre, up, act, block, last), strict=True))

    for name, got in first_layers(params, log_mel[:1]).items():
        assert distance(got.transpose(0, 2, 1), reference[f"mid/{name}"]) < TOLERANCE, name
