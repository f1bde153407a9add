"""Which names are clips'."""

import pytest
from PIL import Image

from kfjax import media
from kfjax.commands import jobs
from kfjax.data import sources
from tests.tiny import media_files as files


@pytest.mark.parametrize("suffix", media.FILM_SUFFIXES)
def test_films_are_found_in_folders_of_clips_and_of_training_clips(tmp_path, suffix):
    for name in (f"a{suffix}", f"B{suffix.upper()}", f".hidden{suffix}", f"._a{suffix}", f"a{suffix}.part"):
        (tmp_path / name).touch()
    found = ["B" + suffix.upper(), "a" + suffix]
    template = jobs.Job(None, "", "", None, 0)
    placed = jobs.from_folder(tmp_path, template, tmp_path / "out", audio_only=True)
    assert [job.video.name for job in placed] == found
    assert [row.video.name for row in sources.read_rows(tmp_path)] == found


def test_of_webp_only_animations_are_clips(tmp_path):
    still = tmp_path / "thumbnail.webp"
    Image.fromarray(files.numbered(7)).save(still)
    assert not media.is_clip(still) and not media.is_clip(tmp_path / "absent.webp")
    moving = files.write_numbered(
        tmp_path / "a.webp", files.steady(3, 10), codec="libwebp_anim", container="webp", tick=files.Fraction(1, 1000)
    )
    assert media.is_clip(moving) and not media.is_clip(moving, media.FILM_SUFFIXES)


def test_hidden_sounds_are_passed_over(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "._a.wav").touch()
    assert [row.audio.name for row in sources.read_rows(tmp_path)] == ["a.wav"]
