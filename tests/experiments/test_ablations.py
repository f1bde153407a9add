"""The ablations' bookkeeping: which runs there are, how sounds are scored, that READMEs say what results.json says."""

import json
import re

import numpy as np
import pytest

from experiments import ablation_data, ablation_tables
from experiments.ablation_data import RATE_HZ, level_db, score, silent_share
from experiments.ablation_tables import EXPERIMENTS, Experiment
from experiments.ablations import SEEDS, Run, measured
from kfjax.scenes import make_scene
from kfjax.scenes.scores import struck_times
from kfjax.train.tasks.make import abstract_params

DONE = [e for e in EXPERIMENTS.values() if (e.folder / "results.json").exists()]


def test_equal_configs_are_one_run():
    first = {(e.name, s): Run(e, e.variants[0], s).name for e in EXPERIMENTS.values() for s in SEEDS}
    for seed in SEEDS:
        shared = {name for (experiment, s), name in first.items() if s == seed and experiment != "0011-duration"}
        assert len(shared) == 1
    every = [Run(e, v, s).name for e in EXPERIMENTS.values() for v in e.variants for s in SEEDS]
    assert len(set(every)) == len(every) - 3 * len(SEEDS)


@pytest.mark.parametrize("name", ["0013-conv-blocks", "0014-joint-single"])
def test_compared_networks_are_about_as_large(name):
    from kfjax.nn.module import count

    sizes = [count(abstract_params(Run(EXPERIMENTS[name], v, 0).config)["mmdit"]) for v in EXPERIMENTS[name].variants]
    assert max(sizes) < 1.06 * min(sizes)


@pytest.fixture(scope="module")
def scene():
    return next(s for i in range(20) if len(struck_times(s := make_scene(i, duration_seconds=2.0))) > 2)


def test_true_sound_scores_best(scene):
    wave = scene.sound(RATE_HZ)
    own = score([wave], [wave], [scene], 2.0)
    assert own["f1"][0] > 0.9
    assert [own[name][0] for name in ("silent", "last_db", "end_error_db")] == [0, 0, 0]


def test_sound_that_breaks_off_is_seen(scene):
    wave = scene.sound(RATE_HZ) + 0.01  # nowhere silent
    broken = np.where(np.arange(len(wave))[:, None] < len(wave) // 2, wave, 0)
    own = score([broken], [wave], [scene], 2.0)
    assert own["last_db"][0] == pytest.approx(-60 - level_db(wave[-len(wave) // 4 :]), abs=0.01)
    assert own["silent"][0] == pytest.approx(0.5, abs=0.03)
    assert score([0 * wave], [wave], [scene], 2.0)["f1"] == [0]


def test_levels_by_hand():
    assert level_db(np.full(100, 0.1)) == pytest.approx(-20)
    assert level_db(np.zeros(100)) == -60
    half = np.concatenate([np.zeros(RATE_HZ), np.ones(RATE_HZ)])
    assert silent_share(half) == 0.5


def results(shift):
    """Three runs of two ways of 20 scenes; the second is worse by `shift` throughout."""
    scenes = np.random.default_rng(0).uniform(0.4, 0.6, (3, 20))
    one = lambda f1: {
        "parameters": 1000,
        "steps": 5,
        "seconds": 7,
        "loss": float(f1.mean()),
        "lengths": {"4": {"f1": f1.tolist(), "floor": [0.1] * 20}},
    }
    runs = {f"a-{s}": one(scenes[s]) for s in SEEDS} | {f"b-{s}": one(scenes[s] - shift) for s in SEEDS}
    return {"true sound": {"4": {"scenes": list(range(20)), "f1": [0.9] * 20}}, "runs": runs}


def test_tables():
    experiment = Experiment("0000-none", ("a", "b"))
    made = ablation_tables.tables(experiment, results(0.1))
    rows = {tuple(cells[1:4]): cells for line in made.splitlines() if len(cells := re.split(r" *\| *", line)) == 10}
    assert rows["onset F1 (±50 ms)", "4 s", "b"][5].startswith("-0.100 ± 0.000")
    assert rows["onset F1 (±50 ms)", "4 s", "b"][8] == "< 0.001"
    assert rows["onset F1 (±50 ms)", "4 s", "*floor*"][4] == "0.100"
    assert rows["held-out loss", "4 s", "b"][6] == ""


def test_unfinished_runs_are_left_out(tmp_path):
    experiment = EXPERIMENTS["0010-rope"]
    assert measured(tmp_path, experiment) is None
    (tmp_path / "scores.json").write_text(json.dumps({"parameters": 1, "loss": 1.0, "lengths": {"4": {"f1": [1.0]}}}))
    assert measured(tmp_path, experiment) is None


@pytest.mark.parametrize("experiment", DONE, ids=lambda e: e.name)
def test_readme_says_what_was_measured(experiment):
    found = json.loads((experiment.folder / "results.json").read_text())
    readme = (experiment.folder / "README.md").read_text()
    assert ablation_tables.tables(experiment, found) in readme
    for name in ("Verdict: ", "Result: "):
        assert re.search(f"^{name}", readme, re.MULTILINE)
    assert readme.startswith(f"# {experiment.name[:4]}: ")
    assert (experiment.folder / "plot.png").exists()
    for one in found["runs"].values():
        for length, own in one["lengths"].items():
            asked = found["true sound"][length]["scenes"]
            assert len(asked) <= ablation_data.ASKED[float(length)]
            assert all(len(values) == len(asked) for values in own.values())
