"""Modules as functions: init, bind, stacked blocks."""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kfjax.nn import module


@dataclass(frozen=True)
class Config:
    width: int = 3
    depth: int = 4


class Block(nnx.Module):
    def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
        self.mix = nnx.Linear(cfg.width, cfg.width, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.mix(x))


class Net(nnx.Module):
    def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
        self.blocks = module.stack(lambda r: Block(cfg, rngs=r), cfg.depth, rngs)
        self.heads = nnx.List([nnx.Linear(cfg.width, 1, rngs=rngs) for _ in range(2)])
        self.shift = nnx.Param(jnp.zeros(cfg.width))

    def __call__(self, x, *, remat=False, unroll=False):
        x = x + self.shift[...][None]
        x = module.scan_blocks(self.blocks, x, lambda block, x: block(x), remat=remat, unroll=unroll)
        return sum(head(x) for head in self.heads)


CFG = Config()
PARAMS = module.init(Net, CFG, jax.random.key(0))
X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def test_parameters_are_plain_nested_dicts():
    assert set(PARAMS) == {"blocks", "heads", "shift"}
    assert set(module.flatten(PARAMS)) == {
        "blocks/mix/kernel", "blocks/mix/bias", "heads/0/kernel", "heads/0/bias", "heads/1/kernel", "heads/1/bias",
        "shift",
    }  # fmt: skip
    assert all(type(leaf) is not nnx.Param for leaf in jax.tree.leaves(PARAMS))
    assert PARAMS["blocks"]["mix"]["kernel"].shape == (4, 3, 3)
    assert module.count(PARAMS) == 4 * (9 + 3) + 2 * (3 + 1) + 3


def test_shapes_are_those_of_init_and_allocate_nothing():
    shapes = module.shapes(Net, CFG)
    assert jax.tree.structure(shapes) == jax.tree.structure(PARAMS)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), shapes) == jax.tree.map(lambda a: (a.shape, a.dtype), PARAMS)
    assert module.count(module.shapes(Net, Config(width=20_000, depth=8))) > 3e9


def test_init_is_a_function_of_the_key():
    again, other = (module.init(Net, CFG, jax.random.key(seed)) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, PARAMS, again)
    assert not np.array_equal(PARAMS["blocks"]["mix"]["kernel"], other["blocks"]["mix"]["kernel"])


def test_layers_of_a_stack_are_drawn_independently():
    kernels = PARAMS["blocks"]["mix"]["kernel"]
    assert len({np.asarray(kernel).tobytes() for kernel in kernels}) == CFG.depth


def test_bind_computes_with_the_given_parameters():
    shifted = PARAMS | {"shift": jnp.ones(3)}
    one, two = (module.bind(Net, CFG, p) for p in (PARAMS, shifted))
    np.testing.assert_allclose(one(X + 1), two(X), rtol=1e-6)
    np.testing.assert_array_equal(PARAMS["shift"], np.zeros(3))  # binding changed nothing


def test_bind_works_under_jit_and_grad():
    loss = lambda p: jnp.sum(jnp.square(module.bind(Net, CFG, p)(X)))
    np.testing.assert_allclose(jax.jit(loss)(PARAMS), loss(PARAMS), rtol=1e-6)
    grads = jax.grad(loss)(PARAMS)
    assert jax.tree.structure(grads) == jax.tree.structure(PARAMS)


def test_bind_names_what_does_not_fit():
    wrong = {"blocks": {"mix": {"kernel": 0, "extra": 0}}, "heads": PARAMS["heads"], "shift": 0}
    with pytest.raises(ValueError, match=r"fit Net: missing \['blocks/mix/bias'\], unknown \['blocks/mix/extra'\]"):
        module.bind(Net, CFG, wrong)
    with pytest.raises(ValueError, match=r"missing \['shift'\], unknown none"):
        module.bind(Net, CFG, {name: part for name, part in PARAMS.items() if name != "shift"})


def python_loop(params, x):
    for i in range(CFG.depth):
        layer = {"mix": {name: leaf[i] for name, leaf in params["blocks"]["mix"].items()}}
        x = module.bind(Block, CFG, layer)(x)
    return x


def test_scanned_unrolled_and_looped_blocks_agree():
    want = sum(python_loop(PARAMS, X) @ head["kernel"] + head["bias"][None] for head in PARAMS["heads"].values())
    net = module.bind(Net, CFG, PARAMS)
    for unroll in (False, True):
        np.testing.assert_allclose(net(X, unroll=unroll), want, rtol=2e-6, atol=1e-6)


def test_recomputed_activations_have_the_same_gradients():
    def grads(**options):
        return jax.grad(lambda p: jnp.sum(jnp.square(module.bind(Net, CFG, p)(X, **options))))(PARAMS)

    want = grads()
    for remat, unroll in itertools.product((True, "blocks", "dots", "none"), (False, True)):
        got = grads(remat=remat, unroll=unroll)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)
    with pytest.raises(ValueError, match=r"remat: got 'all', expected one of none, blocks, dots"):
        grads(remat="all")


def test_the_stricter_the_policy_the_less_waits_for_the_backward_pass():
    def saved(remat) -> int:
        """Activations of each block that the loop over them leaves for its backward pass."""
        run = lambda p: jnp.sum(module.bind(Net, CFG, p)(X, remat=remat))
        kept = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(run, p)[1], PARAMS))
        return sum(x.shape == (CFG.depth, *X.shape) for x in kept)

    assert saved("none") >= saved("dots") > saved("blocks")


def test_a_scan_compiles_one_body():
    text = lambda depth, **options: str(
        jax.make_jaxpr(lambda p, x: module.bind(Net, Config(depth=depth), p)(x, **options))(
            module.shapes(Net, Config(depth=depth)), X
        )
    )
    assert text(2).count("tanh") == text(9).count("tanh") == 1
    assert text(9, unroll=True).count("tanh") == 9
