"""LoRA on the built-in model with 50 scenes of a kind that it lacks: `configs/flow.py:lora`, more layers, more rank.

    python -m experiments 0008

Hardware: two CPU cores, see README.md for the time. Metric: share of held-out scenes in which a frog is heard.
"""

from ml_collections import ConfigDict

from kfjax.train.config import load_config

TARGETS = (r"(joint|joint_last|single)/.*/(qkv|out|w[123])/kernel", r"(clip|sync|text)_in/kernel")


def get_config(variant: str = "") -> ConfigDict:
    config = load_config("configs/flow.py:lora")
    with config.unlocked():
        config.update_from_flattened_dict({
            "loop.steps": 300, "loop.save_every": 50, "loop.log_every": 10, "optim.decay_steps": 150,
            "optim.warmup": 0.95, "data.buckets": ((2.5, 1.0),), "data.batch_seconds": 20.0,
            "step.lora.rank": 16, "step.lora.alpha": 16.0, "step.lora.targets": TARGETS,
        })  # fmt: skip
    return config
