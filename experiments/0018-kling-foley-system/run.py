"""The paper's system at its true width: what extraction makes and holds, and what its networks cost for one clip.

    python -m experiments 0018 [--seconds 10] [--parts mmdit step]

Shapes are counted without weights. Encoders, one velocity of the generator and one guided sampling step run with random
bfloat16 weights, each in a process of its own and twice where that is short. Beside them: how fast this machine
multiplies matrices. Needs 16 GB of memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from kfjax import features, generation, rates
from kfjax.convert import systems
from kfjax.data.batches import example_shapes
from kfjax.flow import sampler
from kfjax.nn import module
from kfjax.nn.module import Params
from kfjax.plan.operations import operations
from kfjax.structs import Features, Given
from kfjax.system import SystemConfig, part_shapes

RESULTS = Path(__file__).with_name("results.json")
Call = tuple[Callable[..., Any], tuple[Any, ...]]  # what is run, and what it takes beside its weights


def sizes(cfg: SystemConfig) -> dict[str, object]:
    """Parameters of every part in millions, and of a 10-s excerpt the arrays and bytes."""
    shapes = example_shapes(cfg, 10.0)
    count = {name: round(module.count(part) / 1e6, 1) for name, part in part_shapes(cfg).items()}
    stored = sum(int(np.prod(shape)) * (1 if name == "text_mask" else 2) for name, shape in shapes.items())
    return {"parameters_m": count, "arrays": {name: list(shape) for name, shape in shapes.items()}, "bytes": stored}


def random_weights(shapes: Params) -> Params:
    """bfloat16, made without a copy in a wider type."""
    block = (0.02 * np.random.default_rng(0).standard_normal(1 << 20)).astype(jnp.bfloat16)
    return jax.tree.map(lambda leaf: jnp.asarray(np.resize(block, leaf.shape)), shapes)


def encoder(cfg: SystemConfig, part: str, seconds: float) -> Call:
    """One encoder for one clip."""
    size, rng = rates.lengths(seconds, cfg.rates), np.random.default_rng(1)
    pixels = lambda count, side: rng.integers(0, 256, (1, count, side, side, 3), np.uint8)
    inputs = {
        "text": lambda: (rng.integers(0, 32000, (1, cfg.text_tokens), np.int32), np.ones((1, cfg.text_tokens), bool)),
        "clip": lambda: (pixels(size.clip, cfg.clip.size),),
        "sync": lambda: (pixels(size.sync_frames, cfg.sync.size),),
    }[part]()
    network, own = cfg.parts()[part]
    return lambda params, *x: module.bind(network, own, params)(*x), inputs


def generator(
    cfg: SystemConfig, branches: tuple[str, ...], seconds: float
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """One step of the sampler for one clip: a velocity for each branch of guidance."""
    size, rng = rates.lengths(seconds, cfg.rates), np.random.default_rng(1)
    made = lambda *shape: jnp.asarray(rng.standard_normal((1, *shape)), jnp.bfloat16)
    dims = cfg.mmdit
    given = Given.whole(jnp.ones((1, cfg.text_tokens), bool), seconds)
    seen = Features(
        made(size.clip, dims.clip_dim), made(size.sync, dims.sync_dim), made(cfg.text_tokens, dims.text_dim), given
    )
    weights, noise = jnp.ones(len(branches)), jnp.asarray(made(size.latents, dims.latent_dim), jnp.float32)
    run = lambda params, *x: generation.sample.jitted(params, *x, cfg=cfg, branches=branches, method="euler")
    return run, (seen, None, weights, sampler.schedule(1), noise)


AGAIN = 60.0  # what takes less seconds is run twice
#: What runs -> whose weights it needs.
PARTS = {"text": "text", "sync": "sync", "clip": "clip", "mmdit": "mmdit", "step": "mmdit"}


def cost(part: str, seconds: float) -> dict[str, object]:
    """Time of one part for one clip, operations a second beside those of a matrix product, and the process's peak."""
    cfg = systems.KLING["1.5b"]
    branches = {"mmdit": ("full",), "step": ("full", "empty")}.get(part)
    call, inputs = generator(cfg, branches, seconds) if branches else encoder(cfg, part, seconds)
    params = random_weights(part_shapes(cfg, PARTS[part])[PARTS[part]])
    compiled = jax.jit(call).lower(params, *inputs).compile()
    taken = []
    while not taken or (len(taken) == 1 and taken[0] < AGAIN):
        start = time.perf_counter()
        made = np.asarray(compiled(params, *inputs)).astype(np.float32)
        taken.append(time.perf_counter() - start)
    assert np.isfinite(made).all() and made.std() > 0
    flops = operations(jax.make_jaxpr(call)(params, *inputs), loops=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "seconds_of_clip": seconds,
        "output": list(made.shape),
        "weights_gb": sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e9,
        "seconds": taken,
        "tflop": flops / 1e12,
        "gflop_per_second": flops / 1e9 / min(taken),
        "product_gflop_per_second": {name: product(name) for name in ("bfloat16", "float32")},
        "peak_gb": peak,
    }


def product(dtype: str, side: int = 2048) -> float:
    """Billions of operations a second of the product of two square matrices, the best of three."""
    x = jnp.ones((side, side), dtype)
    multiply, best = jax.jit(lambda a: a @ a), 0.0
    multiply(x).block_until_ready()
    for _ in range(3):
        start = time.perf_counter()
        multiply(x).block_until_ready()
        best = max(best, 2 * side**3 / 1e9 / (time.perf_counter() - start))
    return best


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments 0018", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the clip (default %(default)s)")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS), help="that run (default: all)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    named = {f"kling-foley-{size}": cfg for size, cfg in systems.KLING.items()}
    results = harness.read_json(args.output, {})
    results |= {"made": harness.made(), "sizes": {name: sizes(cfg) for name, cfg in named.items()}}
    clip, sync = features.frame_specs(named["kling-foley-1.5b"])
    results["frames"] = {"clip": clip._asdict(), "sync": sync._asdict()}
    for part in args.parts:
        with multiprocessing.get_context("spawn").Pool(1) as own:  # its peak is its own
            results.setdefault("parts", {})[part] = own.apply(partial(cost, part, args.seconds))
        print(part, results["parts"][part], flush=True)
        harness.write_json(args.output, harness.plain(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
