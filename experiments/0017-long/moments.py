"""Does a jump of level come of the seam that lies there, or of the scene? Every film twice, its windows elsewhere.

    python -m experiments 0017/moments --scenes 3
    python -m experiments 0017/moments --report

Windows that share 2 s meet at other moments than windows that share 3 s. The jump (as in `0017/seams`) at a seam of
one film in proportion to the jump at the same moment of the other, where no seam lies within 0.6 s. The scene is the
same at both, so its gusts cancel out. Likewise windows made apart and cut, which the measure must see. A stopped run
goes on.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import numpy as np

from experiments import harness

seams = import_module("experiments.0017-long.seams")
OVERLAPS, APART_SECONDS, DRAWS = (2, 3), 0.6, 4000
WAYS = {"windows": 10, "cut": 1}  # and how many scenes of each recipe at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("moments.json"))
    parser.add_argument("--scenes", type=int, default=3, help="of each recipe (default %(default)s)")
    parser.add_argument("--recipes", nargs="+", default=["wind", "fire"], choices=seams.SUSTAINED)
    parser.add_argument("--report", action="store_true", help="measure nothing: the table of what there is")
    args = parser.parse_args()
    results = harness.Results(args.output, None if args.report else {"steps": 20, "seed": 0})
    if not args.report:
        measure(results, args.recipes, args.scenes)
    print("\n".join(table(results)))


def measure(results: harness.Results, recipes: list[str], scenes: int) -> None:
    model = seams.model_for("windows")
    places = {overlap: seams.meeting_places(model, overlap) for overlap in OVERLAPS}
    usual, moved = OVERLAPS
    for number in range(scenes):
        for recipe in recipes:
            ways = [way for way, most in WAYS.items() if number < most and not results.has(f"{way}, {recipe}", number)]
            if not ways:
                continue
            scene, film = harness.scene_film(7000 + number, seams.SECONDS, recipe)
            made = {
                overlap: seams.peaks(model.generate(film, scene.caption, seed=0, overlap=overlap).waveform)
                for overlap in OVERLAPS
            }
            for way in ways:
                if way == "cut":
                    cut = seams.peaks(seams.sound(model, way, film, scene.caption, places[usual]))
                    pairs = [(cut, made[moved], apart(places[usual], places[moved]))]
                else:
                    pairs = [(made[one], made[other], apart(places[one], places[other]))
                             for one, other in (OVERLAPS, OVERLAPS[::-1])]  # fmt: skip
                at_seams = np.concatenate([at(own, moments) for own, _, moments in pairs])
                there = np.concatenate([at(other, moments) for _, other, moments in pairs])
                results.put(f"{way}, {recipe}", number, {"seam": at_seams, "no seam": there})
                print(way, recipe, number, f"{at_seams.mean() / there.mean():.3f}", flush=True)


def apart(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The seams of one film that are away from those of the other, seconds."""
    return own[np.abs(own[:, None] - others[None]).min(1) > APART_SECONDS]


def at(peaks: tuple[np.ndarray, float], moments: np.ndarray) -> np.ndarray:
    """The jump at these moments, dB."""
    return peaks[0][np.round(moments / peaks[1]).astype(int)]


def table(results: harness.Results) -> list[str]:
    """± is half the 95 % interval of the ratio of means, of moments drawn anew."""
    rows = []
    for cell, films in results.cells.items():
        seam, there = (np.concatenate([film[name] for film in films.values()]) for name in ("seam", "no seam"))
        drawn = np.random.default_rng(0).integers(0, len(seam), (DRAWS, len(seam)))
        low, high = np.quantile(seam[drawn].mean(1) / there[drawn].mean(1), (0.025, 0.975))
        ratio = f"{seam.mean() / there.mean():.2f}"
        rows.append([*cell.split(", "), len(films), len(seam), ratio, f"{low:.2f} to {high:.2f}"])
    return harness.markdown(["way", "recipe", "scenes", "seams", "jump with / without a seam", "95 %"], rows)


if __name__ == "__main__":
    main()
