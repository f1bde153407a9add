"""The paper's system at its true width: what extraction makes and holds, and what its encoders cost for one clip.

    python -m experiments 0018 [--seconds 2]

Shapes are counted without weights. The encoders run once each with random bfloat16 weights, MetaCLIP's last; time is of
the second run, and the memory is the process's peak so far. Needs 16 GB of memory.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from kfjax import features, rates
from kfjax.convert import systems
from kfjax.data.batches import example_shapes
from kfjax.nn import module
from kfjax.nn.module import Params
from kfjax.system import SystemConfig, part_shapes

RESULTS = Path(__file__).with_name("results.json")


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


def cost(cfg: SystemConfig, part: str, seconds: float) -> dict[str, object]:
    """Time of one encoder for one clip, and the process's peak memory so far."""
    size, rng = rates.lengths(seconds, cfg.rates), np.random.default_rng(1)
    shapes = part_shapes(cfg, part)[part]
    pixels = lambda count, side: rng.integers(0, 256, (1, count, side, side, 3), np.uint8)
    inputs = {
        "text": lambda: (rng.integers(0, 32000, (1, cfg.text_tokens), np.int32), np.ones((1, cfg.text_tokens), bool)),
        "clip": lambda: (pixels(size.clip, cfg.clip.size),),
        "sync": lambda: (pixels(size.sync_frames, cfg.sync.size),),
    }[part]()
    params, (network, own) = random_weights(shapes), cfg.parts()[part]
    encode = jax.jit(lambda params, *x: module.bind(network, own, params)(*x))
    compiled = encode.lower(params, *inputs).compile()
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        made = np.asarray(compiled(params, *inputs)).astype(np.float32)
        taken.append(time.perf_counter() - start)
    assert np.isfinite(made).all() and made.std() > 0
    flops = compiled.cost_analysis() or {}
    return {
        "output": list(made.shape),
        "weights_gb": sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e9,
        "seconds": taken,
        "gflop_as_compiled": flops.get("flops", 0.0) / 1e9,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments 0018", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of the clip (default %(default)s)")
    parser.add_argument("--parts", nargs="*", default=["text", "sync", "clip"], help="that run (default: all)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    named = {f"kling-foley-{size}": cfg for size, cfg in systems.KLING.items()}
    results = {"made": harness.made(), "seconds": args.seconds, "sizes": {n: sizes(cfg) for n, cfg in named.items()}}
    clip, sync = features.frame_specs(named["kling-foley-1.5b"])
    results["frames"] = {"clip": clip._asdict(), "sync": sync._asdict()}
    for part in args.parts:
        results.setdefault("encoders", {})[part] = cost(named["kling-foley-1.5b"], part, args.seconds)
        print(part, results["encoders"][part], flush=True)
        harness.write_json(args.output, harness.plain(results))
    harness.write_json(args.output, harness.plain(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
