"""The demo without its page: one model, its visitors, their limits, their results, and when these are deleted.

A *visitor* is one open page, a *wish* what it asks for, a *take* one sound that was made. Everything lies in one
temporary folder: uploads where the server put them, takes in a folder of the visitor's own with a name that can't be
guessed. When a page is closed its files are deleted, when the server ends all of them.
"""

from __future__ import annotations

import math
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from kfjax import media, plot, rates
from kfjax.limits import MAX_PROMPT_CHARACTERS, MAX_SAMPLES, MAX_SEED
from kfjax.media.playable import is_playable, write_playable
from kfjax.pipeline import TEXT_ONLY_SECONDS, Model
from kfjax.sound import Sound

MAX_SCALE = 20.0
LEAST_SECONDS = 1.0  # of a sound
MEGABYTE, MEGAPIXEL = 2**20, 1e6
#: How visitors' own folders begin; the rest of the name can't be guessed.
_OWN = "visitor-"


@dataclass(frozen=True)
class Limits:
    """What one request, one visitor and the whole server may use.

    Attributes:
      seconds: length of a clip, and of a sound without one.
      megabytes: size of a clip's file.
      megapixels: size of a clip's picture.
      fps: pictures a second.
      samples, steps: of one request.
      clips, takes: kept for a visitor; beyond that the oldest are deleted.
      requests: of one visitor, being made or waiting.
      waiting: requests of all visitors, besides the one being made.
      idle_seconds: a visitor who asked for nothing for so long is taken to have left.
      folder_megabytes: of all the files together; uploads are refused beyond that.
    """

    seconds: float = 30.0
    megabytes: float = 64.0
    megapixels: float = 9.0
    fps: float = 125.0
    samples: int = 4
    steps: int = 100
    clips: int = 4
    takes: int = 12
    requests: int = 1
    waiting: int = 32
    idle_seconds: float = 3600.0
    folder_megabytes: float = 4000.0

    def __post_init__(self):
        if not LEAST_SECONDS <= self.seconds <= rates.MAX_SECONDS:
            most = f"{LEAST_SECONDS:g} to {rates.MAX_SECONDS:g} s"
            raise ValueError(f"longest clip: got {self.seconds:g} s, expected {most}; give another limit")
        if not self.megabytes > 0 or not 1 <= self.samples <= MAX_SAMPLES:
            got = f"{self.megabytes:g} MB and {self.samples} versions"
            raise ValueError(f"limits: got {got}, expected more than 0 MB and 1 to {MAX_SAMPLES} versions")
        if self.requests < 1:
            raise ValueError(f"limits: got {self.requests} requests of a visitor, expected 1 or more")


@dataclass(frozen=True)
class Wish:
    """A request as the page sends it: not checked yet.

    `seconds`: length of the sound, from the start of the clip; None: all of the clip, or 8 without one.
    """

    clip: Path | None
    prompt: str
    negative_prompt: str
    video_guidance: float
    text_guidance: float
    negative_guidance: float
    steps: int
    seed: int
    samples: int
    seconds: float | None


@dataclass(frozen=True)
class Take:
    """A sound that was made.

    Attributes:
      number: counts a visitor's takes.
      words: its name in the visitor's list.
      sound: a .wav.
      film: an mp4 that browsers play, None where there was no clip.
      picture: a png of the sound.
      unread: what the model did not read of the prompts, one line; empty: it read all.
    """

    number: int
    words: str
    sound: Path
    film: Path | None
    picture: Path
    unread: str

    def files(self) -> list[Path]:
        return [path for path in (self.sound, self.film, self.picture) if path is not None]


@dataclass
class _Visitor:
    folder: Path
    clips: list[Path] = field(default_factory=list)
    takes: list[Take] = field(default_factory=list)
    made: int = 0
    used: float = 0.0
    gone: bool = False


@dataclass(eq=False)
class _Request:
    """A visitor's place in the queue."""

    visitor: _Visitor
    cancelled: bool = False

    def check(self) -> None:
        """Raises ValueError if the page was closed or the request cancelled."""
        if self.visitor.gone:
            raise ValueError("The page was closed.")
        if self.cancelled:
            raise ValueError("Cancelled: nothing was made.")


class Studio:
    """One model, and what its visitors have.

    Its methods may be called from any thread; sounds are made one after the other, in the order they were asked for.
    Every refusal is a ValueError whose message is one line for the visitor, without a path of the server.
    """

    def __init__(self, model: Model, folder: Path, limits: Limits | None = None):
        """`folder`: an existing, empty folder for all files."""
        self.model, self.folder, self.limits = model, folder.resolve(), limits or Limits()
        self._visitors: dict[str, _Visitor] = {}
        self._books = threading.RLock()
        self._queue: list[_Request] = []  # the first is being made
        self._queue_moved = threading.Condition(self._books)
        self._lasting: set[Path] = set()

    def lend(self, file: Path) -> Path:
        """A copy of an example that every visitor may use as a clip; it is kept until the server ends."""
        copy = self.folder / "examples" / file.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
        self._lasting |= {copy}
        return copy

    def admit(self, visitor: str, clip: Path) -> None:
        """Keeps an uploaded clip for a visitor; one that can't be used is refused and deleted."""
        clip = self._uploaded(clip)
        with self._books:
            known = self._known(visitor)
            if clip not in known.clips:
                known.clips.append(clip)
            dropped = [known.clips.pop(0) for _ in range(len(known.clips) - self.limits.clips)]
        self._delete_unused(dropped)
        try:
            self._check_clip(clip)
        except ValueError:
            with self._books:
                known.clips = [other for other in known.clips if other != clip]
            self._delete_unused([clip])
            raise

    def check(self, visitor: str, wish: Wish) -> None:
        """Checks a request, and the visitor's number of requests, before anything is computed."""
        with self._books:
            self._check_room(self._known(visitor))
        self._check_wish(wish)

    def unread(self, prompt: str, negative_prompt: str) -> str:
        """`Model.unread` of both prompts in one line; empty if the model reads all of them."""
        lines = self.model.unread(prompt), self.model.unread(negative_prompt, name="negative prompt")
        return "; ".join(filter(None, lines))

    def is_busy(self, visitor: str) -> bool:
        """Whether something is being made, or waits to be made, for a visitor."""
        with self._books:
            return self._asked_by(self._visitors.get(visitor)) > 0

    def cancel(self, visitor: str) -> None:
        """Ends the visitor's requests: those that wait at once, the one being made after the stage it is in."""
        with self._books:
            for request in self._queue:
                if request.visitor is self._visitors.get(visitor):
                    request.cancelled = True
            self._queue_moved.notify_all()

    def make(self, visitor: str, wish: Wish, progress: Callable[[str, float], None]) -> list[Take]:
        """Generates and keeps the takes. Checks again, because a request may bypass the page."""
        with self._turn(visitor, progress) as request:

            def say(what: str, share: float) -> None:
                request.check()
                progress(what, share)

            say("reading", 0.0)
            self._check_wish(wish)
            try:
                result = self._generated(wish, say)
                say("drawing", 0.9)
                return self._kept(request.visitor, wish, result)
            except media.MediaError as error:
                raise ValueError(self._line(error)) from None

    def takes(self, visitor: str) -> list[Take]:
        """What was made for a visitor and is still there, the oldest first."""
        with self._books:
            return list(self._visitors[visitor].takes) if visitor in self._visitors else []

    def leave(self, visitor: str) -> None:
        """The page was closed: delete its files and cancel its requests."""
        with self._books:
            known = self._visitors.pop(visitor, None)
            if known is not None:
                known.gone = True
                self._queue_moved.notify_all()
        if known is not None:
            shutil.rmtree(known.folder, ignore_errors=True)
            self._delete_unused(known.clips)

    def close(self, wait_seconds: float = 10.0) -> None:
        """The server ends: remove all visitors and wait for the running request to stop."""
        for visitor in list(self._visitors):
            self.leave(visitor)
        with self._books:
            self._queue_moved.wait_for(lambda: not self._queue, wait_seconds)

    def has_room(self) -> bool:
        """Whether another upload may be taken in."""
        used = sum(path.stat().st_size for path in list(self.folder.rglob("*")) if path.is_file())
        return used < self.limits.folder_megabytes * MEGABYTE

    @contextmanager
    def _turn(self, visitor: str, progress: Callable[[str, float], None]) -> Iterator[_Request]:
        """Waits until the visitor's request is the first in the queue, where it stays until it is done."""
        with self._books:
            request = _Request(self._known(visitor))
            self._check_room(request.visitor)
            self._queue.append(request)
        try:
            with self._books:
                while before := self._queue.index(request):
                    request.check()
                    progress(f"waiting, {before} before you", 0.0)
                    self._queue_moved.wait()
            yield request
        finally:
            with self._books:
                self._queue.remove(request)
                self._queue_moved.notify_all()
            if request.visitor.gone:  # closed while its files were being written
                shutil.rmtree(request.visitor.folder, ignore_errors=True)

    def _asked_by(self, known: _Visitor | None) -> int:
        return sum(request.visitor is known for request in self._queue)

    def _check_room(self, known: _Visitor) -> None:
        """Refuses a request beyond the limit per visitor or that of the queue."""
        limits = self.limits
        if (own := self._asked_by(known)) >= limits.requests:
            raise ValueError(f"You have {own} under way already, the most is {limits.requests}: wait or cancel.")
        if len(self._queue) > limits.waiting:
            raise ValueError(f"{limits.waiting} others are waiting for their sounds already: try again later.")

    def _check_wish(self, wish: Wish) -> None:
        limits = self.limits
        for name, text in (("prompt", wish.prompt), ("negative prompt", wish.negative_prompt)):
            if not isinstance(text, str) or len(text) > MAX_PROMPT_CHARACTERS:
                raise ValueError(f"The {name} is too long: at most {MAX_PROMPT_CHARACTERS} characters, please.")
        if wish.clip is None and not wish.prompt.strip():
            raise ValueError("There is nothing to go by: give a clip, a prompt, or both.")
        _within("The number of steps", wish.steps, 1, limits.steps, whole=True)
        _within("The number of versions", wish.samples, 1, limits.samples, whole=True)
        _within("The seed", wish.seed, 0, MAX_SEED, whole=True)
        for name in ("video", "text", "negative"):
            _within(f"The {name} guidance", getattr(wish, f"{name}_guidance"), 0, MAX_SCALE)
        longest = limits.seconds if wish.clip is None else self._check_clip(self._uploaded(wish.clip))
        if wish.seconds is not None:
            _within("The length", wish.seconds, min(LEAST_SECONDS, longest), longest)

    def _known(self, visitor: str) -> _Visitor:
        """The visitor's entry, made at the first visit; removes visitors that have been idle too long."""
        now = time.monotonic()
        self._delete_abandoned()
        over = now - self.limits.idle_seconds
        idle = [v for v, known in self._visitors.items() if known.used < over and not self._asked_by(known)]
        for other in idle:
            self.leave(other)
        if visitor not in self._visitors:
            folder = self.folder / f"{_OWN}{secrets.token_hex(16)}"
            folder.mkdir()
            self._visitors[visitor] = _Visitor(folder)
        known = self._visitors[visitor]
        known.used = now
        return known

    def _uploaded(self, clip: Path) -> Path:
        clip = Path(clip).resolve()
        if not clip.is_relative_to(self.folder):
            raise ValueError("The clip is not an upload: choose a file or record one.")
        return clip

    def _delete_unused(self, clips: list[Path]) -> None:
        """Deletes uploads that no visitor has; two who upload the same file share it."""
        with self._books:
            used = {clip for known in self._visitors.values() for clip in known.clips} | self._lasting
            for clip in set(clips) - used:
                clip.unlink(missing_ok=True)
                if clip.parent != self.folder:
                    with suppress(OSError):  # others' files are in it, or it has gone already
                        clip.parent.rmdir()

    def _delete_abandoned(self) -> None:
        """Deletes uploads without a request: of pages that were closed at once, or interrupted ones."""
        there = [path for path in (*self.folder.glob("*"), *self.folder.glob("*/*")) if path.is_file()]
        own = [path for path in there if path.parent.name.startswith(_OWN)]
        past = time.time() - self.limits.idle_seconds
        self._delete_unused([path for path in {*there} - {*own} if path.stat().st_mtime < past])

    def _line(self, error: media.MediaError) -> str:
        """The error's line with file names in place of paths, so that the server's folders stay private."""
        return re.sub(re.escape(str(self.folder)) + r"/(?:[\w-]+/)*", "", str(error))

    def _check_clip(self, clip: Path) -> float:
        """Seconds of a clip that can be used."""
        limits = self.limits
        if not clip.is_file():
            raise ValueError("The clip is no longer here: upload it again.")
        size = clip.stat().st_size / MEGABYTE
        if size > limits.megabytes:
            raise ValueError(f"{clip.name} has {size:.3g} MB, at most {limits.megabytes:g} MB are taken: shrink it.")
        try:
            info = media.probe(clip)
        except media.MediaError as error:
            raise ValueError(self._line(error)) from None
        if not info.has_video:
            raise ValueError(f"{clip.name} has sound but no picture: choose a video, or use a prompt alone.")
        if (info.frame_count or 0) < 2 or info.seconds < media.MIN_SECONDS:
            raise ValueError(f"{clip.name} is too short: at least {media.MIN_SECONDS:g} s and two pictures are needed.")
        if info.seconds > limits.seconds + 0.05:
            raise ValueError(f"{clip.name} lasts {info.seconds:.1f} s, at most {limits.seconds:g} s are taken: cut it.")
        if info.width * info.height > limits.megapixels * MEGAPIXEL or info.fps > limits.fps:
            got = f"{info.width} x {info.height} at {info.fps:.0f} pictures a second"
            most = f"{limits.megapixels:g} megapixels and {limits.fps:g} pictures a second"
            raise ValueError(f"{clip.name} is {got}, at most {most} are taken: shrink it.")
        return info.seconds

    def _generated(self, wish: Wish, say: Callable[[str, float], None]) -> Sound:
        avoided, alone = wish.negative_prompt.strip(), min(TEXT_ONLY_SECONDS, self.limits.seconds)
        return self.model.generate(
            wish.clip,
            wish.prompt.strip(),
            negative_prompt=avoided,
            duration=alone if wish.clip is None and wish.seconds is None else wish.seconds,
            steps=int(wish.steps),
            video_guidance=wish.video_guidance,
            text_guidance=wish.text_guidance,
            negative_guidance=wish.negative_guidance if avoided else None,
            seed=int(wish.seed),
            samples=int(wish.samples),
            progress=lambda what, share: say(what, 0.9 * share),
        )

    def _kept(self, known: _Visitor, wish: Wish, result: Sound) -> list[Take]:
        """Writes the takes of a result; the visitor's oldest make room."""
        first, strip, again = known.made + 1, None, None
        if wish.clip is not None:
            strip = plot.read_strip(wish.clip, result.seconds)
            if not is_playable(wish.clip):
                again = known.folder / "picture.mp4"
                write_playable(wish.clip, again)
                result = replace(result, video=again)
        takes = []
        for number, wave in enumerate(result.waveforms, first):
            words = _words(number, wish, number - first)
            stem, one = known.folder / _file_stem(words), replace(result, waveforms=wave[None])
            [sound] = one.save(stem.with_suffix(".wav"))
            [film] = [None] if result.video is None else one.save(stem.with_suffix(".mp4"))
            plot.overview(stem.with_suffix(".png"), wave, result.sample_rate_hz, frames=strip)
            takes.append(Take(number, words, sound, film, stem.with_suffix(".png"), result.unread))
        if again is not None:
            again.unlink()
        with self._books:
            known.made += len(takes)
            known.takes += takes
            for old in known.takes[: -self.limits.takes]:
                for file in old.files():
                    file.unlink(missing_ok=True)
            del known.takes[: -self.limits.takes]
        return takes


def _within(name: str, value: float | None, least: float, most: float, *, whole: bool = False) -> None:
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and least <= value <= most
        and (not whole or value == int(value))
    )
    if not fits:
        kind = "a whole number" if whole else "a number"
        got = "empty" if value is None else f"{value}"
        raise ValueError(f"{name} is {got}: {kind} from {least:g} to {most:.10g} is needed.")


def _words(number: int, wish: Wish, version: int) -> str:
    """What a take is called in the visitor's list."""
    about = wish.prompt.strip() or (wish.clip.stem if wish.clip is not None else "")
    about = about if len(about) <= 60 else f"{about[:59].rstrip()}…"
    avoided = f", without {wish.negative_prompt.strip()[:40]}" if wish.negative_prompt.strip() else ""
    several = f", version {version + 1}" if wish.samples > 1 else ""
    return f"{number}. {about}{avoided}, seed {int(wish.seed)}{several}"


def _file_stem(words: str) -> str:
    """What a take's files are called, so that downloads are told apart: kfjax-1-a-bell-seed-0."""
    return f"kfjax-{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')}"
