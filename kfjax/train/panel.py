"""A look at the generator during training: held-out scenes, the averaged weights, synchrony beside ceiling and floor.

The loss hardly shows synchrony, so it is measured: F1 of detected onsets against the true events, for the true sound
(ceiling), for sound generated for the scene, and for sound generated for another scene's video (floor).
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kfjax import config as strict
from kfjax import features, media, plot
from kfjax.codec.mel import log_mel
from kfjax.codec.vae import MelVAE
from kfjax.data.scenes import Corpus
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.evals.metrics import detect_onsets, onset_f1
from kfjax.evals.scene_sounds import scene_excerpt
from kfjax.flow import sampler
from kfjax.mmdit.mmdit import MMDiT
from kfjax.module import Params, bind
from kfjax.rates import lengths
from kfjax.structs import Excerpt
from kfjax.system import SystemConfig


@dataclass(frozen=True)
class PanelConfig:
    """How much is looked at. `seconds` names the bucket of the held-out corpus."""

    scenes: int = 24
    seconds: float = 4.0
    steps: int = 20
    guidance: float = 3.0
    sounds: int = 2


def flow_panel(
    cfg: SystemConfig, tokenizer: Tokenizer, frozen: Mapping[str, Params], corpus: Corpus, panel: Mapping[str, Any]
):
    """(averaged parameters, step, folder) -> figures; sounds and pictures of the first scenes go into the folder.

    Args:
      frozen: the parts that the run does not hold: "vae" and "vocoder", and where it trains on features that were
        extracted beforehand also "text", "clip" and "sync".
      corpus: held-out scenes.
      panel: of a `PanelConfig`.

    Raises:
      ValueError: no scenes of that duration, or none with an impact; films of another size than the encoders see.
    """
    options = strict.from_dict(PanelConfig, panel, where="config.panel")
    if cfg.clip.size != cfg.sync.size:
        sizes = f"{cfg.clip.size} and {cfg.sync.size}"
        raise ValueError(f"panel: the encoders see frames of {sizes} pixels, expected one size: scenes have no other")
    if options.seconds not in corpus.buckets:
        raise ValueError(f"panel: no held-out scenes of {options.seconds:g} s; there are {sorted(corpus.buckets)} s")
    bucket = corpus.buckets[options.seconds]
    chosen = [i for i in range(len(bucket)) if any(e.struck for e in bucket.scene(i).events)][: options.scenes]
    if not chosen:
        raise ValueError(f"panel: none of {len(bucket)} held-out scenes has an impact; render more")
    events = [[e.time_seconds for e in bucket.scene(i).events if e.struck] for i in chosen]
    excerpt = scene_excerpt(cfg, tokenizer, bucket, chosen, [bucket.scene(i).caption for i in chosen])
    shuffled = excerpt._replace(
        clip_frames=np.roll(excerpt.clip_frames, 1, 0), sync_frames=np.roll(excerpt.sync_frames, 1, 0)
    )
    truth = [bucket.waveform(i).mean(-1) for i in chosen]
    ceiling = _f1(truth, events, cfg)
    generate = jax.jit(partial(_generate, cfg=cfg, options=options))

    def look(params: Params, step: int, folder: Path) -> dict[str, float]:
        parts = dict(frozen) | params  # sent along each time: on the device they would be in the training's way
        waves, floor = (np.asarray(generate(parts, seen)) for seen in (excerpt, shuffled))
        folder.mkdir(parents=True, exist_ok=True)
        for k, wave in enumerate(waves[: options.sounds]):
            _show(folder / f"{step:07d}-{k}", wave, truth[k], excerpt.clip_frames[k], events[k], cfg)
        return {"f1": _f1(waves, events, cfg), "f1_shuffled": _f1(floor, events, cfg), "f1_ceiling": ceiling}

    return look


def _show(stem: Path, wave: np.ndarray, truth: np.ndarray, frames: np.ndarray, marks: list[float], cfg: SystemConfig):
    """STEM.wav, STEM.png (frames, waveform and mel with the true events) and STEM-mel.png (true above generated)."""
    rate = cfg.rates.sample_rate_hz
    media.write_wav(stem.with_suffix(".wav"), np.stack([wave, wave], -1), rate)
    plot.overview(stem.with_suffix(".png"), wave, rate, frames=frames[:: max(1, len(frames) // 12)], marks=marks)
    pair = {"true": truth, "generated": wave[: len(truth)]}
    mels = {name: np.asarray(log_mel(x[None], cfg.codec.mel)[0]) for name, x in pair.items()}
    plot.compare(stem.with_name(f"{stem.name}-mel.png"), mels, len(truth) / rate, marks=marks)


def _generate(params: Params, excerpt: Excerpt, *, cfg: SystemConfig, options: PanelConfig) -> Float[Array, "b t"]:
    """Mono waveforms of a batch of scenes."""
    encoded = features.encode(params, cfg, excerpt)
    latents = lengths(options.seconds, cfg.rates).latents
    branches = sampler.branch_features(encoded, ("full", "empty"))
    mmdit = bind(MMDiT, cfg.mmdit, params["mmdit"])
    conditions = mmdit.prepare(branches, latents)
    weights = jnp.array([options.guidance, 1 - options.guidance])
    velocity = sampler.guided(lambda x, t: mmdit(x, t, conditions), weights)
    noise = jax.random.normal(jax.random.key(0), (encoded.clip.shape[0], latents, cfg.mmdit.latent_dim))
    mel = bind(MelVAE, cfg.codec.vae, params["vae"]).decode(sampler.integrate(velocity, noise, options.steps))
    return bind(*cfg.parts()["vocoder"], params["vocoder"])(mel)


def _f1(waves, events: list[list[float]], cfg: SystemConfig) -> float:
    rate = cfg.rates.sample_rate_hz
    return float(np.mean([onset_f1(detect_onsets(w, rate), true).f1 for w, true in zip(waves, events, strict=True)]))
