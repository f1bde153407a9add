"""Blocks in which audio, film and text attend to one another, against blocks of audio alone. Variant: KIND-SEED.

    python -m kfjax.train experiments/0014-joint-single/config.py:1to6-0 --workdir runs/1to6-0

Base: configs/ablation.py, which is "2to4"; depths are chosen for about as many parameters. Metrics: onset F1, held-out
loss. Variants: "3to1-0", "3to1-1", "3to1-2", "2to4-0", "2to4-1", "2to4-2", "1to6-0", "1to6-1", "1to6-2".
"""

from ml_collections import ConfigDict

from kfjax.train.config import load_config

DEPTHS = {"3to1": (3, 1), "2to4": (2, 4), "1to6": (1, 6)}  # joint and single blocks


def get_config(variant: str = "2to4-0") -> ConfigDict:
    kind, _, seed = variant.partition("-")
    config = load_config(f"configs/ablation.py:{seed}")
    with config.unlocked():
        config.system.mmdit.joint_depth, config.system.mmdit.single_depth = DEPTHS[kind]
    return config
