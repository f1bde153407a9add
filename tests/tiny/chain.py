"""The configs of tests/test_whole_chain.py: kfjax's own small ones, at the sizes of `tests.tiny.public`.

kfjax train tests/tiny/chain.py:flow --workdir DIR --set data.start=MODEL "data.corpora=(('FEATURES', 1.0),)"

Variants: "flow" (the whole generator of a model goes on), "stereo" (a Mono2Stereo for it) and "vocoder" (its BigVGAN, on
what its VAE makes of the recordings).
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from kfjax.train.config import load_config
from tests.tiny.public import VAE, VOCODER

STEPS = 8
#: Seconds of excerpts, each as likely.
BUCKETS = ((0.7, 0.5), (1.2, 0.5))


def get_config(variant: str = "flow") -> ConfigDict:
    if variant == "vocoder":
        return vocoder()
    config = load_config("configs/flow.py:features-runlocal")
    with config.unlocked():
        config.task = variant
        config.system = {}  # that of data.start
        config.loop.update(steps=STEPS, log_every=1, save_every=2, validate_every=STEPS)
        config.data.update(buckets=BUCKETS, batch_seconds=8.0)
        if variant == "stereo":
            config.optim = {"learning_rate": 0.01, "ema_decay": 0.0}  # it begins in the middle; a few steps are heard
    return config


def vocoder() -> ConfigDict:
    config = load_config("configs/bigvgan.py:runlocal")
    with config.unlocked():
        config.vae = asdict(VAE)
        config.training.vocoder = asdict(VOCODER)
    return config
