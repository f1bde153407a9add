"""BigVGAN-v2's generator (44 kHz, 128 bands, 512 samples a frame; 122 M parameters) and its discriminators.

    kfjax train configs/bigvgan.py --workdir runs/bigvgan --set data.sounds=DIR
    kfjax train configs/bigvgan.py:finetune --workdir runs/tuned --set data.sounds=DIR data.start=MODEL data.vae=MODEL

DIR holds recordings, in folders below it too, or a rendered corpus of scenes; without one, sounds are made from
nothing. `finetune` goes on from the vocoder of MODEL, a directory of converted parts, on what its VAE gives back; with
"data.corpora=(('runs/features', 1.0),)" on the recordings of a `kfjax extract` and their latents, decoded.
Hardware: made for eight accelerators or more; neither memory nor time have been measured at this size. Metric: the mel
loss in metrics.jsonl, also of held-out sounds where data.heldout is a folder like DIR. Variants: "", "finetune",
"runlocal" (under a minute, for tests).
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    return ConfigDict({"": full, "finetune": finetune, "runlocal": runlocal}[variant]()).lock()


def full() -> dict:
    return {
        "task": "bigvgan",
        "loop": {"steps": 1_000_000, "seed": 0, "log_every": 100, "save_every": 5000},
        "data": {
            "folder": "runs/waves",
            "sounds": "",
            "heldout": "",
            "validation_batches": 8,
            "start": "",
            "vae": "",
            "corpora": (),
            "sources": (),
        },
        "vae": {"variant": "edm2"},
        "training": {"vocoder": {}, "discriminator": {}},
    }


def finetune() -> dict:
    config = full()
    config["loop"] |= {"steps": 50_000}
    config["data"] |= {"start": "mmaudio", "vae": "mmaudio"}
    optim = {"learning_rate": 2e-5, "b1": 0.8, "b2": 0.99, "weight_decay": 0.01, "clip_norm": 500.0}
    config["training"] |= {"optim": optim, "discriminator_optim": optim | {"learning_rate": 1e-4}}
    return config


def runlocal() -> dict:
    config = full()
    config["loop"] |= {"steps": 4, "log_every": 2, "save_every": 2}
    config["vae"] = {"variant": "plain", "width": 32, "mel_blocks": 1, "latent_blocks": 1}
    optim = {"learning_rate": 2e-3, "b1": 0.8, "b2": 0.99, "warmup": 0.0, "clip_norm": 500.0}
    config["training"] = {
        "vocoder": {"width": 16, "rates": (32, 16), "block_kernels": (3,), "dilations": (1,)},
        "discriminator": {"periods": (3,), "resolutions": ((256, 50, 240),), "width": 4},
        "mel_scales": ((256, 20), (1024, 80)),
        "optim": optim, "discriminator_optim": optim | {"learning_rate": 2e-4},
        "batch": 8, "frames": 16, "pieces": 8, "piece_seconds": 0.5,
    }  # fmt: skip
    return config
