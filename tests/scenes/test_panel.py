"""A look at the generator during training."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from kfjax import features, rates
from kfjax.codec.bigvgan import BigVGANConfig
from kfjax.scenes import panel
from kfjax.scenes.panel import flow_panel
from kfjax.structs import Noise
from kfjax.system import part_shapes
from tests.tiny import corpus as tiny_corpus
from tests.tiny.system import CONFIG, tiny_system

VOCODER = BigVGANConfig(width=64, block_kernels=(3,), dilations=(1,))
BIGVGAN = replace(CONFIG, codec=replace(CONFIG.codec, vocoder=VOCODER))
OPTIONS = {"scenes": 2, "seconds": 1.0, "steps": 1, "guidance": 3.0, "sounds": 1}


@pytest.mark.parametrize("cfg", [CONFIG, BIGVGAN], ids=["light vocoder", "BigVGAN"])
def test_it_listens_with_the_systems_own_vocoder(cfg):
    length = rates.lengths(1.0, CONFIG.rates)
    excerpt = features.make_excerpt(cfg, tiny_system().tokenizer, length, 1.0, None, ["rain", "a bell rings"])
    noise = Noise(*np.zeros((2, 2), np.uint32))
    generate = partial(panel._generate, noise=noise, cfg=cfg, steps=20, guidance=3.0, latents=length.latents)
    parts = part_shapes(cfg)
    assert jax.eval_shape(generate, parts, excerpt).shape == (2, length.samples, 2)
    del parts["stereo"]  # of a run that trains none
    assert jax.eval_shape(generate, parts, excerpt).shape == (2, length.samples, 2)


def test_two_sizes_of_frames_are_refused():
    cfg = replace(CONFIG, clip=replace(CONFIG.clip, size=48))
    with pytest.raises(ValueError, match="panel: the encoders see frames of 48 and 32 pixels, expected one size"):
        flow_panel(cfg, tiny_system().tokenizer, {}, None, **OPTIONS)


@pytest.mark.slow
def test_figures_sounds_and_pictures(tmp_path):
    corpus = tiny_corpus.render(tmp_path / "scenes", split="heldout")
    params = tiny_system().params
    frozen = {name: params[name] for name in ("vae", "vocoder", "text", "clip", "sync")}
    look = flow_panel(CONFIG, tiny_system().tokenizer, frozen, corpus, **OPTIONS)
    figures = look({"mmdit": params["mmdit"]}, 30, tmp_path / "panels")
    assert figures.keys() == {"f1", "f1_shuffled", "f1_ceiling"} and figures["f1_ceiling"] > 0.5
    names = {"0000030-0.wav", "0000030-0.png", "0000030-onsets.png"}
    assert {path.name for path in (tmp_path / "panels").iterdir()} == names
