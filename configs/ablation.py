"""The base of experiments 0010 to 0014: a small generator on the features of scenes, from nothing.

    python -m experiments ablations prepare --scenes runs/scenes      # once: features and held-out scenes
    kfjax train configs/ablation.py:0 --workdir runs/base-0

The encoders and the codec are the built-in model's, frozen. All scenes last 4 seconds, so a duration embedding would
only be a constant, and one that changes at other lengths: there is none. Hardware: one CPU core, about 2 minutes.
Metric: onset F1 on held-out scenes (`experiments/ablations.py`). Variants: "0", "1", "2" (seeds).
"""

from pathlib import Path

from ml_collections import ConfigDict

from kfjax.train.config import load_config


def get_config(variant: str = "0") -> ConfigDict:
    seed = {"": 0, "0": 0, "1": 1, "2": 2}[variant]
    config = load_config(str(Path(__file__).with_name("flow.py"))).to_dict()
    config["loop"] = {"steps": 350, "seed": seed, "log_every": 25, "save_every": 100}
    config["system"]["mmdit"] |= {
        "width": 64, "heads": 2, "mlp_ratio": 2.0, "hidden_multiple": 32,
        "rope": "aligned", "duration": "none", "sync": "seen", "block_kernel": 3,  # what is ablated
    }  # fmt: skip
    config["step"] = {
        "draws": 1, "train_encoders": False, "stereo_weight": 0.0, "align_weight": 0.3, "drop_video": 0.1,
        "drop_text": 0.1, "early_times": 0.25, "ema_decay": 0.99,
    }  # fmt: skip
    config["optim"] = {"learning_rate": 3e-3, "final_learning_rate": 1e-5, "decay_steps": 200, "warmup": 0.95}
    config["data"] |= {
        "folder": "",
        "vae": "",
        "vocoder": "",
        "tokenizer": "",
        "corpora": (("runs/ablations/features", 1.0),),
        "batch_seconds": 24.0,
        "buckets": ((4.0, 1.0),),
        "emphasis": (),
        "duration_jitter": 0.0,
    }
    return ConfigDict(config).lock()
