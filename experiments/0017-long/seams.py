"""Can one hear where the windows of a long sound meet? Scenes of a minute, made in four ways.

    python -m experiments 0017/seams --output experiments/0017-long/seams.json

windows: as `Model.generate` makes them. triangle: the same without a guard. one pass: 60 s at once. cut, fade: windows
made apart, cut in the middle of what they share or cross-faded over 1 s. true: the scene's own sound.

jump: mean over 40 bands of |level in the 100 ms after - in the 100 ms before|, dB; the largest within 60 ms of a seam,
and of as many moments away from seams. level: at seams against the windows' middles, dB. recall: share of the true
onsets found within 0.5 s of a seam, and elsewhere. timbre: mean |dB| between the spectral shapes of the first and the
last 20 s.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from experiments import harness

RECIPES = ("rain", "wind", "fire", "engine", "clock", "footsteps", "rolling")
SUSTAINED = ("rain", "wind", "fire", "engine")
SECONDS, RATE = 60, 44100
WAYS = ("windows", "triangle", "one pass", "cut", "fade")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=2, help="of each recipe")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--ways", nargs="+", default=WAYS)
    args = parser.parse_args()
    rows = json.loads(args.output.read_text()) if args.output.exists() else []
    done = {(row["recipe"], row["scene"], row["way"]) for row in rows}
    models = {way: model_for(way) for way in args.ways}
    seams = meeting_places(models["windows"])
    for number in range(args.scenes):
        for recipe in args.recipes:
            scene, film = None, None
            for way in ("true", *args.ways):
                if (recipe, number, way) in done:
                    continue
                if scene is None:
                    scene, film = harness.scene_film(7000 + number, SECONDS, recipe)
                start = time.process_time()
                wave = scene.sound(RATE) if way == "true" else sound(models[way], way, film, scene.caption, seams)
                row = {"recipe": recipe, "scene": number, "way": way, "seconds": time.process_time() - start}
                rows.append(row | figures(wave, scene, seams))
                args.output.write_text(json.dumps(rows, indent=1) + "\n")
                print(json.dumps(row), flush=True)
    print(table(rows))


def model_for(way: str):
    from kfjax import pipeline

    pipeline.start()
    system = pipeline.load_system("built-in")
    defaults = system.cfg.defaults
    changed = {"triangle": {"guard": 0.0}, "one pass": {"longest": float(SECONDS)}}.get(way, {})
    return pipeline.Model(system._replace(cfg=replace(system.cfg, defaults=replace(defaults, **changed))))


def meeting_places(model, overlap: int | None = None) -> np.ndarray:
    """Seconds of the middle of what neighbouring windows share."""
    from kfjax.making.windows import make_plan

    defaults = model.cfg.defaults
    plan = make_plan(SECONDS, model.cfg.rates, defaults.window, overlap or defaults.overlap, defaults.guard)
    starts = np.array(plan.starts)
    return (starts[1:] + starts[:-1] + defaults.window) / 2


def sound(model, way: str, film, caption: str, seams: np.ndarray) -> np.ndarray:
    if way not in ("cut", "fade"):
        return model.generate(film, caption, seed=0).waveform
    from kfjax.structs import Video

    # Each window by itself: neighbours meet in the middle of what they share.
    window, half = model.cfg.defaults.window, 0.5 if way == "fade" else 0.0
    borders = [0.0, *seams, float(SECONDS)]
    wave = np.zeros((SECONDS * RATE, 2), np.float32)
    for left, right in pairwise(borders):
        start = int(min(max(0, left - model.cfg.defaults.overlap / 2), SECONDS - window))
        part = Video(film.clip_frames[8 * start :][: 8 * window], film.sync_frames[25 * start :][: 25 * window], window)
        made = model.generate(part, caption, seed=int(start)).waveform
        at = start + np.arange(len(made)) / RATE
        share = np.ones(len(at)) if half else ((at >= left) & (at < right)).astype(float)
        if half:
            share = np.clip(np.minimum((at - left) / (2 * half) + 0.5, (right - at) / (2 * half) + 0.5), 0, 1)
            share = np.where((left == 0) & (at < 2), 1, np.where((right == SECONDS) & (at > SECONDS - 2), 1, share))
        wave[start * RATE : start * RATE + len(made)] += (np.sqrt(share)[:, None] * made).astype(np.float32)
    return wave


def figures(wave: np.ndarray, scene, seams: np.ndarray) -> dict[str, float]:
    from kfjax.metrics.onsets import detect_onsets, onset_f1
    from kfjax.scenes.scores import struck_times

    peak, hop = peaks(wave)
    at = np.round(seams / hop).astype(int)
    away = np.ones(len(peak), bool)
    for i in at:
        away[max(0, i - int(0.5 / hop)) : i + int(0.5 / hop)] = False
    away[: int(1 / hop)] = away[-int(1 / hop) :] = False
    middles = (np.r_[0.0, seams] + np.r_[seams, SECONDS]) / 2
    ends = [harness.spectral_shape(part, RATE) for part in (wave[: 20 * RATE], wave[-20 * RATE :])]
    found = {"jump at seams": peak[at].mean(), "jump elsewhere": peak[away].mean(),
             "rank": float(np.mean([(peak[away] < value).mean() for value in peak[at]])),
             "level": levels(wave, seams).mean() - levels(wave, middles).mean(),
             "timbre": np.abs(np.subtract(*ends)).mean()}  # fmt: skip
    true = struck_times(scene)
    if len(true):
        score = onset_f1(detect_onsets(wave, RATE), true)
        hit = {pair[1] for pair in score.pairs}
        close = np.array([np.abs(seams - t).min() <= 0.5 for t in true])
        got = np.array([i in hit for i in range(len(true))])
        found |= {"f1": score.f1, "near": int(close.sum()), "near found": int(got[close].sum()),
                  "far": int((~close).sum()), "far found": int(got[~close].sum())}  # fmt: skip
    return {name: float(value) for name, value in found.items()}


def peaks(wave: np.ndarray) -> tuple[np.ndarray, float]:
    """The largest jump within 60 ms of every moment, dB, and the hop of the moments, seconds."""
    jump, hop = band_jumps(wave)
    near = int(0.06 / hop)
    return np.array([jump[max(0, i - near) : i + near + 1].max() for i in range(len(jump))]), hop


def band_jumps(wave: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean over bands of the change of level between neighbouring 100 ms, and the hop of the moments, seconds."""
    from kfjax.metrics.reconstruction import log_mel

    mel = np.exp(2 * log_mel(wave.mean(1), RATE, bands=40))  # power
    mel = mel.T if mel.shape[0] == 40 else mel
    hop = len(wave) / RATE / len(mel)
    width = round(0.1 / hop)
    total = np.cumsum(np.r_[np.zeros((1, 40)), mel], 0)
    mean = (total[width:] - total[:-width]) / width
    level = 10 * np.log10(np.maximum(mean, 1e-9))
    jump = np.abs(level[width:] - level[:-width]).mean(1)
    return np.r_[np.zeros(width), jump, np.zeros(len(mel) - len(jump) - width)], hop


def levels(wave: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """dB of the half second around each moment."""
    parts = [wave[int((t - 0.25) * RATE) : int((t + 0.25) * RATE)] for t in moments]
    return np.array([10 * np.log10(np.square(part).mean() + 1e-10) for part in parts])


def table(rows: list[dict]) -> str:
    heads = (
        "way",
        "recipe",
        "scenes",
        "jump at seams / elsewhere",
        "rank",
        "level, dB",
        "timbre, dB",
        "near",
        "elsewhere",
    )
    lines = [f"| {' | '.join(heads)} |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for way in ("true", *WAYS):
        for recipe in RECIPES:
            own = [row for row in rows if row["way"] == way and row["recipe"] == recipe]
            if not own:
                continue
            mean = lambda name, own=own: np.mean([row[name] for row in own])
            total = lambda name, own=own: int(sum(row.get(name, 0) for row in own))
            lines.append(
                f"| {way} | {recipe} | {len(own)} | {mean('jump at seams'):.2f} / {mean('jump elsewhere'):.2f} "
                f"| {mean('rank'):.2f} | {mean('level'):+.2f} | {mean('timbre'):.2f} "
                f"| {total('near found')} of {total('near')} "
                f"| {total('far found')} of {total('far')} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
