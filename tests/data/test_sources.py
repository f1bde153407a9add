"""Rows of folders and tables, and the excerpts they are cut into."""

import csv
import io
import math
import random
import re
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from kfjax import command, media
from kfjax.commands import jobs
from kfjax.commands.jobs import Job
from kfjax.data import remote, tables
from kfjax.data.sources import Row, cuts, digest, read_rows


@pytest.fixture
def sound(tmp_path):
    def make(seconds: float) -> Row:
        path = tmp_path / f"{seconds}.wav"
        media.write_wav(path, np.full(round(8000 * seconds), 0.1, np.float32), 8000)
        return Row("s", None, path, "")

    return make


def table(folder, text: str):
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("seconds", "buckets", "pieces", "tail"),
    [
        (8.0, [8], [(0, 8)], 0),
        (9.97, [10], [(0, 10)], 0),  # as recordings of ten seconds are
        (9.85, [10, 2], [(0, 2), (2, 2), (4, 2), (6, 2)], 1.85),
        (9.0, [2, 4], [(0, 4), (4, 4)], 1.0),
        (7.5, [1, 4], [(0, 4), (4, 1), (5, 1), (6, 1)], 0.5),
    ],
)
def test_a_clip_is_cut_into_the_longest_excerpts_that_fit(sound, seconds, buckets, pieces, tail):
    made, left = cuts(sound(seconds), buckets)
    assert [(cut.start_seconds, cut.seconds) for cut in made] == pieces
    assert left == pytest.approx(tail, abs=1e-6)
    assert [cut.id for cut in made] == [f"s@{start}+{length}" for start, length in pieces]


def test_a_row_may_be_a_part_of_a_clip(sound):
    row = sound(9.0)._replace(start_seconds=2.5, seconds=4.0)
    assert [(cut.start_seconds, cut.seconds) for cut in cuts(row, [2])[0]] == [(2.5, 2), (4.5, 2)]
    for start, there in ((8.0, "1.00"), (30.0, "0.00")):
        with pytest.raises(ValueError, match=rf"{there} seconds are there, the shortest excerpt is 2; add a smaller"):
            cuts(row._replace(start_seconds=start), [2])


def test_sound_is_no_video(sound):
    row = sound(3.0)
    with pytest.raises(media.MediaError, match="has sound but no picture; name it in the column audio"):
        cuts(row._replace(video=row.audio, audio=None), [1])


def test_a_folder_is_read_by_name_with_what_is_below(tmp_path):
    for name in ("b.MP4", "a.wav", "sub/c.webm", "sub/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = read_rows(tmp_path)
    assert [row.id for row in rows] == ["a.wav", "b.MP4", "sub/c.webm"]
    assert [(row.video, row.audio) for row in rows] == [
        (None, tmp_path / "a.wav"), (tmp_path / "b.MP4", None), (tmp_path / "sub/c.webm", None)
    ]  # fmt: skip


def test_a_table_is_read(tmp_path):
    rows = read_rows(table(tmp_path, '\ufeffvideo,caption,start\na.mp4,"rain, wind",2\na.mp4,,\n'))
    assert rows == [
        Row("a.mp4", tmp_path / "a.mp4", None, "rain, wind", 2.0, math.inf),
        Row("a.mp4#2", tmp_path / "a.mp4", None, "", 0.0, math.inf),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("video,start\na.mp4,-1\n", "start: got '-1', expected a number of seconds"),
        ("video,start\na.mp4,nan\n", "start: got 'nan'"),
        ("video,seconds\na.mp4,0\n", "seconds: got '0'"),
        ("video,caption\n,rain\n", "got neither video nor audio"),
        ("video,caption\nhttps://a.org/b.mp4,rain\n", "got https://a.org/b.mp4, which is an address; give a file"),
    ],
)
def test_a_bad_row_is_told_when_it_is_cut(tmp_path, text, problem):
    (row,) = read_rows(table(tmp_path, text))
    with pytest.raises(ValueError, match=problem):
        cuts(row, [1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t.csv: got no video and no audio, expected rows under a header \(video, audio, caption"),
        ("video\n", "got no video"),
        ("caption\nrain\n", "got no video"),
        ("video,captions\na.mp4,rain\n", r"got a column 'captions'; did you mean caption\?"),
        ("video,licence\na.mp4,mine\n", "got a column 'licence'; expected video, audio, caption, start, seconds"),
        ("a.mp4,rain\nb.mp4,wind\n", "got a column 'a.mp4'; expected video, .* in the first row"),
        ("video,caption,Caption\na.mp4,rain,wind\n", "got the columns 'caption' and 'Caption', expected one caption"),
        ("video,caption,prompt\na.mp4,rain,wind\n", "got the columns 'caption' and 'prompt', expected one caption"),
        ("video,,caption\na.mp4,x,wind\n", "column 2 has cells and no name in the first row"),
    ],
)
def test_a_table_that_is_none(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_rows(table(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("video,caption\na.mp4,rain, wind\n", "row 2: got 3 cells for 2 columns, last ' wind'; put texts with"),
        ("video,caption\na.mp4,rain\nb.mp4\n", "row 3: got 1 cells for 2 columns, last 'b.mp4'; keep the commas"),
        ("video,caption,start\na.mp4,rain\n", "row 2: got 2 cells for 3 columns"),
        ('video,caption\na.mp4,rain\nb.mp4,"wind\nc.mp4,hail\n', "row 3: unexpected end of data; close its quotes"),
        ('video,caption\na.mp4,"rain\nb.mp4,"wind, hail"\n', "row 2: ',' expected after '\"'; close its quotes"),
        ('video,caption\na.mp4,"rain\nb.mp4,wind"\n', "row 2: the quote before 'rain' closes rows later"),
        ("video,caption\n\na.mp4,ra\x00in\n", "row 3: has a control character"),
        ("video,caption\na.mp4,ra\x1b[2Jin\n", "row 2: has a control character"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path, text, problem):
    """Before any work: what follows such a row can't be trusted either."""
    with pytest.raises(ValueError, match="t.csv: " + re.escape(problem)):
        read_rows(table(tmp_path, text))


def test_a_text_that_runs_into_the_next_column_is_named(tmp_path):
    columns = ("prompt", "negative_prompt")
    lines = lambda text: list(tables.lines(table(tmp_path, text), columns, needed=("prompt", "video")))
    with pytest.raises(ValueError, match=r"row 2: got 'rain, wind' in two columns; put a text with commas in quotes"):
        lines("prompt,negative_prompt\nrain, wind\n")
    for text in ("prompt,negative_prompt\nrain,wind\n", "prompt, negative_prompt\nrain, wind\n"):
        assert [line.cells for line in lines(text)] == [{"prompt": "rain", "negative_prompt": "wind"}]
    assert lines("prompt,negative_prompt\n, wind\n")[0].cells["negative_prompt"] == "wind"


@pytest.mark.parametrize(
    "content",
    [
        b"video;caption;start\na.mp4;rain, wind;2\nb.mp4;;\n",
        b"video\tcaption\tstart\na.mp4\train, wind\t2\nb.mp4\t\t\n",
        b'video,caption,start\r\na.mp4,"rain, wind",2\r\nb.mp4,,\r\n',
        b'video,caption,start\ra.mp4,"rain, wind",2\rb.mp4,,\r',
        b'\xef\xbb\xbfvideo,caption,start\na.mp4,"rain, wind",2\nb.mp4,,\n',
        'video,caption,start\na.mp4,"rain, wind",2\nb.mp4,,\n'.encode("utf-16"),
        b'\n Video , CAPTION,Start\na.mp4,"rain, wind",2\n,,\nb.mp4,,\n\n',
        b',video,caption,start\n0,a.mp4,"rain, wind",2.0\n1,b.mp4,,\n',
        b'Unnamed: 0,video,prompt,start\n0,a.mp4,"rain, wind",2.0\n1,b.mp4,,\n',
        b'video,caption,start,,\na.mp4,"rain, wind",2,,\nb.mp4,,,,\n',
    ],
    ids=["semicolons", "tabs", "crlf", "cr", "bom", "utf-16", "untidy", "pandas-index", "unnamed-0", "empty-columns"],
)
def test_what_is_meant_is_read(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    assert read_rows(tmp_path / "t.csv") == [
        Row("a.mp4", tmp_path / "a.mp4", None, "rain, wind", 2.0), Row("b.mp4", tmp_path / "b.mp4", None, "")
    ]  # fmt: skip


def test_rows_have_the_numbers_of_a_spreadsheet(tmp_path):
    path = table(tmp_path, "video\n\na.mp4\n \nb.mp4\n")
    lines = list(tables.lines(path, ("video",), needed=("video", "audio")))
    assert [(line.row, line.cells["video"]) for line in lines] == [(3, "a.mp4"), (5, "b.mp4")]


JOBS = [
    ["video", "prompt", "negative_prompt", "duration", "seed"],
    ["a.mp4", 'rain, "heavy"', "wind", "2.5", "3"], ["b/ä 喝.mov", "bell\nrings", "", "", ""], ["", "x", "", "1", ""],
]  # fmt: skip
CLIPS = [
    ["video", "audio", "caption", "start", "seconds"],
    ["a.mp4", "", 'rain, "heavy"', "2.5", "3"], ["b/ä 喝.mov", "c.wav", "bell\nrings", "", ""],
    ["", "d.wav", "", "1", ""],
]  # fmt: skip


def damaged(draw: random.Random, rows: list[list[str]]) -> bytes:
    """A small table, cut off or with up to three bits flipped, or both."""
    file = io.StringIO()
    ends = draw.choice(["\n", "\r\n"])
    csv.writer(file, delimiter=draw.choice(",;\t"), lineterminator=ends).writerows([rows[0], *draw.sample(rows[1:], 3)])
    content = bytearray(file.getvalue().encode(draw.choice(["utf-8", "utf-8-sig", "utf-16"])))
    if draw.random() < 0.5:
        del content[draw.randrange(1, len(content)) :]
    for _ in range(draw.randrange(4)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_tables_are_read_or_refused(tmp_path, count, monkeypatch, capsys):
    """Whatever the bytes: the rows that they spell, or one line of ours, before any work."""
    monkeypatch.chdir(tmp_path)
    draw, path, outcomes = random.Random(0), Path("t.csv"), Counter()
    template = Job(None, "", "", None, 0)
    readers = {
        "jobs": (JOBS, lambda _: jobs.from_table(path, template, Path("out"), audio_only=True) and 0),
        "clips": (CLIPS, lambda _: read_rows(path) and 0),
    }
    for _ in range(count):
        for rows, reader in readers.values():
            path.write_bytes(damaged(draw, rows))
            outcomes[command.run(reader, [])] += 1
    said = capsys.readouterr().err.splitlines()
    assert set(outcomes) == {0, 2} and min(outcomes.values()) > count / 4
    errors = [line for line in said if not line.startswith("kfjax: numbered")]
    assert len(errors) == outcomes[2] and all(line.startswith("kfjax: error: t.csv: ") for line in errors)
    assert all(line.isprintable() and len(line) < 400 for line in said)


def test_what_is_no_source(tmp_path):
    with pytest.raises(ValueError, match=r"gone: no such file or folder; give a folder of videos and sounds"):
        read_rows(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"got a folder without a video or sound, expected files in .mp4"):
        read_rows(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"a.mp4: is no folder and no table"):
        read_rows(tmp_path / "a.mp4")
    with pytest.raises(
        ValueError, match=r"a.mp4: .* a table \(.csv, .tsv, .parquet\) with video, .* a list .*\(.txt\)"
    ):
        read_rows(tmp_path / "a.mp4")
    (tmp_path / "b.csv").write_bytes(b"video\n\xff\xfe\n")
    with pytest.raises(ValueError, match="is not a CSV file in UTF-8"):
        read_rows(tmp_path / "b.csv")


@pytest.mark.parametrize("content, message", [
    (b"a.mp4\n\xff.mp4\n", r"l.txt: is no list in UTF-8 \(.*\); save it in UTF-8"),
    (b"a.mp4\n\nb\x00.mp4\n", "l.txt: path 2 has a control character"),
    (b" \n", "l.txt: got a list without a path"),
])  # fmt: skip
def test_a_list_that_is_none(tmp_path, content, message):
    (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "l.txt")


def test_a_list_may_begin_with_a_mark_wherever_it_lies(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        content = "a.mp4\nsub/b.wav\n".encode(encoding)
        (tmp_path / "l.txt").write_bytes(content)
        fsspec.filesystem("memory").pipe_file("memory://lists/l.txt", content)
        for source in (tmp_path / "l.txt", "memory://lists/l.txt"):
            assert [row.id for row in read_rows(source)] == ["a.mp4", "sub/b.wav"]


@pytest.mark.parametrize("kept, refused", [("yes", "no"), ("True", "False"), ("1", "0"), ("1.0", "0.0")])
def test_rows_that_are_not_kept_are_passed_over_whoever_wrote_the_table(tmp_path, kept, refused):
    path = table(tmp_path, f"path,start_seconds,kept,mos\na.wav,0,{refused},3\nb.wav,10,{kept},\n")
    assert [row.id for row in read_rows(path)] == ["b.wav"]


def test_the_digest_is_of_rows_not_places(tmp_path):
    rows = [Row("a", tmp_path / "a", None, "rain"), Row("b", tmp_path / "b", None, "")]
    assert digest(rows) == digest([row._replace(video=tmp_path / "moved" / row.id) for row in rows])
    assert len({digest(rows), digest(rows[:1]), digest(rows[::-1]), digest([rows[0]._replace(caption="wind"), rows[1]]),
                digest([rows[0]._replace(start_seconds=1.0), rows[1]])}) == 5  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_on_another_file_system(tmp_path, ending):
    """Relative paths are relative to it there; its name stands in messages."""
    memory, text = fsspec.filesystem("memory"), "audio,caption\n../a.wav,one\n/there/b.wav,two\ns3://c/d.wav,three\n"
    here = tmp_path / f"clips.{ending}"
    if ending == "csv":
        here.write_text(text)
    else:
        pq.write_table(pa.csv.read_csv(io.BytesIO(text.encode())), here)
    memory.pipe_file(f"memory://crawl/tables/clips.{ending}", here.read_bytes())
    rows = read_rows(f"memory://crawl/tables/clips.{ending}")
    assert [str(row.audio) for row in rows] == ["memory://crawl/a.wav", "/there/b.wav", "s3://c/d.wav"]
    assert [isinstance(row.audio, remote.Address) for row in rows] == [True, False, True]
    assert digest(rows) == digest(read_rows(here))
    memory.pipe_file(f"memory://tables/bad.{ending}", b"sound\na.wav\n")
    with pytest.raises(ValueError, match=f"^memory://tables/bad.{ending}: "):
        read_rows(f"memory://tables/bad.{ending}")
    with pytest.raises(ValueError, match=f"memory://tables/gone.{ending}: can't be fetched"):
        read_rows(f"memory://tables/gone.{ending}")
