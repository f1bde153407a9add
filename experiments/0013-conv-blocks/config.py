"""Convolutions of kernel 3 in the blocks, or dense layers. Variant: KIND-SEED.

    python -m kfjax.train experiments/0013-conv-blocks/config.py:linear-0 --workdir runs/linear-0

Base: configs/ablation.py. "linear" has more single blocks, until it has as many parameters. Metrics: onset F1, held-out
loss. Variants: "conv3-0", "conv3-1", "conv3-2", "linear-0", "linear-1", "linear-2".
"""

from ml_collections import ConfigDict

from kfjax.train.config import load_config

CHANGES = {"conv3": {}, "linear": {"block_kernel": 1, "single_depth": 9}}


def get_config(variant: str = "conv3-0") -> ConfigDict:
    kind, _, seed = variant.partition("-")
    config = load_config(f"configs/ablation.py:{seed}")
    with config.unlocked():
        config.system.mmdit.update(CHANGES[kind])
    return config
