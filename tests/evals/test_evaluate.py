"""The command from its arguments to its report: matching, measures with and without networks, reproducibility."""

import csv
import functools
import json
import shutil

import fsspec
import numpy as np
import pytest

from kfjax import cli, media, pipeline
from kfjax.data import builders, sources
from kfjax.evals import benchmarks, evaluation, generation, measures, report
from kfjax.evals import evaluate as evaluate_command
from kfjax.evals.evaluation import EvaluationRequest, evaluate, plain
from kfjax.evals.measures import COLUMNS, Score, mean_score
from kfjax.evals.networks import loading
from kfjax.evals.networks.base import Tags, Unavailable
from kfjax.media import FrameSpec
from kfjax.metrics import distributions
from kfjax.scenes import sounds
from tests.tiny.system import write_model

RATE = 44100
NO_NETWORK = ("onsets", "stereo", "levels", "codec")


def struck(seed: int, seconds: float = 1.2) -> np.ndarray:
    """Three noisy strokes, panned by the seed."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.where(t < s, 0, np.exp(-30 * np.maximum(t - s, 0))) for s in (0.2, 0.5, 0.9))
    wave = 0.3 * wave * rng.standard_normal(len(t)) + 1e-4 * rng.standard_normal(len(t))
    return np.stack([wave * (0.5 + 0.1 * seed), wave * (0.5 - 0.1 * seed)], 1).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folders(tmp_path):
    """True sounds a, b, c and generated ones: a is a copy, b half as loud, c is missing; d is of no clip."""
    true, made = tmp_path / "true", tmp_path / "made"
    for folder in (true, made):
        folder.mkdir()
    for k, name in enumerate("abc"):
        media.write_wav(true / f"{name}.wav", struck(k), RATE)
    shutil.copy(true / "a.wav", made / "a.wav")
    media.write_wav(made / "b.wav", 0.5 * struck(1), RATE)
    media.write_wav(made / "d.wav", struck(3), RATE)
    return true, made


def request_of(target, output, **changes) -> EvaluationRequest:
    return EvaluationRequest(str(target), changes.pop("benchmark", "folder"), output, **{"pictures": 0} | changes)


def test_references_in_a_bucket(gs, folders, tmp_path):
    """A table there, and its clips beside it: the figures are those of the same clips on a disk."""
    true, made = folders
    for path in true.iterdir():
        (gs / path.name).put(path.read_bytes())
    table = "audio,caption\n" + "".join(f"{name}.wav,\n" for name in "abc")
    (true / "clips.csv").write_text(table)
    (gs / "clips.csv").put(table.encode())
    words = ["evaluate", str(made), "--benchmark", "folder", "--metrics", "onsets,codec", "--pictures", "1"]
    for place, output in ((true / "clips.csv", "disk"), (gs / "clips.csv", "bucket"), (gs / "clips.csv", "bucket")):
        assert cli.main([*words, "--references", str(place), "--output", str(tmp_path / output)]) == 0
    one, two = (json.loads((tmp_path / output / "results.json").read_text()) for output in ("disk", "bucket"))
    assert one == two and one["matching"]["measured"] == 2


def test_references_on_any_file_system(tmp_path, capsys):
    fsspec.filesystem("memory").pipe_file("memory://true/clips.csv", b"audio,caption\na.wav,rain\n")
    source = evaluate_command._references("memory://true/clips.csv")
    assert [str(row.audio) for row in benchmarks.references(source)] == ["memory://true/a.wav"]
    words = ["evaluate", "built-in", "--benchmark", "scenes", "--references", "memory://true/clips.csv"]
    assert cli.main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "got memory://true/clips.csv, which is an address; give a file or folder" in capsys.readouterr().err


def test_a_model_in_a_bucket(gs, tmp_path, capsys):
    for path in write_model(tmp_path / "model").iterdir():
        (gs / "model" / path.name).put(path.read_bytes())
    assert evaluation._is_model(str(gs / "model"))
    assert generation.model_fingerprint(str(gs / "model")) == generation.model_fingerprint(str(tmp_path / "model"))
    words = ["evaluate", str(gs), "--benchmark", "folder", "--references", str(tmp_path)]
    assert cli.main(words) == 2
    assert f"got {gs}, expected a model directory there (with config.json)" in capsys.readouterr().err


def names(rows, seconds=1.0):
    return benchmarks.file_examples(rows, seconds)


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"")


def test_files_are_matched_by_name(tmp_path):
    true, made = tmp_path / "true", tmp_path / "made"
    touch(true, "x/a.mp4", "x/b.mp4", "y/b.mp4", "-Yd_2.mp4", "c.v2.mp4", "e.mp4")
    touch(made, "a.wav", "x/b.wav", "b.wav", "-Yd_2.mp4", "c.v2.wav", "c.v2.mp4", "z.wav", "notes.txt")
    examples = names(sources.read_rows(true))
    matching = benchmarks.match(examples, made)
    assert {example.name: path.relative_to(made).as_posix() for example, path in matching.pairs} == {
        "x_a": "a.wav", "x_b": "x/b.wav", "-Yd_2": "-Yd_2.mp4", "c.v2": "c.v2.wav",
    }  # fmt: skip
    assert sorted(matching.missing) == ["e", "y_b"]  # b.wav may be either b
    assert matching.extra == ["b.wav", "c.v2.mp4", "z.wav"]
    assert benchmarks.match(examples[:1], made, beyond=examples[1:]).extra == ["c.v2.mp4", "z.wav"]
    with pytest.raises(ValueError, match="expected files named like"):
        benchmarks.match(examples, true.parent / "nothing")


def test_names_stay_in_their_folder():
    for id in ("../../etc/passwd", "/abs/clip.mp4", "a b\\c.mp4", "..", ".hidden"):
        name = benchmarks.name_of(id)
        assert "/" not in name and "\\" not in name and not name.startswith(".") and name
    with pytest.raises(ValueError, match="a_b twice"):
        names([sources.Row("a/b.mp4", None, None, ""), sources.Row("a_b.wav", None, None, "")])


def test_a_sound_beside_a_video_is_the_videos(tmp_path):
    touch(tmp_path, "a.mp4", "a.wav", "b.wav")
    rows = benchmarks.references(tmp_path)
    assert [(row.video and row.video.name, row.audio and row.audio.name) for row in rows] == [
        ("a.mp4", "a.wav"), (None, "b.wav"),
    ]  # fmt: skip


def test_scenes_look_and_sound_like_files(tmp_path):
    """Of a scene the same is seen and heard as of the video that it makes."""
    [example] = benchmarks.scene_examples(tmp_path / "scenes", 1, 1.0, 32)
    media.write_video(tmp_path / "scene.mp4", example.scene.frames(), 25, example.sound(RATE), RATE)
    row = sources.Row("scene.mp4", tmp_path / "scene.mp4", None, "")
    specs = [FrameSpec(25.0, 64, "crop"), FrameSpec(8.0, 32, "stretch"), FrameSpec(2.0, 64, "crops")]
    filed = benchmarks.FileExample("scene", row, 1.0).frames(specs)
    for drawn, read in zip(example.frames(specs), filed, strict=True):
        assert drawn.shape == read.shape and np.abs(drawn.astype(float) - read).mean() < 12
    assert example.sound(16000).shape == (16000, 2)
    power = lambda rate: (example.sound(rate) ** 2).mean()
    assert power(22050) == pytest.approx(power(RATE), rel=0.2)
    assert len(example.positions) == len(example.times) and example.caption and example.has_video


def test_a_folder_is_measured(folders, tmp_path):
    true, made = folders
    (true / "broken.wav").write_bytes(b"RIFF")
    shutil.copy(true / "a.wav", made / "broken.wav")
    table = true / "clips.csv"  # with a caption that would be a formula to a program that draws
    table.write_text("audio,caption\na.wav,$5 and \\frac{ $\nb.wav,\nc.wav,\nbroken.wav,\n")
    results = evaluate(request_of(made, tmp_path / "out", references=table, metrics=NO_NETWORK, seconds=1.2,
                             pictures=3))  # fmt: skip
    assert results["matching"]["measured"] == 2 and results["matching"]["missing"] == ["c"]
    assert results["matching"]["extra"] == ["d.wav"] and "broken" in results["matching"]["unreadable"][0]
    scores = results["scores"]
    assert scores["onset_f1"] == {"value": 1.0, "error": 0.0, "count": 2}
    assert scores["mel_l1"]["value"] == pytest.approx(np.log(2) / 2, abs=0.02)
    assert scores["true_onsets"]["value"] == 3 and scores["missing_seconds"]["value"] == 0
    with (tmp_path / "out/files.csv").open() as file:
        rows = {row["clip"]: row for row in csv.DictReader(file)}
    assert float(rows["b"]["sdr_db"]) == pytest.approx(6.02, abs=0.01) and rows["a"]["position_correlation"] == ""
    loudness = float(rows["b"]["true_loudness_lufs"]) - float(rows["b"]["loudness_lufs"])
    assert loudness == pytest.approx(6.02, abs=0.05)
    text = (tmp_path / "out/report.md").read_text()
    assert "clips without a generated sound: 1 (c)" in text and "generated files of no clip: 1 (d.wav)" in text
    assert "onsets within ±50 ms, F1 ↑ | 1.000" in text and "pictures/a.png" in text
    assert {path.name for path in (tmp_path / "out/pictures").iterdir()} == {"a.png", "b.png", "onsets.png"}
    assert json.loads((tmp_path / "out/results.json").read_text()) == results
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_order_of_files_does_not_matter(folders, tmp_path):
    made = folders[1]
    table = tmp_path / "true/clips.csv"
    for lines in ("audio\nb.wav\na.wav\n", "audio\na.wav\nb.wav\n"):
        table.write_text(lines)
        evaluate(request_of(made, tmp_path / f"out{len(lines)}{lines[6]}", references=table, metrics=NO_NETWORK))
    first, second = (json.loads(path.read_text())["scores"] for path in sorted(tmp_path.glob("out*/results.json")))
    assert first == second


class FakeClassifier:
    """Its embedding is the sound's levels in four parts, its logits their multiples."""

    name, sample_rate_hz, labels = "fake", 8000, ("one", "two", "three", "four")

    def tags(self, waves):
        assert waves.dtype == np.float32 and waves.shape[1] == 9600
        levels = np.log(np.abs(waves).reshape(len(waves), 4, -1).mean(-1) + 1e-3)
        return Tags(levels, 4 + levels)


class FakeSpace:
    name, sample_rate_hz, frame_spec = "fake", 8000, FrameSpec(2.0, 16, "crop")

    def embed_audio(self, waves):
        return np.stack([waves.std(1), np.ones(len(waves))], 1)

    def embed_text(self, captions):
        return np.array([[len(caption), 1.0] for caption in captions])

    def embed_video(self, frames):
        raise AssertionError("no clip here has a picture")


def test_networks_are_asked_and_missing_weights_are_named(folders, tmp_path, monkeypatch):
    true, made = folders
    (true / "clips.csv").write_text("audio,caption\na.wav,a\nb.wav,\nc.wav,a stroke\n")

    def load(group, folder):
        if group == "desync":
            raise Unavailable(f"{folder}/synchformer.pth is missing; published at example.org")
        return FakeClassifier() if group == "panns" else FakeSpace()

    monkeypatch.setattr(loading, "load_network", load)
    wanted = request_of(
        made, tmp_path / "out", references=true / "clips.csv", weights=tmp_path / "metrics", seconds=1.2,
        metrics=("onsets", "panns", "imagebind", "desync", "clap"),
    )  # fmt: skip
    results = evaluate(wanted)
    scores = results["scores"]
    assert results["protocol"]["networks"] == "fake, fake, fake"
    assert list(results["unavailable"]) == ["desync"] and "synchformer.pth" in results["unavailable"]["desync"]
    levels = [FakeClassifier().tags(np.stack([media.read_audio(folder / f"{n}.wav", 8000, 1)[:9600, 0] for n in "ab"]))
              for folder in (made, true)]  # fmt: skip
    distance = distributions.frechet_distance(*(distributions.gaussian(side.embedding) for side in levels))
    divergence = distributions.kl_divergence(levels[0].logits, levels[1].logits, "sigmoid").mean()
    assert scores["fd_panns"]["value"] == pytest.approx(distance, abs=1e-4) and scores["fd_panns"]["count"] == 2
    assert scores["kl_panns_sigmoid"]["value"] == pytest.approx(divergence, abs=1e-4)
    assert scores["clap"]["count"] == 1 and scores["ib"] == {"value": None, "error": None, "count": 0}
    assert "desync: " in (tmp_path / "out/report.md").read_text()


def test_a_model_is_evaluated_to_the_digit(tmp_path, monkeypatch):
    """Twice the same, and the clips of a smaller limit are those of a larger one, bit for bit."""
    monkeypatch.setattr(sounds, "_LARGEST_BATCH", 4)
    model = write_model(tmp_path / "model")
    runs, settings = {}, {"benchmark": "scenes", "seconds": 1.0, "metrics": ("onsets", "stereo", "scenes")}
    for name, limit in (("two", 2), ("again", 2), ("five", 5)):
        runs[name] = evaluate(request_of(model, tmp_path / name, limit=limit, **settings))
    assert runs["two"] == runs["again"]
    assert (tmp_path / "two/report.md").read_bytes() == (tmp_path / "again/report.md").read_bytes()
    waves = lambda name: {path.name: path.read_bytes() for path in (tmp_path / name / "generated").glob("*.wav")}
    assert len(waves("five")) == 5 and waves("two").items() < waves("five").items()
    scenes = runs["five"]["scenes"]
    assert scenes["synchrony"]["ceiling"]["value"] > 0.8 > scenes["synchrony"]["generated"]["value"]
    assert scenes["synchrony"]["generated"] == runs["five"]["scores"]["onset_f1"]
    before = (tmp_path / "two/generated/scene-0001.wav").stat().st_mtime_ns
    (tmp_path / "two/generated/scene-0000.wav").unlink()
    made = tmp_path / "two/generated"
    assert evaluate(request_of(model, tmp_path / "two", limit=2, **settings)) == runs["two"]
    assert (made / "scene-0001.wav").stat().st_mtime_ns == before
    from_files = evaluate(request_of(made, tmp_path / "files", limit=2, **settings))
    assert from_files["scores"] == runs["two"]["scores"] and from_files["scenes"] == runs["two"]["scenes"]
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        evaluate(request_of(model, tmp_path / "two", limit=2, seed=1, **settings))


def test_clips_are_generated_one_by_one(folders, tmp_path, capsys):
    """A caption is enough; a clip with neither picture nor caption is said to be impossible."""
    true, _ = folders
    (true / "clips.csv").write_text("audio,caption\na.wav,a bell rings loudly\nb.wav,\nc.wav,rain\n")
    model = write_model(tmp_path / "model")
    wanted = request_of(model, tmp_path / "out", references=true / "clips.csv", seconds=1.0, metrics=("levels",))
    results = evaluate(wanted)
    assert "kfjax: captions with words outside the vocabulary: 1 (loudly 1)\n" in capsys.readouterr().err
    assert results["matching"]["measured"] == 2 and results["matching"]["missing"] == []
    assert "b: has neither" in results["matching"]["unreadable"][0]
    seed = generation.clip_seed(0, "c")
    again = pipeline.load(model).generate(None, "rain", duration=1.0, seed=seed)
    media.write_wav(tmp_path / "c.wav", again.waveform, RATE)
    assert (tmp_path / "c.wav").read_bytes() == (tmp_path / "out/generated/c.wav").read_bytes()
    assert seed != generation.clip_seed(1, "c") != generation.clip_seed(0, "a")
    (true / "none.csv").write_text("audio,caption\nb.wav,\n")
    with pytest.raises(ValueError, match=r"no clip could be given a sound \(b: has neither"):
        evaluate(request_of(model, tmp_path / "none", references=true / "none.csv", seconds=1.0, metrics=("levels",)))


@pytest.mark.slow
def test_a_public_corpus_is_measured(tmp_path, monkeypatch):
    """VGGSound as people have it: names that begin with - and _, a clip inside an upload, some that are gone."""
    pytest.importorskip("tensorflow_datasets", reason="no tensorflow_datasets: pip install '.[builders]'")
    monkeypatch.setattr(builders, "read_rows", functools.partial(builders.read_rows, data_dir=tmp_path / "d"))
    corpus, made = tmp_path / "vggsound", tmp_path / "made"
    (corpus / "uploads").mkdir(parents=True)
    made.mkdir()
    rows = ("-f_I2yQ_a00,0,bang,test", "_2MwJ2uHu0a,0,bell,test", "0Tc8sOU6Jzc,2,bell,test", "gone_clip_0,0,,test")
    (corpus / "vggsound.csv").write_text("\n".join(rows) + "\n")
    media.write_wav(corpus / "-f_I2yQ_a00_000000.wav", struck(0), RATE)
    media.write_wav(corpus / "_2MwJ2uHu0a_000000.wav", struck(1), RATE)
    media.write_wav(corpus / "uploads/0Tc8sOU6Jzc.wav", np.concatenate([np.zeros((2 * RATE, 2)), struck(2)]), RATE)
    for name, seed in (("-f_I2yQ_a00_000000", 0), ("_2MwJ2uHu0a_000000", 1), ("0Tc8sOU6Jzc_000002", 2)):
        media.write_wav(made / f"{name}.wav", struck(seed), RATE)
    results = evaluate(request_of(made, tmp_path / "out", benchmark="vggsound", manual_dir=corpus, metrics=NO_NETWORK))
    assert results["matching"] == {"measured": 3, "missing": [], "extra": [], "unreadable": []}
    assert results["scores"]["onset_f1"]["value"] == 1 and results["scores"]["lsd_db"]["value"] < 0.01
    assert results["protocol"]["seconds_of_each"] == 8
    text = (tmp_path / "out/report.md").read_text()
    assert "| MMAudio-L-44.1kHz | 4.72 | 1.65 | 17.4 | 0.3322 | 0.442 |" in text and "| **made** |" in text


def test_published_rows_stand_above_ours():
    """In the units and columns of ours, with nothing where a table has nothing."""
    scores = {"kl_panns": {"value": 2.345}, "ib": {"value": 0.25}, "sdr_db": {"value": -12.0}}
    lines = report.published("vggsound", "mine", scores)
    titles = [cell.strip() for cell in lines[0].split("|")[2:-2]]
    assert titles[:2] == ["FD (PANNs) ↓", "KL (PANNs, softmax) ↓"] and titles[-2:] == ["SDR, dB ↑", "MCD, dB ↓"]
    source = "Kling-Foley, arXiv 2506.19774, table 2"
    assert f"| Kling-Foley | 7.6 | 1.86 |  | 0.3075 | 0.43 |  | -2.41 | 2.6 | {source} |" in lines
    assert "| **mine** |  | 2.345 |  | 0.25 |  |  | -12 |  | this report |" in lines
    assert report.published("scenes", "mine", scores) == ["Nobody has published figures on these clips."]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--benchmark", "scenes"], "or a model"),
        (["made", "--benchmark", "imagenet"], "expected one of vggsound"),
        (["made", "--benchmark", "folder"], "no --references"),
        (["made", "--benchmark", "folder", "--references", "true", "--metrics", "onsets,fd"], "got fd"),
        (["made", "--benchmark", "folder", "--references", "true", "--metrics", "scenes"], "got scenes"),
        (["true", "--benchmark", "folder", "--references", "made", "--limit", "0"], "--limit"),
        (["other", "--benchmark", "folder", "--references", "true"], "named like"),
        (["made", "--benchmark", "folder", "--references", "true", "--seconds", "900"], "duration"),
    ],
)
def test_mistakes_end_in_one_line(folders, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    touch(tmp_path / "other", "z.wav")
    assert cli.main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_command_prints_its_report(folders, tmp_path, capsys):
    true, made = folders
    arguments = ["--references", str(true), "--metrics", "levels", "--pictures", "0", "--output", str(tmp_path / "out")]
    assert cli.main(["evaluate", str(made), "--benchmark", "folder", *arguments]) == 0
    shown = capsys.readouterr()
    assert "| loudness, LUFS |" in shown.out and shown.out.endswith("report.md\n")
    assert "missing: 1 (c)" in shown.err and "extra: 1 (d.wav)" in shown.err


@pytest.mark.parametrize("group", measures.NETWORKS)
def test_every_network_says_what_it_misses(group, tmp_path):
    with pytest.raises(Unavailable, match=r"expected .*; get it"):
        loading.load_network(group, tmp_path)


def test_pesq_is_said_to_be_missing(monkeypatch):
    monkeypatch.setattr(measures.importlib.util, "find_spec", lambda name: None)
    assert ".[eval]" in measures.check_packages(["onsets", "pesq"])["pesq"]
    assert measures.check_packages(["onsets"]) == {}


def test_scores_leave_out_what_does_not_apply():
    assert mean_score([1.0, 3.0, float("nan")]) == Score(2.0, 1.0, 2)
    assert plain({"a": mean_score([float("nan")])}) == {"a": {"value": None, "error": None, "count": 0}}


def test_every_group_has_titles(folders):
    true, made = folders
    examples = names(benchmarks.references(true), 1.2)
    pairs = benchmarks.match(examples, made).pairs
    groups = [group for group in measures.OWN if group != "pesq"]
    for _, figures in measures.clip_figures(pairs, groups):
        assert list(figures) == groups
        assert {name.removeprefix("true_") for own in figures.values() for name in own} <= COLUMNS.keys()
    asked = request_of("x", None, metrics=("levels", "onsets"))
    assert evaluation.chosen_groups(asked) == [name for name in measures.OWN if name in ("levels", "onsets")]
    with pytest.raises(ValueError, match="--metrics: got nothing, expected some of"):
        evaluation.chosen_groups(request_of("x", None, metrics=()))
    assert set(evaluation.chosen_groups(request_of("x", None))) == set(measures.OWN) | set(measures.NETWORKS)
