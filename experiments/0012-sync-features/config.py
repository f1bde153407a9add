"""The generator with and without the sync encoder's features; the picture's are there either way. Variant: KIND-SEED.

    python -m kfjax.train experiments/0012-sync-features/config.py:without-0 --workdir runs/without-0

Base: configs/ablation.py. Metric: onset F1. Variants: "with-0", "with-1", "with-2", "without-0", "without-1",
"without-2".
"""

from ml_collections import ConfigDict

from kfjax.train.config import load_config


def get_config(variant: str = "with-0") -> ConfigDict:
    kind, _, seed = variant.partition("-")
    config = load_config(f"configs/ablation.py:{seed}")
    with config.unlocked():
        config.system.mmdit.sync = {"with": "seen", "without": "hidden"}[kind]
    return config
