"""Time of the 44 kHz BigVGAN on a CPU: ours (jitted) and plain PyTorch eager, in turn in one run.

    python experiments/0005-public-parts-speed/bigvgan.py [--seconds 8] [--rounds 3] [--threads 2]

Both hold the same random weights, PyTorch's folded beforehand, and get the same mel; their waveforms must agree before
anything is timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of sound")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not count as processor time
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])  # XLA has no thread option of its own
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import jax
    import numpy as np
    import torch
    from torch_bigvgan import TorchBigVGAN

    from kfjax.codec.bigvgan import BigVGAN
    from kfjax.convert.tables.bigvgan import CONFIGS, FAMILY
    from kfjax.module import bind

    torch.set_num_threads(args.threads)
    cfg = CONFIGS["44k"]
    theirs = TorchBigVGAN(cfg).randomise(0).fold().eval()
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    params = jax.device_put(FAMILY.from_torch(state, cfg)["vocoder"])
    mel = np.random.default_rng(0).standard_normal((1, round(args.seconds * 44100 / cfg.hop), cfg.bands), np.float32)
    for_torch = torch.from_numpy(mel.transpose(0, 2, 1).copy())
    run = jax.jit(lambda params, mel: bind(BigVGAN, cfg, params)(mel))

    def eager():
        with torch.inference_mode():
            return theirs(for_torch).numpy()

    vocoders = {"PyTorch eager": eager, "kfjax": lambda: np.asarray(run(params, mel))}
    want, got = (vocode() for vocode in vocoders.values())  # also compiles and warms up
    print(f"{mel.shape[1]} frames; relative difference {np.linalg.norm(got - want) / np.linalg.norm(want):.1e}")
    report(measure(vocoders, args.rounds))


def measure(vocoders, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(elapsed, processor) seconds of every vocoder in every round, in turn."""
    seconds = {name: [] for name in vocoders}
    for _ in range(rounds):
        for name, vocode in vocoders.items():
            start = time.perf_counter(), time.process_time()
            vocode()
            end = time.perf_counter(), time.process_time()
            seconds[name].append(tuple(b - a for a, b in zip(start, end, strict=True)))
    return seconds


def report(seconds: dict[str, list[tuple[float, float]]]) -> None:
    """Medians over the rounds. On a busy machine elapsed time says little; processor time holds."""
    print(f"{'seconds':16}{'elapsed':>10}{'processor':>12}")
    for name, rounds in seconds.items():
        elapsed, processor = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:16}{elapsed:10.2f}{processor:12.2f}")
    pairs = list(zip(seconds["kfjax"], seconds["PyTorch eager"], strict=True))
    ratios = [statistics.median(ours[i] / theirs[i] for ours, theirs in pairs) for i in range(2)]
    print(f"{'ratio':16}{ratios[0]:10.2f}{ratios[1]:12.2f}")


if __name__ == "__main__":
    main()
