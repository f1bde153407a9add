"""Time per guided Euler step at MMAudio's small size: ours (jitted) and plain PyTorch eager, in turn in one run.

    python experiments/0001-step-time/bench.py [--steps 4] [--rounds 5] [--threads 2]

Both hold the same weights and sample from the same noise; their results must agree before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LATENTS, CLIP, SYNC, TEXT, GUIDANCE = 345, 64, 192, 77, 4.5


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="Euler steps a measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def torch_sampler(model, features, noise, steps: int):
    """A function of nothing that samples with PyTorch."""
    import torch
    from torch_mmdit import euler

    with torch.no_grad():
        pairs = zip(features, model.empty(CLIP, SYNC, 1), strict=True)
        branches = model.prepare(*(torch.cat([torch.from_numpy(a), b]) for a, b in pairs), LATENTS)

    def sample():
        with torch.inference_mode():
            return euler(model, torch.from_numpy(noise), branches, steps, GUIDANCE).numpy()

    return sample


def jax_sampler(cfg, params, features, noise, steps: int):
    """A function of nothing that samples with kfjax: the whole integration is one compiled loop."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from kfjax import module
    from kfjax.flow.sampler import Guidance, branch_features
    from kfjax.flow.sampler import sample as integrated
    from kfjax.generators.mmdit.mmdit import MMDiT
    from kfjax.rates import Rates
    from kfjax.structs import Features, Given, Schedule

    weights = Guidance(GUIDANCE, GUIDANCE).weights()
    here, zero = np.ones(1, bool), np.zeros(1, np.float32)
    whole = Features(*features, Given(np.ones((1, TEXT), bool), zero, zero, here, here))
    whole = branch_features(whole, tuple(weights))
    params = jax.device_put(params)
    conditions = jax.jit(lambda p: module.bind(MMDiT, cfg, p).prepare(whole, LATENTS, Rates()))(params)

    @jax.jit
    def run(params, conditions, noise, steps, weights):
        return integrated(module.bind(MMDiT, cfg, params), conditions, noise, weights, Schedule.whole(steps))

    weights = jnp.array(list(weights.values()))
    return lambda: np.asarray(run(params, conditions, noise, steps, weights))


def main() -> None:
    args = arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])  # XLA has no thread option of its own
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import numpy as np
    import torch
    from torch_mmdit import TorchMMDiT

    from kfjax.convert.tables.mmaudio import CONFIGS, FAMILY

    torch.set_num_threads(args.threads)
    cfg = CONFIGS["small_44k"]
    model = TorchMMDiT(cfg).randomise(0).eval()
    params = FAMILY.from_torch({key: value.numpy() for key, value in model.state_dict().items()}, cfg)["mmdit"]
    del params["unused"]  # the statistics of the latents
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    features, noise = (draw(1, CLIP, 1024), draw(1, SYNC, 768), draw(1, TEXT, 1024)), draw(1, LATENTS, 40)

    samplers = {
        "PyTorch eager": torch_sampler(model, features, noise, args.steps),
        "kfjax": jax_sampler(cfg, params, features, noise, args.steps),
    }
    theirs, ours = (sample() for sample in samplers.values())  # also compiles and warms up
    print(f"relative difference of the results: {np.linalg.norm(ours - theirs) / np.linalg.norm(theirs):.1e}")
    report(measure(samplers, args.rounds, args.steps))


def measure(samplers, rounds: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """(elapsed, processor) seconds a step of every sampler in every round, in turn."""
    seconds = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sample in samplers.items():
            start = time.perf_counter(), time.process_time()
            sample()
            end = time.perf_counter(), time.process_time()
            seconds[name].append(tuple((b - a) / steps for a, b in zip(start, end, strict=True)))
    return seconds


def report(seconds: dict[str, list[tuple[float, float]]]) -> None:
    """Medians over the rounds. On a busy machine elapsed time says little; processor time holds."""
    print(f"{'seconds a step':16}{'elapsed':>10}{'processor':>12}")
    for name, rounds in seconds.items():
        elapsed, processor = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:16}{elapsed:10.3f}{processor:12.3f}")
    pairs = list(zip(seconds["kfjax"], seconds["PyTorch eager"], strict=True))
    ratios = [statistics.median(ours[i] / theirs[i] for ours, theirs in pairs) for i in range(2)]
    print(f"{'ratio':16}{ratios[0]:10.2f}{ratios[1]:12.2f}")


if __name__ == "__main__":
    main()
