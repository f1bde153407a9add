"""Modules as functions: flax NNX modules hold parameters, everything outside sees plain nested dicts.

    params = init(MMDiT, cfg, key)              # nested dict of arrays
    v = bind(MMDiT, cfg, params)(x, t, conditions)

The graph definition depends on the configuration alone, so it is made once by abstract evaluation and cached;
`bind` is cheap and is meant to be called inside jitted functions. flax is imported by those who build a network: a
generation whose programs are kept builds none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from kfjax.xla.sharding import axis_size, gathered, regather

#: A parameter that may be a NumPy array too. It serves as a jax array, and the checker takes it for one.
if TYPE_CHECKING:
    from flax import nnx

    AnyArray = jax.Array
else:
    AnyArray = jax.Array | np.ndarray

Params = dict[str, Any]
Remat = Literal["none", "blocks", "dots"]


@cache
def _one_key() -> type[nnx.Rngs]:
    """For where nothing but shapes is wanted: one key for all, and no counter to trace."""
    from flax import nnx

    class OneKey(nnx.Rngs):
        def __init__(self, key: jax.Array):
            self._key = key

        def params(self) -> jax.Array:
            return self._key

    return OneKey


@lru_cache(maxsize=256)
def _abstract(cls: type, cfg: Any) -> tuple[nnx.GraphDef, nnx.State]:
    from flax import nnx

    with jax.enable_x64(False):
        return nnx.split(nnx.eval_shape(lambda: cls(cfg, rngs=_one_key()(jax.random.key(0)))))


def init(cls: type, cfg: Any, key: jax.Array) -> Params:
    """Parameters of `cls(cfg)` drawn from `key`, as a nested dict of float32 arrays, whatever jax's default is."""
    from flax import nnx

    with jax.enable_x64(False):
        return nnx.to_pure_dict(nnx.state(cls(cfg, rngs=nnx.Rngs(key))))


def shapes(cls: type, cfg: Any) -> Params:
    """The same nested dict with `jax.ShapeDtypeStruct` leaves; allocates nothing."""
    from flax import nnx

    return nnx.to_pure_dict(_abstract(cls, cfg)[1])


def bind(cls: type, cfg: Any, params: Params) -> Any:
    """The module `cls(cfg)` holding `params`; on a mesh, whole ones (`sharding.gathered`).

    Raises:
      ValueError: when the structure of `params` is not that of `cls(cfg)`.
    """
    from flax import nnx

    graphdef, abstract = _abstract(cls, cfg)
    expected = nnx.to_pure_dict(abstract)
    if jax.tree.structure(params) != jax.tree.structure(expected):
        raise ValueError(_difference(cls.__name__, params, expected))
    state = jax.tree.map(lambda x: x, abstract)  # a fresh State of the same structure
    nnx.replace_by_pure_dict(state, gathered(params))
    return nnx.merge(graphdef, state)


def flatten(params: Params) -> dict[str, Any]:
    """Nested dict to `{"joint/attn/kernel": array}`; the names used in files, rules and messages."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _difference(name: str, params: Params, expected: Params) -> str:
    got, want = set(flatten(params)), set(flatten(expected))
    missing, unknown = sorted(want - got), sorted(got - want)
    return f"parameters do not fit {name}: missing {missing or 'none'}, unknown {unknown or 'none'}"


def stack(make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """One module whose parameters carry a leading axis of `depth` independent draws (for `scan_blocks`)."""
    from flax import nnx

    graphdefs = []  # one, the same for every layer

    def drawn(key: jax.Array) -> nnx.State:
        graphdef, state = nnx.split(make(type(rngs)(key)))
        graphdefs.append(graphdef)
        return state

    state = jax.vmap(drawn)(jax.random.split(rngs.params(), depth))
    return nnx.merge(graphdefs[0], state)


def scan_blocks(
    blocks: nnx.Module,
    carry: Any,
    step: Callable[[nnx.Module, Any], Any],
    *,
    remat: Remat | bool = "none",
    unroll: bool = False,
) -> Any:
    """Run `carry = step(block, carry)` over the stacked `blocks`: one compiled body whatever the depth.

    `remat` says which of a block's activations the backward pass finds and which it computes again, memory falling:
    "none" all, "dots" the outputs of dense layers and convolutions, "blocks" (or True) nothing but the block's input.
    `unroll=True` writes the blocks out one by one: a convolution's gradient inside a loop is some 25 times slower on a
    CPU, at the price of compile time.
    """
    from flax import nnx

    graphdef, state = nnx.split(blocks)

    def body(carry, layer):
        # No layer state is returned: it would make a second copy of every parameter.
        return step(nnx.merge(graphdef, gathered(layer)), carry), None

    body = _recomputed(body, remat, looped=not unroll)
    if not unroll:
        return jax.lax.scan(body, carry, state)[0]
    for i in range(jax.tree.leaves(state)[0].shape[0]):
        carry, _ = body(carry, jax.tree.map(lambda x: x[i], state))  # noqa: B023  (called at once)
    return carry


def _recomputed(body: Callable, remat: Remat | bool, *, looped: bool) -> Callable:
    if isinstance(remat, bool):
        remat = "blocks" if remat else "none"
    policies = {"none": regather, "blocks": None, "dots": _is_dot}
    if remat not in policies:
        raise ValueError(f"remat: got {remat!r}, expected one of {', '.join(policies)}")
    if remat == "none" and axis_size("fsdp") == 1:
        return body
    # A loop keeps the two passes apart by itself.
    return jax.checkpoint(body, policy=policies[remat], prevent_cse=not looped)


def _is_dot(primitive: Any, *_: Any, **how: Any) -> bool:
    """Dense layers and convolutions; not attention's products, which are as large as tokens squared."""
    if primitive.name == "dot_general":
        (_, _), (batch, _) = how["dimension_numbers"]
        return not batch
    return primitive.name == "conv_general_dilated"


def count(params: Params) -> int:
    """Number of parameters in a nested dict of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
