"""What the parts of a block reach on their own, forward and backward, at the model's shapes, and what limits them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.harness import in_turn, markdown, medians
from kfjax.generators.mmdit.blocks import SingleBlock, Stream
from kfjax.generators.mmdit.mmdit import MMDiTConfig
from kfjax.nn import layers
from kfjax.nn.layers import attention, modulate, rope
from kfjax.nn.module import bind, init
from kfjax.rates import Lengths
from kfjax.train.engine.flops import block_flops

from .roofline import Card, both_ways, compiled, roofline


class Part(NamedTuple):
    """A function of arrays, one of them the parameters; `flops` of its forward pass, `times` it is in the network."""

    name: str
    function: Callable[..., jax.Array]
    args: tuple[Any, ...]
    flops: float
    times: int


def parts(cfg: MMDiTConfig, size: Lengths, text_tokens: int, batch: int, dtype: str) -> list[Part]:
    """Attention of both kinds of blocks, and of a single block's audio stream: convolutions, adaLN, all of it."""
    n, h = size.latents, cfg.width
    every = n + size.clip + text_tokens
    random = lambda seed, *shape: jax.random.normal(jax.random.key(seed), (batch, *shape), dtype)
    single, joint = (
        {part: batch * flops for part, flops in block_flops(cfg, size, text_tokens, kind).items()}
        for kind in ("single", "joint")
    )
    weights = jax.tree.map(lambda x: x.astype(dtype), init(SingleBlock, cfg, jax.random.key(9)))
    x, condition, table = random(0, n, h), random(1, n, h), rope(n, h // cfg.heads)
    heads = lambda tokens: tuple(random(seed, tokens, cfg.heads, h // cfg.heads) for seed in (2, 3, 4))
    block = lambda p: bind(SingleBlock, cfg, p)
    depth = cfg.joint_depth + cfg.single_depth
    return [
        Part(f"attention, joint ({every} tokens)", attention, heads(every), joint["attention"], cfg.joint_depth),
        Part(f"attention, single ({n} tokens)", attention, heads(n), single["attention"], cfg.single_depth),
        Part("conv", lambda p, x: _convolutions(block(p).audio, x), (weights, x), single["conv"], depth),
        Part("adaLN", lambda p, x, c: _adaln(block(p).audio, x, c), (weights, x, condition), single["adaln"], depth),
        Part("single block", lambda p, x, c: block(p)(x, c, table), (weights, x, condition), sum(single.values()),
             cfg.single_depth),
    ]  # fmt: skip


def _convolutions(stream: Stream, x: jax.Array) -> jax.Array:
    return x + stream.mlp(x + stream.out(x))


def _adaln(stream: Stream, x: jax.Array, condition: jax.Array) -> jax.Array:
    """Shifts, scales and gates from the condition, and both residual updates with nothing between."""
    shift, scale, gate, *rest = jnp.split(stream.modulation(condition), 6, -1)
    x = x + modulate(x, shift, scale) * gate
    return x + modulate(x, *rest[:2]) * rest[2]


def measure(
    cfg: MMDiTConfig, size: Lengths, text_tokens: int, batch: int, dtype: str, card: Card,
    *, rounds: int = 5, least: float = 0.1,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row of `roofline` figures for each part, way of attention, and pass."""
    platform = jax.default_backend()
    for part in parts(cfg, size, text_tokens, batch, dtype):
        for how in ("xla", "cudnn") if platform == "gpu" and part.function is attention else (None,):
            before = layers.ATTENTION[platform]
            layers.ATTENTION[platform] = how or before
            yield from _rows(part, f"{part.name}, {how}" if how else part.name, card, rounds, least)
            layers.ATTENTION[platform] = before


def _rows(part: Part, name: str, card: Card, rounds: int, least: float) -> Iterator[dict[str, Any]]:
    both, back = both_ways(part.function, *part.args)
    ways = {"forward": (part.function, part.args, 1), "both": (both, (back, *part.args), 3)}
    for passes, (function, args, factor) in ways.items():
        # A jaxpr is remembered by its function: another way must be another one.
        call, moved = compiled(lambda *args, function=function: function(*args), *args)
        taken = medians(in_turn({name: call}, rounds, least))[name]
        figures = roofline(factor * part.flops, moved, taken, card)
        yield {"part": name, "passes": passes, "times": part.times} | figures


def fastest_attention(rows: list[dict[str, Any]]) -> str | None:
    """The way that takes least for the attention of all blocks in training; None where there is no choice."""
    total: dict[str, float] = {}
    for row in rows:
        how = row["part"].rpartition(", ")[2]
        if how in ("xla", "cudnn") and row["passes"] == "both":
            total[how] = total.get(how, 0.0) + row["times"] * row["seconds"]
    return min(total, key=total.__getitem__) if total else None


def table(rows: list[dict[str, Any]], step_seconds: float | None = None) -> list[str]:
    """Markdown. `step_seconds`, of a step of the same batch, tells each part's share of it."""
    header = ["part", "passes", "ms", "TFLOP/s", "of the matmul rate", "FLOP a byte", "bound by", "of that bound"]
    body = []
    for row in rows:
        share = row["times"] * row["seconds"] / step_seconds if step_seconds and row["passes"] == "both" else None
        body.append([
            row["part"], row["passes"], row["seconds"] * 1e3, f"{row['tflops']:.1f}", f"{100 * row['of_matmul']:.0f} %",
            f"{row['intensity']:.0f}", row["bound"], f"{100 * row['of_bound']:.0f} %",
            "" if share is None else f"{100 * share:.0f} %",
        ])  # fmt: skip
    return markdown([*header, "of a step"], body)
