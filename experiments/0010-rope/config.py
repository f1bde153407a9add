"""Rotary positions of audio and film: on one time axis, each on its own, or none. Variant: KIND-SEED.

    python -m kfjax.train experiments/0010-rope/config.py:aligned-0 --workdir runs/aligned-0

Base: configs/ablation.py, trained on 4 seconds. Metric: onset F1 at 2, 4 and 6 seconds. Variants: "aligned-0",
"aligned-1", "aligned-2", "unscaled-0", "unscaled-1", "unscaled-2", "none-0", "none-1", "none-2".
"""

from ml_collections import ConfigDict

from kfjax.train.config import load_config


def get_config(variant: str = "aligned-0") -> ConfigDict:
    kind, _, seed = variant.partition("-")
    config = load_config(f"configs/ablation.py:{seed}")
    with config.unlocked():
        config.system.mmdit.rope = kind
    return config
