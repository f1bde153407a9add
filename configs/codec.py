"""The codec of the built-in model: Mel-VAE (paper, Algorithm 2) and the light vocoder.

    python -m kfjax.scenes --corpus runs/scenes --count 7300 --seed 1 \\
        --durations 4:4000 8:1000 2.5:1200 13:300 1:800
    kfjax train configs/codec.py --workdir runs/vae --set data.folder=runs/scenes
    kfjax train configs/codec.py:vocoder --workdir runs/vocoder
    kfjax train configs/codec.py:vocoder-finetune --workdir runs/vocoder-finetune
    kfjax train configs/codec.py:vocoder-finetune --workdir runs/on-features --set data.vae=MODEL data.start=MODEL \\
        "data.corpora=(('runs/features', 1.0),)"

Hardware: two CPU cores. Time: about 15 minutes (Mel-VAE), an hour (vocoder), a quarter of that (fine-tuning on the
mels that the VAE decodes). Metric: the loss on held-out sound (metrics.jsonl, kind "validation"), for the Mel-VAE that
of the scenes in data.heldout.
Variants: "" (Mel-VAE), "vocoder", "vocoder-finetune", "runlocal", "vocoder-runlocal" and "vocoder-finetune-runlocal"
(under a minute, for tests).
"""

from ml_collections import ConfigDict

SMALL_VAE = {"variant": "plain", "width": 192, "mel_blocks": 2, "latent_blocks": 4}
TINY_VAE = {"variant": "plain", "width": 32, "mel_blocks": 1, "latent_blocks": 1}


def get_config(variant: str = "") -> ConfigDict:
    makers = {
        "": vae, "runlocal": vae_runlocal, "vocoder": vocoder, "vocoder-runlocal": vocoder_runlocal,
        "vocoder-finetune": vocoder_finetune, "vocoder-finetune-runlocal": vocoder_finetune_runlocal,
    }  # fmt: skip
    return ConfigDict(makers[variant]()).lock()


def vae() -> dict:
    return {
        "task": "codec",
        "loop": {"steps": 2000, "seed": 0, "log_every": 50, "save_every": 500},
        "data": {
            "folder": "runs/scenes",
            "heldout": "",
            "validation_batches": 8,
            "batch": 16,
            "frames": 172,
            "survey_batches": 20,
        },
        "training": {
            "vae": SMALL_VAE,
            "discriminator": {},
            "stages": {
                "mse_steps": 700,
                "kl_steps": 450,
                "gan_steps": 150,
                "decoder_steps": 700,
                "kl_upper": 1e-3,
                "gan_upper": 0.02,
                "kl_margin": 20.0,
                "r1_weight": 1.0,
            },
            "optim": {"learning_rate": 1e-3, "decay_steps": 600, "ema_decay": 0.998},
        },
    }


def vae_runlocal() -> dict:
    config = vae()
    config["loop"] |= {"steps": 8, "log_every": 2, "save_every": 4}
    config["data"] |= {"batch": 8, "frames": 32, "survey_batches": 1}
    config["training"]["vae"] = TINY_VAE
    config["training"]["stages"] |= {"mse_steps": 2, "kl_steps": 2, "gan_steps": 2, "decoder_steps": 2}
    config["training"]["optim"] |= {"decay_steps": 2}
    return config


def vocoder() -> dict:
    return {
        "task": "vocoder",
        "loop": {"steps": 4000, "seed": 0, "log_every": 50, "save_every": 500},
        "data": {"folder": "runs/waves", "vae": "", "corpora": (), "sources": ()},
        "training": {"optim": {"learning_rate": 1e-3, "weight_decay": 1e-4, "decay_steps": 1000}},
    }


def vocoder_runlocal() -> dict:
    config = vocoder()
    config["loop"] |= {"steps": 4, "log_every": 2, "save_every": 2}
    config["training"] |= {"batch": 8, "frames": 16, "pieces": 8}
    return config


def vocoder_finetune() -> dict:
    config = vocoder()
    config["loop"] |= {"steps": 1500}
    config["data"] |= {
        "scenes": "runs/scenes",
        "vae": "runs/vae/vae.safetensors",
        "start": "runs/vocoder/vocoder.safetensors",
    }
    config["vae"] = SMALL_VAE
    config["training"]["optim"] = {"learning_rate": 2e-4, "decay_steps": 1000}
    return config


def vocoder_finetune_runlocal() -> dict:
    small, config = vocoder_runlocal(), vocoder_finetune()
    config["loop"], config["vae"] = small["loop"], TINY_VAE
    config["training"] |= {"batch": 8, "frames": 16, "pieces": 8}
    config["training"]["optim"] |= {"decay_steps": 2}
    return config
