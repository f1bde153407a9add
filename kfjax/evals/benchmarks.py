"""Benchmarks: clips with their true sound, and the matching of generated files to clips.

A benchmark is a public corpus on disk, a folder or table of clips, or rendered scenes, which need no download.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from scipy.signal import resample_poly

from kfjax import media
from kfjax.data import remote, sources
from kfjax.data.sources import SOUND_SUFFIXES, Row
from kfjax.media import FILM_SUFFIXES, VIDEO_SUFFIXES, FrameSpec, is_clip
from kfjax.scenes import Bucket, Scene, make_scene, render_corpus
from kfjax.scenes.corpus import SAMPLE_RATE_HZ
from kfjax.scenes.evaluation import CORPUS_SEED, SceneProtocol
from kfjax.scenes.scores import struck_times


@dataclass(frozen=True)
class Benchmark:
    """A protocol: which clips, and how much of each.

    Attributes:
      title: as reports have it.
      seconds: from the start of every clip; what is shorter is padded with silence where networks listen.
      corpus, split: of `kfjax.data.builders`; "" where there is none.
      clips: how many without --limit; None: all.
      says: the conditions of generation.
    """

    title: str
    seconds: float
    corpus: str = ""
    split: str = "test"
    clips: int | None = None
    says: str = "picture and caption"


BENCHMARKS = {
    "vggsound": Benchmark("VGGSound, test", 8.0, "vggsound", says="picture and label"),
    "audiocaps": Benchmark("AudioCaps, test", 10.0, "audiocaps", says="caption alone where there is no picture"),
    "kling-audio-eval": Benchmark("Kling-Audio-Eval", 10.0, "kling_audio_eval"),
    "scenes": Benchmark("Held-out scenes", 8.0, clips=SceneProtocol().scenes),
    "folder": Benchmark("Clips of one's own", 8.0, says="picture, and caption where the table has one"),
}


class BenchmarkExample(Protocol):
    """A clip of a benchmark.

    Attributes:
      times: of the impacts, seconds; None: unknown.
      positions: (seconds, x) of each impact; x from -1 (left) to 1.
    """

    @property
    def name(self) -> str: ...

    @property
    def caption(self) -> str: ...

    @property
    def seconds(self) -> float: ...

    @property
    def has_video(self) -> bool: ...

    @property
    def times(self) -> Sequence[float] | None: ...

    @property
    def positions(self) -> Sequence[Sequence[tuple[float, float]]]: ...

    def sound(self, sample_rate_hz: int) -> np.ndarray:
        """The true sound, f32 [t, 2], at most `seconds` long."""
        ...

    def frames(self, specs: Sequence[FrameSpec]) -> list[np.ndarray]:
        """For each spec u8 [int(rate · seconds), size, size, 3], as `media.read_frames` has them; the last is held."""
        ...


@dataclass(frozen=True)
class FileExample:
    """A clip in files, [start, start + seconds) of them."""

    name: str
    row: Row
    seconds: float
    times: None = None
    positions: tuple[()] = ()

    @property
    def caption(self) -> str:
        return self.row.caption

    @property
    def has_video(self) -> bool:
        return self.row.video is not None

    def sound(self, sample_rate_hz: int) -> np.ndarray:
        seconds = min(self.seconds, self.row.seconds)
        with remote.fetched(self.row) as row:
            return media.read_audio(row.sound, sample_rate_hz, 2, seconds, row.start_seconds)

    def frames(self, specs: Sequence[FrameSpec]) -> list[np.ndarray]:
        counts = [max(1, int(spec.rate_hz * self.seconds + 1e-6)) for spec in specs]
        with remote.fetched(self.row) as row:
            assert row.video is not None  # nobody asks for the frames of a clip without video
            return media.read_frames(row.video, specs, start_seconds=row.start_seconds, duration_seconds=self.seconds,
                                     counts=counts)[0]  # fmt: skip


@dataclass(frozen=True)
class SceneExample:
    """A rendered scene, `index` of its bucket."""

    name: str
    bucket: Bucket
    index: int
    has_video: bool = True

    @cached_property
    def scene(self) -> Scene:
        return self.bucket.scene(self.index)

    @property
    def caption(self) -> str:
        return self.scene.caption

    @property
    def seconds(self) -> float:
        return self.bucket.seconds

    @property
    def times(self) -> list[float]:
        return struck_times(self.scene)

    @property
    def positions(self) -> list[list[tuple[float, float]]]:
        return [[(event.time_seconds, event.x)] for event in self.scene.events if event.struck]

    def sound(self, sample_rate_hz: int) -> np.ndarray:
        wave = self.bucket.waveform(self.index)
        if sample_rate_hz == SAMPLE_RATE_HZ:
            return wave
        shared = gcd(sample_rate_hz, SAMPLE_RATE_HZ)
        return resample_poly(wave, sample_rate_hz // shared, SAMPLE_RATE_HZ // shared).astype(np.float32)

    def frames(self, specs: Sequence[FrameSpec]) -> list[np.ndarray]:
        return [self._frames(spec) for spec in specs]

    def _frames(self, spec: FrameSpec) -> np.ndarray:
        scene, size = self.scene, spec.size
        shorter = min(scene.size)
        width, height = scene.size
        drawn = (size, size) if spec.resize == "stretch" else (size * width // shorter, size * height // shorter)
        frames = scene.frames(drawn)
        times = np.arange(max(1, int(spec.rate_hz * self.seconds + 1e-6))) / spec.rate_hz
        shown = np.minimum(np.ceil(times * scene.fps - 1e-6).astype(int), len(frames) - 1)
        squares = []
        for part in (0.0, 0.5, 1.0) if spec.resize == "crops" else (0.5,):
            top, left = (round((side - size) * part) for side in frames.shape[1:3])
            squares.append(frames[shown, top : top + size, left : left + size])
        return np.concatenate(squares, axis=2)


class Matching(NamedTuple):
    """Generated files matched to clips, and what has no counterpart.

    Attributes:
      pairs: in the benchmark's order.
      missing: clips without a generated file.
      extra: generated files without a clip, or beside another for the same one.
    """

    pairs: list[tuple[BenchmarkExample, Path]]
    missing: list[str]
    extra: list[str]


def file_examples(rows: Sequence[Row], seconds: float) -> list[FileExample]:
    """A clip for each row that can be read, in order.

    Raises:
      ValueError: two rows of one name.
    """
    examples = [FileExample(name_of(row.id), row, seconds) for row in rows if not row.problem]
    if twice := [name for name, count in Counter(example.name for example in examples).items() if count > 1]:
        raise ValueError(f"references: got {twice[0]} twice; give every clip a name of its own")
    return examples


def references(source: Path) -> list[Row]:
    """The clips of a folder or a table; of a video and a sound of one name in a folder, the sound is the video's."""
    rows = sources.read_rows(source)
    if isinstance(source, remote.Address) or not source.is_dir():
        return rows
    joined: dict[str, Row] = {}
    for row in rows:
        name = name_of(row.id)
        other = joined.setdefault(name, row)
        if other is not row and (other.video is None) != (row.video is None):
            joined[name] = other._replace(video=other.video or row.video, audio=other.audio or row.audio)
    return list(joined.values())


def scene_examples(folder: Path, count: int, seconds: float, size: int) -> list[SceneExample]:
    """Held-out scenes, rendered into the folder unless they are there: the first `count` of those of experiment 0003.

    Args:
      size: edge of the frames that are kept, which the evaluated system's encoders read.
    """
    corpus = render_corpus(folder, count, seed=CORPUS_SEED, split="heldout", durations={seconds: 1}, size=size,
                           make=_make_scene)  # fmt: skip
    bucket = corpus.buckets[seconds]
    return [SceneExample(f"scene-{index:04d}", bucket, index) for index in range(count)]


def _make_scene(seed: int, **settings) -> Scene:
    """The scenes of other lengths come first in the experiment's corpus."""
    plan = SceneProtocol()
    return make_scene(seed + plan.other_scenes * len(plan.other_lengths), **settings)


def match(examples: Sequence[BenchmarkExample], folder: Path, *, beyond: Sequence[BenchmarkExample] = ()) -> Matching:
    """The generated file of each clip: of its name, in the folder or below it, a sound before a video.

    Folders belong to the name (a/b.wav is for a/b.mp4), but need not be there (b.wav is too, if that is the only b).

    Args:
      beyond: clips of the benchmark that are left out by a limit; their files are not extra.

    Raises:
      ValueError: no file belongs to any clip.
    """
    found, extra = _files(folder)
    short = Counter(_last(example.name, example) for example in (*examples, *beyond))
    pairs, missing, used = [], [], set()
    for example in examples:
        names = (example.name, *([own] if short[own := _last(example.name, example)] == 1 else ()))
        name = next((name for name in names if name in found), None)
        if name is None:
            missing.append(example.name)
        else:
            pairs.append((example, found[name]))
            used.add(name)
    known = {name for example in beyond for name in (example.name, _last(example.name, example))}
    extra += [path.relative_to(folder).as_posix() for name, path in found.items() if name not in used | known]
    if not pairs:
        wanted = ", ".join(example.name for example in examples[:3])
        got = ", ".join(list(found)[:3]) or "no video or sound"
        raise ValueError(f"{folder}: got {got}, expected files named like the benchmark's clips ({wanted}, …)")
    return Matching(pairs, missing, sorted(extra))


def name_of(id: str) -> str:
    """A clip's name as a file name: without the ending of a media file; folders and blanks become underscores."""
    path = Path(id)
    stem = id[: -len(path.suffix)] if path.suffix.lower() in SOUND_SUFFIXES + VIDEO_SUFFIXES else id
    return re.sub(r"[^\w+.-]+", "_", stem).lstrip(".") or "clip"


def _last(name: str, example: BenchmarkExample) -> str:
    """A clip's name without the folders that its files are in."""
    row = getattr(example, "row", None)
    return name if row is None else name_of(Path(row.id).name)


def _files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Name -> file, and the files that came second to one of the same name."""
    kinds = SOUND_SUFFIXES + FILM_SUFFIXES
    paths = [path for path in folder.rglob("*") if is_clip(path, kinds)]
    found, second = {}, []
    for path in sorted(paths, key=lambda path: (kinds.index(path.suffix.lower()), path.as_posix())):
        inside = path.relative_to(folder).as_posix()
        if found.setdefault(name_of(inside), path) is not path:
            second.append(inside)
    return dict(sorted(found.items())), second
