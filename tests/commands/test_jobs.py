"""Which clips get sound, and where it goes: never onto an input, never two into one file."""

import os
from pathlib import Path

import pytest

from kfjax import media
from kfjax.commands import jobs
from kfjax.commands.jobs import Job
from tests.tiny import media_files as files

TEMPLATE = Job(None, "", "", None, 0)


@pytest.fixture
def folder(tmp_path):
    def make(*names: str) -> Path:
        clips = tmp_path / "clips"
        clips.mkdir(exist_ok=True)
        for name in names:
            (clips / name).write_bytes(b"clip")
        return clips

    return make


def outputs(listed) -> list[str]:
    return [job.output.name for job in listed]


def table(folder: Path, *rows: str) -> Path:
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder / "t.csv"


@pytest.mark.parametrize("samples", [1, 2])
def test_the_clips_own_folder(folder, samples, capsys):
    """As for a single file; what was made there before is no clip, and is found as done."""
    clips = folder("a.mp4", "b.webm", "c.avi", "c.webm")
    template = Job(None, "", "", None, 0, samples=samples)
    listed = jobs.from_folder(clips, template, clips, audio_only=False)
    assert outputs(listed) == ["a.sound.mp4", "b.sound.mkv", "c.sound.mkv", "c.2.sound.mkv"]
    assert "c.webm -> c.2.sound.mkv" in capsys.readouterr().err
    made = [path for job in listed for path in job.outputs]
    assert not {*clips.iterdir()} & {*made}
    for path in made:
        path.write_bytes(b"made")
    again = jobs.from_folder(clips, template, clips / ".." / "clips", audio_only=False)
    assert [job.video.name for job in again] == ["a.mp4", "b.webm", "c.avi", "c.webm"]
    assert all(path.exists() for job in again for path in job.outputs)


def test_other_folders_keep_their_names(folder, tmp_path, capsys):
    """What was made by earlier versions is found as done."""
    clips = folder("a.mp4", "b.webm")
    assert outputs(jobs.from_folder(clips, TEMPLATE, tmp_path / "out", audio_only=False)) == ["a.mp4", "b.mkv"]
    assert outputs(jobs.from_folder(clips, TEMPLATE, tmp_path / "out", audio_only=True)) == ["a.wav", "b.wav"]
    rows = ["video,prompt", "clips/a.mp4,rain", "clips/a.mp4,wind", ",rain", ",wind"]
    listed = jobs.from_table(table(tmp_path, *rows), TEMPLATE, tmp_path / "out", audio_only=False)
    assert outputs(listed) == ["a.mp4", "a.2.mp4", "sound.wav", "sound.2.wav"]
    assert capsys.readouterr().err.count("numbered") == 1


def test_names_that_meet_are_numbered_and_said(folder, tmp_path, capsys):
    """Also where capitals do not tell files apart; appended rows move nothing."""
    rows = ["video", "a.mp4", "a.2.mp4", "A.mp4", "a.mov", "a.mp4"]
    folder()
    want = ["a.mp4", "a.2.mp4", "A.3.mp4", "a.4.mov", "a.5.mp4"]
    for count in range(1, len(want) + 1):
        path = table(tmp_path / "clips", *rows[: count + 1])
        assert outputs(jobs.from_table(path, TEMPLATE, tmp_path / "out", audio_only=False)) == want[:count]
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("kfjax: numbered, as the name is another clip's: ") and said.count(" -> ") == 3


@pytest.mark.parametrize("samples", [1, 2])
def test_an_input_is_never_an_output(folder, tmp_path, samples):
    clips = folder("a.mp4", "b-2.mp4", "b.mp4")
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.mp4").write_bytes(b"clip")
    template = Job(None, "", "", None, 0, samples=samples)
    rows = ["other/b.mp4", "clips/b.mp4" if samples == 1 else "clips/b-2.mp4"]
    with pytest.raises(ValueError, match=r"clips/b(-2)?\.mp4: is to be written, and is a clip of the list itself"):
        jobs.from_table(table(tmp_path, "video", *rows), template, clips, audio_only=False)
    (other / "a.mp4").symlink_to(clips / "a.mp4")
    with pytest.raises(ValueError, match="is to be written, and is a clip"):
        jobs.from_table(table(tmp_path, "video", "clips/a.mp4"), TEMPLATE, other, audio_only=False)


def test_versions_of_one_clip_never_write_over_it(tmp_path):
    clip = files.write_numbered(tmp_path / "clip-2.mp4", files.steady(5, 25))
    with pytest.raises(media.MediaError, match=r"clip-2\.mp4: is the input itself"):
        Job(clip, "", "", None, 0, samples=2, output=tmp_path / "clip.mp4").check()
    Job(clip, "", "", None, 0, samples=2, output=tmp_path / "other.mp4").check()
    assert os.listdir(tmp_path) == ["clip-2.mp4"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("x,half,", "t.csv row 2: duration: got 'half', expected a number"),
        ("x,,two", "t.csv row 2: seed: got 'two', expected a number"),
        ("x,,2.5", "t.csv row 2: seed: got '2.5', expected a whole number"),
        ("x,,nan", "t.csv row 2: seed: got 'nan', expected a whole number"),
        ("x,,-1", "seed: got -1, expected a whole number from 0"),
        ("x,1e9,", "duration: got 1e+09 s"),
        ("x,nan,", "duration: got nan s"),
        ("x" * 1001 + ",,", "prompt: got 1001 characters"),
    ],
)
def test_a_bad_cell_is_the_affair_of_its_job(tmp_path, row, problem):
    path = table(tmp_path, "prompt,duration,seed", row, "x,2.5,3.0")
    bad, good = jobs.from_table(path, TEMPLATE, tmp_path, audio_only=False)
    with pytest.raises(ValueError, match=problem.replace("+", r"\+")):
        bad.check()
    good.check()
    assert (good.duration, good.seed) == (2.5, 3) and type(good.seed) is int


def test_addresses_and_captions_in_tables(tmp_path):
    path = table(tmp_path, "video,caption", "s3://bucket/a.mp4,rain", ",wind")
    address, caption = jobs.from_table(path, TEMPLATE, tmp_path, audio_only=False)
    with pytest.raises(ValueError, match=r"t\.csv row 2: got s3://bucket/a.mp4, which is an address; give a file"):
        address.check()
    assert caption.prompt == "wind"
