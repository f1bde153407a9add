"""A small generator on scenes of one recipe each, with joined or composed excerpts among them. Variant: WAY-SEED.

    python -m experiments 0020 --root runs/composed          # prepares, trains and measures all of them

Base: configs/ablation.py, but trained on 4 and 8 seconds. Metric: onset F1 on films of several events and at 12 s.
Variants: "plain-0", "plain-1", "plain-2", "joined-0", "joined-1", "joined-2", "composed-0", "composed-1", "composed-2",
"both-0", "both-1", "both-2".
"""

from ml_collections import ConfigDict

from kfjax.train.config import load_config

#: Of the examples that are joined, and of those that are composed.
SHARE = 0.25


def get_config(variant: str = "plain-0") -> ConfigDict:
    way, _, seed = variant.partition("-")
    config = load_config(f"configs/ablation.py:{seed}")
    with config.unlocked():
        config.data.buckets = ((4.0, 0.5), (8.0, 0.5))
        config.data.joined = {"plain": 0.0, "joined": SHARE, "composed": 0.0, "both": SHARE}[way]
        composed = (("runs/composed/features-composed", SHARE),) if way in ("composed", "both") else ()
        config.data.corpora = (("runs/composed/features-plain", 1 - SHARE if composed else 1.0), *composed)
        config.loop.steps, config.optim.decay_steps = 600, 350
    return config
