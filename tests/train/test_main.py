"""`kfjax train`: reading and changing configs, and what a working folder will take."""
import json
from dataclasses import asdict
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from kfjax.cli import main
from kfjax.config import from_dict
from kfjax.train import __main__ as command
from kfjax.train import loop, tasks
from kfjax.train.log import LogConfig

CONFIG = """
from ml_collections import ConfigDict

def get_config(variant=""):
    steps = {"": 100, "short": 2}[variant]
    return ConfigDict({
        "task": "toy",
        "loop": {"steps": steps, "seed": 0},
        "optim": {"learning_rate": 1e-3},
        "data": {"folder": "runs/a", "buckets": ((4.0, 1.0),), "heldout": None, "flip": True},
    })
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "toy.py").write_text(CONFIG)
    return tmp_path / "toy.py"


@pytest.fixture
def runs(monkeypatch):
    """Training replaced by taking notes."""
    notes = []
    monkeypatch.setattr(tasks, "make_task", lambda config: (config, "settings"))
    monkeypatch.setattr(loop, "run", lambda task, workdir, settings: notes.append((task, workdir, settings)))
    return notes


def test_set():
    config = ConfigDict({"a": {"n": 1, "x": 0.5, "s": "text", "flag": True, "t": (1, 2), "none": None}}).lock()
    for assignment in ("a.n=3", "a.x=2", "a.s=7", "a.flag=False", "a.t=(3,)", "a.none=[1]"):
        command.apply(config, assignment)
    assert config.to_dict() == {"a": {"n": 3, "x": 2.0, "s": "7", "flag": False, "t": (3,), "none": [1]}}


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("loop.stps=1", "unknown key loop.stps; did you mean loop.steps?"),
        ("zzz=1", "unknown key zzz; known: "),
        ("loop=1", "unknown key loop"),
        ("loop.steps", "got 'loop.steps', expected KEY=VALUE"),
        ("loop.steps=1.5", r"loop.steps got 1.5 \(float\), expected int"),
        ("loop.steps=many", r"loop.steps got 'many' \(str\), expected int"),
        ("data.flip=1", r"data.flip got 1 \(int\), expected bool"),
        ("loop.steps=True", r"loop.steps got True \(bool\), expected int"),
    ],
)
def test_a_wrong_set_is_refused(config, assignment, message):
    with pytest.raises(ValueError, match=message):
        command.apply(command.load_config(str(config)), assignment)


def test_train(config, runs, tmp_path):
    work = tmp_path / "run"
    changes = ["--set", "optim.learning_rate=2", "loop.seed=4"]
    assert main(["train", f"{config}:short", "--workdir", str(work), *changes]) == 0
    (task, workdir, settings), = runs
    assert (workdir, settings) == (work, "settings")
    written = json.loads((work / "config.json").read_text())
    assert written["loop"] == json.loads(json.dumps(asdict(loop.LoopConfig(steps=2, seed=4))))
    assert task.loop.steps == 2
    assert written["optim"] == {"learning_rate": 2.0}


def test_what_a_config_says_nothing_of_can_be_set(config, runs, tmp_path):
    changes = ["--set", "loop.log.tensorboard=True", "loop.log.profile=(10, 12)", "loop.mesh=data=2,fsdp=4"]
    assert main(["train", str(config), "--workdir", str(tmp_path / "run"), *changes]) == 0
    made = from_dict(loop.LoopConfig, runs[0][0].loop.to_dict())
    assert made == loop.LoopConfig(steps=100, mesh="data=2,fsdp=4", log=LogConfig(tensorboard=True, profile=(10, 12)))


def test_a_folder_of_another_config_is_refused(config, runs, tmp_path, capsys):
    """How long a run lasts may change, what it does may not."""
    work = ["--workdir", str(tmp_path / "run")]
    assert main(["train", str(config), *work]) == 0
    assert main(["train", str(config), *work, "--set", "loop.steps=500"]) == 0
    assert main(["train", str(config), *work, "--set", "data.folder=runs/b", "--set", "loop.seed=1"]) == 2
    assert len(runs) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "data.folder was runs/a, is runs/b; loop.seed was 0, is 1" in said
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["folder"] == "runs/a"


def test_all_of_the_loop_but_its_seed_may_change(config, runs, tmp_path):
    """A run of a version that did not know a setting goes on too."""
    work = ["--workdir", str(tmp_path / "run")]
    assert main(["train", str(config), *work]) == 0
    config.write_text(CONFIG.replace('"seed": 0', '"seed": 0, "mesh": "fsdp=8", "log": {"wandb": "ours"}'))
    assert main(["train", str(config), *work]) == 0
    assert len(runs) == 2


@pytest.mark.parametrize("where", ["10.0.0.1", "10.0.0.1:80", "10.0.0.1:80,0", "10.0.0.1:80,0,x", "10.0.0.1,0,2"])
def test_processes_are_told_apart_or_refused(config, runs, capsys, where):
    assert main(["train", str(config), "--workdir", "run", "--distributed", where]) == 2
    assert f"--distributed: got '{where}', expected HOST:PORT,PROCESS,PROCESSES" in capsys.readouterr().err
    assert not runs


def test_where_no_cluster_is_known_it_must_be_given(config, runs, capsys):
    assert main(["train", str(config), "--workdir", "run", "--distributed"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kfjax: error: --distributed: ") and "give HOST:PORT" in said and said.count("\n") == 1
    assert not runs


def test_processes_meet_where_they_are_told_to(config, runs, tmp_path, monkeypatch):
    met = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *where: met.append(where))
    assert main(["train", str(config), "--workdir", str(tmp_path / "run"), "--distributed", "10.0.0.1:80,1,4"]) == 0
    assert met == [("10.0.0.1:80", 4, 1)] and len(runs) == 1


@pytest.mark.parametrize(
    "spec, message",
    [
        ("absent.py", "no file absent.py"),
        ("toy.py:long", "has no variant 'long'"),
        ("empty.py", "defines no get_config"),
        ("toy.txt", "expected a Python file"),
    ],
)
def test_a_wrong_config_is_refused(config, runs, capsys, monkeypatch, spec, message):
    monkeypatch.chdir(config.parent)
    Path("empty.py").touch()
    Path("toy.txt").touch()
    assert main(["train", spec, "--workdir", "run"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists() and not runs
