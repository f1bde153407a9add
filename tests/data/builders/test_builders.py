"""Corpora of the true layouts, small: what becomes a clip, with what words, and what is left out."""

import csv
import json
import subprocess
import sys

import pytest

pytest.importorskip("tensorflow_datasets", reason="no tensorflow_datasets: pip install '.[builders]'")

from kfjax import command
from kfjax.data import builders
from kfjax.data.builders import clip_record
from kfjax.data.builders.clip_record import ClipRecord
from kfjax.data.builders.media_folder import MediaFolder, YouTubeFolder


@pytest.fixture
def make(corpus, tmp_path):
    """Make a small corpus; the function gives {id: clip} of its splits."""

    def build(name, change=lambda folder: None):
        folder = corpus(name.partition("/")[0])
        change(folder)
        data = tmp_path / "data"
        return lambda split: {row.id: row for row in builders.read_rows(name, split, manual_dir=folder, data_dir=data)}

    return build


def records(tmp_path, name, split):
    """{id: ClipRecord} of a corpus that has been made."""
    corpus_name, _, config = name.partition("/")
    builder = builders.builder_class(corpus_name)(config=config or None, data_dir=tmp_path / "data")
    source = builder.as_data_source(split=split)
    return {record.id: record for record in map(ClipRecord.decode, source)}


def left_out(tmp_path, split):
    (path,) = (tmp_path / "data").glob(f"**/left_out_{split}.tsv")
    with path.open(newline="") as file:
        return dict(csv.reader(file, delimiter="\t"))


def refuse(build, match):
    with pytest.raises(ValueError, match=match) as caught:
        build()
    assert command.reason(caught.value) == str(caught.value)  # a mistake of the user's, not a defect
    assert len(str(caught.value).splitlines()) == 1


def test_vggsound(make, tmp_path, capfd):
    rows = make("vggsound")
    train = rows("train")
    assert train.keys() == {"--0PQM4-hqg_000030", "-5GcZwBvBdI_000020", "0Tc8sOU6Jzc_000120"}
    assert rows("test").keys() == {"---g-f_I2yQ_000001"}
    assert len(rows("train+test")) == 4
    assert train["-5GcZwBvBdI_000020"].caption == "female speech, woman speaking"
    assert train["-5GcZwBvBdI_000020"].video.name == "-5GcZwBvBdI_000020.mp4"
    assert train["-5GcZwBvBdI_000020"].audio.name == "-5GcZwBvBdI_000020.wav"
    assert train["--0PQM4-hqg_000030"].audio is None
    assert left_out(tmp_path, "train") == {"-5GcZwBvBdI_000020": "listed before", "_offline_00_000010": "no recording"}
    assert "vggsound train: 3 clips; 2 left out" in capfd.readouterr().err


def test_clips_are_cut_out_of_whole_uploads(make):
    rows = make("vggsound")("train")
    cut, whole = rows["--0PQM4-hqg_000030"], rows["0Tc8sOU6Jzc_000120"]
    assert (cut.start_seconds, cut.seconds) == (0.0, float("inf"))
    assert (whole.start_seconds, whole.seconds) == (120.0, 10.0)
    assert whole.caption == "playing 二胡"


def test_audiocaps(make, tmp_path):
    rows = make("audiocaps")
    train = rows("train")
    assert train.keys() == {"r1nicOVtvkQ_000130", "UDGBjjwyaqE_000020", "3NX4HaOVBoo_000240"}
    assert train["r1nicOVtvkQ_000130"].caption == 'A woman talks nearby, as water "pours"'
    assert train["UDGBjjwyaqE_000020"].caption == "Ein Hund bellt laut über dem Tal"
    assert train["UDGBjjwyaqE_000020"].audio is None
    assert train["3NX4HaOVBoo_000240"].caption == ""
    assert train["3NX4HaOVBoo_000240"].video is None
    assert left_out(tmp_path, "train") == {"_offline_00_000000": "no recording"}


def test_audiocaps_keeps_all_captions_of_a_clip(make, tmp_path):
    rows = make("audiocaps")
    assert len(rows("validation")) == 1
    (record,) = records(tmp_path, "audiocaps", "validation").values()
    assert record.captions == tuple(f"Rustling number {n}" for n in (2, 3, 0, 1))  # in order, the same one once
    two = records(tmp_path, "audiocaps", "test")
    assert [len(two[f"7fmOlUlwoNg_{start:06d}"].captions) for start in (0, 10)] == [5, 5]


def test_audioset(make, tmp_path):
    rows = make("audioset")
    assert rows("balanced_train").keys() == {"--PJHxphWEs_000030", "--ZhevVpy1s_000050"}
    assert rows("balanced_train")["--PJHxphWEs_000030"].caption == "Speech, Gush"
    record = records(tmp_path, "audioset", "eval")["--4gqARaEJE_000000"]
    assert record.labels == ("Domestic animals, pets", "Dog")
    assert record.captions == ()
    unlabelled = rows("eval")["--BfvyPmVMo_000020"]
    assert (unlabelled.caption, unlabelled.start_seconds, unlabelled.seconds) == ("", 20.0, 3.5)
    with pytest.raises(ValueError, match="unbalanced_train"):
        rows("unbalanced_train")  # its table is not there


@pytest.mark.parametrize("config, counts", [("train", (1, 1, 2, 1)), ("everything", (2, 1, 3, 1))])
def test_wavcaps(make, tmp_path, config, counts):
    rows = make(f"wavcaps/{config}")
    splits = ("audioset_sl", "bbc_sound_effects", "freesound", "soundbible")
    assert tuple(len(rows(split)) for split in splits) == counts
    assert rows("audioset_sl")["AudioSet_SL/Yb0RFKhbpFJA"].caption == 'Wind and a man speak, then "thunder".'
    assert rows("bbc_sound_effects")["BBC_Sound_Effects/NHU05104134"].caption == "Ein Kauz am Café ☕."
    assert rows("freesound")["FreeSound/180913"].caption == "Rain falls."
    assert rows("freesound")["FreeSound/180914"].caption == ""
    assert rows("soundbible")["SoundBible/2"].audio.parent.name == "SoundBible"
    assert left_out(tmp_path, "freesound") == {"FreeSound/180915": "no recording"}


def test_wavcaps_leaves_out_test_clips_unless_told_otherwise(make):
    assert make("wavcaps")("freesound").keys() == {"FreeSound/180913", "FreeSound/180914"}


def test_kling_audio_eval_has_all_five_fields(make, tmp_path):
    rows = make("kling_audio_eval")("test")
    assert rows.keys() == {"video/0001.mp4", "video/0002.mp4", "0003.mp4"}
    record = records(tmp_path, "kling_audio_eval", "test")["video/0001.mp4"]
    assert record.video.endswith("video/0001.mp4")
    assert record.audio.endswith("audio/0001.wav")
    assert record.video_caption == "A dog runs, then stops."
    assert record.captions == ('A dog "barks" twice.',)
    assert record.labels == ("Dog", "Bark")
    assert rows["video/0002.mp4"].caption == "发动机轰鸣"
    assert rows["0003.mp4"].audio is None
    assert left_out(tmp_path, "test") == {"video/0004.mp4": "no recording", "video/0005.mp4": "no recording"}


@pytest.mark.parametrize("suffix", ["json", "jsonl", "tsv"])
def test_kling_audio_eval_in_other_tables(make, tmp_path, suffix):
    def rewrite(folder):
        table = folder / "Kling-Audio-Eval.csv"
        with table.open(newline="") as file:
            lines = list(csv.DictReader(file))
        table.unlink()
        with (folder / f"clips.{suffix}").open("w", newline="") as file:
            if suffix == "tsv":
                writer = csv.DictWriter(file, lines[0].keys(), delimiter="\t")
                writer.writeheader()
                writer.writerows(lines)
                return
            lines[0]["Labels"] = ["Dog", "Bark, far", "Dog"]
            lines[1]["Labels"] = None
            file.write(json.dumps(lines) if suffix == "json" else "\n".join(map(json.dumps, lines)) + "\n")

    make("kling_audio_eval", rewrite)("test")
    made = records(tmp_path, "kling_audio_eval", "test")
    assert made["video/0001.mp4"].labels == (("Dog", "Bark") if suffix == "tsv" else ("Dog", "Bark, far"))
    assert made["video/0002.mp4"].labels == ()
    assert made["0003.mp4"].labels == ("Wind", "Water")


def test_one_recording_makes_one_clip(make, tmp_path):
    """A file named by its upload alone can't be two clips of that upload."""

    def change(folder):
        (folder / "audio/7fmOlUlwoNg_0.wav").rename(folder / "audio/7fmOlUlwoNg.wav")
        (folder / "audio/7fmOlUlwoNg_10000.wav").unlink()

    assert make("audiocaps", change)("test").keys() == {"7fmOlUlwoNg_000000"}
    assert left_out(tmp_path, "test") == {"7fmOlUlwoNg_000010": "its recording is that of 7fmOlUlwoNg_000000"}


def test_a_split_without_recordings_is_left_out(make, tmp_path):
    rows = make("vggsound", lambda folder: (folder / "scratch/video/---g-f_I2yQ_000001.mp4").unlink())
    assert len(rows("train")) == 3
    refuse(lambda: rows("test"), "expected train")
    assert len(left_out(tmp_path, "test")) == 2


def test_no_recordings(make):
    def change(folder):
        for path in folder.rglob("*.*"):
            if path.suffix != ".csv":
                path.unlink()

    refuse(lambda: make("vggsound", change)("train"), "no recording of a clip in the tables; put vggsound.csv and")


def test_no_folder_and_no_table(tmp_path):
    read = lambda folder, name="vggsound": builders.read_rows(name, "train", manual_dir=folder, data_dir=tmp_path / "d")
    refuse(lambda: read(tmp_path / "nowhere"), "nowhere does not exist.* put vggsound.csv and .*tar.gz")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x.mp4").touch()
    refuse(lambda: read(tmp_path / "full"), "got no vggsound.csv; put vggsound.csv and")
    refuse(lambda: read(tmp_path / "full", "audiocaps"), "neither train.csv nor val.csv nor test.csv; put")
    refuse(lambda: read(tmp_path / "full", "audioset"), "no class_labels_indices.csv; put")
    refuse(lambda: read(tmp_path / "full", "wavcaps"), "nor json_files/SoundBible/sb_final.json; put json_files")
    refuse(lambda: read(tmp_path / "full", "kling_audio_eval"), "tables none, expected one; put the table")


@pytest.mark.parametrize(
    "name, file, text, message",
    [
        ("vggsound", "vggsound.csv", "a,1,barking, loud,train\n", r"line 1: got 5 cells, expected 4 .*quotes"),
        ("vggsound", "vggsound.csv", "a,1,b,train\na,one,b,train\n", "line 2: got 'one' in start, expected a number"),
        ("vggsound", "vggsound.csv", "--0PQM4-hqg,30,a,train\nb\n", "line 2: got 1 cells"),
        ("vggsound", "vggsound.csv", "a,nan,b,train\n", "line 1: got 'nan' in start, expected a number"),
        ("vggsound", "vggsound.csv", "a,1,caf\udce9,train\n", "no CSV file in UTF-8"),
        ("audiocaps", "train.csv", "id,youtube_id,caption\n", "columns id, youtube_id, caption; start_time is missing"),
        ("audiocaps", "train.csv", "", "got columns none; youtube_id"),
        ("audioset", "eval_segments.csv", '--BfvyPmVMo, 20.0, 30.0, "/m/none"\n', "label '/m/none', which is not in"),
        ("wavcaps", "json_files/FreeSound/fsd_final.json", '{"data": [{"id": "1"}]}', "clip 0 has no id or no caption"),
        ("wavcaps", "json_files/FreeSound/fsd_final.json", '{"data": [', "no JSON file with a list 'data'"),
        ("wavcaps", "json_files/FreeSound/fsd_final.json", "[]", "no JSON file with a list 'data'"),
        ("kling_audio_eval", "more.csv", "x\n", "tables Kling-Audio-Eval.csv, more.csv, expected one"),
        ("kling_audio_eval", "Kling-Audio-Eval.csv", "video,audio\n1,2\n", "columns video, audio; none is video_cap"),
        (
            "kling_audio_eval",
            "Kling-Audio-Eval.csv",
            "video,audio\n1,2,3\n",
            "got 3 cells, expected 2 .*quotes",
        ),
    ],
)
def test_bad_tables(make, name, file, text, message):
    change = lambda folder: (folder / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    refuse(lambda: make(name, change)("freesound" if name == "wavcaps" else "test"), message)


def test_wavcaps_needs_the_list_of_test_clips(make):
    change = lambda folder: (folder / "json_files/blacklist/blacklist_exclude_test_ac.json").unlink()
    refuse(lambda: make("wavcaps", change)("freesound"), "blacklist_exclude_test_ac.json: no such file.*everything")


@pytest.mark.parametrize(
    "name, split",
    [
        ("vggsund", "train"), ("vggsound", "valid"), ("vggsound", "train["), ("vggsound/all", "train"),
        ("wavcaps/all", "freesound"),
    ],
)  # fmt: skip
def test_unknown_names(corpus, tmp_path, name, split):
    read = lambda: builders.read_rows(name, split, manual_dir=corpus("vggsound"), data_dir=tmp_path / "data")
    refuse(read, "expected (one of audiocaps, audioset, clotho|test, train|vggsound|wavcaps/train, wavcaps/everything)")


def test_a_corpus_that_was_moved(make, tmp_path):
    make("vggsound")("train")
    read = lambda folder: builders.read_rows("vggsound", "train", manual_dir=folder, data_dir=tmp_path / "data")
    refuse(lambda: read(tmp_path / "others"), "other recordings .*; delete .*vggsound/1.1.0 to make it anew")
    (tmp_path / "corpora").rename(tmp_path / "elsewhere")
    refuse(lambda: read(None), "other recordings .*; delete .*vggsound/1.1.0 to make it anew")


def test_another_process_is_faster(make, monkeypatch):
    """Processes that share a folder of datasets may all find that a corpus is missing."""
    rows, split_generators = make("vggsound"), clip_record.split_generators

    def slowly(*args):
        monkeypatch.setattr(clip_record, "split_generators", split_generators)
        rows("train")
        return split_generators(*args)

    monkeypatch.setattr(clip_record, "split_generators", slowly)
    assert len(rows("train")) == 3


def test_paths_are_absolute(corpus, tmp_path, monkeypatch):
    folder = corpus("vggsound")
    monkeypatch.chdir(folder.parent)
    rows = builders.read_rows("vggsound", "test", manual_dir=folder.name, data_dir=tmp_path / "data")
    assert rows[0].video.is_relative_to(folder)


def test_datasets_are_made_once_and_alike(make, tmp_path):
    rows = make("audiocaps")
    first, again = rows("train"), builders.read_rows("audiocaps", "train", data_dir=tmp_path / "data")
    assert list(first.values()) == again


def test_media_folder(tmp_path):
    for name in ("b/x.mp4", "a/x.MP4", "x.flac", "a/x.txt", "uploads/y.mp4", "a/uploads/z.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = MediaFolder(tmp_path, without="uploads")
    assert folder.find("none", "x") == (str(tmp_path / "a/x.MP4"), str(tmp_path / "x.flac"))
    assert folder.find("y") == ("", "")
    assert folder.find("z") == (str(tmp_path / "a/uploads/z.mp4"), "")
    assert MediaFolder(tmp_path / "nowhere").find("x") == ("", "")
    assert YouTubeFolder(tmp_path).clip("y", 5.0).start_seconds == 5.0


@pytest.mark.parametrize("name", ["000030", "30", "30000", "30_40", "30000_40000", "30.000_40.000", ""])
@pytest.mark.parametrize("prefix", ["", "Y"])
def test_names_of_youtube_clips(tmp_path, name, prefix):
    path = tmp_path / f"{prefix}{'_'.join(filter(None, ['-a_b-', name]))}.mp4"
    path.touch()
    clip = YouTubeFolder(tmp_path).clip("-a_b-", 30.0)
    assert (clip.id, clip.video, clip.start_seconds) == ("-a_b-_000030", str(path), 0.0)


def test_no_tensorflow_is_needed(corpus, tmp_path):
    code = (
        "import sys; from kfjax.data.builders import read_rows\n"
        "assert len(read_rows('vggsound', 'train', manual_dir=sys.argv[1], data_dir=sys.argv[2])) == 3\n"
        "assert not {'tensorflow', 'jax'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, corpus("vggsound"), tmp_path / "data"]
    subprocess.run(command, check=True, capture_output=True)


def test_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "kfjax.data.builders.audiocaps", None)
    refuse(lambda: builders.read_rows("vggsound", "train"), r"pip install '\.\[builders\]'")
