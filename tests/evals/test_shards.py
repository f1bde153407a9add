"""Shards: several processes have the figures of one, and a run that was killed goes on with what is missing."""

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from kfjax import cli, media
from kfjax.data import remote
from kfjax.evals import generation, measures, shards
from kfjax.evals.evaluation import EvaluationRequest, evaluate
from kfjax.evals.networks import loading
from kfjax.evals.networks.base import Tags, Unavailable
from kfjax.media import FrameSpec
from kfjax.storage.bucket import BucketPath
from tests.tiny.system import write_model

RATE, SECONDS = 16000, 0.5


class FakeClassifier:
    """What it says of a clip depends on the whole batch: it sees whether the batches are the same."""

    name, sample_rate_hz, labels = "fake", 8000, ("one", "two", "three")

    def tags(self, waves):
        levels = np.log(np.abs(waves).reshape(len(waves), 4, -1).mean(-1) + 1e-3).astype(np.float32)
        return Tags(levels + levels.mean(), (4 + levels[:, :3] - len(waves)).astype(np.float32))


class FakeSpace:
    name, sample_rate_hz, frame_spec = "fake space", 8000, FrameSpec(2.0, 16, "crop")

    def embed_audio(self, waves):
        return np.stack([waves.std(1), np.ones(len(waves))], 1)

    def embed_text(self, captions):
        return np.array([[len(caption), 1.0] for caption in captions])


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "CLIPS", 3)
    monkeypatch.setattr(measures, "_BATCH", 2)


@pytest.fixture
def networks(monkeypatch):
    """Those that are there; a test may take one away."""
    there = {"panns": FakeClassifier(), "clap": FakeSpace()}

    def load(group, folder):
        if group not in there:
            raise Unavailable(f"{group}: no weights")
        return there[group]

    monkeypatch.setattr(loading, "load_network", load)
    return there


@pytest.fixture
def folders(tmp_path):
    """Eight clips with true and generated sound; the fifth can't be read, the last has no generated one."""
    rng = np.random.default_rng(0)
    true, made = tmp_path / "true", tmp_path / "made"
    for folder in (true, made):
        folder.mkdir()
        for k in range(8):
            wave = 0.1 * (k + 1) * rng.standard_normal((round(SECONDS * RATE), 2)).clip(-1, 1)
            media.write_wav(folder / f"{k}.wav", wave.astype(np.float32), RATE)
    (true / "4.wav").write_bytes(b"RIFF")
    (made / "7.wav").unlink()
    (true / "clips.csv").write_text("audio,caption\n" + "".join(f"{k}.wav,{'x' * k}\n" for k in range(8)))
    return true / "clips.csv", made


def request_of(target, references, output, **changes) -> EvaluationRequest:
    settings = {"seconds": SECONDS, "pictures": 0, "metrics": ("levels", "stereo", "panns", "clap")}
    return EvaluationRequest(str(target), "folder", output, references=references, **settings | changes)


def written(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in ("results.json", "report.md", "files.csv")}


def test_two_processes_have_the_figures_of_one(folders, networks, tmp_path, capsys):
    table, made = folders
    alone = evaluate(request_of(made, table, tmp_path / "one"))
    assert alone["matching"] | {"unreadable": []} == {"measured": 6, "missing": ["7"], "extra": [], "unreadable": []}
    assert alone["matching"]["unreadable"][0].startswith("4: ") and alone["scores"]["fd_panns"]["count"] == 6
    assert alone["scores"]["loudness_lufs"]["count"] == 6 and alone["scores"]["clap"]["count"] == 5
    both = [evaluate(request_of(made, table, tmp_path / "two", process=f"{i}/2")) for i in (1, 0)]
    assert both[0] == {} and both[1] == alone
    assert "2 of 3 shards are still to be measured" in capsys.readouterr().err
    assert written(tmp_path / "two") == written(tmp_path / "one")


def test_sounds_of_a_model_are_made_by_shares(folders, tmp_path):
    """Every process generates its clips alone; a share without any good clip does not stop the others."""
    table = tmp_path / "true/captions.csv"
    table.write_text("audio,caption\n0.wav,rain\n1.wav,a bell\n2.wav,\n3.wav,\n")  # the second shard has no caption
    model, metrics = write_model(tmp_path / "model"), ("levels",)
    run = lambda output, process: evaluate(request_of(model, table, output, metrics=metrics, process=process))
    assert run(tmp_path / "two", "1/2") == {} and not list((tmp_path / "two/generated").glob("*.wav"))
    assert not (tmp_path / "two/results.json").exists()
    joined = run(tmp_path / "two", "0/2")
    assert sorted(path.name for path in (tmp_path / "two/generated").glob("*.wav")) == ["0.wav", "1.wav"]
    assert joined == run(tmp_path / "one", "0/1") and joined["matching"]["measured"] == 2
    assert [line[:6] for line in joined["matching"]["unreadable"]] == ["2: has", "3: has"]
    # Hosts without a common disk: their folders are copied into one, and any process joins them.
    for i in (0, 1):
        run(tmp_path / f"host{i}", f"{i}/2")
        shutil.copytree(tmp_path / f"host{i}", tmp_path / "copied", dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "copied/measured").iterdir()}
    assert run(tmp_path / "copied", "0/1") == joined
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "copied/measured").iterdir()}


def test_a_killed_run_goes_on(folders, networks, tmp_path, monkeypatch):
    table, made = folders
    alone, heard, figures = evaluate(request_of(made, table, tmp_path / "one")), [], measures._figures

    def dies(pair, groups):
        if pair[0].name == "6":
            raise KeyboardInterrupt
        heard.append(pair[0].name)
        return figures(pair, groups)

    monkeypatch.setattr(measures, "_figures", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate(request_of(made, table, tmp_path / "two"))
    assert len(list((tmp_path / "two/measured").iterdir())) == 2 and sorted(heard) == list("012345")
    monkeypatch.setattr(measures, "_figures", lambda pair, groups: heard.append(pair[0].name) or figures(pair, groups))
    assert evaluate(request_of(made, table, tmp_path / "two")) == alone
    assert sorted(heard) == list("0123456")  # nothing a second time


def test_what_changed_is_measured_again(folders, networks, tmp_path):
    table, made = folders
    out = tmp_path / "out"
    before = evaluate(request_of(made, table, out))
    times = lambda: {path.name: path.stat().st_mtime_ns for path in sorted((out / "measured").iterdir())}
    first = times()
    assert evaluate(request_of(made, table, out)) == before and times() == first
    shutil.copy(made / "0.wav", made / "3.wav")  # as long as it was
    changed = evaluate(request_of(made, table, out))
    assert changed["scores"] != before["scores"]
    assert [name for name, time in times().items() if time != first[name]] == ["0001-of-0003.npz"]
    damaged = out / "measured/0002-of-0003.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert evaluate(request_of(made, table, out)) == changed
    more = evaluate(request_of(made, table, out, metrics=("onsets", "levels", "stereo", "panns", "clap")))
    assert "onset_f1" in more["scores"] and changed["scores"].items() <= more["scores"].items()
    assert evaluate(request_of(made, table, out)) == changed  # what was not asked for is left out


def test_networks_that_are_missing_are_asked_again(folders, networks, tmp_path):
    table, made = folders
    taken = networks.pop("panns")
    without = evaluate(request_of(made, table, tmp_path / "out"))
    assert without["unavailable"] == {"panns": "panns: no weights"} and "kl_panns" not in without["scores"]
    networks["panns"] = taken
    half = evaluate(request_of(made, table, tmp_path / "out", process="0/2"))  # shards 0 and 2
    assert half["unavailable"] == {"panns": "panns: no weights"} and half["scores"] == without["scores"]
    whole = evaluate(request_of(made, table, tmp_path / "out"))
    assert whole["unavailable"] == {} and whole == evaluate(request_of(made, table, tmp_path / "new"))


@pytest.mark.parametrize("process", ["2/2", "1", "a/b", "-1/2"])
def test_a_share_that_is_none_is_refused(folders, process, capsys):
    table, made = folders
    arguments = ["--benchmark", "folder", "--references", str(table), f"--process={process}"]
    assert cli.main(["evaluate", str(made), *arguments]) == 2
    assert f"--process: got {process}, expected I/N" in capsys.readouterr().err


def test_the_command_ends_well_while_others_are_at_work(folders, networks, tmp_path, capsys):
    table, made = folders
    arguments = ["--references", str(table), "--seconds", str(SECONDS), "--metrics", "levels", "--pictures", "0",
                 "--output", str(tmp_path / "out")]  # fmt: skip
    assert cli.main(["evaluate", str(made), "--benchmark", "folder", *arguments, "--process", "0/2"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "1 of 3 shards are still to be measured, by other processes" in shown.err
    assert cli.main(["evaluate", str(made), "--benchmark", "folder", *arguments, "--process", "1/2"]) == 0
    assert "| loudness, LUFS |" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/results.json").read_text())["matching"]["measured"] == 6


def test_a_size_that_could_not_be_had_is_asked_for_again():
    memory, there = fsspec.filesystem("memory"), remote.Address("memory://sizes/a.wav")
    assert shards._size(there) == -1
    memory.pipe_file(str(there), b"RIFF")
    assert shards._size(there) == 4
    memory.pipe_file(str(there), b"longer")
    assert shards._size(there) == 4  # once known, asked for no more


def test_hosts_that_share_a_bucket(gs, folders, tmp_path, monkeypatch, capsys):
    """Output and the model there: the figures are those of one process on a disk, nothing is made twice, and a message
    names the bucket."""
    table, written = tmp_path / "true/captions.csv", write_model(tmp_path / "model")
    table.write_text("audio,caption\n" + "".join(f"{k}.wav,rain\n" for k in (0, 1, 2, 3)))
    for path in written.iterdir():
        (gs / "model" / path.name).put(path.read_bytes())
    run = lambda output, process, **changes: evaluate(
        request_of(gs / "model", table, output, process=process, **{"metrics": ("levels",), "pictures": 1} | changes)
    )
    alone, out, made, write = run(tmp_path / "one", "0/1"), gs / "out", [], generation.media.write_wav
    monkeypatch.setattr(generation.media, "write_wav", lambda path, *rest: made.append(path.name) or write(path, *rest))
    assert run(out, "1/2") == {} and made == ["3.wav"]
    assert sorted(out.below()) == [
        "generated/3.wav", "generated/generation.json", "measured/0001-of-0002.npz",
    ]  # fmt: skip
    (out / "measured/0001-of-0002.npz").unlink()  # as if it had been killed before it measured
    assert run(out, "1/2") == {} and made == ["3.wav"] and (out / "measured/0001-of-0002.npz").is_file()
    assert run(out, "0/2") == alone and sorted(made) == ["0.wav", "1.wav", "2.wav", "3.wav"]
    for name in ("results.json", "report.md", "files.csv"):
        assert (out / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    assert [name for name in out.below() if name.startswith("pictures/")]
    assert run(out, "0/1") == alone and len(made) == 4
    fetched, download = [], BucketPath.download
    monkeypatch.setattr(BucketPath, "download", lambda self, file: fetched.append(self.name) or download(self, file))
    assert run(out, "1/2", pictures=0) == alone and [name for name in fetched if name.endswith(".wav")] == ["3.wav"]
    monkeypatch.setattr(BucketPath, "download", download)
    with pytest.raises(ValueError, match=rf"{out}/generated: holds sounds of other settings: seed was 0, is 1"):
        run(out, "0/2", seed=1)
    words = ["evaluate", str(gs / "model"), "--benchmark", "folder", "--references", str(table), "--metrics", "levels"]
    assert cli.main([*words, "--seconds", str(SECONDS), "--pictures", "0", "--output", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"{out}/report.md\n") and len(made) == 4
    assert cli.main([*words, "--output", "gs://nowhere-at-all/out"]) == 2
    assert "there is no bucket nowhere-at-all" in capsys.readouterr().err


def test_sounds_that_came_while_others_were_measured(folders, tmp_path, monkeypatch):
    """The process that joins had begun before another had made its sounds."""
    table, model = tmp_path / "true/captions.csv", write_model(tmp_path / "model")
    table.write_text("audio,caption\n" + "".join(f"{k}.wav,rain\n" for k in (0, 1, 2, 3)))
    order = lambda process: request_of(model, table, tmp_path / "out", metrics=("levels",), process=process)
    measure, others = shards.Shards.measure, iter(["0/2"])

    def meanwhile(self, *arguments):
        if (process := next(others, None)) is not None:
            assert evaluate(order(process)) == {}
        measure(self, *arguments)

    monkeypatch.setattr(shards.Shards, "measure", meanwhile)
    joined = evaluate(order("1/2"))
    assert joined["matching"] == {"measured": 4, "missing": [], "extra": [], "unreadable": []}


def test_weights_in_a_bucket(gs, folders, tmp_path, monkeypatch):
    """They are read from a copy; figures count as those of this address."""
    table, made = folders
    (gs / "weights/a.pth").put(b"weights")
    seen = []

    def load(group, weights):
        seen.append((weights / "a.pth").read_bytes())
        raise Unavailable(f"{weights}: no weights of {group}")

    monkeypatch.setattr(loading, "load_network", load)
    results = evaluate(request_of(made, table, tmp_path / "out", weights=gs / "weights"))
    assert set(seen) == {b"weights"}
    assert results["unavailable"]["panns"] == f"{gs}/weights: no weights of panns"
