"""LoRA for the generator: a trainable low-rank update of chosen kernels; the kernels themselves are frozen.

    lora = init_lora(params, cfg, key)       # mirrors the chosen part of params; adds nothing at first
    merged = merge(params, lora, cfg)        # what the network is called with, and what is exported

The network's code has no part in it. Words that the text encoder lacks can train too, in unused rows of its embedding
(`with_words`). Source: Hu et al. 2021 (arXiv 2106.09685).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kfjax.nn.module import Params, flatten
from kfjax.storage.checkpoint import unflatten

#: Branches of the network whose arrays have a leading axis of layers (`module.stack`); each layer has its own pair.
STACKED = ("joint", "single")


@dataclass(frozen=True)
class LoRAConfig:
    """Which kernels train, and the rank and scale of their updates.

    Attributes:
      rank: inner width of the pair; 0 = no LoRA.
      alpha: the pair's product is scaled by alpha / rank, so that a rank can be tried without a new learning rate.
      targets: regular expressions; a kernel trains where one of them matches its whole path.
      words: words of the captions that the tokenizer lacks are added to it, and their rows of the text encoder's table
        train. Only a tokenizer of whole words lacks any.

    Raises:
      ValueError: a negative rank, an alpha that is not above 0, a target that is no regular expression.
    """

    rank: int = 8
    alpha: float = 8.0
    targets: tuple[str, ...] = (r"(joint|joint_last|single)/.*/(qkv|out)/kernel",)
    words: bool = False

    def __post_init__(self):
        if self.rank < 0 or not self.alpha > 0:
            raise ValueError(f"lora: got rank {self.rank}, alpha {self.alpha:g}; expected rank 0 or more, alpha over 0")
        for target in self.targets:
            try:
                re.compile(target)
            except re.error as error:
                raise ValueError(
                    f"lora.targets: {target!r} is no regular expression ({error}); escape what is meant literally"
                ) from None


def init_lora(params: Params, cfg: LoRAConfig, key: jax.Array) -> Params:
    """A pair for every targeted kernel, in float32: "down" [.., in, rank] drawn, "up" [.., rank, out] zero.

    Args:
      params: arrays or shapes of the network. Convolution kernels [k, in, out] count as matrices [k·in, out].

    Returns:
      A nested dict as `params`, with {"down", "up"} in place of each targeted kernel; empty at rank 0.

    Raises:
      ValueError: a target that matches no kernel (the nearest are named), a rank that no targeted kernel has.
    """
    sizes = {path: _sizes(path, kernel.shape) for path, kernel in targeted(params, cfg).items()}
    for path, (_, inputs, outputs) in sizes.items():
        if cfg.rank > min(inputs, outputs):
            raise ValueError(
                f"lora.rank: got {cfg.rank}, but {path} is [{inputs}, {outputs}]; "
                f"expected at most {min(inputs, outputs)}, or targets without it"
            )
    keys = jax.random.split(key, max(1, len(sizes)))
    return unflatten({
        f"{path}/{name}": value
        for (path, size), drawn in zip(sizes.items(), keys, strict=False)
        for name, value in _pair(*size, cfg.rank, drawn).items()
    })  # fmt: skip


def merge(params: Params, lora: Params, cfg: LoRAConfig) -> Params:
    """params + alpha / rank · down @ up, kernel by kernel, in the kernel's dtype; what has no pair is passed on.

    Raises:
      ValueError: a pair that has no kernel, or is of another rank than `cfg`.
    """
    unknown = sorted(str(name) for name in lora.keys() - params.keys())
    if unknown:
        raise ValueError(f"lora: no parameter for {', '.join(unknown)}; merge with the network that it was trained on")
    merged = dict(params)
    for name, branch in lora.items():
        whole = isinstance(params[name], Mapping)
        merged[name] = merge(params[name], branch, cfg) if whole else _add(params[name], branch, cfg)
    return merged


def with_words(text: Params, words: Float[Array, "w h"]) -> Params:
    """A T5 encoder's parameters with `words` as the last rows of its table."""
    table = text["embed"]["embedding"]
    return text | {"embed": {"embedding": jnp.concatenate([table[: -len(words)], words.astype(table.dtype)])}}


def targeted(params: Params, cfg: LoRAConfig) -> dict[str, Any]:
    """{path: kernel} of what trains, in the order of the paths.

    Raises:
      ValueError: a target that matches no kernel.
    """
    if not cfg.rank:
        return {}
    kernels = {path: leaf for path, leaf in flatten(params).items() if path.endswith("kernel")}
    for target in cfg.targets:
        if not any(re.fullmatch(target, path) for path in kernels):
            near = difflib.get_close_matches(target, kernels, n=3, cutoff=0.0)
            raise ValueError(f"lora.targets: {target!r} matches no kernel; the nearest are {', '.join(near)}")
    return {path: leaf for path, leaf in kernels.items() if any(re.fullmatch(t, path) for t in cfg.targets)}


def _sizes(path: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
    """(leading axes, inputs, outputs) of a kernel read as matrices."""
    layers = 1 if path.partition("/")[0] in STACKED else 0
    return shape[:layers], math.prod(shape[layers:-1]), shape[-1]


def _pair(leading: tuple[int, ...], inputs: int, outputs: int, rank: int, key: jax.Array) -> dict[str, jax.Array]:
    down = jax.random.normal(key, (*leading, inputs, rank), jnp.float32) / math.sqrt(inputs)
    return {"down": down, "up": jnp.zeros((*leading, rank, outputs), jnp.float32)}


def _add(kernel: Float[Array, "*k out"], pair: Params, cfg: LoRAConfig) -> Float[Array, "*k out"]:
    down, up = pair["down"], pair["up"]
    if down.shape[-1] != cfg.rank:
        raise ValueError(f"lora: a pair of rank {down.shape[-1]}, expected {cfg.rank}; merge with the config it has")
    # In float32: small steps would be lost in a kernel of bfloat16 twice over.
    change = cfg.alpha / cfg.rank * jnp.matmul(down, up, preferred_element_type=jnp.float32)
    return (kernel.astype(jnp.float32) + change.reshape(kernel.shape)).astype(kernel.dtype)
