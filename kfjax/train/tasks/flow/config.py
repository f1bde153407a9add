"""The config of a run of the generator, or of Mono2Stereo alone: every section a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from kfjax import config
from kfjax.system import CONFIG, SystemConfig, load_config
from kfjax.train.engine.loop import LoopConfig
from kfjax.train.engine.optim import OptimConfig
from kfjax.train.tasks.flow.step import FlowStepConfig
from kfjax.train.tasks.weights import is_folder


@dataclass(frozen=True)
class FlowData:
    """What a run reads. An empty path is none.

    Attributes:
      folder, heldout: rendered corpora of scenes, to train on and for panel and validation.
      start: model directory, or weights file, that the run starts from.
      tokenizer: of the captions of `folder`; trained on them and written there where it does not exist.
      encoders: weights file or model directory of encoders that are frozen; `start` where it is empty.
      vae, vocoder: weights files or model directories of the codec; `start` where they are empty.
      corpora: (folder of `kfjax extract`, weight) of each; examples are drawn in proportion to the weights.
      synthetic: train on random features, for speed alone.
      fingerprint: of the encoders that `corpora` must come from; "" = those of `start`, else of the first corpus.
      joined: share of the examples that are shorter excerpts joined: two to four of `corpora`, two of `folder`.
      validation: held-out features, as `corpora`.
      validation_batches: batches of a validation.
      batch_seconds: sound in a batch.
      batch_multiple: batches are multiples of so many examples; 0 = of the number of devices.
      duration_jitter: largest relative error of the total duration that the generator is conditioned on.
      emphasis: (recipe, how many times its scenes come in one pass over `folder`); 1 where it is not named.
      buckets: (seconds, weight) of each duration; steps draw one in proportion to the weights.
    """

    folder: str = ""
    heldout: str = ""
    start: str = ""
    tokenizer: str = ""
    encoders: str = ""
    vae: str = ""
    vocoder: str = ""
    corpora: tuple[tuple[str, float], ...] = ()
    synthetic: bool = False
    fingerprint: str = ""
    joined: float = 0.0
    validation: tuple[tuple[str, float], ...] = ()
    validation_batches: int = 8
    batch_seconds: float = 32.0
    batch_multiple: int = 0
    duration_jitter: float = 0.0
    emphasis: tuple[tuple[str, int], ...] = ()
    buckets: tuple[tuple[float, float], ...] = ((4.0, 1.0),)

    @property
    def extracted(self) -> bool:
        """Whether features take the place of scenes."""
        return self.synthetic or bool(self.corpora)


@dataclass(frozen=True)
class PanelConfig:
    """Size of the panel on held-out scenes, see `kfjax.scenes.panel`.

    Attributes:
      scenes: how many.
      seconds: their duration, one of the corpus's buckets.
      steps, guidance: of the sampler.
      sounds: how many of them are written as sound and picture.
    """

    scenes: int = 24
    seconds: float = 4.0
    steps: int = 20
    guidance: float = 3.0
    sounds: int = 2


@dataclass(frozen=True)
class FlowRun:
    """The config of a run: "flow" trains the generator, "stereo" Mono2Stereo alone, without `step` and `panel`.

    Raises:
      ValueError: training with known latents of a system that takes them otherwise.
    """

    task: Literal["flow", "stereo"]
    system: SystemConfig
    loop: LoopConfig = field(default_factory=LoopConfig)
    step: FlowStepConfig = field(default_factory=FlowStepConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: FlowData = field(default_factory=FlowData)
    panel: PanelConfig = field(default_factory=PanelConfig)

    def __post_init__(self):
        if self.step.known and self.system.known_as != "clean":
            raise ValueError(
                f"config.step.known: got {self.step.known} with system.known_as {self.system.known_as!r}, expected "
                "'clean'; set system.known_as=clean, or start from a model directory that has it in its config.json"
            )


def read(values: Mapping[str, Any]) -> FlowRun:
    """The config as dataclasses. Settings of `system` override those of the model directory `data.start`.

    Raises:
      ValueError: nothing at `data.start`; an unknown or missing key; a bad value.
    """
    data = config.from_dict(FlowData, values.get("data", {}), where="config.data")
    if data.start and not Path(data.start).exists():
        raise ValueError(f"config.data.start: nothing at {data.start}; expected a model directory or a weights file")
    if is_folder(data.start):
        path = Path(data.start, CONFIG)
        if not path.is_file():
            raise ValueError(f"config.data.start: no {CONFIG} in {data.start}; expected a model directory")
        system = ConfigDict(config.to_dict(load_config(path)), type_safe=False)
        system.update(values.get("system", {}))
        values = {**values, "system": system.to_dict()}
    return config.from_dict(FlowRun, values, where="config")
