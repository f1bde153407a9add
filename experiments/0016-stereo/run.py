"""What does Mono2Stereo give that two copies of the mono or two independent sounds don't, and what do the ears lose
when they are summed?

    python -m experiments 0016               # measures what results.json lacks, then the table
    python -m experiments 0016 --report      # table from results.json

The held-out scenes are those of experiment 3, rendered at the first use.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numpy as np
from scipy.signal import csd, welch

from experiments import harness
from kfjax import pipeline, system
from kfjax.codec.mel import log_mel
from kfjax.flow.sampler import Guidance
from kfjax.metrics.levels import level_difference_db
from kfjax.scenes.encoded import EncodedScenes
from kfjax.scenes.evaluation import SceneProtocol

#: The ways to two ears. The first two share Mono2Stereo, the last two know nothing of where things stand.
COHERENT, SEPARATE, COPIED, INDEPENDENT = "coherent", "separate", "copied", "independent"
WAYS = (COHERENT, SEPARATE, COPIED, INDEPENDENT)
TRUE = "true sound"
#: Seconds from an onset over which the ears are compared, as in `kfjax.scenes.scores.stereo_correlation`.
WINDOW_SECONDS = 0.06
#: Band levels further than this below the sound's loudest band and frame are not asked what the sum lost there.
RANGE_DB = 40.0


def main(argv=None) -> None:
    harness.on_scenes(__name__, __doc__, measure, argv)


def measure(args: argparse.Namespace) -> None:
    """All ways with one seed of noise, then with the next: they start from the same latents."""
    pipeline.use_program_cache()
    start, model = time.monotonic(), system.load(args.model)
    bucket = harness.held_out(args.corpus, SceneProtocol(), model.cfg.sync.size).buckets[args.seconds]
    rows = harness.struck(bucket, args.scenes)
    scenes = [bucket.scene(i) for i in rows]
    settings = {"model": model.cfg.name, "seconds": args.seconds, "scenes": len(scenes), "seeds": args.seeds}
    results = harness.Results(args.output, settings)
    results.notes["positions"] = [[event.x for event in alone(scene)] for scene in scenes]
    if not results.has(TRUE, 0):
        true = [bucket.waveform(i) for i in rows]
        results.put(TRUE, 0, scores(true, [mel_of(wave.mean(-1), model.cfg) for wave in true], scenes, model.cfg))
    if all(results.has(way, seed) for way in WAYS for seed in range(args.seeds)):
        return
    encoded = EncodedScenes(model, [scene.caption for scene in scenes], args.seconds, films=(bucket, rows))
    drawn = [draw(encoded, model.cfg.defaults, seed) for seed in range(args.seeds)]
    for seed, draws in enumerate(zip(drawn, [*drawn[1:], drawn[0]], strict=True)):
        for way, (waves, mels) in ways(encoded, *draws).items():
            if not results.has(way, seed):
                results.put(way, seed, scores(waves, mels, scenes, model.cfg))
        print(f"seed {seed}: {time.monotonic() - start:.0f} s", flush=True)


class Draw(NamedTuple):
    """What one seed of noise makes of every scene.

    Attributes:
      latents: [scenes, n, d].
      mels: mono log-mels [f, m].
      sounds: by the coherent way, [t, 2]; panning leaves the sum as it was vocoded.
    """

    latents: np.ndarray
    mels: list[np.ndarray]
    sounds: list[np.ndarray]


def draw(encoded, defaults, seed: int) -> Draw:
    latents = encoded.latents(Guidance(defaults.guidance, defaults.guidance), defaults.steps, seed=seed)
    return Draw(latents, list(encoded.mels(latents)), list(encoded.sounds(latents)))


def ways(encoded, one: Draw, other: Draw) -> dict:
    """Way -> (sounds [t, 2], the mono mels that their sums should have). Independent ears hear one draw each."""
    mono, second = ([wave.mean(-1) for wave in draws.sounds] for draws in (one, other))
    both = [np.logaddexp(a, b) - np.log(2) for a, b in zip(one.mels, other.mels, strict=True)]
    return {
        COHERENT: (one.sounds, one.mels),
        SEPARATE: (list(encoded.sounds(one.latents, coherent=False)), one.mels),
        COPIED: ([np.stack([wave, wave], -1) for wave in mono], one.mels),
        INDEPENDENT: ([np.stack(pair, -1) for pair in zip(mono, second, strict=True)], both),
    }


def scores(waves, mels, scenes, cfg) -> dict[str, list]:
    """Of each scene: difference: the right ear's level over the left's at each event that stands alone, dB;
    coherence: of the ears, 0 to 1; and of their mean (left + right) / 2 against the mono mel [f, m] that it should
    have: lost: level that is missing, dB; comb: how unevenly over bands and frames, dB; mel: L1, natural log."""
    rate = cfg.rates.sample_rate_hz
    rows = {name: [] for name in ("difference", "coherence", "lost", "comb", "mel")}
    for wave, mel, scene in zip(waves, mels, scenes, strict=True):
        times = [event.time_seconds for event in alone(scene)]
        rows["difference"].append([level_difference_db(wave, at, WINDOW_SECONDS, rate) for at in times])
        rows["coherence"].append(coherence(wave, rate))
        summed = mel_of(wave.mean(-1), cfg)
        for name, value in zip(("lost", "comb", "mel"), compatibility(summed, mel), strict=True):
            rows[name].append(value)
    return rows


def alone(scene) -> list:
    """Struck events that nothing else struck overlaps: the level difference there belongs to one source."""
    struck = [event for event in scene.events if event.struck and event.time_seconds < scene.duration_seconds]
    gaps = lambda event: [other.time_seconds - event.time_seconds for other in struck if other is not event]
    return [e for e in struck if not any(-2 * WINDOW_SECONDS < gap < WINDOW_SECONDS for gap in gaps(e))]


def coherence(wave: np.ndarray, sample_rate_hz: int) -> float:
    """Magnitude-squared coherence of left and right (Welch, windows of 46 ms), weighted by the power of both.

    1: one is a filtered copy of the other, level differences included; two independent noises come near 0, as near
    as the number of windows allows.
    """
    window = 1 << round(np.log2(0.046 * sample_rate_hz))
    left, right = wave.astype(np.float64).T
    power = [welch(ear, sample_rate_hz, nperseg=window)[1] for ear in (left, right)]
    shared = np.abs(csd(left, right, sample_rate_hz, nperseg=window)[1]) ** 2
    weight = power[0] + power[1]
    own = shared / np.maximum(power[0] * power[1], 1e-30)
    return float((weight * own).sum() / max(weight.sum(), 1e-30))


def compatibility(summed: np.ndarray, mel: np.ndarray) -> tuple[float, float, float]:
    """(level lost, comb, mel L1) of the sum's log-mel against the target's, [f, m] both: see `scores`.

    Level and comb are of the bands and frames within RANGE_DB of the target's loudest, weighted by its power.
    """
    frames = min(len(summed), len(mel))
    summed, mel = summed[:frames].astype(np.float64), mel[:frames].astype(np.float64)
    decibels = 20 / np.log(10)
    weight = np.exp(2 * mel) * (mel > mel.max() - RANGE_DB / decibels)
    weight = weight / weight.sum()
    lost = 10 * np.log10(np.sum(weight) / np.sum(weight * np.exp(2 * (summed - mel))))
    change = decibels * (summed - mel)
    comb = np.sqrt(np.sum(weight * (change - np.sum(weight * change)) ** 2))
    return float(lost), float(comb), float(np.abs(summed - mel).mean())


def mel_of(wave: np.ndarray, cfg) -> np.ndarray:
    """The codec's own log-mel [f, m] of a mono sound [t]."""
    hop = cfg.codec.mel.hop
    return np.asarray(log_mel(np.pad(wave, (0, -len(wave) % hop))[None].astype(np.float32), cfg.codec.mel)[0])
