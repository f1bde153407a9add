"""The demo without its page: one model, its visitors, their limits, their results, and when these are deleted.

A *visitor* is one open page, a *wish* what it asks for, a *take* one sound that was made. Everything lies in one
temporary folder: uploads where the server put them, takes in a folder of the visitor's own with a name that can't be
guessed. When a page is closed its files are deleted, when the server ends all of them.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from kfjax import media, plot
from kfjax.command import reason
from kfjax.demo.take import Take, outline
from kfjax.demo.wish import LEAST_SECONDS, MEGABYTE, MEGAPIXEL, Limits, Wish, file_stem, name_of, within
from kfjax.making.recording import BORDER_LATENTS, read_reference
from kfjax.making.sound import Sound
from kfjax.media.playable import is_playable, write_playable
from kfjax.pipeline import TEXT_ONLY_SECONDS, Model

#: How visitors' own folders begin; the rest of the name can't be guessed.
_OWN = "visitor-"
CLOSED = "The page was closed, and its files are deleted: reload it."
#: A rest so short is made anew with the marked seconds: sliders do not reach every end.
REST_SECONDS = 0.1


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
            raise ValueError(CLOSED)
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
        self._closed: dict[str, float] = {}  # pages, and when; a request that came before may be handled after
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

    def admit(self, visitor: str, clip: Path, *, reference: bool = False) -> None:
        """Keeps an uploaded clip, or reference, for a visitor; one that can't be used is refused and deleted."""
        clip, dropped = self._uploaded(clip), []
        try:
            with self._books:
                known = self._known(visitor)
                if clip not in known.clips:
                    known.clips.append(clip)
                dropped = [known.clips.pop(0) for _ in range(len(known.clips) - self.limits.clips)]
            (self._check_reference if reference else self._check_clip)(clip)
        except ValueError:
            with self._books:
                if known := self._visitors.get(visitor):
                    known.clips = [other for other in known.clips if other != clip]
            dropped.append(clip)
            raise
        finally:
            self._delete_unused(dropped)

    def check(self, visitor: str, wish: Wish) -> None:
        """Checks a request, and the visitor's number of requests, before anything is computed."""
        with self._books:
            self._check_room(self._known(visitor))
        self._check_wish(visitor, wish)

    def unread(self, prompt: str, negative_prompt: str, music_prompt: str = "") -> str:
        """`Model.unread` of all prompts in one line; empty if the model reads all of them."""
        texts = {"prompt": prompt, "negative prompt": negative_prompt, "music prompt": music_prompt}
        return "; ".join(filter(None, (self.model.unread(text, name=name) for name, text in texts.items())))

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
            self._check_wish(visitor, wish)
            try:
                result = self._generated(visitor, wish, say)
                say("drawing", 0.9)
                return self._kept(request.visitor, wish, result)
            except ValueError as error:
                raise ValueError(self._line(error)) from None

    def changed(
        self,
        visitor: str,
        number: int | None,
        *,
        prompt: str,
        seed: int,
        redo: tuple[float, float] | None = None,
        strength: float | None = None,
    ) -> Wish:
        """The wish for a change of a take: what the take was made for, but for what is given.

        The music keeps its seed, so that it goes on where the take is redone. The take is in the loudness, and varied
        also in the music, that were asked for.

        Args:
          prompt: empty: the take's own.
          redo, strength: one of them, as in `Wish`.
        """
        take = self.take(visitor, number)
        own, seconds = take.wish, take.seconds
        if redo is not None:
            start, end = redo
            within("The first marked second", start, 0, seconds)
            within("The last marked second", end, 0, seconds)
            redo = 0.0 if start < REST_SECONDS else start, seconds if 0 < seconds - end < REST_SECONDS else end
        return replace(
            own, prompt=prompt.strip() or own.prompt, seed=seed, samples=1, loudness=None, take=take.number,
            music_prompt=own.music_prompt if strength is None else "",
            music_seed=own.seed if own.music_seed is None else own.music_seed, redo=redo, strength=strength,
            seconds=seconds if own.clip is None else own.seconds,
        )  # fmt: skip

    def record(self, visitor: str, wish: Wish, file: Path) -> Take:
        """An uploaded recording as a take, which can be changed as if it had been made for the wish.

        With a clip it is cut to the clip's length. The upload is deleted.
        """
        upload = self._uploaded(file)
        rate = self.model.cfg.rates.sample_rate_hz
        try:
            self._check_sound(upload)
            longest = self.limits.seconds if wish.clip is None else self._check_clip(self._uploaded(wish.clip))
            wave = media.read_audio(upload, rate, duration_seconds=longest)
            seconds = len(wave) / rate
            if wish.clip is not None and longest - seconds < REST_SECONDS:
                seconds = longest
            if seconds < min(LEAST_SECONDS, longest):
                raise ValueError(f"{upload.name} is too short: at least {LEAST_SECONDS:g} s of sound are needed.")
            own = replace(wish, seconds=seconds, samples=1, loudness=None)
            with self._writing(visitor) as known:
                [take] = self._kept(known, own, Sound(wave[None], rate, seconds, wish.clip), upload.stem[:60])
            return take
        except media.MediaError as error:
            raise ValueError(self._line(error)) from None
        finally:
            self._delete_unused([upload])

    def undo(self, visitor: str) -> list[Take]:
        """Deletes the visitor's newest take, and returns the others; the only one stays."""
        with self._books:
            known = self._known(visitor)
            newest = known.takes[1:][-1:]
            known.takes = known.takes[:1] + known.takes[1:-1]
        for file in (file for take in newest for file in take.files()):
            file.unlink(missing_ok=True)
        return self.takes(visitor)

    def take(self, visitor: str, number: int | None) -> Take:
        """The visitor's take of that number."""
        for take in self.takes(visitor):
            if take.number == number:
                return take
        raise ValueError("This take is no longer here: make it again.")

    def takes(self, visitor: str) -> list[Take]:
        """What was made for a visitor and is still there, the oldest first."""
        with self._books:
            return list(self._visitors[visitor].takes) if visitor in self._visitors else []

    def leave(self, visitor: str) -> None:
        """The page was closed: delete its files, cancel its requests, and refuse those that are handled only now."""
        with self._books:
            self._closed[visitor] = time.monotonic()
            self._remove(visitor)

    def sweep(self) -> None:
        """Deletes what idle visitors have, and uploads that no page has asked about: closed at once, or broken off."""
        with self._books:
            over = time.monotonic() - self.limits.idle_seconds
            idle = [v for v, known in self._visitors.items() if known.used < over and not self._asked_by(known)]
            for visitor in idle:
                self._remove(visitor)
            self._closed = {page: when for page, when in self._closed.items() if when > over}
        past = time.time() - self.limits.unnamed_seconds
        with suppress(FileNotFoundError):  # deleted meanwhile; the next time sees the rest
            for path in (*self.folder.glob("*"), *self.folder.glob("*/*")):
                if path.is_file() and not path.parent.name.startswith(_OWN) and path.stat().st_mtime < past:
                    self._delete_unused([path])

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
        with self._writing(visitor) as known:
            with self._books:
                self._check_room(known)
                request = _Request(known)
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

    @contextmanager
    def _writing(self, visitor: str) -> Iterator[_Visitor]:
        """The visitor's entry; what is written for it goes if the page is closed meanwhile."""
        known = self._known(visitor)
        try:
            yield known
        finally:
            if known.gone:
                shutil.rmtree(known.folder, ignore_errors=True)

    def _asked_by(self, known: _Visitor | None) -> int:
        return sum(request.visitor is known for request in self._queue)

    def _check_room(self, known: _Visitor) -> None:
        """Refuses a request beyond the limit per visitor or that of the queue."""
        limits = self.limits
        if (own := self._asked_by(known)) >= limits.requests:
            raise ValueError(f"You have {own} under way already, the most is {limits.requests}: wait or cancel.")
        if len(self._queue) > limits.waiting:
            raise ValueError(f"{limits.waiting} others are waiting for their sounds already: try again later.")

    def _check_wish(self, visitor: str, wish: Wish) -> None:
        wish.check(self.limits)
        longest = self.limits.seconds if wish.clip is None else self._check_clip(self._uploaded(wish.clip))
        if wish.seconds is not None:
            within("The length", wish.seconds, min(LEAST_SECONDS, longest), longest)
        if wish.reference is not None:
            self._check_reference(self._uploaded(wish.reference))
        if wish.take is not None:
            self._check_span(wish.redo, self.take(visitor, wish.take).seconds)

    def _check_span(self, span: tuple[float, float] | None, seconds: float) -> None:
        """What stands at either end must be long enough for the model to go on from."""
        if span is None:
            return
        within("The first marked second", span[0], 0, seconds)
        within("The last marked second", span[1], 0, seconds)
        if span[1] - span[0] < REST_SECONDS:
            raise ValueError(f"Marked are {span[0]:.4g} to {span[1]:.4g} s: the end has to be after the beginning.")
        least = (BORDER_LATENTS + 2) / self.model.cfg.rates.latent_hz
        for rest, where in ((span[0], "before"), (seconds - span[1], "after")):
            if 0 < rest < least:
                raise ValueError(f"{rest:.2f} s {where} the marked seconds are too few to keep: mark them as well.")

    def _known(self, visitor: str) -> _Visitor:
        """The visitor's entry, made at the first visit."""
        with self._books:
            if visitor in self._closed:
                raise ValueError(CLOSED)
            if visitor not in self._visitors:
                folder = self.folder / f"{_OWN}{secrets.token_hex(16)}"
                folder.mkdir()
                self._visitors[visitor] = _Visitor(folder)
            known = self._visitors[visitor]
            known.used = time.monotonic()
            return known

    def _remove(self, visitor: str) -> None:
        """Deletes what a visitor has; unknown ones have nothing."""
        with self._books:
            known = self._visitors.pop(visitor, None)
            if known is None:
                return
            known.gone = True
            self._queue_moved.notify_all()
            shutil.rmtree(known.folder, ignore_errors=True)
            self._delete_unused(known.clips)

    def _uploaded(self, clip: Path) -> Path:
        clip = Path(clip).resolve()
        if not clip.is_relative_to(self.folder):
            raise ValueError("The file is not an upload: choose a file or record one.")
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

    def _line(self, error: ValueError) -> str:
        """The error's line with file names in place of paths, so that the server's folders stay private.

        A library's own error is a defect, and raised again.
        """
        line = str(error) if isinstance(error, media.MediaError) else reason(error)
        return re.sub(re.escape(str(self.folder)) + r"/(?:[\w-]+/)*", "", line)

    def _check_file(self, file: Path) -> media.MediaInfo:
        """What an upload holds; one that is not too large, nor too long, can be read."""
        limits = self.limits
        if not file.is_file():
            raise ValueError(f"The file {file.name} is no longer here: upload it again.")
        size = file.stat().st_size / MEGABYTE
        if size > limits.megabytes:
            raise ValueError(f"{file.name} has {size:.3g} MB, at most {limits.megabytes:g} MB are taken: shrink it.")
        try:
            info = media.probe(file)
        except media.MediaError as error:
            raise ValueError(self._line(error)) from None
        if info.seconds > limits.seconds + 0.05:
            raise ValueError(f"{file.name} lasts {info.seconds:.1f} s, at most {limits.seconds:g} s are taken: cut it.")
        if info.width * info.height > limits.megapixels * MEGAPIXEL or info.fps > limits.fps:
            got = f"{info.width} x {info.height} at {info.fps:.0f} pictures a second"
            most = f"{limits.megapixels:g} megapixels and {limits.fps:g} pictures a second"
            raise ValueError(f"{file.name} is {got}, at most {most} are taken: shrink it.")
        return info

    def _check_clip(self, clip: Path) -> float:
        """Seconds of a clip that can be used."""
        info = self._check_file(clip)
        if not info.has_video:
            raise ValueError(f"{clip.name} has sound but no picture: choose a video, or use a prompt alone.")
        if (info.frame_count or 0) < 2 or info.seconds < media.MIN_SECONDS:
            raise ValueError(f"{clip.name} is too short: at least {media.MIN_SECONDS:g} s and two pictures are needed.")
        return info.seconds

    def _check_sound(self, file: Path) -> float:
        """Seconds of an upload with sound."""
        info = self._check_file(file)
        if not info.has_audio:
            raise ValueError(f"{file.name} has no sound: choose another file.")
        return info.seconds

    def _check_reference(self, file: Path) -> None:
        """A reference that is long and loud enough."""
        self._check_sound(file)
        try:
            read_reference(file, self.model.cfg.rates)
        except ValueError as error:
            raise ValueError(self._line(error)) from None

    def _generated(self, visitor: str, wish: Wish, say: Callable[[str, float], None]) -> Sound:
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
            audio=None if wish.take is None else self.take(visitor, wish.take).samples(),
            redo=() if wish.redo is None else (wish.redo,),
            strength=wish.strength,
            reference=wish.reference,
            music_prompt=wish.music_prompt.strip(),
            music_gain=wish.music_gain,
            music_seed=wish.music_seed,
            loudness=wish.loudness,
            progress=lambda what, share: say(what, 0.9 * share),
        )

    def _kept(self, known: _Visitor, wish: Wish, result: Sound, name: str = "") -> list[Take]:
        """Writes the takes of a result; the visitor's oldest make room. `name`: of what was not made."""
        first, strip, again = known.made + 1, None, None
        if wish.clip is not None:
            strip = plot.read_strip(wish.clip, result.seconds)
            if not is_playable(wish.clip):
                again = known.folder / "picture.mp4"
                write_playable(wish.clip, again)
                result = replace(result, video=again)
        takes = []
        for k, wave in enumerate(result.waveforms):
            words = f"{first + k}. {name}, uploaded" if name else name_of(first + k, wish, k)
            # A recording stands in the sound; apart from the music it can't be had.
            stems = {} if wish.take is not None else {stem: waves[[k]] for stem, waves in result.stems.items()}
            one, path = replace(result, waveforms=wave[None], stems=stems), known.folder / file_stem(words)
            sound, *parts = one.save(path.with_suffix(".wav"), stems=True)
            [film] = [None] if result.video is None else one.save(path.with_suffix(".mp4"))
            picture = path.with_suffix(".png")
            plot.overview(picture, wave, result.sample_rate_hz, frames=strip)
            takes.append(Take(first + k, words, wish, result.seconds, sound, film, picture, tuple(parts),
                              outline(wave), result.unread))  # fmt: skip
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
