"""Experiments: listed, described, and their results in files that can be read."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FOLDERS = sorted(path for path in EXPERIMENTS.iterdir() if re.match(r"\d{4}-", path.name) and any(path.iterdir()))
RESULTS = sorted(EXPERIMENTS.glob("*/*.json"))


@pytest.fixture
def script(monkeypatch):
    """Loads a module of an experiment as its own scripts see it: with its folder and experiments/ on the path."""

    def load(folder: str, name: str):
        monkeypatch.syspath_prepend(str(EXPERIMENTS))
        monkeypatch.syspath_prepend(str(EXPERIMENTS / folder))
        for other in ("run", "report", "results"):
            monkeypatch.delitem(sys.modules, other, raising=False)
        spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_every_experiment_is_listed():
    linked = re.findall(r"^\| \[(\d{4})\]\(([\w.-]+)/README\.md\) \|", (EXPERIMENTS / "README.md").read_text(), re.M)
    assert [folder for _, folder in linked] == [path.name for path in FOLDERS if (path / "README.md").exists()]
    assert all(folder.startswith(number) for number, folder in linked)


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


def test_a_stopped_run_goes_on(tmp_path, script):
    results = script("", "results")
    path, settings = tmp_path / "results.json", {"scenes": 2}
    first = results.Results(path, settings)
    first.put("slow", 1, {"f1": [0.25, float("nan")], "whole": np.float32(0.123456)})
    again = results.Results(path, settings)
    assert again.has("slow", 1) and not again.has("slow", 0) and not again.has("fast", 1)
    np.testing.assert_array_equal(again.of("slow", "f1"), [[0.25, np.nan]])
    np.testing.assert_array_equal(again.of("slow", "whole"), [0.1235])
    with pytest.raises(ValueError, match="give another --output"):
        results.Results(path, {"scenes": 3})
    with pytest.raises(ValueError, match="run the experiment first"):
        results.Results(tmp_path / "none.json")


def test_stereo_measures(script):
    """Of ears whose coherence and whose sum are known."""
    run, rng = script("0016-stereo", "run"), np.random.default_rng(0)
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
def test_tables_and_plots_come_from_the_results_alone(folder, tmp_path, script):
    """What is committed is what the command makes of the results."""
    report = script(folder, "report")
    results = script("", "results").Results(EXPERIMENTS / folder / "results.json")
    report.write(results, tmp_path)
    assert (tmp_path / "tables.md").read_text() == (EXPERIMENTS / folder / "tables.md").read_text()
    assert all(path.stat().st_size > 20_000 for path in tmp_path.glob("*.png"))
    assert {path.name for path in tmp_path.glob("*.png")} <= {path.name for path in (EXPERIMENTS / folder).iterdir()}
