"""Experiments: listed, described, and their results in files that can be read."""

import importlib.util
import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from experiments import harness
from experiments.__main__ import main, script
from kfjax.metrics.onsets import detect_onsets, onset_f1
from kfjax.scenes.scores import struck_times

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FOLDERS = sorted(path for path in EXPERIMENTS.iterdir() if re.match(r"\d{4}-", path.name) and any(path.iterdir()))
RESULTS = sorted(EXPERIMENTS.glob("*/*.json"))


def test_every_experiment_is_listed():
    linked = re.findall(r"^\| \[(\d{4})\]\(([\w.-]+)/README\.md\) \|", (EXPERIMENTS / "README.md").read_text(), re.M)
    assert [folder for _, folder in linked] == [path.name for path in FOLDERS if (path / "README.md").exists()]
    assert all(folder.startswith(number) for number, folder in linked)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.parent.name) for path in EXPERIMENTS.rglob("*.sh")])
def test_shell_scripts_call_modules_that_exist(path):
    called = set(re.findall(r"-m (kfjax[\w.]*)", path.read_text()))
    assert called and all(map(importlib.util.find_spec, called))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_results_parse(path):
    def refused(name):
        raise ValueError(f"{path}: {name} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refused) is not None


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_described(path):
    text = (path / "README.md").read_text()
    number = int(path.name[:4])
    assert re.match(rf"# (?:0*{number})[.:] \S", text)
    assert "Verdict" in text or "None" in text
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (path / picture).is_file()


def test_the_command_lists_and_runs_them(capsys, monkeypatch):
    assert main([]) is None
    assert [line[:4] for line in capsys.readouterr().out.splitlines()] == [path.name[:4] for path in FOLDERS]
    assert main(["0099"]) == 2 and main(["0015/none"]) == 2
    assert "got 0015/none, expected ablations, NUMBER/SCRIPT or one of 0001, 0002" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [])
    assert main(["0007", "--print"]) is None
    assert "| 6b* | v6e-64: 64 v6e | 76 (80 does not fit) |" in capsys.readouterr().out


def test_scripts_run_by_their_names_and_change_no_search_path():
    for path in EXPERIMENTS.rglob("*.py"):
        text = path.read_text()
        assert "sys.path" not in text, path
        for target in re.findall(r"python -m experiments (\d{4}[\w/]*|ablations)", text):
            module, _ = script(target)
            found = EXPERIMENTS.parent / f"{module.replace('.', '/')}.py"
            assert re.search(r"^def main\(", found.read_text(), re.MULTILINE), target


def test_functions_are_timed_in_turn():
    called = []
    taken = harness.in_turn({name: lambda name=name: called.append(name) for name in "ab"}, 3)
    assert called == [*"ab", *"ababab"]  # compiled, and three rounds
    assert [len(rounds) for rounds in taken.values()] == [3, 3]
    harness.in_turn({"a": lambda: called.append("c")}, 2, least=1e-9)
    assert called[8:] == [*"cccc"]  # compiled, tried once, and two rounds
    rounds = [harness.Took(1.0, 4.0), harness.Took(2.0, 5.0), harness.Took(9.0, 6.0)]
    assert harness.medians({"a": rounds}) == {"a": 2.0} and harness.medians({"a": rounds}, "processor") == {"a": 5.0}


def test_tables_are_markdown():
    assert harness.markdown(["", "a"], [["b", 0.5], ["c", None]]) == [
        "| | a |",
        "|---|---|",
        "| b | 0.500 |",
        "| c | |",
    ]
    assert harness.markdown(["a"], []) == []
    assert harness.spread([1.0, 2.0]) == "1.500 ± 0.707" and harness.spread([1.0]) == "1.000"


def test_a_stopped_run_goes_on(tmp_path):
    results = harness
    path, settings = tmp_path / "results.json", {"scenes": 2}
    first = results.Results(path, settings)
    first.put("slow", 1, {"f1": [0.25, float("nan")], "whole": np.float32(0.123456)})
    again = results.Results(path, settings)
    assert again.has("slow", 1) and not again.has("slow", 0) and not again.has("fast", 1)
    np.testing.assert_array_equal(again.of("slow", "f1"), [[0.25, np.nan]])
    np.testing.assert_array_equal(again.of("slow", "whole"), [0.1235])
    made = json.loads(path.read_text())["made"]
    assert made["command"] and {"kfjax", "jax"} <= made["versions"].keys()
    with pytest.raises(ValueError, match="give another --output"):
        results.Results(path, {"scenes": 3})
    with pytest.raises(ValueError, match="run the experiment first"):
        results.Results(tmp_path / "none.json")


def test_stereo_measures():
    """Of ears whose coherence and whose sum are known."""
    run, rng = import_module("experiments.0016-stereo.run"), np.random.default_rng(0)
    noise, other = rng.standard_normal((2, 88200))
    assert run.coherence(np.stack([noise, 0.3 * noise], -1), 44100) == pytest.approx(1)
    assert run.coherence(np.stack([noise, other], -1), 44100) < 0.05
    mel = rng.standard_normal((50, 16))
    assert run.compatibility(mel, mel) == pytest.approx((0, 0, 0))
    half = np.log(2)
    assert run.compatibility(mel - half, mel) == pytest.approx((20 * np.log10(2), 0, half))
    notched = mel - half * (np.arange(16) % 2)[None]
    lost, comb, distance = run.compatibility(notched, mel)
    assert 0 < lost < 6.02 and comb == pytest.approx(3, abs=0.2) and distance == pytest.approx(half / 2)


@pytest.mark.parametrize("folder", ["0015-sampling", "0016-stereo"])
def test_tables_come_from_the_results_alone(folder, tmp_path):
    """What is committed is what the command makes of the results."""
    report = import_module(f"experiments.{folder}.report")
    report.write(harness.Results(EXPERIMENTS / folder / "results.json"), tmp_path)
    assert (tmp_path / "tables.md").read_text() == (EXPERIMENTS / folder / "tables.md").read_text()


def test_tables_of_schedules_come_from_the_results_alone(tmp_path):
    schedules, folder = import_module("experiments.0015-sampling.schedules"), EXPERIMENTS / "0015-sampling"
    schedules.write(harness.Results(folder / "schedules.json"), tmp_path)
    assert (tmp_path / "schedules.md").read_text() == (folder / "schedules.md").read_text()


def test_films_of_several_events_know_their_events():
    """Experiment 20: sound of two scenes in a row begins when the metadata say."""
    films = import_module("experiments.0020-composed.films")
    film = next(film for k in range(20) if len(struck_times(
        (film := films.in_a_row(k, duration_seconds=4.0, split="heldout")).scene)) > 2)  # fmt: skip
    times = struck_times(film.scene)
    assert min(times) < 2 < max(times) and film.scene.duration_seconds == 4
    assert film.frames((64, 64)).shape == (100, 64, 64, 3) and film.sound(44100).shape == (176400, 2)
    assert onset_f1(detect_onsets(film.sound(44100), 44100), np.array(times)).f1 > 0.8
    assert " and " in film.to_dict()["caption"]
    made = [films.composed(k, duration_seconds=2.0, split="train") for k in range(3)]
    assert all(one.frames((64, 64)).shape == (50, 64, 64, 3) and one.sound(44100).shape == (88200, 2) for one in made)


def test_a_table_of_ways(tmp_path):
    run = import_module("experiments.0020-composed.run")
    results, rng = harness.Results(tmp_path / "results.json", {}), np.random.default_rng(0)
    for seed in range(3):
        base = rng.uniform(0.4, 0.6, 20)
        for way, more in (("plain", 0.0), ("composed", 0.1)):
            results.put(f"{way}: one event, 8 s", seed, {"f1": base + more, "floor": base * 0 + 0.1})
    lines = run.tables(results)
    assert len(lines) == 5 and lines[3].startswith("| one event, 8 s | composed |") and "+0.100 ± 0.000" in lines[3]
    assert lines[4] == "| one event, 8 s | *another film's* | 0.100 | | |"
