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
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import harness

RECIPES = ("bouncing", "falling", "hammer", "rolling", "footsteps", "clock", "bell", "rain", "wind", "fire", "engine")
SECONDS, GIVEN, RATE = 8.0, 3.0, 44100


class Way(NamedTuple):
    """What a sound is made from.

    Attributes:
      given: "own", "other", "hole", "reference" or "" for nothing.
      base: the way without what is given.
      span: seconds that are scored.
      film, caption: whether the scene's is given.
    """

    given: str = ""
    base: str = "nothing"
    span: tuple[float, float] = (GIVEN, SECONDS)
    film: bool = True
    caption: bool = True


WAYS = {
    "nothing": Way(),
    "own": Way("own"),
    "other": Way("other"),
    "hole": Way("hole", "hole, nothing given", (3.0, 5.0)),
    "hole, nothing given": Way("", "hole, nothing given", (3.0, 5.0)),
    "reference": Way("reference"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=harness.MODEL, help="model directory (default: built-in)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=100)
    args = parser.parse_args()
    from kfjax import pipeline

    print(table(measure(pipeline.load(args.model), args.output, args.scenes)))


def measure(model, output: Path, scenes: int, ways: Mapping[str, Way] = WAYS, **sampling) -> list[dict]:
    """A row for each scene; those that are in `output` are left as they are.

    Args:
      sampling: of `model.generate`.
    """
    rows = harness.read_json(output, [])
    for number in range(len(rows), scenes):
        rows.append(one_scene(model, number, ways, **sampling))
        output.write_text(json.dumps(rows) + "\n")
        print(output.stem, number, rows[-1]["recipe"], flush=True)
    return rows


def one_scene(model, number: int, ways: Mapping[str, Way] = WAYS, **sampling) -> dict:
    from kfjax.scenes.scores import struck_times

    recipe = RECIPES[number % len(RECIPES)]
    scene, film = harness.scene_film(9000 + number, SECONDS, recipe)
    true = scene.sound(RATE)
    like = harness.scene_film(9500 + number, SECONDS, recipe)[0].sound(RATE)
    apart = harness.scene_film(9700 + number, 3.0, RECIPES[(number + 5) % len(RECIPES)])[0].sound(RATE)
    row, made = {"scene": number, "recipe": recipe}, {}
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "": {}, "own": {"audio": true, "keep": [(0, GIVEN)]}, "other": {"audio": like, "keep": [(0, GIVEN)]},
            "hole": {"audio": true, "redo": [(3, 5)]}, "reference": {"reference": written(apart, folder)},
        }  # fmt: skip
        for name, way in ways.items():
            asked = way.given, way.film, way.caption
            if asked not in made:
                prompt = scene.caption if way.caption else ""
                more = options[way.given] | sampling | ({} if way.film else {"duration": SECONDS})
                made[asked] = model.generate(film if way.film else None, prompt, seed=number, **more).waveform
            wave, (start, end) = made[asked], way.span
            part = slice(round(start * RATE), round(end * RATE))
            row[name] = scores(wave[part], true[part], np.array(struck_times(scene)) - start, end - start)
            row[name]["towards"] = distance(wave, apart)
    return row


def written(sound: np.ndarray, folder: str) -> Path:
    """A file of it."""
    from kfjax import media

    path = Path(folder, "reference.wav")
    media.write_wav(path, sound / max(1.0, np.abs(sound).max()), RATE)
    return path


def scores(made: np.ndarray, true: np.ndarray, struck: np.ndarray, seconds: float) -> dict[str, float]:
    from kfjax.metrics.onsets import detect_onsets, onset_f1

    struck = struck[(struck > 0.05) & (struck < seconds - 0.05)]
    found = {"timbre": distance(made, true)}
    return found | ({"f1": onset_f1(detect_onsets(made, RATE), struck).f1} if len(struck) else {})


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean |dB| between spectral shapes in 40 bands, each at its mean level."""
    return float(np.abs(harness.spectral_shape(one, RATE) - harness.spectral_shape(other, RATE)).mean())


def table(rows: list[dict], ways: Mapping[str, Way] = WAYS) -> str:
    lines = [
        "| given | onset F1 | timbre, dB | against nothing, dB | towards the reference, dB |",
        "|---|---|---|---|---|",
    ]
    for name, way in ways.items():
        f1 = [row[name]["f1"] for row in rows if "f1" in row[name]]
        timbre = np.array([row[name]["timbre"] for row in rows])
        apart = spread(timbre - [row[way.base]["timbre"] for row in rows])
        towards = [row[name]["towards"] for row in rows if "towards" in row[name]]
        mean = f"{np.mean(towards):.2f}" if towards else ""
        lines.append(f"| {name} | {np.mean(f1):.3f} ({len(f1)}) | {timbre.mean():.2f} | {apart} | {mean} |")
    return "\n".join(lines)


def spread(differences: np.ndarray, digits: int = 2) -> str:
    """Mean of paired differences ± the half interval of 95 %."""
    error = differences.std(ddof=1) / np.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return f"{differences.mean():+.{digits}f} ± {1.96 * error:.{digits}f}"


if __name__ == "__main__":
    main()
