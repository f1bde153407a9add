"""Panel of a training run: synchrony on held-out scenes with the averaged weights, with ceiling and floor.

The loss hardly reflects synchrony, so it is measured: F1 of detected onsets against the true events, for the true sound
(ceiling), for sound generated for the scene, and for sound generated for another scene's video (floor). The onsets of
all scenes are drawn as one raster, the first scenes in full: true sound, generated sound, events, positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

from kfjax import generation, media, plot
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.flow import sampler
from kfjax.metrics.onsets import detect_onsets, merge_close, onset_f1
from kfjax.nn.module import Params
from kfjax.plot import Onsets
from kfjax.rates import lengths
from kfjax.scenes import Corpus, Scene
from kfjax.scenes.scores import struck_times
from kfjax.scenes.sounds import scene_excerpt
from kfjax.structs import Excerpt, Noise
from kfjax.system import SystemConfig


def flow_panel(
    cfg: SystemConfig,
    tokenizer: Tokenizer,
    frozen: Mapping[str, Params],
    corpus: Corpus,
    *,
    scenes: int,
    seconds: float,
    steps: int,
    guidance: float,
    sounds: int,
) -> Callable[[Params, int, Path], dict[str, float]]:
    """(averaged parameters, step, folder) -> figures; sounds and pictures of the first scenes go into the folder.

    Args:
      frozen: the parts that are not in the run's state: "vae" and "vocoder", and where it trains on features that were
        extracted beforehand also "text", "clip" and "sync".
      corpus: held-out scenes.
      scenes, seconds: how many of them are taken, from the corpus's bucket of that duration.
      steps, guidance: of the sampler.
      sounds: how many are written as sound and picture.

    Raises:
      ValueError: no scenes of that duration, or none with an impact; videos of another size than the encoders'.
    """
    if cfg.clip.size != cfg.sync.size:
        sizes = f"{cfg.clip.size} and {cfg.sync.size}"
        raise ValueError(f"panel: the encoders see frames of {sizes} pixels, expected one size: scenes have no other")
    if seconds not in corpus.buckets:
        raise ValueError(f"panel: no held-out scenes of {seconds:g} s; there are {sorted(corpus.buckets)} s")
    bucket = corpus.buckets[seconds]
    chosen = [i for i in range(len(bucket)) if struck_times(bucket.scene(i))][:scenes]
    if not chosen:
        raise ValueError(f"panel: none of {len(bucket)} held-out scenes has an impact; render more")
    held, rate = [bucket.scene(i) for i in chosen], cfg.rates.sample_rate_hz
    excerpt = scene_excerpt(cfg, tokenizer, bucket, chosen, [scene.caption for scene in held])
    shuffled = excerpt._replace(
        clip_frames=np.roll(excerpt.clip_frames, 1, 0), sync_frames=np.roll(excerpt.sync_frames, 1, 0)
    )
    truth = [bucket.waveform(i) for i in chosen]
    ceiling, _ = _heard("true", truth, held, rate)
    noise = Noise(np.zeros(len(chosen), np.uint32), np.array(chosen, np.uint32))
    latents = lengths(seconds, cfg.rates).latents
    generate = jax.jit(partial(_generate, noise=noise, cfg=cfg, steps=steps, guidance=guidance, latents=latents))

    def look(params: Params, step: int, folder: Path) -> dict[str, float]:
        parts = dict(frozen) | params  # passed at each call: kept on the device they would take memory from training
        waves, floor = (np.asarray(generate(parts, seen))[:, : len(truth[0])] for seen in (excerpt, shuffled))
        f1, rows = _heard("generated", waves, held, rate)
        f1_shuffled, _ = _heard("shuffled", floor, held, rate)
        folder.mkdir(parents=True, exist_ok=True)
        for k, wave in enumerate(waves[:sounds]):
            stem = folder / f"{step:07d}-{k}"
            media.write_wav(stem.with_suffix(".wav"), wave, rate)
            plot.comparison(
                stem.with_suffix(".png"), wave, rate, true=truth[k], frames=np.asarray(excerpt.clip_frames[k]),
                marks=list(rows[k].true), onsets=[rows[k]], positions=positions(held[k]), title=held[k].caption,
            )  # fmt: skip
        named = [row._replace(name=scene.recipe) for row, scene in zip(rows, held, strict=True)]
        plot.raster(folder / f"{step:07d}-onsets.png", named, seconds, title=f"step {step}, mean F1 {f1:.3f}")
        return {"f1": f1, "f1_shuffled": f1_shuffled, "f1_ceiling": ceiling}

    return look


def positions(scene: Scene) -> list[list[tuple[float, float]]]:
    """Where every source of a scene is, as `plot.overview` takes it: (seconds, x), one pair for what does not move."""
    paths = (event.path or ((event.time_seconds, event.x, event.loudness),) for event in scene.events)
    return [[(seconds, x) for seconds, x, _ in path] for path in paths]


def _generate(
    params: Params, excerpt: Excerpt, *, noise: Noise, cfg: SystemConfig, steps: int, guidance: float, latents: int
) -> Float[Array, "b t 2"]:
    """Waveforms of a batch of scenes; mono in both channels where the run has no Mono2Stereo."""
    if "stereo" not in params:
        cfg = replace(cfg, codec=replace(cfg.codec, stereo=None))
    weights = sampler.Guidance(guidance, guidance).weights()
    return generation.generate(params, cfg, excerpt, noise, weights, sampler.schedule(steps), latents)


def _heard(name: str, waves: Iterable[np.ndarray], scenes: Sequence[Scene], rate: int) -> tuple[float, list[Onsets]]:
    """Mean F1 of the onsets heard, and a row of the raster for each sound; events that nobody hears apart are one."""
    rows, scores = [], []
    for wave, scene in zip(waves, scenes, strict=True):
        times = np.array(struck_times(scene))
        true, heard = times[merge_close(times, 0.05)], detect_onsets(wave, rate)
        score = onset_f1(heard, true)
        scores.append(score.f1)
        rows.append(Onsets(name, true, heard, score.pairs))
    return float(np.mean(scores)), rows
