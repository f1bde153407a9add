"""What the generator is told of the duration: a row per second, sinusoids, or nothing. Variant: KIND-SEED.

    python -m kfjax.train experiments/0011-duration/config.py:discrete-0 --workdir runs/discrete-0

Base: configs/ablation.py, but trained on 2.5 and 8 seconds. Metrics: level at the end, silence and onset F1 at 2, 4, 8
and 13 seconds. Variants: "discrete-0", "discrete-1", "discrete-2", "fourier-0", "fourier-1", "fourier-2", "none-0",
"none-1", "none-2".
"""

from ml_collections import ConfigDict

from kfjax.train.config import load_config


def get_config(variant: str = "discrete-0") -> ConfigDict:
    kind, _, seed = variant.partition("-")
    config = load_config(f"configs/ablation.py:{seed}")
    with config.unlocked():
        config.system.mmdit.duration = kind
        config.data.buckets = ((2.5, 0.5), (8.0, 0.5))
        config.loop.steps, config.optim.decay_steps = 270, 150
    return config
