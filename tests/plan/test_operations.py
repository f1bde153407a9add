"""Operations counted from traced functions are those counted by hand, and by formula for the generator."""

import jax
import jax.numpy as jnp
import pytest

from kfjax.generators.mmdit.mmdit import MMDiT
from kfjax.nn.module import bind, shapes
from kfjax.plan.operations import operations
from kfjax.rates import lengths
from kfjax.structs import Features, Given
from kfjax.train.engine.flops import mmdit_flops
from tests.tiny.system import CONFIG


def counted(f, *shape) -> float:
    return operations(jax.make_jaxpr(f)(*(jax.ShapeDtypeStruct(size, jnp.float32) for size in shape)))


def test_products_and_convolutions():
    assert counted(lambda x, w: x @ w, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
    assert counted(lambda x, w: jnp.einsum("bnd,bmd->bnm", x, w), (2, 3, 4), (2, 5, 4)) == 2 * 2 * 3 * 5 * 4
    window = lambda x, w: jax.lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    assert counted(window, (2, 10, 4), (3, 4, 8)) == 2 * 2 * 10 * 8 * 3 * 4
    grouped = lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=4
    )
    assert counted(grouped, (2, 10, 4), (3, 1, 4)) == 2 * 2 * 10 * 4 * 3
    assert counted(lambda x: jnp.tanh(x).sum(), (3, 4)) == 0


def test_loops_count_as_often_as_they_turn():
    looped = lambda x, w: jax.lax.scan(lambda c, _: (jax.checkpoint(jax.jit(lambda y: y @ w))(c), None), x, length=7)[0]
    assert counted(looped, (3, 4), (4, 4)) == 7 * 2 * 3 * 4 * 4
    chosen = lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)
    assert counted(chosen, (3, 4), (4, 4)) == 2 * 2 * 3 * 4 * 4
    endless = lambda x, w: jax.lax.while_loop(lambda c: c.sum() < 1, lambda c: c @ w, x)
    with pytest.raises(ValueError, match=r"that an argument bounds; give `loops`"):
        counted(endless, (3, 4), (4, 4))
    assert operations(jax.make_jaxpr(endless)(jnp.zeros((3, 4)), jnp.zeros((4, 4))), loops=5) == 5 * 2 * 3 * 4 * 4


def test_the_generators_are_those_of_the_formula():
    cfg, size, words = CONFIG.mmdit, lengths(1.0, CONFIG.rates), CONFIG.text_tokens
    array = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct((2, *shape), dtype)
    given = Given(array(words, dtype=bool), *2 * [array()], *2 * [array(dtype=bool)])
    seen = Features(array(size.clip, cfg.clip_dim), array(size.sync, cfg.sync_dim), array(words, cfg.text_dim), given)

    def forward(params, x, t, features):
        network = bind(MMDiT, cfg, params)
        return network(x, t, network.prepare(features, size.latents, CONFIG.rates))

    traced = jax.make_jaxpr(forward)(shapes(MMDiT, cfg), array(size.latents, cfg.latent_dim), array(), seen)
    assert operations(traced) == pytest.approx(mmdit_flops(cfg, size, words, 2), rel=0.02)
