"""Generation for a benchmark: one .wav for each clip, named after it, in one folder.

A clip's noise depends on the seed and the clip alone: its sound is the same in whatever batch. An interrupted run
resumes with the clips that have no sound yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kfjax import features, media, pipeline
from kfjax.command import say
from kfjax.data.shards import records
from kfjax.evals.benchmarks import BenchmarkExample, SceneExample
from kfjax.scenes.sounds import SceneSounds
from kfjax.storage import cache
from kfjax.structs import Video
from kfjax.system import System, SystemConfig

NOTE = "generation.json"
_KEPT = 64  # sounds, until what was made is kept elsewhere


@dataclass(frozen=True)
class Settings:
    """Settings of generation. None: the model's own.

    Attributes:
      model: "built-in", a model directory or the name of a published model.
    """

    model: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None


def generate(
    settings: Settings, examples: Sequence[BenchmarkExample], folder: Path, kept: Callable[[], None] = lambda: None
) -> tuple[SystemConfig, list[str]]:
    """Sounds for the clips that have none in the folder.

    Args:
      kept: called after every 64th sound, and after the last.

    Returns:
      The model's configuration, and the clips that failed, with the reason.

    Raises:
      ValueError: no such model, or a folder with sounds of other settings.
    """
    _agree(folder, settings)
    todo = [example for example in examples if not _file(folder, example).exists()]
    if len(todo) < len(examples):
        say(f"{len(examples) - len(todo)} of {len(examples)} sounds are there already")
    if all(isinstance(example, SceneExample) for example in examples):
        loaded = pipeline.load_system(settings.model)
        tokenizer = loaded.tokenizer
        scenes = [example for example in todo if isinstance(example, SceneExample)]
        made, cfg = _scene_sounds(loaded, settings, scenes), loaded.cfg
    else:
        model = pipeline.load(settings.model)
        tokenizer = model.tokenizer
        made, cfg = _clip_sounds(model, settings, todo), model.cfg
    if unread := tokenizer.unread_captions(example.caption for example in todo):
        say(unread)
    failed = []
    progress = tqdm(made, "generated", len(todo), unit="clip", mininterval=5.0, leave=False, disable=None)
    for done, (example, wave, rate) in enumerate(progress, 1):
        if isinstance(wave, str):
            failed.append(f"{example.name}: {wave}")
        else:
            media.write_wav(_file(folder, example), wave, rate)
        if not done % _KEPT:
            kept()
    kept()
    return cfg, failed


def model_fingerprint(model: str) -> str:
    """Short hash of a model directory's files: it tells models of one name apart."""
    folder = cache.local(pipeline.folder_of(model))
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def clip_seed(seed: int, name: str) -> int:
    """The seed of one clip, 0 to 2³²-1, from the run's seed and the clip's name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4])


def _scene_sounds(
    loaded: System, settings: Settings, examples: Sequence[SceneExample]
) -> Iterator[tuple[BenchmarkExample, np.ndarray, int]]:
    """In batches; a scene's noise comes from the seed and its number."""
    sounds = SceneSounds(loaded, steps=settings.steps, guidance=settings.guidance, seed=settings.seed)
    if examples:
        rows = [example.index for example in examples]
        waves = sounds.generate([e.caption for e in examples], examples[0].seconds, films=(examples[0].bucket, rows))
        yield from ((example, wave, sounds.cfg.rates.sample_rate_hz)
                    for example, wave in zip(examples, waves, strict=True))  # fmt: skip


def _clip_sounds(
    model: pipeline.Model, settings: Settings, examples: Sequence[BenchmarkExample]
) -> Iterator[tuple[BenchmarkExample, np.ndarray | str, int]]:
    """One by one, as `kfjax generate`; returns the reasons of those that failed."""
    for example in examples:
        try:
            video = None
            if example.has_video:
                clip, sync = example.frames(features.frame_specs(model.cfg))
                video = Video(clip, sync, example.seconds)
            elif not example.caption.strip():
                raise media.MediaError("has neither a picture nor a caption; nothing says what to generate")
            made = model.generate(
                video, example.caption, duration=example.seconds, steps=settings.steps, guidance=settings.guidance,
                seed=clip_seed(settings.seed, example.name),
            )  # fmt: skip
        except media.MediaError as error:
            yield example, str(error), 0
        else:
            yield example, made.waveform, made.sample_rate_hz


def _file(folder: Path, example: BenchmarkExample) -> Path:
    return folder / f"{example.name}.wav"


def _agree(folder: Path, settings: Settings) -> None:
    """Note the settings of the folder's sounds. Raises ValueError if they were generated with other settings."""
    path = folder / NOTE
    wanted = {"fingerprint": model_fingerprint(settings.model)} | asdict(settings)
    if not path.exists():
        # The note of another process may be on its way, under a temporary name.
        if folder.is_dir() and not all(file.name.startswith(NOTE) for file in folder.iterdir()):
            raise ValueError(f"{folder}: holds files of another origin; give another --output, or evaluate the folder")
        records.write_json(path, wanted)
    before = records.read_json(path)
    if differing := [f"{key} was {before.get(key)}, is {value}" for key, value in wanted.items()
                     if before.get(key, ...) != value]:  # fmt: skip
        raise ValueError(f"{folder}: holds sounds of other settings: {'; '.join(differing)}; give another --output")
