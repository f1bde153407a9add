"""The built-in model's network goes on training, with or without given latents. Variant: known, control.

    python -m experiments 0021                     # prepares, trains and measures both

Base: configs/flow.py:finetune, on features of scenes; encoders and codec are the built-in model's, frozen, and what is
dropped is dropped as often as when it was made. Both variants have the same seed, examples, noise and times. Hardware:
one CPU core, see README.md. Metric: experiments/0017-long/given.py.
"""

from ml_collections import ConfigDict

from kfjax.train.config import load_config

#: Share of the noise draws in which some latents are given.
KNOWN = {"known": 0.5, "control": 0.0}


def get_config(variant: str = "known") -> ConfigDict:
    config = load_config("configs/flow.py:finetune-runlocal")
    with config.unlocked():
        config.system.mmdit.unroll = True
        config.loop = {"steps": 400, "seed": 0, "log_every": 10, "save_every": 50}
        config.step = {
            "draws": 2, "known": KNOWN[variant or "known"], "drop_video": 0.4, "drop_text": 0.15, "early_times": 0.25,
            "ema_decay": 0.99, "compute_dtype": "float32",
        }  # fmt: skip
        config.optim = {"learning_rate": 3e-4, "final_learning_rate": 1e-6, "decay_steps": 200, "warmup": 0.95}
        config.data.batch_seconds = 32.0
        config.data.buckets = ((8.0, 1.0),)
    return config
