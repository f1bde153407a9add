"""The interface of generators and codecs: another family behind it makes sound in the same system."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kfjax import features, generation, rates
from kfjax.codec import Codec, codec_of
from kfjax.codec.configs import CodecConfig
from kfjax.generators import Generator, generator_of
from kfjax.nn.module import init
from kfjax.structs import Noise, Schedule
from tests.tiny.system import tiny_system


@dataclass(frozen=True)
class OtherConfig:
    """A generator of one matrix."""

    latent_dim: int
    clip_dim: int
    sync_dim: int
    text_dim: int


class Other(nnx.Module):
    """Goes straight from noise to a point that the words and pictures choose."""

    def __init__(self, cfg: OtherConfig, *, rngs: nnx.Rngs):
        self.out = nnx.Linear(cfg.clip_dim, cfg.latent_dim, rngs=rngs)

    def prepare(self, features, latents, rates):
        seen = jnp.where(features.given.has_video[:, None, None], features.clip, 0)
        return {"target": jnp.repeat(self.out(seen.mean(1, keepdims=True)), latents, 1)}

    def join(self, first, second):
        return {"target": jnp.concatenate([first["target"], second["target"]], 1)}

    def __call__(self, x, t, conditions):
        return (conditions["target"] - x) / jnp.maximum(1 - t.reshape(len(x), -1, 1), 1e-3)


def test_what_there_is_fits_the_interface():
    cfg = tiny_system().cfg
    assert issubclass(generator_of(cfg.mmdit), Generator)
    assert isinstance(codec_of(CodecConfig()), Codec)


def test_another_generator_makes_the_sound(monkeypatch):
    system = tiny_system()
    cfg, size = system.cfg, rates.lengths(1.0, system.cfg.rates)
    other = OtherConfig(*(getattr(cfg.mmdit, f"{name}_dim") for name in ("latent", "clip", "sync", "text")))
    cfg = replace(cfg, mmdit=other)
    monkeypatch.setattr(generation, "generator_of", lambda cfg: {OtherConfig: Other}[type(cfg)])
    params = {**system.params, "mmdit": init(Other, other, jax.random.key(0))}
    frames = generation.Video(
        np.full((size.clip, cfg.clip.size, cfg.clip.size, 3), 200, np.uint8),
        np.zeros((size.sync_frames, cfg.sync.size, cfg.sync.size, 3), np.uint8), 1.0,
    )  # fmt: skip
    excerpt = features.make_excerpt(cfg, system.tokenizer, size, 1.0, frames, ["a bell"])
    encoded = generation.encode.jitted({name: params[name] for name in generation.ENCODERS}, excerpt, cfg=cfg)
    noise = Noise(np.zeros(2, np.uint32), np.arange(2, dtype=np.uint32))
    x = generation.draw.jitted(noise, shape=(size.latents, other.latent_dim))
    made = generation.sample.jitted(
        params["mmdit"], encoded, None, np.ones(1, np.float32), Schedule.whole(4), x,
        cfg=cfg, branches=("full",), method="euler",
    )  # fmt: skip
    target = np.asarray(encoded.clip).mean(1) @ np.asarray(params["mmdit"]["out"]["kernel"])  # its bias is zero
    np.testing.assert_allclose(made, np.broadcast_to(target[:, None], made.shape), atol=1e-3)
    wave = generation.decode.jitted({name: params[name] for name in cfg.codec.names}, made, encoded, cfg=cfg)
    assert wave.shape[0] == 2 and wave.shape[2] == 2 and np.isfinite(wave).all()
