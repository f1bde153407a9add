"""The generator against a plain PyTorch version of it, at small size: both variants of the public networks."""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.convert.tables.mmaudio import CONFIGS, FAMILY
from kfjax.flow import matching
from kfjax.flow.sampler import Guidance, branch_features
from kfjax.flow.sampler import sample as sampled
from kfjax.generators.mmdit.mmdit import MMDiT
from kfjax.nn.module import bind
from kfjax.rates import Rates
from kfjax.structs import Features, Given, Schedule

torch = pytest.importorskip("torch")
torch_mmdit = pytest.importorskip("tests.reference.mmdit")

TOLERANCE = 1e-5  # relative L2
LATENTS, CLIP, SYNC, TEXT = 23, 4, 16, 9
SMALL = {
    "width": 32,
    "heads": 2,
    "joint_depth": 3,
    "single_depth": 2,
    "latent_dim": 4,
    "clip_dim": 6,
    "sync_dim": 5,
    "text_dim": 7,
    "hidden_multiple": 16,
    "empty_text_tokens": TEXT,
}
#: Version 2's timestep angles reach 1e4 rad, where the last bit of a frequency shows; 100 rad test the same code.
VARIANTS = {
    "small_16k": {**SMALL, "timestep_features": 8},
    "large_44k_v2": {**SMALL, "timestep_scale": 100.0},
}


def distance(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@lru_cache(maxsize=1)
def pair_of(name):
    """(configuration, PyTorch network, our parameters): the same random weights in both."""
    cfg = dataclasses.replace(CONFIGS[name], **VARIANTS[name])
    theirs = torch_mmdit.TorchMMDiT(cfg).randomise(0).eval()
    state = {key: value.detach().numpy() for key, value in theirs.state_dict().items()}
    params = FAMILY.from_torch(state, cfg)["mmdit"]
    del params["unused"]
    return cfg, theirs, params


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request):
    return pair_of(request.param)


#: What costs most is compared for the larger variant; for both in the slow tests.
COSTLY = [pytest.param("small_16k", marks=pytest.mark.slow), "large_44k_v2"]


def state_of(params, cfg):
    latent = {name: np.zeros(cfg.latent_dim) for name in ("mean", "std")}
    return FAMILY.to_torch({"mmdit": params | {"unused": {"latent": latent}}}, cfg)


def features(cfg, has_video=(True, True), has_text=(True, True)):
    b = len(has_video)
    return Features(
        clip=draw(1, b, CLIP, cfg.clip_dim),
        sync=draw(2, b, SYNC, cfg.sync_dim),
        text=draw(3, b, TEXT, cfg.text_dim),
        given=Given.whole(np.ones((b, TEXT), bool), 0.0)._replace(
            has_video=np.array(has_video), has_text=np.array(has_text)
        ),
    )


def torch_conditions(model, f):
    """What PyTorch prepares from the features, each missing one replaced by the learned empty one."""
    clip, sync, text = model.empty(CLIP, SYNC, len(f.clip))
    choose = lambda here, a, b: torch.where(torch.from_numpy(here)[:, None, None], torch.from_numpy(a), b)
    video = f.given.has_video
    return model.prepare(
        choose(video, f.clip, clip), choose(video, f.sync, sync), choose(f.given.has_text, f.text, text), LATENTS
    )


@partial(jax.jit, static_argnums=0)
def prepare(cfg, params, f):
    return bind(MMDiT, cfg, params).prepare(f, LATENTS, Rates())


@partial(jax.jit, static_argnums=0)
def velocity(cfg, params, x, t, conditions):
    return bind(MMDiT, cfg, params)(x, t, conditions)


def test_layouts_agree(pair):
    cfg, theirs, params = pair
    written = {key: value.shape for key, value in state_of(params, cfg).items()}
    assert written == {key: tuple(value.shape) for key, value in theirs.state_dict().items()}


@pytest.mark.parametrize("has_video, has_text", [((True, True), (True, True)), ((False, True), (False, False))])
def test_conditions_and_velocity(pair, has_video, has_text):
    cfg, theirs, params = pair
    f = features(cfg, has_video, has_text)
    x, t = draw(4, 2, LATENTS, cfg.latent_dim), np.array([0.137, 0.861], np.float32)
    with torch.no_grad():
        expected = torch_conditions(theirs, f)
        flow = theirs(torch.from_numpy(x), torch.from_numpy(t), expected)
    conditions = prepare(cfg, params, f)
    for got, want in zip(conditions, expected, strict=True):
        assert distance(got, want) < TOLERANCE
    assert distance(velocity(cfg, params, x, t, conditions), flow) < TOLERANCE


def test_zero_and_padded_features(pair):
    """Zero tokens expose the norms' epsilons, which random ones hide."""
    cfg, theirs, params = pair
    f = features(cfg)
    f = f._replace(clip=0 * f.clip, sync=0 * f.sync, text=f.text * (np.arange(TEXT) < 3)[None, :, None])
    x, t = np.zeros((2, LATENTS, cfg.latent_dim), np.float32), np.zeros(2, np.float32)
    with torch.no_grad():
        flow = theirs(torch.from_numpy(x), torch.from_numpy(t), torch_conditions(theirs, f))
    assert distance(velocity(cfg, params, x, t, prepare(cfg, params, f)), flow) < TOLERANCE


@pytest.mark.parametrize("name", COSTLY)
def test_guided_sampling(name):
    cfg, theirs, params = pair_of(name)
    one = jax.tree.map(lambda leaf: leaf[:1], features(cfg))
    noise = draw(5, 1, LATENTS, cfg.latent_dim)
    both = branch_features(one, ("full", "empty"))
    with torch.no_grad():
        branches = torch_conditions(theirs, jax.tree.map(np.array, both))
        expected = torch_mmdit.euler(theirs, torch.from_numpy(noise), branches, 5, 4.5)

    @jax.jit
    def sample(params, noise, steps, weights):
        conditions = bind(MMDiT, cfg, params).prepare(both, LATENTS, Rates())
        return sampled(bind(MMDiT, cfg, params), conditions, noise, weights, Schedule.whole(steps))

    weights = Guidance(4.5, 4.5).weights()
    assert tuple(weights) == ("full", "empty")
    assert distance(sample(params, noise, 5, jnp.array(list(weights.values()))), expected) < 1e-4


@pytest.mark.parametrize("name", COSTLY)
def test_gradients(name):
    """The loss's gradient of every single tensor, in the public layout."""
    cfg, theirs, params = pair_of(name)
    f = features(cfg, (True, False), (False, True))
    x0, x1 = draw(6, 2, LATENTS, cfg.latent_dim), draw(7, 2, LATENTS, cfg.latent_dim)
    t = np.array([0.2, 0.7], np.float32)
    xt, target = matching.interpolate(x0, x1, t)
    flow = theirs(torch.tensor(np.array(xt)), torch.from_numpy(t), torch_conditions(theirs, f))
    theirs.zero_grad()
    (flow - torch.tensor(np.array(target))).square().mean().backward()

    @jax.jit
    @jax.grad
    def gradient(params):
        model = bind(MMDiT, cfg, params)
        return matching.loss(model(xt, t, model.prepare(f, LATENTS, Rates())), target).mean()

    got = state_of(gradient(params), cfg)
    wrong = {}
    for key, parameter in theirs.named_parameters():
        want = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
        if np.linalg.norm(got[key] - want) > 1e-4 * np.linalg.norm(want) + 1e-7:
            wrong[key] = np.linalg.norm(got[key] - want), np.linalg.norm(want)
    assert not wrong
