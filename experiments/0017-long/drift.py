"""Does synchrony drift within a long sound? Onset F1 in every 10 s of films of five minutes.

    python -m experiments 0017/drift --films 12
    python -m experiments 0017/drift --report

A film repeats one held-out scene of 10 s in which something is struck, so every stretch has the same events to find and
stretches differ in where they lie alone. The picture decides: there is no caption. Beside the five minutes in windows:
one pass of 20, 40 and 60 s of the same film. Onsets within 0.2 s of a repetition's border do not count, because the
picture is cut there. A stopped run goes on with the next film.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from experiments import harness

RECIPES = ("footsteps", "hammer", "clock", "bouncing", "piano", "bell")
STRETCH, RATE, BORDER = 10, 44100, 0.2
WINDOWS = "windows, 300 s"
#: Seconds of the film, and of a window: one as long as the film makes it in one pass.
WAYS = {WINDOWS: (300, None)} | {f"one pass, {seconds} s": (seconds, seconds) for seconds in (20, 40, 60)}
#: Standard errors that an effect must have to be seen four times of five at p = 0.05.
SEEN = 2.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("drift.json"))
    parser.add_argument("--films", type=int, default=12, help="(default %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="of the schedule sway (default %(default)s)")
    parser.add_argument("--report", action="store_true", help="measure nothing: the table of what there is")
    args = parser.parse_args()
    results = harness.Results(args.output, None if args.report else {"steps": args.steps, "schedule": "sway"})
    if not args.report:
        measure(results, args.films, args.steps)
    print("\n".join(table(results)))


def measure(results: harness.Results, films: int, steps: int) -> None:
    from kfjax import pipeline
    from kfjax.structs import Video

    model = pipeline.load()
    for number in range(films):
        todo = {way: sizes for way, sizes in WAYS.items() if not results.has(way, number)}
        if not todo:
            continue
        scene, film = harness.scene_film(8000 + number, STRETCH, RECIPES[number % len(RECIPES)])
        for way, (seconds, window) in todo.items():
            times = seconds // STRETCH
            clip, sync = (np.concatenate([frames] * times) for frames in (film.clip_frames, film.sync_frames))
            made = model.generate(
                Video(clip, sync, float(seconds)), seed=number, steps=steps, schedule="sway", window=window
            )
            f1 = stretches(made.waveform, scene, times)
            results.put(way, number, {"recipe": scene.recipe, "f1": f1})
            print(f"{number} {scene.recipe}, {way}: {np.mean(f1):.3f}", flush=True)


def stretches(wave: np.ndarray, scene, times: int) -> list[float]:
    """Onset F1 of each stretch."""
    from kfjax.metrics.onsets import detect_onsets, onset_f1
    from kfjax.scenes.scores import struck_times

    found = detect_onsets(wave, RATE)
    within = lambda at: at[(at >= BORDER) & (at < STRETCH - BORDER)]
    true = within(np.array(struck_times(scene)))
    return [onset_f1(within(found - STRETCH * k), true).f1 for k in range(times)]


def table(results: harness.Results) -> list[str]:
    """Drift: of a straight line through a film's stretches, from the first to the last; ± is a standard error."""
    rows = []
    for way in WAYS:
        if way not in results.cells:
            continue
        f1 = results.of(way, "f1")
        line = np.polyfit(np.linspace(0, 1, f1.shape[1]), f1.T, 1)[0]
        apart = f1[:, -1] - f1[:, 0]
        rows.append([way, len(f1), f1[:, 0].mean(), f1[:, -1].mean(), f1.mean(), with_error(apart), with_error(line)])
    header = ["way", "films", "first 10 s", "last 10 s", "mean", "last - first", "drift"]
    whole = results.of(WINDOWS, "f1")
    each = " ".join(f"{value:.2f}" for value in whole.mean(0))
    error = np.std(whole[:, -1] - whole[:, 0], ddof=1) / np.sqrt(len(whole))
    return [*harness.markdown(header, rows), "", f"stretches: {each}", f"seen: a fall of {SEEN * error:.3f}"]


def with_error(values: np.ndarray) -> str:
    return f"{values.mean():+.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    main()
