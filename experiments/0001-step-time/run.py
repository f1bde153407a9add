"""Time per guided Euler step at MMAudio's small size: ours (jitted) and plain PyTorch eager, in turn in one run.

    python -m experiments 0001 [--steps 4] [--rounds 5] [--threads 2]

Both hold the same weights and sample from the same noise; their results must agree before anything is timed.
"""

from __future__ import annotations

import argparse

from experiments import harness

LATENTS, CLIP, SYNC, TEXT, GUIDANCE = 345, 64, 192, 77, 4.5


def torch_sampler(model, features, noise, steps: int):
    """A function of nothing that samples with PyTorch."""
    import torch

    from tests.reference.mmdit import euler

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

    from kfjax.flow.sampler import Guidance, branch_features
    from kfjax.flow.sampler import sample as integrated
    from kfjax.generators.mmdit.mmdit import MMDiT
    from kfjax.nn import module
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="Euler steps a measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    harness.use_threads(args.threads)
    import numpy as np

    from kfjax.convert.tables.mmaudio import CONFIGS, FAMILY
    from tests.reference.mmdit import TorchMMDiT

    cfg = CONFIGS["small_44k"]
    model = TorchMMDiT(cfg).randomise(0).eval()
    params = FAMILY.from_torch({key: value.numpy() for key, value in model.state_dict().items()}, cfg)["mmdit"]
    del params["unused"]  # the statistics of the latents
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    features, noise = (draw(1, CLIP, 1024), draw(1, SYNC, 768), draw(1, TEXT, 1024)), draw(1, LATENTS, 40)
    ours = jax_sampler(cfg, params, features, noise, args.steps)
    harness.beside_torch("a step", torch_sampler(model, features, noise, args.steps), ours, args.rounds, per=args.steps)
