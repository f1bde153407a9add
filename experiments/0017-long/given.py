"""Does a sound that is given shape the rest? Held-out scenes of 8 s: the first 3 s, or all but a hole, are given.

    python -m experiments 0017/given --output experiments/0017-long/given.json

nothing: film and caption alone. own: the scene's true sound of the first 3 s stands. other: that of another scene of
the same recipe. hole: all but seconds 3 to 5 stand. reference: the sound of a scene of another recipe stands before
it. f1: onsets of what is made (seconds 3 to 8, of the hole 3 to 5). timbre: mean |dB| between the spectral shapes of
what is made and of the true sound of the same seconds; towards: of what is made and the reference.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from experiments import harness

RECIPES = ("bouncing", "falling", "hammer", "rolling", "footsteps", "clock", "bell", "rain", "wind", "fire", "engine")
SECONDS, GIVEN, RATE = 8.0, 3.0, 44100
WAYS = ("nothing", "own", "other", "hole", "hole, nothing given", "reference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=100)
    args = parser.parse_args()
    from kfjax import pipeline

    model = pipeline.load()
    rows = json.loads(args.output.read_text()) if args.output.exists() else []
    for number in range(len(rows), args.scenes):
        rows.append(one_scene(model, number))
        args.output.write_text(json.dumps(rows) + "\n")
        print(number, rows[-1]["recipe"], flush=True)
    print(table(rows))


def one_scene(model, number: int) -> dict:
    from kfjax.scenes.scores import struck_times

    recipe = RECIPES[number % len(RECIPES)]
    scene, film = harness.scene_film(9000 + number, SECONDS, recipe)
    true = scene.sound(RATE)
    like = harness.scene_film(9500 + number, SECONDS, recipe)[0].sound(RATE)
    apart = harness.scene_film(9700 + number, 3.0, RECIPES[(number + 5) % len(RECIPES)])[0].sound(RATE)
    options = {
        "nothing": {}, "own": {"audio": true, "keep": [(0, GIVEN)]}, "other": {"audio": like, "keep": [(0, GIVEN)]},
        "hole": {"audio": true, "redo": [(3, 5)]}, "hole, nothing given": {}, "reference": {},
    }  # fmt: skip
    row = {"scene": number, "recipe": recipe}
    plain = model.generate(film, scene.caption, seed=number).waveform
    for way in WAYS:
        wave = model.generate(film, scene.caption, seed=number, **options[way]).waveform if options[way] else plain
        if way == "reference":
            wave = with_reference(model, film, scene.caption, number, apart)
        span = (3.0, 5.0) if "hole" in way else (GIVEN, SECONDS)
        part = slice(round(span[0] * RATE), round(span[1] * RATE))
        row[way] = scores(wave[part], true[part], np.array(struck_times(scene)) - span[0], span[1] - span[0])
        if way in ("nothing", "reference"):
            row[way]["towards"] = distance(wave, apart)
    return row


def with_reference(model, film, caption: str, seed: int, sound: np.ndarray) -> np.ndarray:
    import tempfile

    from kfjax import media

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "reference.wav")
        media.write_wav(path, sound / max(1.0, np.abs(sound).max()), RATE)
        return model.generate(film, caption, seed=seed, reference=path).waveform


def scores(made: np.ndarray, true: np.ndarray, struck: np.ndarray, seconds: float) -> dict[str, float]:
    from kfjax.metrics.onsets import detect_onsets, onset_f1

    struck = struck[(struck > 0.05) & (struck < seconds - 0.05)]
    found = {"timbre": distance(made, true)}
    return found | ({"f1": onset_f1(detect_onsets(made, RATE), struck).f1} if len(struck) else {})


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean |dB| between spectral shapes in 40 bands, each at its mean level."""
    return float(np.abs(harness.spectral_shape(one, RATE) - harness.spectral_shape(other, RATE)).mean())


def table(rows: list[dict]) -> str:
    lines = [
        "| given | onset F1 | timbre, dB | against nothing, dB | towards the reference, dB |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        base = "hole, nothing given" if way.startswith("hole") else "nothing"
        f1 = [row[way]["f1"] for row in rows if "f1" in row[way]]
        timbre = np.array([row[way]["timbre"] for row in rows])
        apart = timbre - [row[base]["timbre"] for row in rows]
        towards = [row[way]["towards"] for row in rows if "towards" in row[way]]
        mean = f"{np.mean(towards):.2f}" if towards else ""
        error = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else 0.0
        lines.append(f"| {way} | {np.mean(f1):.3f} ({len(f1)}) | {timbre.mean():.2f} "
                     f"| {apart.mean():+.2f} ± {1.96 * error:.2f} | {mean} |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
