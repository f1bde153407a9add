"""Properties of the generator at small size, every weight random (at its own start it answers zero everywhere)."""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import rates
from kfjax.generators.mmdit.mmdit import SECONDS_ROWS, MMDiT, MMDiTConfig
from kfjax.nn.module import bind, init, shapes
from kfjax.structs import Features, Given

CFG = MMDiTConfig(
    width=32,
    heads=2,
    joint_depth=3,
    single_depth=2,
    latent_dim=4,
    clip_dim=6,
    sync_dim=5,
    text_dim=7,
    hidden_multiple=16,
    timestep_scale=100.0,
)
LATENTS, CLIP, SYNC, TEXT = 21, 4, 16, 5


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def random_params(cfg=CFG):
    """Random values in every leaf, small enough for sane activations."""
    leaves, tree = jax.tree.flatten(shapes(MMDiT, cfg))
    return jax.tree.unflatten(tree, [0.2 * draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])


@lru_cache(maxsize=1)
def fresh():
    """Parameters at their start."""
    return jax.device_get(jax.jit(lambda: init(MMDiT, CFG, jax.random.key(0)))())


def features(**changes):
    whole = Features(
        clip=draw(1, 2, CLIP, CFG.clip_dim),
        sync=draw(2, 2, SYNC, CFG.sync_dim),
        text=draw(3, 2, TEXT, CFG.text_dim),
        given=Given.whole(np.ones((2, TEXT), bool), 8.0),
    )
    given = {name: changes.pop(name) for name in Given._fields if name in changes}
    return whole._replace(given=whole.given._replace(**given), **changes)


@partial(jax.jit, static_argnums=0)
def forward(cfg, params, f, x, t):
    model = bind(MMDiT, cfg, params)
    return model(x, t, model.prepare(f, x.shape[1], rates.Rates()))


def run(cfg=CFG, params=None, f=None, x=None):
    x = draw(4, 2, LATENTS, CFG.latent_dim) if x is None else x
    return np.asarray(forward(cfg, params or random_params(cfg), f or features(), x, np.array([0.2, 0.7], np.float32)))


def distance(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def test_answers_zero_at_the_start():
    assert not run(params=fresh()).any()


def test_absent_features_do_not_matter():
    off = np.array([False, True])
    without = features(has_video=off, has_text=~off)
    clip, sync, text = (np.array(leaf) for leaf in without[:3])
    clip[0], sync[0], text[1] = 100.0, -3.0, 7.0
    np.testing.assert_array_equal(run(f=without), run(f=without._replace(clip=clip, sync=sync, text=text)))
    assert distance(run(f=without), run()) > 0.05


def test_masked_words_do_not_matter():
    mask = np.arange(TEXT)[None] < np.array([[2], [TEXT]])
    cut = features(text_mask=mask)
    np.testing.assert_array_equal(run(f=cut), run(f=cut._replace(text=np.where(mask[..., None], cut.text, 50.0))))
    assert distance(run(f=cut)[:1], run()[:1]) > 1e-3


@pytest.mark.parametrize("name", ["clip", "sync", "text"])
def test_present_features_matter_to_their_own_sample_only(name):
    changed = np.array(getattr(features(), name))
    changed[0] = changed[0, ::-1] + 1
    got, before = run(f=features(**{name: changed})), run()
    assert distance(got[:1], before[:1]) > 1e-3
    np.testing.assert_allclose(got[1:], before[1:], atol=1e-5)


def test_discrete_durations_clamp_and_round():
    both = lambda value: np.full(2, value, np.float32)
    at = lambda start, total: run(f=features(seconds_start=both(start), seconds_total=both(total)))
    last = SECONDS_ROWS - 1
    np.testing.assert_array_equal(at(-5, 1e6), at(0, last))
    np.testing.assert_array_equal(at(0, 8.4), at(0, 8))
    assert distance(at(0, 9), at(0, 8)) > 1e-4
    assert distance(at(1, 8), at(0, 8)) > 1e-4


def test_kinds_of_duration():
    later = features(seconds_total=np.full(2, 8.4, np.float32))
    for kind, seen in {"fourier": True, "none": False}.items():
        cfg = dataclasses.replace(CFG, duration=kind)
        params = random_params(cfg)
        assert np.array_equal(run(cfg, params, later), run(cfg, params)) != seen


def test_kinds_of_rotation():
    """Aligned rotation puts latents and frames on one time axis: nothing to scale where there are as many of both."""
    made = {kind: run(dataclasses.replace(CFG, rope=kind), random_params()) for kind in ("aligned", "unscaled", "none")}
    assert distance(made["unscaled"], made["aligned"]) > 1e-4
    assert distance(made["none"], made["aligned"]) > 1e-3
    assert distance(made["none"], made["unscaled"]) > 1e-3
    x = draw(4, 2, CLIP, CFG.latent_dim)
    same = [run(dataclasses.replace(CFG, rope=kind), random_params(), x=x) for kind in ("aligned", "unscaled")]
    np.testing.assert_array_equal(*same)


def test_hidden_sync_features_do_not_matter():
    """The film's pictures still do."""
    hidden = dataclasses.replace(CFG, sync="hidden")
    other = features(sync=features().sync + 1)
    np.testing.assert_array_equal(run(hidden, f=other), run(hidden))
    assert distance(run(hidden), run()) > 1e-2
    assert distance(run(hidden, f=features(clip=features().clip + 1)), run(hidden)) > 1e-3
    assert jax.tree.map(lambda x: x.shape, shapes(MMDiT, hidden)) == jax.tree.map(lambda x: x.shape, shapes(MMDiT, CFG))


@pytest.mark.parametrize("kernel", [3, 1])
def test_kernel_of_the_blocks(kernel):
    """Kernel 1 leaves the mixing over time to attention; text has dense layers either way."""
    cfg = dataclasses.replace(CFG, block_kernel=kernel)
    made = shapes(MMDiT, cfg)
    dims = {3: 4, 1: 3}[kernel]  # [layer, taps, in, out] or [layer, in, out]
    for stream in (made["single"]["audio"], made["joint"]["audio"], made["joint"]["clip"]):
        for layer in (stream["out"], *(stream["mlp"][name] for name in ("w1", "w2", "w3"))):
            assert len(layer["kernel"].shape) == dims
    assert len(made["joint"]["text"]["out"]["kernel"].shape) == 3
    assert len(made["audio_mlp"]["w1"]["kernel"].shape) == 3  # the ways in keep theirs


@pytest.mark.slow  # fast: test_kernel_of_the_blocks, test_hidden_sync_features_do_not_matter
def test_dense_blocks_without_sync_features_train():
    """A few steps of gradient descent on one batch."""
    cfg = dataclasses.replace(CFG, block_kernel=1, sync="hidden")
    x, t, target = draw(4, 2, LATENTS, CFG.latent_dim), np.array([0.2, 0.7], np.float32), draw(5, 2, LATENTS, 4)
    loss = lambda p: jnp.square(forward(cfg, p, features(), x, t) - target).mean()

    @jax.jit
    def step(params):
        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda a, g: a - 0.1 * g, params, gradient)

    params, losses = jax.jit(lambda: init(MMDiT, cfg, jax.random.key(0)))(), []
    for _ in range(11):
        value, params = step(params)
        losses.append(value)
    assert losses[-1] < 0.95 * losses[0]
    block = params["single"]["audio"]["modulation"]["kernel"]
    assert np.abs(block).max() > 0  # it began at zero: the gradient has come through the blocks


def test_condition_of_the_final_layer():
    params = random_params()
    made = [run(dataclasses.replace(CFG, final_cond=kind), params) for kind in ("extended", "global")]
    assert distance(*made) > 1e-2


@pytest.mark.parametrize("final_cond", ["extended", "global"])
def test_a_time_of_each_latent(final_cond):
    """Equal times are one time, exactly; one latent at t = 1 is another input to all of them."""
    cfg = dataclasses.replace(CFG, final_cond=final_cond)
    params, f, x = random_params(cfg), features(), draw(4, 2, LATENTS, CFG.latent_dim)
    one = np.array([0.3, 0.7], np.float32)
    each = np.repeat(one[:, None], LATENTS, 1)
    np.testing.assert_array_equal(forward(cfg, params, f, x, each), forward(cfg, params, f, x, one))
    each[:, :2] = 1
    changed = np.asarray(forward(cfg, params, f, x, each)) - forward(cfg, params, f, x, one)
    assert (np.abs(changed).max((0, 2)) > 1e-4).all()


def test_two_excerpts_joined():
    """Clip tokens and aligned features one after the other; the words and the duration of the second."""
    params, first, second = random_params(), features(), features(clip=draw(7, 2, CLIP, CFG.clip_dim))
    prepare = lambda f, n: bind(MMDiT, CFG, params).prepare(f, n, rates.Rates())
    a, b = prepare(first, 7), prepare(second, LATENTS)
    joined = bind(MMDiT, CFG, params).join(a, b)
    np.testing.assert_array_equal(joined.align, np.concatenate([a.align, b.align], 1))
    np.testing.assert_array_equal(joined.clip, np.concatenate([a.clip, b.clip], 1))
    np.testing.assert_array_equal(joined.pooled, b.pooled)
    np.testing.assert_array_equal(joined.text, b.text)


def test_half_precision():
    half = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, jnp.bfloat16), tree)
    f, x = features(), draw(4, 2, LATENTS, CFG.latent_dim)
    leaves, tree = jax.tree.flatten(fresh())
    # Weights of a usual size, none of them zero.
    params = jax.tree.unflatten(tree, [leaf + np.float32(0.05) * draw(i, *leaf.shape) for i, leaf in enumerate(leaves)])
    half_f = f._replace(clip=half(f.clip), sync=half(f.sync), text=half(f.text))
    got = forward(CFG, half(params), half_f, half(x), np.array([0.2, 0.7], np.float32))
    assert got.dtype == jnp.bfloat16
    assert distance(np.asarray(got, np.float32), run(params=params)) < 3.5e-2


TWO_AND_TWO = dataclasses.replace(CFG, joint_depth=2)


def loss_and_gradient(**changes):
    x, t, f = draw(4, 2, LATENTS, CFG.latent_dim), np.array([0.2, 0.7], np.float32), features()
    cfg = dataclasses.replace(TWO_AND_TWO, **changes)
    loss = lambda params: jnp.square(forward(cfg, params, f, x, t)).mean()
    return jax.device_get(jax.jit(jax.value_and_grad(loss))(random_params(cfg)))


@pytest.fixture(scope="module")
def as_they_come():
    return loss_and_gradient()


@pytest.mark.slow  # fast, on another network: tests/nn/test_module.py
@pytest.mark.parametrize("changes", [{"remat": "blocks"}, {"remat": "dots"}, {"unroll": True}])
def test_ways_to_run_the_blocks_agree(changes, as_they_come):
    expected, got = as_they_come, loss_and_gradient(**changes)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)


def test_no_silent_broadcasting():
    x, t = jnp.zeros((2, LATENTS, CFG.latent_dim)), jnp.zeros(2)
    for kind in ("discrete", "fourier", "none"):
        cfg = dataclasses.replace(CFG, duration=kind)
        with jax.numpy_rank_promotion("raise"):
            out = jax.eval_shape(lambda p, cfg=cfg: forward(cfg, p, features(), x, t), shapes(MMDiT, cfg))
        assert out.shape == x.shape
