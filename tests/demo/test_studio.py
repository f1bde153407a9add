"""The demo's studio: what is refused, what is kept for whom, who waits for whom, what is deleted."""

import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from kfjax import media
from kfjax.demo.studio import Studio
from kfjax.demo.wish import Limits, Wish
from kfjax.media.playable import is_playable, pictures, write_playable
from tests.tiny import media_files as files
from tests.tiny.studio import LIMITS, RATE_HZ, good, names, quiet, silent_studio, text, uploaded, wish

#: For other threads, on a busy machine; nothing waits so long where all is well.
PATIENCE_SECONDS = 60


@pytest.fixture
def studio(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    return silent_studio(tmp_path / "served", monkeypatch)


def noise(path: Path) -> Path:
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def sound_alone(path: Path) -> Path:
    return files.write_sound(path, np.zeros((RATE_HZ, 2), np.float32), RATE_HZ)


def no_frames(path: Path) -> Path:
    with av.open(str(path), "w") as target:
        target.add_stream("libx264", rate=25, width=64, height=64)
        target.start_encoding()
    return path


def one_frame(path: Path) -> Path:
    return files.write_numbered(path, files.steady(1, 25))


def too_long(path: Path) -> Path:
    return files.write_numbered(path, files.steady(60, 25))


def too_large(path: Path) -> Path:
    path.write_bytes(bytes(200_000))
    return path


def too_fast(path: Path) -> Path:
    return files.write_numbered(path, files.steady(200, 200), rate=Fraction(200))


def too_wide(path: Path) -> Path:
    return files.write_pictures(path, [np.zeros((120, 200, 3), np.uint8)] * 3, files.steady(3, 25))


BAD_FILES = [
    (text, "not a readable video"), (noise, "not a readable video"), (empty, "empty file"), (sound_alone, "no picture"),
    (no_frames, "neither picture nor sound"), (one_frame, "too short"), (too_long, "lasts 2.4 s, at most 2 s"),
    (too_large, "has 0.191 MB, at most 0.1 MB"), (too_fast, "pictures a second"), (too_wide, "200 x 120"),
]  # fmt: skip


@pytest.mark.parametrize("make, words", BAD_FILES)
def test_bad_files_are_refused_and_deleted(studio, make, words):
    clip = uploaded(studio, make)
    with pytest.raises(ValueError) as refusal:
        studio.admit("a", clip)
    line = str(refusal.value)
    assert words in line and "clip.mp4" in line
    assert "\n" not in line and str(studio.folder) not in line, "no trace, and nothing of the server's folders"
    assert names(studio.folder) == set() and not studio.model.asked


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"prompt": " "}, "nothing to go by"),
        ({"prompt": "la " * 400}, "prompt is too long"),
        ({"negative_prompt": "la " * 400}, "negative prompt is too long"),
        ({"steps": 0}, "steps is 0: a whole number from 1 to 50"),
        ({"steps": 51}, "steps is 51"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"samples": 4}, "versions is 4: a whole number from 1 to 3"),
        ({"seed": None}, "seed is empty: a whole number from 0 to 4294967295"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"video_guidance": float("nan")}, "video guidance is nan"),
        ({"text_guidance": 21.0}, "text guidance is 21"),
        ({"negative_guidance": -1.0}, "negative guidance is -1"),
        ({"seconds": 3.0}, "length is 3.0: a number from 1 to 2"),
        ({"seconds": 0.5}, "length is 0.5"),
        ({"seconds": "8"}, "length is 8"),
        ({"music_prompt": "la " * 400}, "music prompt is too long"),
        ({"music_gain": -1.0}, "gain of the music is -1"),
        ({"music_seed": -1}, "seed of the music is -1"),
        ({"loudness": 3.0}, "loudness is 3"),
        ({"strength": 0.0}, "strength is 0"),
        ({"take": 5}, "take is no longer here"),
        ({"reference": Path("/etc/passwd")}, "not an upload"),
    ],
)
def test_wishes_out_of_bounds_are_refused(studio, changes, words):
    for refuse in (studio.check, lambda visitor, asked: studio.make(visitor, asked, quiet)):
        with pytest.raises(ValueError, match=words.replace("(", "\\(")):
            refuse("a", wish(**changes))
    assert not studio.model.asked


def test_only_uploads_are_clips(studio, tmp_path):
    secret = good(tmp_path / "secret.mp4")
    (studio.folder / "link.mp4").symlink_to(secret)
    for clip in (secret, studio.folder / "link.mp4", studio.folder / ".." / "secret.mp4"):
        for refuse in (lambda: studio.admit("a", clip), lambda: studio.make("a", wish(clip), quiet)):  # noqa: B023
            with pytest.raises(ValueError, match="not an upload"):
                refuse()
    assert secret.exists()


def test_a_deleted_clip_is_asked_for_again(studio):
    clip = uploaded(studio)
    clip.unlink()
    clip.parent.rmdir()
    with pytest.raises(ValueError, match="upload it again"):
        studio.admit("a", clip)
    with pytest.raises(ValueError, match="upload it again"):
        studio.make("a", wish(clip), quiet)


def test_wishes_reach_the_model(studio):
    clip = uploaded(studio)
    [take] = studio.make("a", wish(clip, prompt=" a bell ", negative_prompt="wind", seed=7), quiet)
    asked = studio.model.asked[0]
    assert (asked.video, asked.prompt, asked.negative_prompt, asked.duration) == (clip, "a bell", "wind", None)
    assert (asked.video_guidance, asked.text_guidance, asked.negative_guidance, asked.seed) == (3.0, 3.0, 2.0, 7)
    assert take.words == "1. a bell, without wind, seed 7"
    for file in (take.film, take.sound):
        assert media.read_audio(file, RATE_HZ).shape == (round(0.8 * RATE_HZ), 2)
    assert files.picture_packets(take.film)[0] == files.picture_packets(clip)[0]
    studio.make("a", wish(steps=2.0, seed=0.0, samples=1.0), quiet)  # as JSON may say it
    asked = studio.model.asked[1]
    assert asked.duration == LIMITS.seconds and asked.negative_guidance is None
    assert [type(number) for number in (asked.steps, asked.seed, asked.samples)] == [int] * 3
    assert studio.takes("a")[1].film is None and studio.takes("a")[1].sound.suffix == ".wav"


def test_the_length_can_be_chosen(studio):
    """Of a clip the beginning gets a sound, and its picture stays whole; no more than there is."""
    clip = uploaded(studio, lambda path: files.write_numbered(path, files.steady(38, 25)))
    [take] = studio.make("a", wish(clip, seconds=1.25), quiet)
    assert studio.model.asked[0].duration == 1.25
    assert len(media.read_audio(take.sound, RATE_HZ)) == round(1.25 * RATE_HZ)
    assert media.probe(take.film).seconds == pytest.approx(1.52, abs=0.01)
    with pytest.raises(ValueError, match=r"length is 1.75: a number from 1 to 1\.52 is needed"):
        studio.check("a", wish(clip, seconds=1.75))
    studio.make("a", wish(seconds=1.5), quiet)
    assert studio.model.asked[1].duration == 1.5


def test_words_that_are_not_read_are_said(studio):
    assert studio.unread("tiger", "a bell") == "prompt, not read: tiger" and studio.unread("a bell", "") == ""
    both = "prompt, not read: tiger; negative prompt, not read: tigers"
    assert studio.unread("tiger", "tigers") == both
    [take] = studio.make("a", wish(prompt="a tiger"), quiet)
    assert take.unread == "prompt, not read: a tiger"
    [take] = studio.make("a", wish(), quiet)
    assert take.unread == ""


def test_equal_requests_are_told_apart(studio):
    for _ in range(2):
        studio.make("a", wish(uploaded(studio)), quiet)
    first, second = studio.takes("a")
    assert (first.words, second.words) == ("1. a bell, seed 0", "2. a bell, seed 0")
    assert [path.name for path in first.files()] == [f"kfjax-1-a-bell-seed-0.{x}" for x in ("wav", "mp4", "png")]
    assert not {path.name for path in first.files()} & {path.name for path in second.files()}
    [odd] = studio.make("a", wish(prompt="老虎 ../../x\0" * 9), quiet)
    assert odd.sound.parent == first.sound.parent and odd.sound.name.isascii()


def test_history_belongs_to_the_visitor_and_is_bounded(studio):
    studio.make("a", wish(samples=3), quiet)
    studio.make("a", wish(samples=2, prompt="rain"), quiet)
    studio.make("b", wish(prompt="wind"), quiet)
    assert [take.words for take in studio.takes("a")] == [
        "2. a bell, seed 0, version 2", "3. a bell, seed 0, version 3",
        "4. rain, seed 0, version 1", "5. rain, seed 0, version 2",
    ]  # fmt: skip
    assert [take.words for take in studio.takes("b")] == ["1. wind, seed 0"]
    there = {path for v in "ab" for take in studio.takes(v) for path in take.files()}
    assert there == {path for path in studio.folder.rglob("*") if path.is_file()}, "the oldest are deleted"
    studio.leave("a")
    assert studio.takes("a") == [] and len(names(studio.folder)) == 2


def test_a_shared_upload_stays_until_the_last_has_left(studio):
    clip = uploaded(studio)
    studio.admit("a", clip)
    studio.admit("b", clip)
    studio.leave("a")
    assert studio.make("b", wish(clip), quiet)
    studio.leave("b")
    studio.leave("nobody")
    assert list(studio.folder.iterdir()) == []


def test_a_visitors_old_clips_make_room(studio):
    clips = [uploaded(studio, name=f"{k}.mp4") for k in range(4)]
    for clip in clips:
        studio.admit("a", clip)
    assert names(studio.folder) == {"2.mp4", "3.mp4"}


def test_examples_outlast_their_visitors(studio, tmp_path):
    example = studio.lend(good(tmp_path / "example.mp4"))
    for visitor, clip in (("a", example), ("c", uploaded(studio))):
        studio.admit(visitor, clip)
        studio.leave(visitor)
    assert studio.make("b", wish(example), quiet)
    studio.leave("b")
    assert names(studio.folder) == {"example.mp4"}


def until(what) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


class Asking(threading.Thread):
    """A visitor's request in a thread of its own; what came of it."""

    def __init__(self, studio: Studio, visitor: str, asked: Wish):
        super().__init__(daemon=True)
        self.studio, self.visitor, self.asked = studio, visitor, asked
        self.said, self.takes, self.error = [], None, None
        self.start()

    def run(self):
        try:
            self.takes = self.studio.make(self.visitor, self.asked, lambda what, share: self.said.append(what))
        except ValueError as error:
            self.error = error

    def end(self) -> "Asking":
        self.join(PATIENCE_SECONDS)
        assert not self.is_alive()
        return self


@pytest.fixture
def held(studio):
    """The studio, while a first visitor's request is held in the model until the event is set."""
    go = threading.Event()
    whole = studio.model.generate

    def generate(video, prompt, *, progress, **named):
        if prompt == "hold":
            progress("sampling", 0.2)
            assert go.wait(PATIENCE_SECONDS)
        return whole(video, prompt, progress=progress, **named)

    studio.model.generate = generate
    first = Asking(studio, "first", wish(prompt="hold"))
    until(lambda: "sampling" in first.said)
    yield SimpleNamespace(studio=studio, first=first, go=go)
    go.set()
    first.end()


def test_one_after_the_other_as_they_came(held):
    others = []
    for k in range(4):
        others.append(Asking(held.studio, f"visitor {k}", wish(prompt=f"bell {k}")))
        until(lambda k=k: f"waiting, {k + 1} before you" in others[k].said)
    held.go.set()
    assert [one.end().takes[0].words for one in others] == [f"1. bell {k}, seed 0" for k in range(4)]
    assert held.studio.model.most_at_work == 1
    assert [asked.prompt for asked in held.studio.model.asked] == ["hold", *(f"bell {k}" for k in range(4))]


def test_no_visitor_fills_the_queue(held):
    """33 requests of one are one request and 32 lines; all others together are bounded too."""
    studio = held.studio
    many = [Asking(studio, "first", wish()) for _ in range(32)]
    for one in many:
        assert str(one.end().error) == "You have 1 under way already, the most is 1: wait or cancel."
    with pytest.raises(ValueError, match="under way"):
        studio.check("first", wish())
    other = Asking(studio, "other", wish())
    until(lambda: "waiting, 1 before you" in other.said)
    crowd = [Asking(studio, f"visitor {k}", wish()) for k in range(LIMITS.waiting)]
    until(lambda: sum(not one.is_alive() for one in crowd) == 1)
    [late] = [one for one in crowd if not one.is_alive()]
    assert str(late.error) == "32 others are waiting for their sounds already: try again later."
    held.go.set()
    assert other.end().takes and sum(one.end().takes is not None for one in crowd) == LIMITS.waiting - 1
    assert held.first.end().takes and not studio.is_busy("first")
    assert studio.make("first", wish(), quiet)


def test_cancel_ends_what_waits_and_what_is_being_made(held):
    studio = held.studio
    other, third = (Asking(studio, name, wish()) for name in ("other", "third"))
    until(lambda: other.said and third.said)
    studio.cancel("other")
    studio.cancel("nobody")
    assert str(other.end().error) == "Cancelled: nothing was made." and not studio.is_busy("other")
    assert held.first.is_alive() and third.is_alive()
    studio.cancel("first")
    assert studio.is_busy("first"), "until the stage is over"
    held.go.set()
    assert str(held.first.end().error) == "Cancelled: nothing was made."
    assert third.end().takes and studio.takes("first") == studio.takes("other") == []
    assert studio.make("first", wish(), quiet), "the next request is not cancelled"


def test_a_failure_leaves_the_takes_and_the_queue(studio):
    """What isn't a ValueError too: the model's own errors."""
    studio.make("a", wish(), quiet)
    for error in (ValueError("no"), MemoryError(), RuntimeError("out of memory")):
        studio.model.generate = lambda *_, error=error, **__: (_ for _ in ()).throw(error)
        with pytest.raises(type(error)):
            studio.make("a", wish(), quiet)
        assert not studio.is_busy("a") and len(studio.takes("a")) == 1


def test_leaving_ends_the_work_and_leaves_nothing(studio):
    def progress(what: str, share: float) -> None:
        if what == "sampling":
            studio.leave("a")

    clip = uploaded(studio)
    studio.admit("a", clip)
    with pytest.raises(ValueError, match="page was closed"):
        studio.make("a", wish(clip), progress)
    assert list(studio.folder.iterdir()) == []
    assert studio.make("b", wish(), quiet), "the others go on"
    studio.close()
    assert list(studio.folder.iterdir()) == []


def test_what_is_handled_after_the_page_was_closed_leaves_nothing(studio):
    """A page names its upload, and is closed before the server comes to it."""
    clip = uploaded(studio)
    studio.leave("a")
    for ask in (
        lambda: studio.admit("a", clip), lambda: studio.admit("a", uploaded(studio), reference=True),
        lambda: studio.record("a", wish(), uploaded(studio, sound_alone, "a.m4a")), lambda: studio.undo("a"),
        lambda: studio.check("a", wish()), lambda: studio.make("a", wish(), quiet),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="page was closed, and its files are deleted: reload it"):
            ask()
    assert list(studio.folder.iterdir()) == [] and not studio.model.asked
    studio.admit("b", uploaded(studio))
    with pytest.raises(ValueError, match="page was closed"):
        studio.admit("a", clip)
    assert names(studio.folder) == {"clip.mp4"}, "the other visitor's"


@pytest.mark.parametrize(
    "ask",
    [
        lambda studio: studio.make("a", wish(), quiet),
        lambda studio: studio.record("a", wish(), uploaded(studio, sound_alone, "a.m4a")),
    ],
)
def test_a_take_of_a_page_that_is_closed_while_it_is_written_goes(studio, monkeypatch, ask):
    def picture(path: Path, *_, **__) -> None:
        studio.leave("a")
        path.parent.mkdir()  # the folder's deletion and this file cross
        path.touch()

    monkeypatch.setattr("kfjax.plot.overview", picture)
    ask(studio)
    assert names(studio.folder) == set() and not list(studio.folder.glob("visitor-*"))


def test_idle_visitors_are_sent_off(studio, monkeypatch):
    """One that comes back begins anew; what is known of closed pages does not grow."""
    studio.make("a", wish(), quiet)
    studio.leave("closed")
    later = time.monotonic() + LIMITS.idle_seconds + 1
    monkeypatch.setattr("kfjax.demo.studio.time.monotonic", lambda: later)
    studio.make("b", wish(), quiet)
    studio.sweep()
    assert studio.takes("a") == [] and len(names(studio.folder)) == 2
    assert [studio.make(page, wish(), quiet)[0].number for page in ("a", "closed")] == [1, 1]


def test_abandoned_uploads_are_swept(studio, tmp_path, monkeypatch):
    """Files that came and were never asked about, whole or broken off."""
    studio.lend(good(tmp_path / "example.mp4"))
    studio.admit("a", uploaded(studio))
    studio.make("a", wish(), quiet)
    kept = names(studio.folder)
    uploaded(studio, name="abandoned.mp4")
    (studio.folder / "broken-off").touch()
    studio.sweep()
    assert names(studio.folder) == kept | {"abandoned.mp4", "broken-off"}, "a page may be about to ask"
    later = time.time() + LIMITS.unnamed_seconds + 1
    monkeypatch.setattr("kfjax.demo.studio.time.time", lambda: later)
    studio.sweep()
    assert names(studio.folder) == kept and "clip.mp4" in kept


def test_a_full_disk_is_told_without_the_servers_folders(studio, monkeypatch):
    def full(path, *_, **__):
        raise media.MediaError(f"{path}: can't be written (No space left on device); check the folder")

    monkeypatch.setattr(media, "write_wav", full)
    with pytest.raises(ValueError, match=r"^kfjax-1-a-bell-seed-0\.wav: can't be written") as refusal:
        studio.make("a", wish(), quiet)
    assert str(studio.folder) not in str(refusal.value)


def test_limits_are_checked():
    assert Limits(seconds=600.0).seconds == 600.0, "longer than one pass"
    for changes in ({"seconds": 0.0}, {"seconds": 1e9}, {"megabytes": 0.0}, {"samples": 0}, {"samples": 1000},
                    {"requests": 0}):  # fmt: skip
        with pytest.raises(ValueError, match="got "):
            Limits(**changes)


OTHER_CODECS = [("mpeg4", ".avi", "yuv420p"), ("libvpx", ".webm", "yuv420p"), ("libx264", ".mkv", "yuv444p")]


@pytest.mark.parametrize("codec, suffix, pix_fmt", OTHER_CODECS)
def test_other_codecs_are_made_playable(studio, codec, suffix, pix_fmt):
    how = {"tick": Fraction(1, 25), "codec": codec, "pix_fmt": pix_fmt}
    make = lambda path: files.write_numbered(path, files.steady(20, 25), **how)
    clip = uploaded(studio, make, name=f"clip{suffix}")
    assert not is_playable(clip)
    [take] = studio.make("a", wish(clip), quiet)
    assert take.film.suffix == ".mp4" and is_playable(take.film)
    assert names(take.film.parent) == {path.name for path in take.files()}
    numbers = files.read_numbers(np.stack(list(pictures(take.film, 25.0, 64))))
    assert numbers == list(range(20))


def test_playable_is_upright_and_not_too_large(tmp_path):
    wide = [np.full((60, 120, 3), 20 * k, np.uint8) for k in range(10)]
    source = files.write_pictures(tmp_path / "a.mp4", wide, files.steady(10, 5), rotation=90)
    write_playable(source, tmp_path / "b.mp4", longest_side=40)
    info = media.probe(tmp_path / "b.mp4")
    assert (info.width, info.height, info.rotation) == (20, 40, 0)
    assert info.seconds == pytest.approx(media.probe(source).seconds, abs=1 / info.fps)
