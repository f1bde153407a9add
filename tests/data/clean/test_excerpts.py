"""Films cut at their scenes: where, into what, and which frames come with each piece."""

from fractions import Fraction

import numpy as np
import pytest

from kfjax import media
from kfjax.data.clean import excerpts
from kfjax.data.sources import Row
from tests.tiny import media_files
from tests.tiny.crawl import RATE_HZ, pictures, recording

SPECS = (media.FrameSpec(4.0, 32, "stretch"),)
FPS = 10


def film(path, *scenes, fps=FPS):
    frames = np.concatenate(scenes)
    media.write_video(path, frames, fps, recording(1, len(frames) / fps), RATE_HZ)
    return Row(path.name, path, None, "")


def spans(row, seconds=2.0, shortest=0.5, **more):
    return [(cut.start_seconds, cut.seconds) for cut, _ in excerpts.pieces(row, seconds, shortest, SPECS, **more)]


def test_an_excerpt_ends_at_a_scene_cut(tmp_path):
    row = film(tmp_path / "a.mp4", pictures(1, 13), pictures(2, 33), pictures(3, 4))
    assert spans(row) == [(0, 1.3), (1.3, 2), (3.3, 1.3), (4.6, 0.4)]
    assert spans(row, shortest=0.7) == [(0, 1.3), (1.3, 2), (3.3, 1.3)]
    assert spans(row, span_cuts=True) == [(0, 2), (2, 2), (4, 1)]
    assert spans(row._replace(start_seconds=0.5, seconds=3.0)) == [(0.5, 0.8), (1.3, 2)]


def test_no_picture_of_another_scene_is_in_an_excerpt(tmp_path):
    """A cut within a run of B-frames, which are not all decoded: the piece before it ends with what is certain."""
    options = {"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=none:scenecut=0:keyint=250"}
    for cut in range(20, 28):
        gray = np.where(np.arange(48) < cut, 60, 200).astype(np.uint8)[:, None, None, None]
        scenes = gray * np.ones((1, 96, 128, 3), np.uint8)
        silent = tmp_path / f"{cut}.mp4"
        media_files.write_pictures(silent, scenes, media_files.steady(48, 24), rate=Fraction(24), options=options)
        media.mux(silent, recording(1, 2.0), RATE_HZ, tmp_path / f"{cut}.mkv")
        (start, seconds), (after, _) = spans(Row("", tmp_path / f"{cut}.mkv", None, ""))
        assert start == 0 and seconds - 2e-3 <= cut / 24 <= after + 2e-3, cut
        assert after - seconds < 4 / 24, cut


def shaken(frames, seed):
    rng = np.random.default_rng(seed)
    return np.stack([np.roll(frame, tuple(rng.integers(-12, 13, 2)), (0, 1)) for frame in frames])


def test_what_is_no_scene_cut(tmp_path):
    flash = pictures(1, 30).copy()
    flash[12] = 250
    moving = np.stack([np.roll(pictures(2, 1)[0], 9 * i, 1) for i in range(30)])
    darker = (pictures(3, 30) * np.linspace(1, 0.2, 30)[:, None, None, None]).astype(np.uint8)
    small = np.random.default_rng(5).integers(0, 256, (16, 24, 3), np.uint8)
    fine = np.kron(small, np.ones((6, 6, 1), np.uint8))
    jerk = np.stack([np.roll(fine, (5, 5) if i > 12 else 0, (0, 1)) for i in range(30)])
    jump = np.full((30, 96, 144, 3), 150, np.uint8)
    jump[:, 70:] = 60
    for i, frame in enumerate(jump):  # something large, all at once
        frame[20:60, (90 if i > 12 else 20) :][:, :30] = 240
    fall = np.full((30, 96, 144, 3), 120, np.uint8)
    for i, frame in enumerate(fall[13:]):  # from above, within one picture
        frame[10 * i : 40 + 10 * i, 40:110] = 250
    for i, scene in enumerate((flash, moving, darker, jerk, jump, fall, shaken(pictures(4, 30), 4))):
        assert spans(film(tmp_path / f"{i}.mp4", scene), 3.0) == [(0, 3)], i


def test_black_divides_scenes(tmp_path):
    fade = lambda frames, ends: (frames * np.linspace(*ends, len(frames))[:, None, None, None]).astype(np.uint8)
    row = film(tmp_path / "a.mp4", fade(pictures(1, 20), (1, 0)), fade(pictures(2, 20), (0, 1)))
    (first, second) = spans(row, 4.0)
    assert first[0] == 0 and second[0] + second[1] == 4 and 2 <= second[0] <= 2.5


@pytest.mark.parametrize("fps", [10, 24])
def test_frames_are_those_that_are_read_alone(tmp_path, fps):
    row = film(tmp_path / "a.mp4", pictures(1, 13), pictures(2, 33), fps=fps)
    for cut, (frames,) in excerpts.pieces(row, 1.0, 0.2, SPECS):
        (alone,), _ = media.read_frames(row.video, SPECS, start_seconds=cut.start_seconds, duration_seconds=cut.seconds)
        np.testing.assert_array_equal(frames, alone)


def test_damage_costs_what_comes_after_it(tmp_path):
    row = film(tmp_path / "a.mp4", pictures(1, 60))
    content = bytearray(row.video.read_bytes())
    half = content.index(b"mdat") + 4 + (len(content) - content.index(b"mdat")) // 3
    content[half:-2000] = bytes(len(content) - 2000 - half)
    row.video.write_bytes(content)
    found = []
    with pytest.raises(media.MediaError):
        found.extend(cut.start_seconds for cut, _ in excerpts.pieces(row, 1.0, 0.2, SPECS))
