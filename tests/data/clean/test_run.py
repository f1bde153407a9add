"""A small crawl with every kind of bad file: measured once, filtered often, whole after every interruption."""

import csv
import functools
import os
import shutil
import wave as wavefile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kfjax import media
from kfjax.data import sources
from kfjax.data.clean import processes, run, store, tables
from kfjax.data.clean.measure import MEASURES
from kfjax.data.clean.thresholds import CleanConfig, Limit
from tests.tiny import media_files
from tests.tiny.crawl import RATE_HZ, pictures, recording

LIMITS = {
    "silence_share": Limit(most=0.2), "side_db": Limit(least=-60.0), "channel_correlation": Limit(least=-0.5),
    "clipped_share": Limit(most=0.001), "still_share": Limit(most=0.9), "border_share": Limit(most=0.1),
    "bandwidth_hz": Limit(least=10000.0),
}  # fmt: skip
CFG = CleanConfig(2.0, 0.5, 0.2, LIMITS)
clean = functools.partial(run.clean, form="csv")
#: File -> what its excerpts are refused for, in order; "" is kept.
EXPECTED = {
    "bars.mp4": ["border_share"],
    "clipped.wav": ["clipped_share"],
    "copied.wav": ["side_db"],
    "copy.m4a": ["", ""],  # of sound.wav, which comes later: the first is kept
    "cut.mp4": ["unusable"],
    "empty.wav": ["unusable"],
    "good.mp4": ["", "", ""],
    "inverted.wav": ["channel_correlation"],
    "low.wav": ["bandwidth_hz"],
    "mute.mp4": ["unusable"],
    "new\\nline.wav": ["unusable"],
    "noise.mp4": ["unusable"],
    "short.wav": ["unusable"],
    "silent.wav": ["silence_share"],
    "sound.wav": ["duplicate", "duplicate"],
    "still.mp4": ["still_share"],
    "über/日本 1.mp4": [""],
}


def write(path: Path, seed: int, seconds: float = 2.0, change=lambda wave: wave, film=None) -> None:
    wave = change(recording(seed, seconds))
    if film is None:
        media.write_wav(path, wave, RATE_HZ)
    else:
        media.write_video(path, film(pictures(seed, round(8 * seconds))), 8, wave, RATE_HZ)


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crawl")
    (folder / "über").mkdir()
    same = lambda frames: frames
    still = lambda frames: np.repeat(frames[:1], len(frames), axis=0)
    bars = lambda frames: np.pad(frames, ((0, 0), (16, 16), (0, 0), (0, 0)))
    write(folder / "good.mp4", 1, 4.6, film=same)
    write(folder / "über/日本 1.mp4", 2, film=same)
    write(folder / "still.mp4", 3, film=still)
    write(folder / "bars.mp4", 4, film=bars)
    write(folder / "sound.wav", 5, 4.0)
    media_files.write_sound(folder / "copy.m4a", 0.95 * recording(5, 4.0), RATE_HZ)
    write(folder / "clipped.wav", 6, change=lambda wave: 0.3 * np.clip(40 * wave, -1, 1))
    write(folder / "copied.wav", 7, change=lambda wave: wave[:, [0, 0]])
    write(folder / "inverted.wav", 8, change=lambda wave: wave.mean(1, keepdims=True) * np.array([0.9, -1], np.float32))
    write(folder / "silent.wav", 9, change=lambda wave: wave * (np.arange(len(wave)) > 0.5 * len(wave))[:, None])
    write(folder / "low.wav", 10)
    low = media.read_audio(folder / "low.wav", 8000)
    media.write_wav(folder / "low.wav", low, 8000)
    media_files.write_numbered(folder / "mute.mp4", media_files.steady(30, 25))
    media_files.copy_start(folder / "good.mp4", folder / "cut.mp4", 0.5)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(1000))
    (folder / "empty.wav").touch()
    write(folder / "short.wav", 11, 0.2)
    shutil.copy(folder / "short.wav", folder / "new\nline.wav")
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(crawl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, clean(crawl, folder, CFG, workers=1)


def test_every_fault_is_found_and_nothing_else(crawl, whole):
    folder, counts = whole
    found: dict[str, list[str]] = {}
    for row in read(folder / "clips.csv"):
        short = row["reasons"].partition(" ")[0].replace("near", "duplicate")
        short = short if short in ("", "duplicate", *MEASURES) else "unusable"
        found.setdefault(row["path"].removeprefix(f"{crawl}/"), []).append(short)
        assert (row["kept"] == "yes") == (not row["reasons"])
    assert found == EXPECTED
    flat = [reason for reasons in EXPECTED.values() for reason in reasons]
    assert counts["excerpts"] == len(flat) and counts["kept"] == flat.count("")
    assert counts["unusable"] == flat.count("unusable") and counts["duplicate"] == 2


def test_the_side_table_has_all_measures(crawl, whole):
    rows = read(whole[0] / "measures.csv")
    assert list(rows[0]) == ["path", "audio", "caption", "start_seconds", "seconds", "problem", *MEASURES]
    good = next(row for row in rows if row["path"].endswith("good.mp4"))
    assert (good["shorter_side"], good["longer_side"], good["audio_rate_hz"]) == ("96", "128", "44100")
    assert float(good["fps"]) == pytest.approx(8) and float(good["kilobits_per_second"]) > 10
    assert -40 < float(good["loudness_lufs"]) < 0 and float(good["true_peak_db"]) < 1
    bad = [row["problem"] for row in rows if row["path"].endswith(("empty.wav", "mute.mp4", "short.wav"))]
    for problem, words in zip(bad, ("is an empty file", "has no sound", "0.20 seconds are there"), strict=True):
        assert words in problem


def test_extract_reads_what_is_kept(crawl, whole):
    rows = sources.read_rows(whole[0] / "clips.csv")
    kept = [row for row in read(whole[0] / "clips.csv") if row["kept"] == "yes"]
    assert [str(row.video or row.audio) for row in rows] == [row["path"] for row in kept]
    assert [row.start_seconds for row in rows if row.sound.name == "good.mp4"] == [0.0, 2.0, 4.0]
    for row in rows:
        assert (row.video is None) == (row.sound.suffix == ".m4a")
        (cut,), left = sources.cuts(row, (min(2.0, row.seconds),))
        assert (cut.start_seconds, left < 0.1) == (row.start_seconds, True)


def test_nothing_is_measured_twice(crawl, whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "out")
    monkeypatch.setattr(processes, "measure_row", lambda *_, **__: pytest.fail("measured again"))
    again = clean(crawl, tmp_path / "out", CFG)
    assert again == whole[1]
    other = clean(crawl, tmp_path / "out", replace(CFG, thresholds={}), dry_run=True)
    assert other["kept"] > again["kept"]
    for table in ("clips.csv", "measures.csv"):  # a dry run changes none
        assert (tmp_path / "out" / table).read_bytes() == (whole[0] / table).read_bytes()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", [pytest.param(0, marks=pytest.mark.slow), 3, pytest.param(9, marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on(crawl, whole, tmp_path, monkeypatch, when):
    """Stopped before its `when`-th file: what was measured is not measured again, and the tables are the same."""
    calls = []

    def measure_row(row, *settings, real=processes.measure_row, **more):
        calls.append(row.id)
        if len(calls) == when + 1:
            raise Killed
        return real(row, *settings, **more)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(processes, "measure_row", measure_row)
        clean(crawl, tmp_path, CFG, workers=1)
    assert not (tmp_path / "measures.csv").exists()
    count = []
    again = lambda row, *settings, real=processes.measure_row, **more: count.append(row) or real(row, *settings, **more)
    monkeypatch.setattr(processes, "measure_row", again)
    clean(crawl, tmp_path, CFG, workers=1)
    assert len(count) == len(EXPECTED) - when
    for table in ("clips.csv", "measures.csv"):
        assert (tmp_path / table).read_bytes() == (whole[0] / table).read_bytes()


def test_a_file_that_changed_is_measured_again(crawl, whole, tmp_path, monkeypatch):
    shutil.copytree(crawl, tmp_path / "crawl")
    clean(tmp_path / "crawl", tmp_path / "out", CFG, workers=1)
    write(tmp_path / "crawl/empty.wav", 12)
    measured = []
    again = lambda row, *settings, real=processes.measure_row, **more: (
        measured.append(row.id) or real(row, *settings, **more)
    )
    monkeypatch.setattr(processes, "measure_row", again)
    counts = clean(tmp_path / "crawl", tmp_path / "out", CFG, workers=1)
    assert measured == ["empty.wav"] and counts["unusable"] == whole[1]["unusable"] - 1


def test_processes_make_the_same_tables(crawl, whole, tmp_path):
    clean(crawl, tmp_path, CFG, workers=2)
    for table in ("clips.csv", "measures.csv"):
        assert (tmp_path / table).read_bytes() == (whole[0] / table).read_bytes()


def test_a_table_is_a_source(crawl, tmp_path):
    table = tmp_path / "t.csv"
    film, sound = crawl / "good.mp4", crawl / "sound.wav"
    table.write_text(f'video,audio,caption,start,seconds\n{film},{sound},"a bell, far",0.5,1\n,gone.wav,,,\n')
    clean(table, tmp_path / "out", CFG, workers=1)
    first, gone = read(tmp_path / "out/clips.csv")
    assert [first[key] for key in ("path", "audio", "caption", "start_seconds", "seconds", "kept")] == [
        str(film), str(sound), "a bell, far", "0.5", "1.0", "yes",
    ]  # fmt: skip
    assert "no such file" in gone["reasons"]
    (row,) = sources.read_rows(tmp_path / "out/clips.csv")
    assert row[1:6] == (film, sound, "a bell, far", 0.5, 1.0)


def test_one_run_at_a_time(crawl, tmp_path):
    with store.Store(tmp_path), pytest.raises(ValueError, match="another run is at work there"):
        clean(crawl, tmp_path, CFG, workers=1)


def test_parquet_holds_the_same_as_csv(crawl, whole, tmp_path):
    import pyarrow.parquet as pq

    shutil.copy(whole[0] / store.NAME, tmp_path)
    assert run.clean(crawl, tmp_path, CFG) == whole[1]
    for name in ("measures", "clips"):
        written = read(whole[0] / f"{name}.csv")
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert table.column_names == list(written[0])
        for field in table.schema:
            assert field.metadata[b"is"].decode() == tables.COLUMNS[name][field.name]
        as_text = lambda value: {True: "yes", False: "no", None: ""}.get(value, value)
        for row, expected in zip(table.to_pylist(), written, strict=True):
            for key, value in row.items():
                same = as_text(value) == expected[key] or float(value) == float(expected[key])
                assert same, key
    assert sources.read_rows(tmp_path / "clips.parquet") == sources.read_rows(whole[0] / "clips.csv")


def test_a_list_is_a_source(crawl, whole, tmp_path):
    """Local paths, relative ones, and addresses of another file system, which are fetched."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("memory://crawl/good.mp4", (crawl / "good.mp4").read_bytes())
    shutil.copy(crawl / "sound.wav", tmp_path)
    lines = ["sound.wav", str(crawl / "still.mp4"), "memory://crawl/good.mp4", "memory://crawl/gone.mp4", "https://a/b"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    memory.pipe_file("memory://lists/all.txt", b"good.mp4\n/crawl/good.mp4\nmemory://crawl/good.mp4\n")
    clean(tmp_path / "list.txt", tmp_path / "out", CFG, workers=1)
    rows = read(tmp_path / "out/clips.csv")
    assert [Path(row["path"]).name for row in rows] == ["sound.wav"] * 2 + ["still.mp4"] + ["good.mp4"] * 3 + [
        "gone.mp4",
        "b",
    ]
    assert [row["kept"] for row in rows] == ["yes", "yes", "no", "yes", "yes", "yes", "no", "no"]
    assert rows[3]["path"] == "memory://crawl/good.mp4" and "can't be fetched" in rows[6]["reasons"]
    first = next(row for row in read(whole[0] / "clips.csv") if row["path"].endswith("good.mp4"))
    assert {name: rows[3][name] for name in MEASURES} == {name: first[name] for name in MEASURES}
    row = sources.read_rows(tmp_path / "out/clips.csv")[2]
    assert sources.cuts(row, (2.0,))[0][0].row.sound.name == "good.mp4"
    rows = list(sources.iter_rows("memory://lists/all.txt"))
    assert [str(row.video) for row in rows] == ["memory://lists/good.mp4", "/crawl/good.mp4", "memory://crawl/good.mp4"]


def test_a_file_that_changes_meanwhile_is_refused_and_measured_again(crawl, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    film = shutil.copy(crawl / "good.mp4", tmp_path / "in")

    def grow(row, *settings, real=processes.measure_row, **more):
        found = list(real(row, *settings, **more))
        os.utime(film, ns=(1, 1))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(processes, "measure_row", grow)
        counts = clean(tmp_path / "in", tmp_path / "out", CFG, workers=1)
    (row,) = read(tmp_path / "out/clips.csv")
    assert counts["unusable"] == 1 and "changed while it was measured; run again" in row["reasons"]
    assert clean(tmp_path / "in", tmp_path / "out", CFG, workers=1)["kept"] == 3


def test_eight_channels_and_eight_kilohertz(tmp_path):
    wave = recording(1)
    many = np.repeat(wave[:, :1], 8, axis=1) * np.linspace(0.1, 0.9, 8)
    for name, rate_hz, samples in (("7.1.wav", RATE_HZ, many), ("8k.wav", 8000, wave[:16000, :1])):
        with wavefile.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(samples.shape[1])
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes((samples * 32767).astype("<i2").tobytes())
    clean(tmp_path, tmp_path / "out", CFG, workers=1)
    surround, old = read(tmp_path / "out/clips.csv")
    assert surround["kept"] == "yes" and surround["audio_rate_hz"] == str(RATE_HZ)
    assert old["audio_rate_hz"] == "8000" and old["side_db"] == "-120.0" and "bandwidth_hz" in old["reasons"]


def test_a_public_corpus_is_a_source(crawl, tmp_path, monkeypatch):
    from kfjax.data import builders

    asked = lambda name, split, *, manual_dir: [
        sources.Row(f"{name} {split} {manual_dir}", crawl / "good.mp4", None, "")
    ]
    monkeypatch.setattr(builders, "read_rows", asked)
    (row,) = run._rows("tfds:vggsound", "there")
    assert row.id == "vggsound train there"
    assert clean("tfds:vggsound:test", tmp_path, CFG, workers=1)["kept"] == 3


def test_no_room_for_a_table_is_one_line(crawl, whole, tmp_path, monkeypatch):
    shutil.copy(whole[0] / store.NAME, tmp_path)
    full = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    monkeypatch.setattr(tables.disk, "replace", full)
    with pytest.raises(ValueError, match=r"clips.csv: can't be written \(No space left on device\); make room"):
        clean(crawl, tmp_path, CFG)
    assert [path.name for path in tmp_path.iterdir()] == [store.NAME]
