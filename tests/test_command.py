"""What every command's parser and messages keep to."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from kfjax import cli, command

ADDRESSES = ("gs://b/a", "s3://b/a", "https://x.org/a.mp4", "http:/x.org/a", "file:///a.mp4", "hf://o/r", "GS://b/a")


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("kfjax: error: ") and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_no_path(address):
    for made in (address, Path(address)):
        with pytest.raises(command.AddressError, match="which is an address; give a file or folder; downloading is"):
            command.local_path(made)


@pytest.mark.parametrize("path", ["a.mp4", "/a:b/c", "C:/clips/a.mp4", "tfds:vggsound:test", "a:b", "flow.py:6b"])
def test_a_path_is_a_path(path):
    assert command.local(path) == path and command.local_path(path) == Path(path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "gs://b/a.mp4"], ["generate", "a.mp4", "--output", "gs://b"], ["generate", "a.mp4", "--model", "https://b"],
        ["convert", "gs://b", "out"], ["convert", "in", "gs://b"],
        ["extract", "gs://b", "--output", "out"], ["extract", "in", "--output", "https://b"],
        ["extract", "in", "--output", "out", "--model", "https://b"],
        ["extract", "tfds:vggsound", "--output", "out", "--manual-dir", "gs://b"],
        ["train", "gs://b/flow.py", "--workdir", "out"], ["train", "configs/flow.py", "--workdir", "https://b"],
        ["train", "configs/flow.py", "--workdir", "out", "--set", "data.folder=gs://b"],
        ["train", "configs/flow.py:1.5b", "--workdir", "out", "--set", "data.corpora=(('https://b', 1.0),)"],
        ["evaluate", "https://b", "--benchmark", "scenes"], ["evaluate", "x", "--benchmark", "scenes", "--output", "https://b"],
        ["evaluate", "x", "--benchmark", "folder", "--references", "gs://b"],
        ["evaluate", "x", "--benchmark", "scenes", "--weights", "https://b"],
        ["plan", "gs://b/flow.py", "--topology", "v6e-64", "--max"], ["demo", "--model", "https://b"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_addresses_are_refused_before_any_work(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert "://b" in (said := refused(capsys, *arguments)) and "downloading is not done here" in said
    assert not [*tmp_path.iterdir()]


def test_addresses_for_scenes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pymunk")
    from kfjax.scenes.__main__ import main

    monkeypatch.chdir(tmp_path)
    for arguments in (["gs://b/a.mp4"], ["--corpus", "gs://b"]):
        assert command.run(main, arguments) == 2
        assert "which is an address" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "--promt", "rain"], "unknown option --promt; did you mean --prompt?"),
        (["generate", "a.mp4", "--kee", "0-2"], "unknown option --kee; did you mean --keep?"),
        (["generate", "a.mp4", "--modl=x"], "unknown option --modl; did you mean --model?"),
        (["generate", "a.mp4", "--xyzzy"], "unknown option --xyzzy; `kfjax generate --help`"),
        (["generate", "a.mp4", "--prompt", "rain", "on", "a", "roof"], "got 'on a roof' too"),
        (["generate", "--prompt", "rain", "on", "a", "roof"], "put the words of --prompt in quotes"),
        (["generate", "a.mp4", "b.mp4"], "got 'b.mp4' too, which no argument takes"),
        (["generate", "a.mp4", "b.mp4"], "for several clips give their folder, or a table"),
        (["generate", "--prompt", "rain", "roof"], "roof: no such file or folder; if it is what is heard, give it to "),
        (["generate", "a dog barks"], "give it to --prompt, in quotes"),
        (["train", "configs/flow.py", "--workdri", "x"], "--workdir"),
        (["extract", "clips", "--output", "x", "--sed", "1"], "unknown option --sed; did you mean --seconds?"),
        (["evaluate", "x", "--benchmark", "scenes", "--limt", "1"], "did you mean --limit?"),
        (["plan", "x", "--topology", "v6e-64", "--max", "--jsn"], "did you mean --json?"),
        (["demo", "--prot", "1"], "did you mean --port?"),
        (["convert", "a", "b", "--dry"], "did you mean --dry-run?"),
        (["modles"], "'models'"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_the_option_that_was_meant_is_named(tmp_path, monkeypatch, capsys, arguments, said):
    """Abbreviations are no options: they would mean something else once there is another option."""
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "-1"], "seed: got -1"), (["--steps", "0"], "steps: got 0"),
        (["--samples", "65"], "samples: got 65"),
        (["--guidance", "nan"], "guidance: got nan"), (["--video-guidance", "-1"], "video guidance: got -1"),
        (["--text-guidance", "101"], "text guidance: got 101"), (["--negative-guidance", "1"], "no negative prompt"),
        (["--duration", "0"], "duration: got 0 s"), (["--keep-original", "-1"], "keep original: got -1"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_numbers_are_checked_before_anything_is_loaded(tmp_path, monkeypatch, capsys, arguments, said):
    """For one clip and for many: neither the model nor jax's programs are touched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "kfjax.pipeline", None)  # importing it would fail
    Path("t.csv").write_text("prompt\nrain\n")
    assert said in refused(capsys, "generate", "--prompt", "rain", *arguments)
    assert said in refused(capsys, "generate", "t.csv", "--output", "out", *arguments)
    assert not Path("out").exists()


def test_an_evaluation_is_checked_too(capsys):
    for arguments, said in ((["--seed", "-1"], "seed: got -1"), (["--steps", "0"], "steps: got 0")):
        assert said in refused(capsys, "evaluate", "built-in", "--benchmark", "scenes", *arguments)


def test_the_nearest_model_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "generate", "--prompt", "rain", "--model", "mmaudio-large-44kv2")
    assert "did you mean mmaudio-large-44k-v2? `kfjax models` lists the names" in said
    said = refused(capsys, "evaluate", "builtin", "--benchmark", "scenes", "--limit", "1")
    assert "did you mean built-in? `kfjax models` lists the names" in said


def test_models_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path))
    (tmp_path / "models" / "mmaudio-small-44k").mkdir(parents=True)
    assert cli.main(["models"]) == 0
    _, built_in, *rest = capsys.readouterr().out.splitlines()
    assert built_in.split()[:6] == ["built-in", "7.87", "M", "44.1", "kHz", "stereo"]
    assert built_in.split()[-2:] == ["yes", "Apache-2.0"]
    small, second = (line.split() for line in rest[:2])
    assert small[:6] == ["mmaudio-small-16k", "157", "M", "16", "kHz", "mono"]
    assert "fetched" in small and "CC-BY-NC-4.0," in small
    assert second[:6] == ["mmaudio-small-44k", "157", "M", "44.1", "kHz", "mono"] and "yes" in second
    assert [line.split()[0] for line in rest[5:]] == ["kling-foley-1.5b", "kling-foley-3b", "kling-foley-6b", "*"]


def test_messages_reach_the_terminal_as_text(capsys):
    command.say("a\nb \x1b[2J\x07 é 喝")
    assert capsys.readouterr().err == "kfjax: a b \\x1b[2J\\x07 é 喝\n"


def test_a_full_disk_is_one_line(capsys):
    for name, where in ((None, "writing"), ("a.csv", "a.csv")):
        full = lambda _, name=name: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device", name))
        assert command.run(full, []) == 2
        line = f"kfjax: error: {where}: No space left on device; make room and run again\n"
        assert capsys.readouterr().err == line
    with pytest.raises(OSError, match="Bad address"):  # a defect
        command.run(lambda _: (_ for _ in ()).throw(OSError(errno.EFAULT, "Bad address")), [])


def test_a_failed_command_does_not_wait_for_its_threads():
    lines = "import threading, time", "from kfjax import command", "command.end_without_threads(3)", \
            "threading.Thread(target=time.sleep, args=(600,)).start()", "command.end_without_threads(2)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)], timeout=60).returncode == 2
