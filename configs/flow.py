"""The generator.

    kfjax train configs/flow.py --workdir runs/flow --set data.folder=runs/scenes data.vae=runs/vae/vae.safetensors
    kfjax train configs/flow.py:1.5b --workdir runs/1.5b --set "data.corpora=(('vggsound', 3.0), ('wavcaps', 1.0))"
    kfjax train configs/flow.py:1.5b --workdir runs/speed --set data.synthetic=True
    kfjax train configs/flow.py:1.5b --workdir runs/other --set data.system=mmaudio-small-44k "data.corpora=…"
    kfjax train configs/flow.py:finetune --workdir runs/tuned --set data.start=mmaudio-small-44k "data.corpora=…"

It trains on scenes (data.folder), on folders of features that `kfjax extract` made, each with its share of the examples
(data.corpora), or on random numbers (data.synthetic): no data, for the speed alone. Features are of a system's encoders
and codec (data.system, and data.codec where another stands in its slot); the network's inputs are as wide as these are.
The built-in model is trained in two parts, experiments/0003-built-in-model/retrain.sh has them.
Hardware: two CPU cores (the built-in model, 2.5 hours); a pod for the sizes of the paper. Metric: onset F1 on held-out
scenes (metrics.jsonl, kind "panel"). Variants: "" (the built-in model), "stereo" (its Mono2Stereo alone, on the frozen
encoders of a run), "1.5b", "3b", "6b" (the paper's sizes, on features), "finetune" (all of the network of the model
data.start, on features), "lora" (LoRA on the network of the model data.start, whichever its size), "runlocal",
"lora-runlocal", "finetune-runlocal", "features-runlocal" (under a minute, for tests).
"""

from importlib.resources import files

from ml_collections import ConfigDict

WIDTH = 128  # of every encoder of the built-in model


def get_config(variant: str = "") -> ConfigDict:
    small = variant in ("", "stereo", "lora", "runlocal", "lora-runlocal")
    tuned, size = variant.startswith("finetune"), variant.replace("features-runlocal", "1.5b")
    config = built_in() if small else paper("1.5b" if tuned else size)
    if variant == "stereo":
        config = stereo(config)
    if variant == "runlocal":
        config = runlocal(config)
    if variant.startswith("lora"):
        config = lora(config)
    if tuned:
        config = {"finetune": finetune, "finetune-runlocal": finetune_runlocal}[variant](config)
    if variant == "features-runlocal":
        config["system"]["mmdit"] |= {"width": 64, "heads": 1, "joint_depth": 1, "single_depth": 1}
        config["step"]["compute_dtype"] = "float32"
        config["loop"]["validate_every"] = 4
        config["data"]["validation_batches"] = 1
    if variant == "lora-runlocal":
        config["system"]["mmdit"]["unroll"] = False
    if variant.endswith("runlocal"):
        config = short(config)
    return ConfigDict(config).lock()


def built_in() -> dict:
    return {
        "task": "flow",
        "loop": {"steps": 8000, "seed": 0, "log_every": 25, "save_every": 250, "panel_every": 500},
        "system": {
            "name": "built-in",
            "mmdit": {
                "width": 128,
                "heads": 2,
                "joint_depth": 2,
                "single_depth": 4,
                "hidden_multiple": 64,
                "clip_dim": WIDTH,
                "sync_dim": WIDTH,
                "text_dim": WIDTH,
                "sync_align": "timed",
                "unroll": True,
            },
            "text": {"vocab": 512, "width": WIDTH, "depth": 2, "heads": 4, "head_dim": 32, "hidden": 256, "gain": 4.0},
            "clip": {
                "size": 64,
                "patch": 16,
                "width": WIDTH,
                "depth": 2,
                "heads": 4,
                "mlp_width": 256,
                "out_dim": WIDTH,
                "normalize": False,
                "stem": "conv",
                "position_std": 0.5,
            },
            "sync": {
                "size": 64,
                "patch": 32,
                "width": WIDTH,
                "depth": 2,
                "heads": 4,
                "stem": "conv",
                "motion_gain": 16.0,
                "picture_gain": 0.25,
                "position_std": 0.5,
            },
            "codec": {
                "vae": {"variant": "plain", "width": 192, "mel_blocks": 2, "latent_blocks": 4},
                "stereo": {"width": 64, "depth": 3, "clip_dim": WIDTH, "clip_hz": 44100 / 1024},
            },
            "text_tokens": 24,
            "sync_resize": "stretch",
            "known_as": "clean",
            "stereo_sees": "sync",
            # Scenes of 1 to 13 s; sustained sounds fade in and out within 0.3 to 0.8 s of their ends.
            "defaults": {"steps": 20, "guidance": 3.0, "negative": 6.0, "longest": 13.0, "guard": 0.6},
        },
        "step": {
            "draws": 2,
            "train_encoders": True,
            "stereo_weight": 0.5,
            "align_weight": 0.3,
            "caption_weight": 0.02,
            "sound_weight": 0.3,
            "early_times": 0.25,
            "known": 0.0,
            "drop_video": 0.4,
            "drop_text": 0.15,
        },
        "optim": {"learning_rate": 1e-3, "final_learning_rate": 1e-5, "decay_steps": 2000},
        "data": {
            # Features: whose encoders and codec they are of, and whose codec stands in the slot ("": the same one's).
            "system": "",
            "codec": "",
            "folder": "runs/scenes",
            "heldout": "",
            "start": "",
            "tokenizer": "runs/tokenizer.json",
            "encoders": "",
            "vae": "runs/vae/vae.safetensors",
            "vocoder": "runs/vocoder/vocoder.safetensors",
            # Batches are multiples of batch_multiple examples (0: of the devices at hand). Of features: which encoders'
            # ("": the first corpus's), the share of joined excerpts, and what is held out, as corpora.
            "corpora": (),
            "synthetic": False,
            "fingerprint": "",
            "joined": 0.0,
            "batch_multiple": 0,
            "validation": (),
            "validation_batches": 8,
            "batch_seconds": 32.0,
            "duration_jitter": 0.25,
            "emphasis": (("several", 2), ("sliding", 2)),
            "buckets": ((4.0, 0.52), (8.0, 0.33), (13.0, 0.08), (2.5, 0.05), (1.0, 0.02)),
        },
        "panel": {"scenes": 24, "seconds": 4.0},
    }


def stereo(config: dict) -> dict:
    config["task"] = "stereo"
    config["loop"] |= {"steps": 1500}
    config["data"] |= {"encoders": "runs/flow/ema.safetensors", "buckets": ((4.0, 1.0),)}
    config["optim"] |= {"decay_steps": 500}
    return config


def paper(variant: str) -> dict:
    heads, depth = {"1.5b": (17, 23), "3b": (23, 27), "6b": (32, 27)}[variant]
    config = built_in()
    config["system"] = {
        "name": f"kling-foley-{variant}",
        "mmdit": {
            "width": 64 * heads,
            "heads": heads,
            "joint_depth": 6,
            "single_depth": depth - 6,
            "sync_align": "timed",
            "remat": True,
        },
        "known_as": "renoised",  # "clean" with a step.known above 0
    }
    config["step"] = {
        "draws": 1, "train_encoders": False, "stereo_weight": 0.0, "known": 0.0, "drop_video": 0.1, "drop_text": 0.1,
        "accumulate": 1, "compute_dtype": "bfloat16",
    }  # fmt: skip
    config["loop"] |= {"steps": 300_000, "log_every": 50, "save_every": 1000, "validate_every": 1000, "mesh": ""}
    config["optim"] = {"learning_rate": 1e-4}
    config["data"] |= {"folder": "", "tokenizer": "runs/t5/tokenizer.json", "encoders": "runs/encoders.safetensors"}
    config["data"] |= {"system": f"kling-foley-{variant}"}
    config["data"] |= {"batch_seconds": 2560.0, "batch_multiple": 256, "buckets": ((10.0, 1.0),)}
    return config


def finetune(config: dict) -> dict:
    """Whatever of the system is not named is the model's."""
    config["loop"] |= {"steps": 20_000}
    config["system"] = {"mmdit": {"remat": True}}
    config["optim"] = {"learning_rate": 1e-5}
    config["data"] |= {"start": "mmaudio-large-44k-v2", "system": "", "buckets": ((8.0, 1.0),)}
    config["data"] |= {"batch_seconds": 512.0, "batch_multiple": 0}
    config["data"] |= dict.fromkeys(("tokenizer", "encoders", "vae", "vocoder"), "")
    return config


def finetune_runlocal(config: dict) -> dict:
    config = finetune(config)
    config["system"] = {"mmdit": {"remat": False, "unroll": False}}
    config["step"]["compute_dtype"] = "float32"
    config["data"]["start"] = str(files("kfjax") / "assets" / "model")
    return config


def lora(config: dict) -> dict:
    """Whatever of the system is not named, and every empty path, is the model directory's."""
    config["loop"] |= {"steps": 500, "panel_every": 250}
    config["system"] = {"mmdit": {"remat": False, "unroll": True}}
    targets = (r"(joint|joint_last|single)/.*/(qkv|out)/kernel",)
    config["step"] = {"draws": 2, "known": 0.0, "lora": {"rank": 8, "alpha": 8.0, "targets": targets, "words": True}}
    config["optim"] |= {"decay_steps": 250}
    config["data"] |= {"start": str(files("kfjax") / "assets" / "model"), "vae": "", "vocoder": "", "tokenizer": ""}
    config["data"] |= {"buckets": ((4.0, 1.0),), "emphasis": ()}
    return config


def runlocal(config: dict) -> dict:
    config["system"]["mmdit"] |= {"width": 64, "heads": 1, "joint_depth": 1, "single_depth": 1, "unroll": False}
    config["system"]["codec"]["vae"] |= {"width": 32, "mel_blocks": 1, "latent_blocks": 1}
    return config


def short(config: dict) -> dict:
    config["loop"] |= {"steps": 4, "log_every": 2, "save_every": 2, "panel_every": 4}
    config["optim"] |= {"decay_steps": 2}
    config["data"] |= {"batch_seconds": 8.0, "batch_multiple": 0, "buckets": ((1.0, 1.0),)}
    config["panel"] |= {"scenes": 2, "seconds": 1.0}
    return config
