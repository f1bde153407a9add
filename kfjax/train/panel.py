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
from kfjax.codec.vocoder import Vocoder
from kfjax.data.scenes import Bucket, Corpus
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.evals.metrics import detect_onsets, onset_f1
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
    cfg: SystemConfig, tokenizer: Tokenizer, codec: Mapping[str, Params], corpus: Corpus, panel: Mapping[str, Any]
):
    """(averaged parameters, step, folder) -> figures; sounds and pictures of the first scenes go into the folder."""
    options = strict.from_dict(PanelConfig, panel, where="config.panel")
    if options.seconds not in corpus.buckets:
        raise ValueError(f"panel: no held-out scenes of {options.seconds:g} s; there are {sorted(corpus.buckets)} s")
    bucket = corpus.buckets[options.seconds]
    chosen = [i for i in range(len(bucket)) if any(e.struck for e in bucket.scene(i).events)][: options.scenes]
    if not chosen:
        raise ValueError(f"panel: none of {len(bucket)} held-out scenes has an impact; render more")
    events = [[e.time_seconds for e in bucket.scene(i).events if e.struck] for i in chosen]
    excerpt = scene_excerpt(cfg, tokenizer, bucket, chosen)
    shuffled = excerpt._replace(
        clip_frames=np.roll(excerpt.clip_frames, 1, 0), sync_frames=np.roll(excerpt.sync_frames, 1, 0)
    )
    truth = [bucket.waveform(i).mean(-1) for i in chosen]
    ceiling = _f1(truth, events, cfg)
    generate = jax.jit(partial(_generate, cfg=cfg, codec=codec, options=options))

    def look(params: Params, step: int, folder: Path) -> dict[str, float]:
        waves = np.asarray(generate(params, excerpt))
        floor = np.asarray(generate(params, shuffled))
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


def scene_excerpt(cfg: SystemConfig, tokenizer: Tokenizer, bucket: Bucket, rows: list[int]) -> Excerpt:
    """The video and caption of some rendered scenes, as the encoders read them."""
    size = lengths(bucket.seconds, cfg.rates)
    frames = np.stack([bucket.frames[i] for i in rows])
    index = np.ceil(np.arange(size.clip) / cfg.rates.clip_hz * cfg.rates.sync_hz - 1e-6).astype(int)
    prompts = [bucket.scene(i).caption for i in rows]
    blank = features.make_excerpt(cfg, tokenizer, size, bucket.seconds, None, prompts)
    return blank._replace(clip_frames=frames[:, index], sync_frames=frames, has_video=np.ones(len(rows), bool))


def _generate(
    params: Params, excerpt: Excerpt, *, cfg: SystemConfig, codec: Mapping[str, Params], options: PanelConfig
) -> Float[Array, "b t"]:
    """Mono waveforms of a batch of scenes."""
    encoded = features.encode(params, cfg, excerpt)
    latents = lengths(options.seconds, cfg.rates).latents
    branches = sampler.branch_features(encoded, ("full", "empty"))
    mmdit = bind(MMDiT, cfg.mmdit, params["mmdit"])
    conditions = mmdit.prepare(branches, latents)
    weights = jnp.array([options.guidance, 1 - options.guidance])
    velocity = sampler.guided(lambda x, t: mmdit(x, t, conditions), weights)
    noise = jax.random.normal(jax.random.key(0), (encoded.clip.shape[0], latents, cfg.mmdit.latent_dim))
    mel = bind(MelVAE, cfg.codec.vae, codec["vae"]).decode(sampler.integrate(velocity, noise, options.steps))
    return bind(Vocoder, cfg.codec.vocoder, codec["vocoder"])(mel)


def _f1(waves, events: list[list[float]], cfg: SystemConfig) -> float:
    rate = cfg.rates.sample_rate_hz
    return float(np.mean([onset_f1(detect_onsets(w, rate), true).f1 for w, true in zip(waves, events, strict=True)]))
