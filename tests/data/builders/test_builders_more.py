"""Clotho, FSD50K, Greatest Hits and EPIC-SOUNDS; measures of a cleaned corpus."""

import csv

import pytest

pytest.importorskip("tensorflow_datasets", reason="no tensorflow_datasets: pip install '.[builders]'")

from kfjax.data import builders
from kfjax.data.builders.clip_record import ClipRecord


@pytest.fixture
def make(corpus, tmp_path):
    """The records of a small corpus: split -> {id: record}."""

    def build(name, change=lambda folder: None):
        folder = corpus(name)
        change(folder)
        data = tmp_path / "data"

        def records(split):
            builders.read_rows(name, split, manual_dir=folder, data_dir=data)
            source = builders.builder_class(name)(data_dir=data, file_format="array_record").as_data_source(split=split)
            return {record.id: record for record in map(ClipRecord.decode, source)}

        return records

    return build


def test_clotho(make):
    records = make("clotho")
    development = records("development")
    birds = development["Ambience Birds.wav"]  # a blank before its name in the table and on disk
    assert development.keys() == {"Ambience Birds.wav", "rain [1].wav"} and birds.audio.endswith("/ Ambience Birds.wav")
    assert birds.captions == ("Birds chirp.", "Birds tweet, happily.", "Birds call.", "Birds sing.", "Birds.")
    assert records("evaluation")["Santa Motor.wav"].captions == ("A motor", "It runs", "c", "e")


def test_fsd50k(make):
    records = make("fsd50k")
    assert records("train").keys() == {"64760"} and records("test")["37199"].labels == ("Bark", "Dog")
    assert records("train")["64760"].labels == ("Electric guitar", "Guitar", "Music")
    assert records("validation")["345111"].labels == ("Crying and sobbing", "Human voice")
    assert records("test")["37199"].audio.endswith("FSD50K.eval_audio/37199.wav")


def test_greatest_hits(make):
    records = make("greatest_hits")
    train = records("train")
    hits = train["2015-02-16-16-49-06"]
    assert hits.video.endswith("2015-02-16-16-49-06_denoised.mp4") and hits.audio == ""
    assert hits.labels == ("hit rock", "scratch wood", "hit")
    other = train["2015-03-28-18-57-21"]
    assert other.video.endswith("_mic.mp4") and other.audio.endswith("_denoised.wav") and other.labels == ()
    assert records("test")["2015-09-29-14-06-55"].labels == ("hit plastic-bag",)


def test_greatest_hits_without_lists(make):
    records = make("greatest_hits", lambda folder: [path.unlink() for path in folder.glob("*.txt")])
    assert len(records("train")) == 3


def test_epic_sounds(make):
    records = make("epic_sounds")
    (one,) = records("train").values()
    assert one.id == "P01_01_0" and one.video.endswith("P01_01.MP4") and one.captions == ("mechanical pressing noise",)
    assert (one.start_seconds, one.seconds) == pytest.approx((2.466, 2.849)) and one.labels == ("beep",)
    two = records("validation")["P01_11_8"]
    assert two.captions == () and two.labels == ("metal / wood collision",)


def test_epic_sounds_that_begin_together_are_two(make):
    def add(folder):
        with (folder / "EPIC_Sounds_train.csv").open("a") as table:
            table.write("P01_01_1,P01,P01_01,00:00:02.466,00:00:09.000,water,water,2\n")
            table.write("P01_01_2,P01,P01_01,00:00:02.466,00:00:09.000,tap,water,2\n")

    assert make("epic_sounds", add)("train").keys() == {"P01_01_0", "P01_01_1"}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_measures_of_a_cleaned_corpus(make, suffix):
    def clean(folder):
        (folder / "clean").mkdir()
        place = {"path": str(folder / "FSD50K.dev_audio/64760.wav"), "audio": "", "start_seconds": "0.0"}
        rows = [
            place | {"snr_db": "31.25", "kind": "music", "mos": ""},
            place | {"start_seconds": "10.0", "snr_db": "2"},
        ]
        rows[1] |= {"kind": "", "mos": ""}
        if suffix == "csv":
            with (folder / "clean/measures.csv").open("w", newline="") as file:
                table = csv.DictWriter(file, rows[0])
                table.writeheader()
                table.writerows(rows)
        else:
            pyarrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "clean/measures.parquet")

    records = make("fsd50k", clean)
    assert dict(records("train")["64760"].measures) == {"snr_db": "31.25", "kind": "music"}
    assert records("validation")["345111"].measures == ()


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("clotho", "clotho_captions_development.csv", "file_name,caption_1\n", "caption_2, caption_3.* is missing"),
        ("fsd50k", "FSD50K.ground_truth/dev.csv", "fname,labels,mids\n1,a,b\n", "split is missing"),
        ("greatest_hits", "vis-data/2015-02-16-16-49-06_times.txt", "1.0 rock\n", "line 1: got '1.0 rock'"),
        ("greatest_hits", "vis-data/2015-02-16-16-49-06_times.txt", "\udcff\n", "is no list in UTF-8"),
        ("epic_sounds", "EPIC_Sounds_train.csv",
         "annotation_id,video_id,start_timestamp,stop_timestamp,description,class\na,b,2.4,3,c,d\n",
         "got '2.4' of a, expected HH:MM:SS.mmm"),
    ],
)  # fmt: skip
def test_bad_tables(make, name, file, text, message):
    with pytest.raises(ValueError, match=message):
        make(name, lambda folder: (folder / file).write_bytes(text.encode("utf-8", "surrogateescape")))("train")
