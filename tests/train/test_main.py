"""`kfjax train`: reading and changing configs, and what a working folder will take."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from kfjax.cli import main
from kfjax.config import from_dict
from kfjax.storage.lock import Lock
from kfjax.train import config as command
from kfjax.train.engine import distributed, loop
from kfjax.train.engine.log import LogConfig
from kfjax.train.tasks import make as tasks
from tests.tiny.task import make_task

ROOT = Path(__file__).parents[2]
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


def test_own_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    """From a clone, and from an installation, where pyproject puts them into the package."""
    monkeypatch.chdir(tmp_path)
    for name in ("configs/flow.py", "flow.py"):
        assert command.load_config(f"{name}:1.5b").task == "flow"
    for name in ("mine/flow.py", "configs/flaw.py"):  # another file of that name may not stand in for it
        with pytest.raises(ValueError, match=f"no file {name}; give the path of .*, or one of configs/ablation.py"):
            command.load_config(name)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["sources"] == {"configs": "kfjax/configs"}


def test_a_config_may_be_a_plain_dict(tmp_path):
    (tmp_path / "plain.py").write_text('def get_config(variant):\n    return {"task": "flow", "loop": {"steps": 3}}\n')
    config = command.load_config(str(tmp_path / "plain.py"))
    assert config.loop.steps == 3 and config.is_locked
    (tmp_path / "none.py").write_text("def get_config(variant):\n    pass\n")
    with pytest.raises(ValueError, match="gave NoneType; expected a ConfigDict or a dict"):
        command.load_config(str(tmp_path / "none.py"))


@pytest.mark.slow
def test_own_configs_are_found_in_an_installation(tmp_path):
    """The files as a wheel lays them out, in a process of its own."""
    shutil.copytree(ROOT / "kfjax", tmp_path / "site" / "kfjax", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    shutil.copytree(ROOT / "configs", tmp_path / "site" / "kfjax" / "configs")
    (tmp_path / "work").mkdir()
    arguments = ["configs/ablation.py:1", "--workdir", "run", "--set", "data.corpora=(('nowhere', 1.0),)"]
    ended = subprocess.run(
        [sys.executable, "-m", "kfjax", "train", *arguments], cwd=tmp_path / "work", capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert ended.returncode == 2 and ended.stderr.startswith("kfjax: error: nowhere: "), ended.stderr


@pytest.fixture
def runs(monkeypatch):
    """Training replaced by taking notes."""
    notes = []

    def run(task, workdir, settings, *, claim):
        claim()
        notes.append((task, workdir, settings))

    monkeypatch.setattr(tasks, "make_task", lambda config: (config, "settings"))
    monkeypatch.setattr(loop, "run", run)
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


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("data.folder", Path("runs/b"), "runs/b"),
        ("data.folder", "1", "1"),
        ("data.heldout", Path("runs/b"), "runs/b"),
        ("loop.steps", np.int64(7), 7),
        ("loop.steps", "7", 7),
        ("optim.learning_rate", np.float32(0.5), 0.5),
        ("optim.learning_rate", np.int32(2), 2.0),
        ("data.flip", np.bool_(False), False),
        ("data.buckets", np.array([[2.0, 1.0]]), ([2.0, 1.0],)),
        ("data.buckets", ((np.float64(2.0), 1.0),), ((2.0, 1.0),)),
        ("data.buckets", [(Path("a"), np.float64(1.0))], (("a", 1.0),)),
    ],
)
def test_values_of_python_are_set(config, key, value, expected):
    settings = command.load_config(str(config))
    command.assign(settings, key, value)
    got = dict(command.flat(settings.to_dict()))[key]
    assert got == expected and type(got) is type(expected)
    json.dumps(settings.to_dict())


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("loop.steps", Path("a"), r"loop\.steps got 'a' \(str\), expected int"),
        ("loop.steps", np.float64(2.5), r"loop\.steps got 2\.5 \(float\), expected int"),
        ("loop.steps", np.arange(2), r"loop\.steps got \[0, 1\] \(list\), expected int"),
        ("data.heldout", {1}, r"data\.heldout got a set, expected a number, text, path"),
    ],
)
def test_values_of_python_of_other_types_are_refused(config, key, value, message):
    with pytest.raises(ValueError, match=message):
        command.assign(command.load_config(str(config)), key, value)


def test_train(config, runs, tmp_path):
    work = tmp_path / "run"
    changes = ["--set", "optim.learning_rate=2", "loop.seed=4"]
    assert main(["train", f"{config}:short", "--workdir", str(work), *changes]) == 0
    ((task, workdir, settings),) = runs
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


def test_a_run_of_a_version_that_lacked_a_setting_goes_on_as_it_was(config, runs, tmp_path, capsys):
    work = ["--workdir", str(tmp_path / "run")]
    assert main(["train", str(config), *work]) == 0
    config.write_text(CONFIG.replace('"flip": True', '"flip": True, "joined": 0.0, "held": {"out": ()}'))
    assert main(["train", str(config), *work, "--set", "data.joined=0.5", "data.flip=False"]) == 2
    assert "data.flip was True, is False; data.joined was 0.0, is 0.5; give" in capsys.readouterr().err
    assert "joined" not in json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert main(["train", str(config), *work]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["joined"] == 0.0
    config.write_text(CONFIG.replace("1e-3}", '1e-3, "b1": 0.5}'))  # which had a default all the time
    assert main(["train", str(config), *work]) == 2
    assert "optim.b1 was not set, is 0.5" in capsys.readouterr().err
    assert len(runs) == 2


def test_a_folder_that_another_run_holds_keeps_its_config(config, tmp_path, monkeypatch, capsys):
    work = tmp_path / "run"
    monkeypatch.setattr(tasks, "make_task", lambda config: (make_task(), loop.LoopConfig(steps=2)))
    with Lock(work):
        assert main(["train", str(config), "--workdir", str(work)]) == 2
    assert f"in use by process {os.getpid()} on" in capsys.readouterr().err
    assert [path.name for path in work.iterdir()] == ["lock"]

    def other(config):
        """Meanwhile another run begins and ends."""
        (work / "config.json").write_text(json.dumps(config.to_dict() | {"task": "other"}))
        return make_task(), loop.LoopConfig(steps=2)

    monkeypatch.setattr(tasks, "make_task", other)
    assert main(["train", str(config), "--workdir", str(work)]) == 2
    assert "holds a run of another config: task was other, is toy; give another" in capsys.readouterr().err
    assert json.loads((work / "config.json").read_text())["task"] == "other"
    assert sorted(path.name for path in work.iterdir()) == ["config.json", "lock"]


@pytest.mark.parametrize("where", ["10.0.0.1", "10.0.0.1:80", "10.0.0.1:80,0", "10.0.0.1:80,0,x", "10.0.0.1,0,2"])
def test_processes_are_told_apart_or_refused(config, runs, capsys, where):
    assert main(["train", str(config), "--workdir", "run", "--distributed", where]) == 2
    assert f"--distributed: got '{where}', expected HOST:PORT,PROCESS,PROCESSES" in capsys.readouterr().err
    assert not runs


def test_where_no_cluster_is_known_it_must_be_given(config, runs, capsys, monkeypatch):
    monkeypatch.setattr(distributed, "_shorten_native_errors", lambda: None)
    assert main(["train", str(config), "--workdir", "run", "--distributed"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kfjax: error: --distributed: ") and "give HOST:PORT" in said and said.count("\n") == 1
    assert not runs


def test_processes_meet_where_they_are_told_to(config, runs, tmp_path, monkeypatch):
    met = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *where, **more: met.append((*where, more)))
    monkeypatch.setattr(distributed, "_shorten_native_errors", lambda: None)
    command = ["train", str(config), "--workdir", str(tmp_path / "run"), "--distributed", "10.0.0.1:80,1,4"]
    assert main(command) == main([*command, "--heartbeat-timeout", "20"]) == 0
    assert met == [("10.0.0.1:80", 4, 1, {"heartbeat_timeout_seconds": s}) for s in (300, 20)] and len(runs) == 2


def test_a_heartbeat_takes_time(config, runs, tmp_path, capsys):
    command = ["train", str(config), "--workdir", str(tmp_path / "run"), "--distributed", "10.0.0.1:80,1,4"]
    assert main([*command, "--heartbeat-timeout", "0"]) == 2
    assert "--heartbeat-timeout: got 0, expected 1 second or more" in capsys.readouterr().err


def test_a_run_of_before_a_setting_goes_on(config, runs, tmp_path, capsys):
    work = tmp_path / "run"
    train = lambda *more: main(["train", str(config), "--workdir", str(work), *more])
    assert train() == 0
    config.write_text(CONFIG.replace('"data": {', '"step": {"known": 0.0}, "data": {'))
    assert train("--set", "step.known=0.5") == 2
    assert "step.known was 0.0, is 0.5; give" in capsys.readouterr().err
    assert train() == 0


def test_new_trainings_place_sync_tokens_in_time_and_old_runs_go_on_as_they_were(tmp_path):
    """docs/decisions/0002. The paper's sizes once left it to the default, "uniform"."""
    for variant in ("", "1.5b", "3b", "6b"):
        assert command.load_config(f"configs/flow.py:{variant}").system.mmdit.sync_align == "timed"
    config = command.load_config("configs/flow.py:1.5b")
    before = config.to_dict()
    del before["system"]["mmdit"]["sync_align"]
    (tmp_path / "config.json").write_text(json.dumps(before))
    with pytest.raises(ValueError, match=r"system\.mmdit\.sync_align was uniform, is timed; give"):
        command.check_workdir(tmp_path, config, {})
    command.apply(config, "system.mmdit.sync_align=uniform")
    command.check_workdir(tmp_path, config, {})


def test_a_run_keeps_the_multiple_of_the_devices_that_it_began_with(config, runs, tmp_path, monkeypatch, capsys):
    """`data.batch_multiple=0` means those at hand; on others the batches are the same."""
    config.write_text(CONFIG.replace('"flip": True', '"flip": True, "batch_multiple": 0'))
    new, old = tmp_path / "new", tmp_path / "old"
    noted = lambda work: json.loads((work / "config.json").read_text())["data"]["batch_multiple"]
    train = lambda work, *more: main(["train", str(config), "--workdir", str(work), *more])
    for devices in (8, 6, 1):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        assert train(new) == 0
        assert runs[-1][0].data.batch_multiple == noted(new) == 8
    assert train(new, "--set", "data.batch_multiple=16") == 2
    assert "data.batch_multiple was 8, is 16; give" in capsys.readouterr().err

    old.mkdir()  # of a version that noted nothing: it goes on as before, or on the number that its user knows
    before = json.loads((new / "config.json").read_text())
    before["data"]["batch_multiple"] = 0
    for more, multiple in ((("--set", "data.batch_multiple=4"), 4), ((), 1)):
        (old / "config.json").write_text(json.dumps(before))
        assert train(old, *more) == 0
        assert runs[-1][0].data.batch_multiple == noted(old) == multiple


@pytest.mark.parametrize(
    "spec, message",
    [
        ("absent.py", "no file absent.py"),
        ("toy.py:long", "has no variant 'long'"),
        ("empty.py", "defines no get_config"),
        ("toy.txt", "expected a Python file"),
        ("loopless.py", "config.loop: got none, expected a section"),
        ("dataless.py", "config.data: got none, expected a section"),
        ("flat.py", "config.data: got 'runs/a', expected a section"),
    ],
)
def test_a_wrong_config_is_refused(config, runs, capsys, monkeypatch, spec, message):
    monkeypatch.chdir(config.parent)
    Path("empty.py").touch()
    Path("toy.txt").touch()
    sections = {"loopless": {"data": {}}, "dataless": {"loop": {}}, "flat": {"loop": {}, "data": "runs/a"}}
    for name, values in sections.items():
        head = "from ml_collections import ConfigDict\ndef get_config(variant):\n    return "
        Path(f"{name}.py").write_text(f"{head}ConfigDict({{'task': 'toy'}} | {values})")
    assert main(["train", spec, "--workdir", "run"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists() and not runs
