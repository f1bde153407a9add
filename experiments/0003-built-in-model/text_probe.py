"""How far captions move the velocity of a model when there is no film: the text encoder's collapse, in numbers.

    python -m experiments 0003/text_probe kfjax/assets/model

Prints for every caption how far its velocity at t = 0 lies from the mean of all, relative to its deviation.
"""

from __future__ import annotations

import sys

import jax
import numpy as np

from kfjax import features, rates, system
from kfjax.generators.mmdit.mmdit import MMDiT
from kfjax.nn.module import bind

CAPTIONS = (
    "heavy rain", "a bell rings", "a piano plays", "wind", "a crackling fire", "footsteps on stone",
    "a clock is ticking", "an engine passes", "a glass ball bounces", "a wooden ball bounces on the floor",
    "a hammer strikes a metal block", "silence",
)  # fmt: skip
LATENTS, SECONDS = 64, 8.0


def main() -> None:
    model = system.load(sys.argv[1])
    lengths = rates.lengths(1.0, model.cfg.rates)
    excerpt = features.make_excerpt(model.cfg, model.tokenizer, lengths, SECONDS, None, CAPTIONS)
    encoded = features.encode(model.params, model.cfg, excerpt)
    network = bind(MMDiT, model.cfg.mmdit, model.params["mmdit"])
    noise = jax.random.normal(jax.random.key(0), (1, LATENTS, model.cfg.mmdit.latent_dim)).repeat(len(CAPTIONS), 0)
    conditions = network.prepare(encoded, LATENTS, model.cfg.rates)
    velocity = np.asarray(network(noise, np.zeros(len(CAPTIONS), np.float32), conditions))
    apart = (velocity - velocity.mean(0)).std((1, 2)) / velocity.std()
    for caption, share in zip(CAPTIONS, apart, strict=True):
        print(f"{share:6.1%}  {caption}")
