"""A model that makes silence at once, a studio that has it, and wishes for the demo's tests."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from kfjax import media, plot
from kfjax.demo.studio import Studio
from kfjax.demo.wish import Limits, Wish
from kfjax.making.sound import Sound
from kfjax.rates import Rates
from tests.tiny import media_files as files

RATE_HZ = 44100
LIMITS = Limits(seconds=2.0, megabytes=0.1, megapixels=0.01, samples=3, steps=50, takes=4, clips=2)


class Silence:
    """Takes the place of a model: makes silence at once, and remembers how many asked for it at the same time."""

    cfg = SimpleNamespace(defaults=SimpleNamespace(steps=2, guidance=3.0, negative=2.0), rates=Rates())

    def __init__(self):
        self.asked, self.at_work, self.most_at_work = [], 0, 0

    def generate(self, video, prompt, *, duration, samples, progress, **named):
        self.asked.append(SimpleNamespace(video=video, prompt=prompt, duration=duration, samples=samples, **named))
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            progress("sampling", 0.2)
            progress("decoding", 0.8)
        finally:
            self.at_work -= 1
        seconds = duration or media.probe(video).seconds
        silence = np.zeros((samples, round(seconds * RATE_HZ), 2), np.float32)
        stems = {"effects": silence, "music": silence} if named["music_prompt"] else {}
        return Sound(silence, RATE_HZ, seconds, video, self.unread(prompt), stems=stems)

    def unread(self, prompt, name="prompt"):
        return f"{name}, not read: {prompt}" if "tiger" in prompt else ""


def silent_studio(folder: Path, patch) -> Studio:
    """A studio whose model is silent; while the patch lasts, takes get a picture at once too."""
    patch.setattr(plot, "overview", lambda path, *_, **__: Path(path).write_bytes(b"picture"))
    return Studio(Silence(), folder, LIMITS)


def wish(clip: Path | None = None, **changes) -> Wish:
    plain = Wish(clip, "a bell", "", 3.0, 3.0, 2.0, steps=2, seed=0, samples=1, seconds=None)
    return replace(plain, **changes)


def quiet(what: str, share: float) -> None:
    del what, share


def uploaded(studio: Studio, make=None, name: str = "clip.mp4") -> Path:
    """A file where the server puts uploads; by default a good clip of 0.8 s."""
    folder = studio.folder / "0123abcd"
    folder.mkdir(exist_ok=True)
    return (make or good)(folder / name)


def good(path: Path) -> Path:
    return files.write_numbered(path, files.steady(20, 25))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def text(path: Path) -> Path:
    path.write_text("words, not pictures\n" * 100)
    return path
