"""One table converts both ways: torch state dicts of numpy arrays to nested parameters and back, bit for bit.

    table = [Rule("blocks.{i}.qkv.weight", "blocks/qkv/kernel", TRANSPOSE), ...]
    params = to_jax(state_dict, table, shapes)     # shapes: module.shapes(Cls, cfg)
    state_dict = to_torch(params, table)

A rule moves and permutes values and never computes any, so the inverse is derived and exact in every dtype.
`{i}` stands for a layer: the torch layout has one tensor a layer, ours one array with a leading layer axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kfjax.command import quoted
from kfjax.nn.module import Params, flatten
from kfjax.storage.checkpoint import unflatten

#: Most keys that an error names, of each kind.
MOST_NAMED = 100

Shape = tuple[int, ...]
State = dict[str, np.ndarray]


class How(NamedTuple):
    """A permutation of one tensor's values and its inverse; both change axes and shape only."""

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]

    def then(self, other: How) -> How:
        """First this one, then `other`, on the way to jax."""
        return How(lambda x: other.to_jax(self.to_jax(x)), lambda x: self.to_torch(other.to_torch(x)))


SAME = How(lambda x: x, lambda x: x)
#: Dense [out, in] <-> [in, out]; Conv1d [out, in, k] <-> [k, in, out]; likewise in more dimensions.
TRANSPOSE = How(
    lambda x: np.moveaxis(x, (0, 1), (-1, -2)),
    lambda x: np.moveaxis(x, (-1, -2), (0, 1)),
)


def leading(count: int) -> How:
    """Drop `count` leading axes of length 1: (1, 1, d) <-> (d,)."""
    return How(lambda x: x.reshape(x.shape[count:]), lambda x: x.reshape((1,) * count + x.shape))


def interleaved(heads: int, parts: int = 3) -> How:
    """Rows (head, channel, part), a fused qkv whose q, k, v alternate <-> rows (part, head, channel)."""

    def to_jax(x: np.ndarray) -> np.ndarray:
        rows = x.reshape(heads, -1, parts, *x.shape[1:])
        return np.moveaxis(rows, 2, 0).reshape(x.shape)

    def to_torch(x: np.ndarray) -> np.ndarray:
        rows = x.reshape(parts, heads, -1, *x.shape[1:])
        return np.moveaxis(rows, 0, 2).reshape(x.shape)

    return How(to_jax, to_torch)


class Rule(NamedTuple):
    """`torch_key` and `jax_path` name the same values; `how` leads from the first to the second."""

    torch_key: str
    jax_path: str
    how: How = SAME

    @property
    def stacked(self) -> bool:
        return "{i}" in self.torch_key


def dense(torch_key: str, jax_path: str, rows: How = SAME) -> list[Rule]:
    """Weight and bias of a dense layer or convolution whose output rows are reordered by `rows`."""
    return [
        Rule(f"{torch_key}.weight", f"{jax_path}/kernel", rows.then(TRANSPOSE)),
        Rule(f"{torch_key}.bias", f"{jax_path}/bias", rows),
    ]


def norm(torch_key: str, jax_path: str) -> list[Rule]:
    """Scale and shift of a layer norm."""
    return [Rule(f"{torch_key}.weight", f"{jax_path}/scale"), Rule(f"{torch_key}.bias", f"{jax_path}/bias")]


def under(path: str, made: Sequence[Rule], *, key: str = "") -> list[Rule]:
    """The rules of a network at `path` in the parameters and under the prefix `key` in the file."""
    return [Rule(key + rule.torch_key, f"{path}/{rule.jax_path}", rule.how) for rule in made]


def torch_shapes(shapes: Params, rules: Sequence[Rule]) -> dict[str, Shape]:
    """The torch layout of parameters (or `ShapeDtypeStruct`s) by the rules: {key: shape}.

    Raises:
      ValueError: a rule has no parameter or a parameter has no rule.
    """
    flat = flatten(shapes)
    _check_paths(flat, rules)
    return {key: shape for rule in rules for key, shape in torch_shapes_of(rule, flat[rule.jax_path].shape).items()}


def torch_shapes_of(rule: Rule, shape: Shape) -> dict[str, Shape]:
    """The torch layout of one parameter by one rule: {key: shape}."""
    # An array of one repeated byte has any shape at no cost.
    layer = np.broadcast_to(np.int8(0), shape[1:] if rule.stacked else shape)
    return dict.fromkeys(_keys(rule, shape), rule.how.to_torch(layer).shape)


def to_jax(state: Mapping[str, np.ndarray], rules: Sequence[Rule], shapes: Params) -> Params:
    """Nested parameters of the structure `shapes` from a torch state dict; dtypes are kept.

    Raises:
      ValueError: names the missing, unused and misshapen keys at once, the first `MOST_NAMED` of each.
    """
    _check_state({key: tuple(value.shape) for key, value in state.items()}, torch_shapes(shapes, rules))
    flat = flatten(shapes)
    params = {}
    for rule in rules:
        layers = [rule.how.to_jax(state[key]) for key in _keys(rule, flat[rule.jax_path].shape)]
        params[rule.jax_path] = np.stack(layers) if rule.stacked else np.asarray(layers[0], order="C")
    return unflatten(params)


def to_torch(params: Params, rules: Sequence[Rule]) -> State:
    """The torch state dict of nested parameters: the inverse of `to_jax`.

    Raises:
      ValueError: a rule has no parameter or a parameter has no rule.
    """
    flat = flatten(params)
    _check_paths(flat, rules)
    state: State = {}
    for rule in rules:
        value = np.asarray(flat[rule.jax_path])
        layers = value if rule.stacked else [value]
        for key, layer in zip(_keys(rule, value.shape), layers, strict=True):
            state[key] = np.asarray(rule.how.to_torch(layer), order="C")
    return state


def _keys(rule: Rule, shape: Shape) -> list[str]:
    if not rule.stacked:
        return [rule.torch_key]
    return [rule.torch_key.replace("{i}", str(i)) for i in range(shape[0])]


def _check_paths(flat: Mapping[str, Any], rules: Sequence[Rule]) -> None:
    paths = {rule.jax_path for rule in rules}
    absent, uncovered = sorted(paths - flat.keys()), sorted(flat.keys() - paths)
    if absent or uncovered:
        raise ValueError(
            f"parameters do not fit the table: missing {absent or 'none'}, unknown {uncovered or 'none'}; "
            "convert with the configuration that the parameters were made for"
        )


def _check_state(got: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    missing = sorted(expected.keys() - got.keys())
    unused = sorted(got.keys() - expected.keys())
    misshapen = [
        f"{key}: got {got[key]}, expected {expected[key]}"
        for key in sorted(expected.keys() & got.keys())
        if got[key] != expected[key]
    ]
    if missing or unused or misshapen:
        lines = [f"the state dict does not fit ({len(expected)} tensors expected, {len(got)} got)"]
        lines += _some([f"  missing    {key} {expected[key]}" for key in missing])
        lines += _some([f"  unused     {quoted(key, 200)} {got[key]}" for key in unused])
        lines += _some([f"  misshapen  {line}" for line in misshapen])
        lines.append("choose the variant that the file holds, or repair the file")
        raise ValueError("\n".join(lines))


def _some(lines: list[str]) -> list[str]:
    rest = len(lines) - MOST_NAMED
    return lines if rest <= 0 else [*lines[:MOST_NAMED], f"  {lines[0].split()[0]} besides: {rest} more"]
