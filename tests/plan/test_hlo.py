"""What a program sends and moves, read from real compiled text of eight devices."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kfjax.plan.hlo import Sent, array_bytes, collectives, traffic_bytes
from kfjax.xla.sharding import make_mesh

LAYERS, ROWS, WIDTH = 5, 16, 64
MATRIX, TOKENS = 4 * WIDTH * WIDTH, 4 * ROWS * WIDTH
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@lru_cache(maxsize=1)
def looped() -> str:
    """Five layers in a loop, each of which gathers its own weights; then one sum over all devices."""
    mesh = make_mesh({"data": 2, "fsdp": 4})
    whole = NamedSharding(mesh, P())

    def forward(weights, x):
        def layer(x, w):
            return jnp.tanh(x @ jax.lax.with_sharding_constraint(w, whole)), None

        return jax.lax.scan(layer, x, weights)[0].sum()

    shape = lambda size, spec: jax.ShapeDtypeStruct(size, jnp.float32, sharding=NamedSharding(mesh, spec))
    weights, x = shape((LAYERS, WIDTH, WIDTH), P(None, "fsdp")), shape((8 * ROWS, WIDTH), P(("data", "fsdp")))
    return jax.jit(forward).lower(weights, x).compile(QUICK).as_text()


def test_what_a_loop_sends_counts_as_often_as_it_turns():
    gathered, summed = collectives(looped())
    assert gathered == Sent("all-gather", LAYERS, LAYERS * MATRIX, LAYERS * MATRIX * 3 / 4, (4,))
    assert summed == Sent("all-reduce", 1, 4, 2 * 4 * 7 / 8, (8,))


def test_traffic_is_that_of_every_turn():
    written = LAYERS * (MATRIX + MATRIX / 4 + TOKENS)  # a layer's weights, the slice they come from, its result
    assert 2 * written <= traffic_bytes(looped()) <= 6 * written


def test_a_slice_written_into_an_array_is_a_slice():
    def fill(x):
        return jax.lax.scan(lambda carry, i: (carry.at[i].set(x), None), jnp.zeros((1000, 256)), jnp.arange(10))[0]

    text = jax.jit(fill).lower(jax.ShapeDtypeStruct((256,), jnp.float32)).compile(QUICK).as_text()
    assert 4 * 256 * 1000 <= traffic_bytes(text) < 4 * 4 * 256 * 1000 + 2 * 10 * 10 * 4 * 256


LINES = """\
HloModule step, entry_computation_layout={()->f32[]}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %a = (bf16[2,4]{1,0}, bf16[8,4]{1,0:T(8,128)(2,1)S(1)}) all-gather-start(%x), channel_id=1, replica_groups=[32,4]<=[128], dimensions={0}
  %b = bf16[8,4]{1,0} all-gather-done(%a)
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %y)
}

%all-reduce-scatter.3 (q: f32[8,4]) -> f32[2,4] {
  %q = f32[8,4]{1,0} parameter(0)
  %r = f32[8,4]{1,0} all-reduce(%q), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %s = f32[2,4]{1,0} dynamic-slice(%r, %c), dynamic_slice_sizes={2,4}
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  %n = s32[]{:T(128)} constant(21)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[2,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %w = (s32[], f32[8,4]{1,0}) while(%x), condition=%condition, body=%body
  %c = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %d = f32[6]{0} reduce-scatter(%x), replica_groups={{0,1,2},{3,4,5}}, to_apply=%add
  %e = ((f32[6]{0}), (f32[2]{0})) reduce-scatter-start(%x), replica_groups={{0,1,2},{3,4,5}}, to_apply=%add
  ROOT %f = f32[2,4]{1,0} fusion(%w), kind=kCustom, calls=%all-reduce-scatter.3
}
"""  # noqa: E501


def test_forms_that_only_other_compilers_write():
    assert collectives(LINES) == [
        Sent("all-gather", 21, 21 * 64, 21 * 64 * 3 / 4, (4,)),
        Sent("reduce-scatter", 3, 128 + 72 + 24, 128 * 3 / 4 + (72 + 24) * 2 / 3, (3, 4)),
        Sent("collective-permute", 1, 36, 36, (2,)),
    ]


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match=r"program: got a text without ENTRY"):
        collectives("all-gather(")
    with pytest.raises(ValueError, match=r"the loop w does not say how often it turns"):
        collectives(LINES.replace("constant(21)", "parameter(1)"))
    unbounded = LINES.replace("constant(21)", "parameter(1)")
    assert traffic_bytes(unbounded, loops=21) == traffic_bytes(LINES) > traffic_bytes(unbounded, loops=1)


def test_sizes_of_shapes():
    assert array_bytes("f32[2,3]{1,0}") == 24 and array_bytes("pred[]") == 1
    assert array_bytes("(bf16[8]{0:T(256)(2,1)}, /*index=1*/s32[], (u4[6], f8e4m3fn[3]))") == 16 + 4 + 3 + 3
    assert array_bytes("token[]") == 0
