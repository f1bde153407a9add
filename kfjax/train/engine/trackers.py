"""Places besides metrics.jsonl that show a run's figures, pictures and sounds: TensorBoard and Weights & Biases."""

from __future__ import annotations

import secrets
import struct
import wave
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from kfjax.command import install


def _package(name: str, asked_by: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"{asked_by} needs {name} ({error}): {install('log')}, or unset it") from None


class TensorBoard:
    """Event files in a folder. Events of earlier files beyond step `first` are hidden: they are written again.

    Args:
      folder: of the event files; made if need be.
      first: the step that the run goes on from, 0 for a new one.

    Raises:
      ValueError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, first: int):
        self._proto = _package("tensorboardX", "log.tensorboard").proto.summary_pb2
        self._writer = import_module("tensorboardX").SummaryWriter(str(folder), purge_step=first + 1, flush_secs=10)

    def write(self, step: int, figures: Mapping[str, float], files: Sequence[Path] = ()) -> None:
        """Write figures, pictures (PNG) and sounds (WAV) of a step; files of other kinds are left out."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        for file in files:
            if (value := self._shown(file)) is not None:
                # add_image and add_audio would decode and encode again, with packages of their own.
                self._writer.file_writer.add_summary(self._proto.Summary(value=[value]), step)

    def _shown(self, file: Path):
        """A file's contents as TensorBoard stores them; None of a kind that it does not show."""
        summary, tag = self._proto.Summary, _tag(file)
        if file.suffix == ".png":
            data = file.read_bytes()
            width, height = struct.unpack(">II", data[16:24])  # of the header chunk, the first of every PNG
            image = summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
            return summary.Value(tag=tag, image=image)
        if file.suffix == ".wav":
            with wave.open(str(file)) as sound:
                rate, channels, frames = sound.getframerate(), sound.getnchannels(), sound.getnframes()
            audio = summary.Audio(sample_rate=rate, num_channels=channels, length_frames=frames,
                                  encoded_audio_string=file.read_bytes(), content_type="audio/wav")  # fmt: skip
            return summary.Value(tag=tag, audio=audio)
        return None

    def close(self) -> None:
        """Write what is buffered, and end."""
        self._writer.close()


class Wandb:
    """A run of a Weights & Biases project, kept in WORKDIR/wandb; a resumed training goes on in the same run.

    Steps that a resumed training repeats are there twice: wandb can't delete them.

    Args:
      workdir: the training's folder; WORKDIR/wandb/run_id has the run's name.
      project: of Weights & Biases.

    Raises:
      ValueError: wandb is not installed, or refuses to begin.
    """

    def __init__(self, workdir: Path, project: str):
        self._wandb = _package("wandb", "log.wandb")
        name = workdir / "wandb" / "run_id"
        name.parent.mkdir(parents=True, exist_ok=True)
        if not name.exists():
            name.write_text(secrets.token_hex(4))
        try:
            self._run = self._wandb.init(project=project, id=name.read_text().strip(), resume="allow", dir=str(workdir))
        except self._wandb.errors.Error as error:
            said = str(error).rstrip(".")
            raise ValueError(f"log.wandb: {said}; log in, set WANDB_MODE=offline, or unset it") from None
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, figures: Mapping[str, float], files: Sequence[Path] = ()) -> None:
        """Write figures, pictures (PNG) and sounds (WAV) of a step; files of other kinds are left out."""
        kinds = {".png": self._wandb.Image, ".wav": self._wandb.Audio}
        shown = {_tag(file): kinds[file.suffix](str(file)) for file in files if file.suffix in kinds}
        self._run.log({"step": step, **figures, **shown})

    def close(self) -> None:
        """Send what is buffered, and end the run."""
        self._run.finish()


def _tag(file: Path) -> str:
    """A panel's files are named STEP-REST: one tag for all steps."""
    step, _, rest = file.name.partition("-")
    return f"{file.parent.name}/{rest if step.isdigit() and rest else file.name}"
