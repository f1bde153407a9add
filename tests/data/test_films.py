"""Films are decoded once, and their excerpts are what reading each by itself gives."""

import threading
import time
from fractions import Fraction

import numpy as np
import pytest

from kfjax import media
from kfjax.data import films
from kfjax.data.sources import Cut, Row
from kfjax.media import FrameSpec, frames
from tests.tiny import media_files

SPECS = (FrameSpec(8.0, 16, "stretch"), FrameSpec(25.0, 16, "crop"))
WINDOWS = films.Windows(SPECS, lambda cut: (int(8 * cut.seconds), int(25 * cut.seconds)))
RATE_HZ = 44100


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    picture = media_files.write_numbered(folder / "picture.mp4", media_files.steady(300, Fraction(25)))
    noise = (0.1 * np.random.default_rng(0).standard_normal((12 * RATE_HZ, 1))).astype(np.float32)
    media.mux(folder / "picture.mp4", noise, RATE_HZ, folder / "film.mkv")
    del picture
    return folder / "film.mkv"


def rows(film, *starts: float, seconds: float = 2.0) -> list[Row]:
    return [Row(f"{i}", film, None, "", start, seconds) for i, start in enumerate(starts)]


def load(cut: Cut, source=media) -> tuple[list[np.ndarray], np.ndarray]:
    seen, _ = source.read_frames(cut.row.video, SPECS, start_seconds=cut.start_seconds, counts=WINDOWS.counts(cut))
    return seen, source.read_audio(cut.row.sound, RATE_HZ, 1, cut.seconds, cut.start_seconds)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the frames that are decoded."""
    counted = []

    def shown(*args, real=frames.shown_frames, **options):
        for each in real(*args, **options):
            counted.append(each)
            yield each

    monkeypatch.setattr(frames, "shown_frames", shown)
    return counted


@pytest.mark.parametrize("table", [
    lambda film: [Row("whole", film, None, "")],
    lambda film: rows(film, 4.0, 0.0, 2.0, 6.0, 8.0, 10.0),  # a table with an excerpt a row
    lambda film: rows(film, 0.1, 2.1, 4.1, 6.1, 8.1),
])  # fmt: skip
def test_a_film_is_decoded_once_and_its_excerpts_are_as_ever(film, decoded, table):
    found = [one for one in films.excerpts(table(film), (2.0,), load, WINDOWS) if isinstance(one.item, Cut)]
    assert len(found) >= 5 and len(decoded) <= 302
    for cut, (seen, wave), reason, _ in found:
        want, sound = load(cut)
        assert not reason and all(np.array_equal(a, b) for a, b in zip(seen, want, strict=True))
        np.testing.assert_array_equal(wave, sound)


def test_what_is_off_the_grid_or_far_apart_is_read_by_itself(film):
    cuts = lambda *starts: [Cut(Row("a", film, None, ""), start, 2.0) for start in starts]
    lengths = lambda *starts: [len(group) for group in films.passes(cuts(*starts), (8.0, 25.0))]
    assert lengths(0.0, 2.0, 4.5, 6.5) == [2, 2]
    assert lengths(0.0, 2.0, 30.0) == [2, 1]
    assert lengths(*range(0, 400, 2)) == [150, 50]
    sound = [Cut(Row("a", None, film, ""), start, 2.0) for start in (0.0, 0.3)]  # sound has no grid
    assert [len(group) for group in films.passes(sound, (8.0, 25.0))] == [2]


def test_damage_costs_no_other_excerpt_than_one_by_one(film, monkeypatch):
    """The pass fails at its third window: that excerpt and those behind it are read by themselves."""

    def failing(*args, real=media.frames_in_windows, **options):
        for number, window in enumerate(real(*args, **options)):
            if number == 2:
                raise media.MediaError("is damaged")
            yield window

    monkeypatch.setattr(media, "frames_in_windows", failing)
    found = [one for one in films.excerpts(rows(film, 0.0, 2.0, 4.0, 6.0), (2.0,), load, WINDOWS) if one.value]
    assert len(found) == 4
    for cut, (seen, _), _, _ in found:
        assert np.array_equal(seen[1], load(cut)[0][1])


def test_damaged_sound_is_decoded_for_the_whole_pass_once(film, monkeypatch):
    read = []

    def damaged(path, rate_hz, channels=2, duration_seconds=None, start_seconds=0.0, real=media.read_audio):
        read.append(duration_seconds)
        if duration_seconds > 3:
            raise media.MediaError("is damaged")
        return real(path, rate_hz, channels, duration_seconds, start_seconds)

    monkeypatch.setattr(media, "read_audio", damaged)
    found = [one for one in films.excerpts(rows(film, 0.0, 2.0, 4.0), (2.0,), load, WINDOWS) if one.value]
    assert len(found) == 3 and read == [pytest.approx(6 + films.BEYOND_SECONDS), 2.0, 2.0, 2.0]


def test_a_row_that_is_bad_is_said_with_its_reason(film, tmp_path):
    (tmp_path / "empty.wav").touch()
    given = [Row("a", None, tmp_path / "empty.wav", ""), Row("b", film, None, "", problem="got no number")]
    found = list(films.excerpts(given, (2.0,), load, WINDOWS))
    assert "is an empty file" in found[0].reason and found[1].reason == "got no number"


def test_films_are_dealt_whole(film, tmp_path):
    other = [Row(f"o{i}", tmp_path / f"{i}.mp4", None, "") for i in range(4)]
    mixed = [*rows(film, 0.0, 2.0), *other[:2], *rows(film, 4.0), *other[2:]]
    dealt = films.deal(mixed, 2)
    assert [[row.id for row in shard] for shard in dealt] == [["0", "1", "0", "o1", "o3"], ["o0", "o2"]]
    assert films.deal(other, 3) == [other[k::3] for k in range(3)]  # a row a film: as ever
    assert [len(group) for group in films.films(mixed)] == [2, 1, 1, 1, 1, 1]


def test_threads_run_ahead_a_little_in_order():
    made, lock = [], threading.Lock()

    def count(item):
        for k in range(5):
            with lock:
                made.append((item, k))
            yield item, k

    with films.ReadAhead(2, room=1) as ahead:
        values = ahead(count, range(6))
        first = next(values)
        time.sleep(0.3)
        assert len(made) <= 2 + 2 * 2 + 1  # two threads: one value taken, one waiting, one in the hand of each
        assert [first, *values] == [(item, k) for item in range(6) for k in range(5)]


@pytest.mark.timeout(20)
def test_an_error_or_an_early_end_stops_the_threads():
    def endless(item):
        if item == 1:
            raise ZeroDivisionError
        while item:
            yield item
        yield 0

    with pytest.raises(ZeroDivisionError), films.ReadAhead(3) as ahead:
        list(ahead(endless, [0, 1, 2]))
    with films.ReadAhead(3) as ahead:
        assert next(ahead(endless, [2, 2, 2, 2])) == 2
