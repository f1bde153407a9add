"""Rows of folders and tables, and the excerpts they are cut into."""
import math

import numpy as np
import pytest

from kfjax import media
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
    rows = read_rows(table(tmp_path, "\ufeffvideo,caption,start\na.mp4,\"rain, wind\",2\na.mp4,,\n"))
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
        ("video,caption\na.mp4,rain, wind\n", r"got more cells than columns: \[' wind'\]; put captions with commas"),
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
    ],
)
def test_a_table_that_is_none(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_rows(table(tmp_path, text))


def test_what_is_no_source(tmp_path):
    with pytest.raises(ValueError, match=r"gone: no such file or folder; give a folder of videos and sounds"):
        read_rows(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"got a folder without a video or sound, expected files in .mp4"):
        read_rows(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"a.mp4: is no folder and no table"):
        read_rows(tmp_path / "a.mp4")
    (tmp_path / "b.csv").write_bytes(b"video\n\xff\xfe\n")
    with pytest.raises(ValueError, match="is not a CSV file in UTF-8"):
        read_rows(tmp_path / "b.csv")


def test_the_digest_is_of_rows_not_places(tmp_path):
    rows = [Row("a", tmp_path / "a", None, "rain"), Row("b", tmp_path / "b", None, "")]
    assert digest(rows) == digest([row._replace(video=tmp_path / "moved" / row.id) for row in rows])
    assert len({digest(rows), digest(rows[:1]), digest(rows[::-1]), digest([rows[0]._replace(caption="wind"), rows[1]]),
                digest([rows[0]._replace(start_seconds=1.0), rows[1]])}) == 5  # fmt: skip
