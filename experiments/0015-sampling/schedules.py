"""How few steps are enough, on which schedule, and does guidance in a part of the times gain anything?

    python -m experiments 0015/schedules               # measures what schedules.json lacks, then tables
    python -m experiments 0015/schedules --report      # tables from schedules.json

All held-out scenes count, struck or not. The corpus and the classifier of sources are made at the first use.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from experiments import harness
from kfjax import pipeline, system
from kfjax.scenes.encoded import EncodedScenes
from kfjax.scenes.evaluation import SceneProtocol, classifier_file, classifier_for
from kfjax.scenes.sounds import SceneSounds

from .run import CODEC, TRUE, Cell, Listener, frames_distance, sampled, within_range

HERE = Path(__file__).parent
PLAN = SceneProtocol(scenes=150, seconds=2.5, other_lengths=(), classifier_clips=300)
STEPS = (2, 3, 5, 8, 10, 20)
UNIFORM, SWAY = ({steps: Cell(steps=steps, kind=kind) for steps in STEPS} for kind in ("uniform", "sway"))
GUIDED = [Cell(steps=10, guided=interval) for interval in ((0.1, 1.0), (0.0, 0.8), (0.1, 0.8))]
BOTH = {steps: [UNIFORM[steps], SWAY[steps]] for steps in STEPS}
CELLS = [UNIFORM[20], *BOTH[10], *BOTH[5], *BOTH[3], *BOTH[2], *GUIDED, *BOTH[8], SWAY[20]]  # what is asked first
#: Groups of scenes, each of which is left out once: the spread of the Fréchet distance.
PARTS = 10
MEASURES = {
    "f1": "onset F1", "right": "right source", "chance": "probability of the source", "mel": "mel L1",
    "level": "level, dB", "level error": "level error, dB", "timbre": "timbre, dB", "frechet": "Fréchet distance",
}  # fmt: skip
DIGITS = {"level": 2, "level error": 2, "timbre": 2, "frechet": 1}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--scenes", type=int, default=150, help="the corpus' first (default %(default)s)")
    add("--seeds", type=int, default=3, help="of the noise (default %(default)s)")
    add("--output", type=Path, default=HERE / "schedules.json")
    add("--report", action="store_true", help="measure nothing: tables of what there is")
    args = parser.parse_args(argv)
    if not args.report:
        measure(args)
    write(harness.Results(args.output), args.output.parent)


def measure(args: argparse.Namespace) -> None:
    """Every cell that schedules.json lacks."""
    pipeline.use_program_cache()
    model = system.load(harness.MODEL)
    bucket = harness.held_out(None, PLAN, model.cfg.sync.size).buckets[PLAN.seconds]
    file = classifier_file(bucket.folder.parent, PLAN, {name: model.params[name] for name in ("vae", "vocoder")})
    classifier, rows = classifier_for(SceneSounds(model), PLAN, file), range(args.scenes)
    listener = Listener([bucket.scene(i) for i in rows], [bucket.waveform(i) for i in rows], classifier)
    results = harness.Results(args.output, {"model": model.cfg.name, "seconds": PLAN.seconds, "scenes": len(rows)})
    results.notes["true onsets"] = listener.onsets
    references = {TRUE: lambda: listener.true, CODEC: lambda: SceneSounds(model).through_codec(listener.true, 2.5)}
    for name, make in references.items():
        if not results.has(name, 0):
            results.put(name, 0, scores(listener, list(make())))
    captions = [scene.caption for scene in listener.scenes]
    scenes = EncodedScenes(model, captions, PLAN.seconds, films=(bucket, list(rows)))
    for seed in range(args.seeds):
        for cell in CELLS:
            if not results.has(cell.name, seed):
                start = time.process_time()
                results.put(cell.name, seed, scores(listener, list(scenes.sounds(sampled(scenes, cell, seed)))))
                print(f"seed {seed}: {cell.name}, {time.process_time() - start:.0f} processor seconds", flush=True)


def scores(listener: Listener, raw: list[np.ndarray]) -> dict:
    """Those of `Listener.scores`, and: level: of the sound before it is turned down, against the true one's, dB;
    timbre: mean |dB| between the spectral shapes of both; without: the Fréchet distance without each part in turn."""
    waves, rate = [within_range(wave) for wave in raw], listener.rate
    power = lambda wave: 10 * np.log10(np.square(wave).mean() + 1e-8)
    distance = lambda a, b: float(np.abs(harness.spectral_shape(a, rate) - harness.spectral_shape(b, rate)).mean())
    heard = [bool(scene.sources) for scene in listener.scenes]
    each = lambda measure: [
        measure(*pair) if some else float("nan") for *pair, some in zip(raw, listener.true, heard, strict=True)
    ]
    frames = [listener.frames(wave) for wave in waves]
    but = lambda of, part: [one for i, one in enumerate(of) if i % PARTS != part]
    without = [frames_distance(but(frames, part), but(listener.true_frames, part)) for part in range(PARTS)]
    level = each(lambda made, true: power(made) - power(true if made.ndim == 2 else true.mean(1)))
    return listener.scores(waves) | {"level": level, "timbre": each(distance), "without": without}


# --- tables ---


def write(results: harness.Results, folder: Path) -> None:
    """Print the tables and keep them."""
    done = [cell for cell in CELLS if cell.name in results.cells]
    fewer = [cell for cell in sorted(CELLS, key=order) if cell.guided is None and cell.steps < 20]
    pairs = {
        "Sway less uniform, at equal steps": [(f"{n}", SWAY[n], UNIFORM[n]) for n in STEPS],
        "Fewer steps less 20 uniform ones": [(said(cell), cell, UNIFORM[20]) for cell in fewer],
        "Guidance in an interval less guidance always, 10 uniform steps": [
            ("{:g} to {:g}".format(*cell.guided), cell, UNIFORM[10]) for cell in GUIDED
        ],
    }
    body = [[said(cell), len(results.cells[cell.name]), *means(results, cell.name)] for cell in sorted(done, key=order)]
    body += [[name, "", *means(results, name)] for name in (TRUE, CODEC)]
    tables = {"Means": harness.markdown(["way", "seeds", *MEASURES.values()], body)}
    for title, rows in pairs.items():
        body = [[name, *differences(results, a.name, b.name)] for name, a, b in rows if {a, b} <= set(done)]
        tables[title] = harness.markdown(["", *MEASURES.values()], body)
    text = "\n".join(f"### {title}\n\n" + "\n".join(lines) + "\n" for title, lines in tables.items() if lines)
    print(text)
    (folder / "schedules.md").write_text(text)


def said(cell: Cell) -> str:
    interval = "" if cell.guided is None else ", guided {:g} to {:g}".format(*cell.guided)
    return f"{cell.kind} {cell.steps}{interval}"


def order(cell: Cell) -> tuple:
    return cell.guided is not None, cell.steps, cell.kind == "sway"


def values(results, name: str, measure: str, seeds: int | None = None) -> np.ndarray:
    """[scenes], the mean over the first seeds; of the Fréchet distance [parts], without each."""
    stored = {"level error": "level", "frechet": "without"}.get(measure, measure)
    all_seeds = results.of(name, stored)[:seeds]
    return (np.abs(all_seeds) if measure == "level error" else all_seeds).mean(0)


def means(results, name: str) -> list[str]:
    of = lambda m: results.of(name, "frechet").mean() if m == "frechet" else np.nanmean(values(results, name, m))
    return [f"{of(measure):.{DIGITS.get(measure, 3)}f}" for measure in MEASURES]


def differences(results, a: str, b: str) -> list[str]:
    """a less b, paired over scenes, ± half of the 95 % interval; over as many seeds as both have."""
    seeds, shown = min(len(results.cells[a]), len(results.cells[b])), []
    for measure in MEASURES:
        apart = values(results, a, measure, seeds) - values(results, b, measure, seeds)
        apart = apart[np.isfinite(apart)]
        mean, error = apart.mean(), apart.std(ddof=1) / np.sqrt(len(apart))
        if measure == "frechet":  # jackknife
            mean = (results.of(a, measure)[:seeds] - results.of(b, measure)[:seeds]).mean()
            error = np.sqrt((PARTS - 1) / PARTS * np.square(apart - apart.mean()).sum())
        digits = DIGITS.get(measure, 3)
        shown.append(f"{mean:+.{digits}f} ± {1.96 * error:.{digits}f}")
    return shown


if __name__ == "__main__":
    main()
