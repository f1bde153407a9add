"""Videos and sounds to features: right, whole after every interruption, and bad clips said and passed over."""

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest

from kfjax import features, media, pipeline, system
from kfjax.codec import audio_codec
from kfjax.codec.configs import BigVGANConfig
from kfjax.codec.mel import log_mel
from kfjax.codec.stereo import from_bytes
from kfjax.data import builders, sources
from kfjax.data import encode as feature_encoder
from kfjax.data.encode import FeatureEncoder, encoders_fingerprint
from kfjax.data.extract import _agree, main
from kfjax.data.shards.marks import Marks
from kfjax.data.shards.records import Folder, parse
from kfjax.rates import lengths
from kfjax.structs import Video
from tests.tiny import media_files
from tests.tiny.system import CONFIG, tiny_system, write_model

SIZE = lengths(1.0, CONFIG.rates)
RNG = np.random.default_rng(0)


def noise(seconds: float, rate_hz: int = 44100, channels: int = 2, gain: float = 0.2) -> np.ndarray:
    return (gain * RNG.standard_normal((round(seconds * rate_hz), channels))).astype(np.float32)


def write_clip(path: Path, seconds: float, wave: np.ndarray, rate_hz: int = 44100) -> Path:
    picture = path.with_name("picture.mp4")
    media_files.write_numbered(picture, media_files.steady(round(25 * seconds), Fraction(25)))
    media.mux(picture, wave, rate_hz, path)
    picture.unlink()
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Good clips and every kind of bad one."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "more").mkdir()
    write_clip(folder / "two.mp4", 2.4, noise(2.4))
    write_clip(folder / "low.mov", 1.0, noise(1.0, 22050, 1), 22050)
    write_clip(folder / "more/high.mkv", 1.2, noise(1.2, 48000), 48000)
    media.write_wav(folder / "voice.wav", noise(3.0, 16000, 1), 16000)
    media.write_wav(folder / "nearly.wav", noise(0.97), 44100)
    media_files.write_numbered(folder / "mute.mp4", media_files.steady(30, Fraction(25)))
    write_clip(folder / "silent.mp4", 1.2, noise(1.2, gain=0))
    write_clip(folder / "early.mp4", 2.0, noise(1.2))
    write_clip(folder / "short.mp4", 0.4, noise(0.4))
    media_files.copy_start(folder / "two.mp4", folder / "cut.mp4", 0.5)
    media_files.copy_damaged(folder / "two.mp4", folder / "damaged.mp4")
    (folder / "empty.wav").touch()
    (folder / os.fsdecode(b"n\xffme.wav")).touch()
    (folder / "notes.txt").write_text("no clip")
    return folder


GOOD = ["early.mp4@0+1", "low.mov@0+1", "more/high.mkv@0+1", "nearly.wav@0+1", "two.mp4@0+1", "two.mp4@1+1",
        "voice.wav@0+1", "voice.wav@1+1", "voice.wav@2+1"]  # fmt: skip
REASONS = {
    "mute.mp4": "has no sound",
    "silent.mp4@0+1": "is silent in the 1 seconds from 0",
    "early.mp4@1+1": r"has 0\.\d+ seconds of sound of the 1 seconds from 1",
    "short.mp4": "0.40 seconds are there, the shortest excerpt is 1",
    "cut.mp4": "is cut off",
    "damaged.mp4@0+1": "doesn't decode",
    "damaged.mp4@1+1": "doesn't decode",
    "empty.wav": "is an empty file",
    "n\\udcffme.wav": "is an empty file",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def encoder():
    return FeatureEncoder(tiny_system(), batch=2)


@pytest.fixture(autouse=True)
def one_encoder(request, monkeypatch):
    """The tests share one encoder's weights and programs."""
    if "encoder" in request.fixturenames:
        shared = request.getfixturevalue("encoder")
        monkeypatch.setattr(feature_encoder, "FeatureEncoder", lambda *_: shared)


def run(source, output, model, *more) -> Path:
    arguments = [source, "--output", output, "--model", model, "--seconds", 1, "--shards", 4, "--workers", 2, *more]
    assert main([str(argument) for argument in arguments]) == 0
    return output


def examples(folder: Path) -> dict:
    """id -> example, of the bucket of 1 s."""
    got = [parse(record) for record in Folder(folder).buckets[1.0]]
    assert len({one.id for one in got}) == len(got)
    return {one.id: one for one in got}


@pytest.fixture(scope="module")
def whole(clips, model, encoder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_encoder, "FeatureEncoder", lambda *_: encoder)
        return run(clips, tmp_path_factory.mktemp("whole") / "features", model)


def bad_rows(folder: Path) -> dict[str, str]:
    with (folder / "bad.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "reason"]
    assert len(dict(rows)) == len(rows)
    return dict(rows[1:])


def assert_equal(got: Path, want: Path):
    got, want = examples(got), examples(want)
    assert sorted(got) == sorted(want)
    for name, one in want.items():
        for a, b in zip(jax.tree.leaves(got[name]), jax.tree.leaves(one), strict=True):
            assert np.array_equal(a, b), name


def test_a_folder_becomes_features(whole, encoder):
    assert sorted(examples(whole)) == GOOD
    opened = Folder(whole, fingerprint=encoder.fingerprint)
    assert opened.shapes == {
        1.0: {"clip": (SIZE.clip, 16), "sync": (SIZE.sync, 32), "text": (16, 16), "text_mask": (16,),
              "mean": (SIZE.latents, 8), "std": (SIZE.latents, 8),
              "stereo_mono": (SIZE.mel, 128), "stereo_ratio": (SIZE.mel, 128)}
    }  # fmt: skip
    for name, one in examples(whole).items():
        assert one.given.has_video == (not name.partition("@")[0].endswith(".wav")) and not one.given.has_text
        assert (one.given.seconds_start, one.given.seconds_total) == (0.0, 1.0)
        assert one.clip.any() == one.sync.any() == one.given.has_video and not one.text.any()
        assert np.isfinite(one.mean.astype(np.float32)).all() and (one.std > 0).all()


def test_bad_clips_are_listed_with_the_reason(whole):
    got = bad_rows(whole)
    assert sorted(got) == sorted(REASONS)
    for name, reason in REASONS.items():
        assert re.search(reason, got[name]), got[name]


def test_features_and_latents_are_those_of_the_excerpt(clips, whole):
    """The second second of a video, by the functions that generation uses."""
    frames, _ = media.read_frames(clips / "two.mp4", features.frame_specs(CONFIG), start_seconds=1.0,
                                  counts=(SIZE.clip, SIZE.sync_frames))  # fmt: skip
    excerpt = features.make_excerpt(CONFIG, tiny_system().tokenizer, SIZE, 1.0, Video(*frames, 1.0), [""])
    encode = lambda function, cfg, *inputs: jax.jit(function, static_argnums=1)(tiny_system().params, cfg, *inputs)
    want = encode(features.encode, CONFIG, excerpt)
    wave = media.read_audio(clips / "two.mp4", 44100, start_seconds=1.0)[: SIZE.samples].mean(-1)
    posterior = encode(audio_codec.encode, CONFIG.codec, wave[None])
    got = examples(whole)["two.mp4@1+1"]
    for name, one in (want._asdict() | posterior._asdict()).items():
        if name in ("clip", "sync", "mean", "std"):
            np.testing.assert_allclose(getattr(got, name).astype(np.float32), one[0], rtol=0.01, atol=0.01)
    other = examples(whole)["two.mp4@0+1"]
    assert not np.array_equal(got.clip, other.clip) and not np.array_equal(got.mean, other.mean)


def test_stereo_is_that_of_the_ears(clips, whole):
    got = examples(whole)
    stereo = {name for name, one in got.items() if one.stereo.there}
    assert stereo == {name for name in got if not name.startswith("voice")}  # low.mov's AAC draws noise for each ear
    ears = media.read_audio(clips / "two.mp4", 44100, start_seconds=1.0)[: SIZE.samples]
    left, right = log_mel(ears.T, CONFIG.codec.mel)
    mono, ratio = (x[0] for x in from_bytes(*(x[None] for x in got["two.mp4@1+1"].stereo[:2]), CONFIG.codec.mel))
    np.testing.assert_allclose(ratio, np.clip(left - right, -4, 4), atol=0.02)
    np.testing.assert_allclose(mono, np.log((np.exp(left) + np.exp(right)) / 2), atol=0.035)


def test_copied_mono_is_mono_and_no_stereo_is_what_it_was(encoder, tmp_path):
    left = noise(1.2, channels=1)
    media.write_wav(tmp_path / "copied.wav", np.repeat(left, 2, 1), 44100)
    media.write_wav(tmp_path / "left.wav", left * np.array([1.0, 0.0], np.float32), 44100)
    cuts = [sources.Cut(sources.Row(name, None, tmp_path / f"{name}.wav", ""), 0.0, 1.0) for name in ("copied", "left")]
    copied, one_sided = encoder([encoder.load(cut) for cut in cuts])
    assert not copied.stereo.there and one_sided.stereo.there
    assert np.median(one_sided.stereo.ratio) == 127
    plain = FeatureEncoder(tiny_system(), 2, stereo=False)
    for one, want in zip(plain([plain.load(cut) for cut in cuts]), (copied, one_sided), strict=True):
        assert one.stereo is None
        for name in ("mean", "std"):
            np.testing.assert_array_equal(getattr(one, name), getattr(want, name))


def test_a_folder_keeps_to_its_choice_of_stereo(whole, clips, model, encoder, monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(feature_encoder, "FeatureEncoder", lambda *given: made.append(given[2]) or encoder)
    run(clips, whole, model)
    assert made == [True]
    plan = json.loads((whole / "extraction.json").read_text())
    (tmp_path / "old").mkdir()
    del plan["stereo"]
    (tmp_path / "old" / "extraction.json").write_text(json.dumps(plan))
    arguments = [clips, "--output", tmp_path / "old", "--model", model, "--seconds", 1, "--shards", 4, "--stereo"]
    with pytest.raises(ValueError, match="holds another extraction: stereo was False, is True"):
        main([str(argument) for argument in arguments])


def test_a_mel_that_mono2stereo_can_not_read_is_refused():
    mono = replace(CONFIG.codec, stereo=None)
    other = replace(CONFIG, codec=replace(mono, mel=replace(mono.mel, log="log10"), vocoder=BigVGANConfig()))
    system = tiny_system()._replace(cfg=other)
    assert not FeatureEncoder(system, 1).stereo
    with pytest.raises(ValueError, match=r"mel\.log: got log10, expected natural"):
        FeatureEncoder(system, 1, stereo=True)


def test_sample_rates_are_the_codecs(encoder, tmp_path):
    """One tone at three rates gives one waveform."""
    waves = []
    for rate_hz in (16000, 44100, 48000):
        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * rate_hz) / rate_hz).astype(np.float32)
        media.write_wav(tmp_path / f"{rate_hz}.wav", tone, rate_hz)
        row = sources.Row(str(rate_hz), None, tmp_path / f"{rate_hz}.wav", "")
        waves.append(encoder.load(sources.Cut(row, 0.5, 1.0)).wave)
    assert all(wave.shape == (SIZE.samples,) for wave in waves)
    for wave in waves[1:]:
        np.testing.assert_allclose(wave, waves[0], atol=0.01)


def test_a_table_has_captions(clips, model, encoder, tmp_path, capsys):
    table = clips / "table.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([
            ("video", "audio", "caption", "start", "seconds"),
            ("two.mp4", "", "a bell rings loudly", "0.5", "1"),
            ("two.mp4", "voice.wav", "", "", "1"),
            ("", "voice.wav", "rain on a roof " * 667, "1", ""),
            ("two.mp4", "", "wind", "later", ""),
            ("gone.mp4", "", "wind", "", ""),
            ("", "", "wind", "", ""),
        ])  # fmt: skip
    try:
        output = run(table, tmp_path / "f", model)
    finally:
        table.unlink()
    said = capsys.readouterr().err
    got = examples(output)
    assert sorted(got) == ["two.mp4#2@0+1", "two.mp4@0.5+1", "voice.wav@1+1", "voice.wav@2+1"]
    bell, dubbed, rain = got["two.mp4@0.5+1"], got["two.mp4#2@0+1"], got["voice.wav@1+1"]
    assert bell.given.has_text and bell.given.has_video and bell.given.text_mask.sum() == 5
    assert dubbed.given.has_video and not dubbed.given.has_text and not dubbed.given.text_mask.any()
    assert rain.given.has_text and not rain.given.has_video and rain.given.text_mask.all() and not rain.clip.any()
    excerpt = features.make_excerpt(CONFIG, tiny_system().tokenizer, SIZE, 1.0, None, ["a bell rings loudly"])
    want, mask = features.encode_text(tiny_system().params["text"], CONFIG, excerpt.text_ids, excerpt.given.text_mask)
    np.testing.assert_array_equal(bell.given.text_mask, mask[0])
    np.testing.assert_allclose(bell.text.astype(np.float32)[mask[0]], want[0][mask[0]], rtol=0.01, atol=0.01)
    assert sorted(bad_rows(output)) == ["gone.mp4", "row without a file", "two.mp4#3"]
    assert "4 excerpts of 1 s; 3 bad" in said and said.strip().endswith(
        "captions with words outside the vocabulary: 1 (loudly 1); captions cut at the last token: 1"
    )


def test_a_public_corpus_is_a_source(clips, model, encoder, tmp_path, monkeypatch):
    asked = []

    def read_rows(name, split, *, manual_dir):
        asked.append((name, split, manual_dir))
        return [sources.Row("a", clips / "two.mp4", None, "a bell rings", 0.0, 1.0)]

    monkeypatch.setattr(builders, "read_rows", read_rows)
    output = run("tfds:vggsound", tmp_path / "f", model, "--manual-dir", clips)
    assert list(examples(output)) == ["a@0+1"]
    run("tfds:wavcaps/everything:train[:10]", tmp_path / "g", model)
    assert asked == [("vggsound", "train", clips), ("wavcaps/everything", "train[:10]", None)]
    with pytest.raises(ValueError, match=r"--manual-dir: got .*which is no tfds corpus; leave it out"):
        run(clips, tmp_path / "h", model, "--manual-dir", clips)


def test_the_sum_is_said(clips, model, encoder, whole, capsys):
    run(clips, whole, model)
    said = capsys.readouterr().err
    assert f"9 excerpts of 1 s; 9 bad ({whole / 'bad.csv'}); 1 s at the ends of clips left out" in said


def test_what_is_done_is_not_done_again(clips, model, encoder, whole, monkeypatch):
    monkeypatch.setattr(FeatureEncoder, "load", lambda *_: pytest.fail("done already"))
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.array_record")}
    run(clips, whole, model)
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*.array_record")}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", range(4))
def test_an_interrupted_extraction_goes_on(clips, model, encoder, whole, tmp_path, monkeypatch, when):
    """Stopped in its `when`-th batch (every shard here is one or two), and run again: no duplicates, no holes."""
    calls = []

    def encode(self, loaded, real=FeatureEncoder.__call__):
        calls.append(len(loaded))
        if len(calls) == when + 1:
            raise Killed
        return real(self, loaded)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(FeatureEncoder, "__call__", encode)
        run(clips, tmp_path, model)
    with pytest.raises(ValueError, match="unfinished extraction"):
        Folder(tmp_path)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*.json")}
    run(clips, tmp_path, model)
    assert_equal(tmp_path, whole)
    assert bad_rows(tmp_path) == bad_rows(whole)
    assert done.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*.json")}.items()


def test_processes_share_the_work(clips, model, encoder, whole, tmp_path, capsys):
    run(clips, tmp_path, model, "--process", "1/2")
    assert "2 of 4 shards are still to be made" in capsys.readouterr().err
    assert len(list(tmp_path.glob("shards/*.json"))) == 2 and not (tmp_path / "index.json").exists()
    run(clips, tmp_path, model, "--process", "0/2")
    assert_equal(tmp_path, whole)


def test_a_lost_file_is_made_again(clips, model, encoder, whole, tmp_path):
    run(clips, tmp_path, model)
    (tmp_path / "1s/00002-of-00004.array_record").unlink()
    with pytest.raises(ValueError, match="1 of 4 files are missing"):
        Folder(tmp_path)
    run(clips, tmp_path, model)
    assert_equal(tmp_path, whole)


def test_a_bad_clip_is_tried_again_when_its_file_has_changed(clips, model, encoder, tmp_path):
    """Its shard is made anew, no other; what is still bad stays listed."""
    shutil.copytree(clips, tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", model)
    times = lambda: {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/shards").glob("*.json")}
    before = times()
    shutil.copy(clips / "nearly.wav", tmp_path / "in" / "empty.wav")
    run(tmp_path / "in", tmp_path / "out", model)
    assert sorted(examples(tmp_path / "out")) == sorted([*GOOD, "empty.wav@0+1"])
    assert sorted(bad_rows(tmp_path / "out")) == sorted(REASONS.keys() - {"empty.wav"})
    after = times()
    assert sum(before[name] != after[name] for name in before) == 1
    run(tmp_path / "in", tmp_path / "out", model)
    assert times() == after


def test_a_folder_holds_one_extraction(clips, model, encoder, whole, tmp_path):
    for more, message in [
        (["--shards", 5], "shards was 4, is 5"),
        (["--seconds", 2, 1], r"seconds was \[1.0\], is \[1.0, 2.0\]"),
    ]:
        with pytest.raises(ValueError, match=f"features: holds another extraction: {message}; give the same arguments"):
            run(clips, whole, model, *more)
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no extraction"):
        run(clips, tmp_path, model)


def test_processes_may_begin_together(tmp_path):
    """One that is writing down what is extracted makes the folder no stranger's; nor does one that was killed then."""
    (tmp_path / "extraction.json.7-8.tmp").touch()
    plan, marks = {"fingerprint": "f", "dealt": "films"}, Marks("f")
    _agree(tmp_path, plan, {}, marks)
    _agree(tmp_path, plan, {}, marks)
    with pytest.raises(ValueError, match="holds another extraction: fingerprint was f, is g"):
        _agree(tmp_path, plan | {"fingerprint": "g"}, {}, marks)


def test_an_excerpt_that_is_not_finite_is_left_out(model, encoder, tmp_path, monkeypatch):
    """One that overflows in an encoder is no reason to lose the others."""
    (tmp_path / "in").mkdir()
    media.write_wav(tmp_path / "in/voice.wav", noise(3.0), 44100)

    def overflowing(batch, real=encoder.__call__):
        for loaded, made in zip(batch, real(batch), strict=True):
            yield made._replace(mean=made.mean * np.nan) if loaded.cut.start_seconds == 1 else made

    monkeypatch.setattr(feature_encoder, "FeatureEncoder", lambda *_: encoder)
    monkeypatch.setattr(FeatureEncoder, "__call__", lambda _, batch: list(overflowing(batch)))
    run(tmp_path / "in", tmp_path / "out", model, "--shards", 1)
    assert sorted(examples(tmp_path / "out")) == ["voice.wav@0+1", "voice.wav@2+1"]
    assert bad_rows(tmp_path / "out") == {"voice.wav@1+1": "the encoders make NaN or infinite values of it (mean)"}


def test_nothing_but_bad_clips(model, encoder, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"nothing could be extracted; bad.csv says why"):
        run(tmp_path / "in", tmp_path / "out", model, "--shards", 1)
    assert list(bad_rows(tmp_path / "out")) == ["a.mp4"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--process", "4/4"], "--process: got 4/4, expected I/N with I from 0 to N - 1"),
        (["--process", "first"], "--process: got first"),
        (["--shards", "0"], "--shards: got 0, expected at least 1"),
        (["--seconds", "0"], "duration: got 0 s"),
        (["--seconds", "nan"], "duration: got nan s"),
    ],
)
def test_wrong_arguments_cost_no_waiting(tmp_path, monkeypatch, more, message):
    monkeypatch.setattr(pipeline, "load_system", lambda *_: pytest.fail("read a model"))
    with pytest.raises(ValueError, match=message):
        main([str(tmp_path), "--output", str(tmp_path / "out"), *more])
    assert not (tmp_path / "out").exists()


def test_the_fingerprint_is_of_all_that_decides_features():
    cfg, params, tokenizer = tiny_system()
    mark = encoders_fingerprint(tiny_system())
    added = lambda tree: jax.tree.map(lambda x: x + 1, tree)
    for name in ("clip", "sync", "text", "vae", "mmdit", "vocoder"):
        made = encoders_fingerprint(system.System(cfg, params | {name: added(params[name])}, tokenizer))
        assert (made == mark) == (name in ("mmdit", "vocoder")), name
    decoder = params["vae"] | {"decoder": added(params["vae"]["decoder"])}
    assert encoders_fingerprint(system.System(cfg, params | {"vae": decoder}, tokenizer)) == mark
    assert encoders_fingerprint(system.System(replace(cfg, name="other"), params, tokenizer)) == mark
    assert encoders_fingerprint(system.System(replace(cfg, sync_resize="stretch"), params, tokenizer)) != mark
    other = tokenizer.train(["other words"], vocab_size=64, length=16)
    assert encoders_fingerprint(system.System(cfg, params, other)) != mark


def test_the_model_directory_has_the_systems_fingerprint(model, encoder):
    assert encoders_fingerprint(pipeline.load_system(str(model))) == encoder.fingerprint


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_again_and_again_an_extraction_ends_whole(clips, model, tmp_path):
    """SIGKILL at moments of a seed, once the first batch may be under way, until there is nothing left to kill."""
    arguments = [clips, "--model", model, "--seconds", 1, "--shards", 9, "--batch", 8, "--output"]
    command = [sys.executable, "-m", "kfjax.data.extract", *map(str, arguments)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    rng, kills = random.Random(4), 0
    while kills < 8:
        process = subprocess.Popen([*command, str(tmp_path / "killed")])
        notes = len(list(tmp_path.glob("killed/shards/*.json")))
        while process.poll() is None and not list(tmp_path.glob("killed/shards/*.lock")):
            time.sleep(0.01)  # starting, with nothing written yet
        time.sleep(rng.uniform(0, 1.5))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        assert len(list(tmp_path.glob("killed/shards/*.json"))) >= notes
        kills += 1
    subprocess.run([*command, str(tmp_path / "killed")], check=True)
    assert kills >= 2
    assert_equal(tmp_path / "killed", tmp_path / "whole")
    assert bad_rows(tmp_path / "killed") == bad_rows(tmp_path / "whole")
