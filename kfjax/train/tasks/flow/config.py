"""The config of a run of the generator, or of Mono2Stereo alone: every section a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kfjax import config, pipeline
from kfjax.system import SystemConfig, with_codec
from kfjax.train.engine.loop import LoopConfig
from kfjax.train.engine.optim import OptimConfig
from kfjax.train.tasks.flow.step import FlowStepConfig
from kfjax.train.tasks.weights import is_folder


@dataclass(frozen=True)
class FlowData:
    """What a run reads. An empty path is none.

    Attributes:
      system: name or model directory of the system whose encoders and codec the features are of. All of `system` but
        the network (`mmdit`) is its, and the network's inputs are as wide as what these parts give.
      codec: name or model directory whose codec stands in that system's slot, as of `kfjax extract --codec`.
      folder, heldout: rendered corpora of scenes, to train on and for panel and validation.
      start: name, model directory or weights file that the run starts from. All of `system` is the model's.
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

    system: str = ""
    codec: str = ""
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


#: A width of the network -> the part that gives it, and its name there.
WIDTHS = {
    "clip_dim": ("clip", "out_dim"), "sync_dim": ("sync", "width"), "text_dim": ("text", "width"),
    "latent_dim": ("codec", "vae", "latent_dim"),
}  # fmt: skip


def read(values: Mapping[str, Any]) -> FlowRun:
    """The config as dataclasses. Settings of `system` override those of the model `data.start`, or else of the system
    `data.system`. Widths of the network's inputs that are not set follow from the parts that give them.

    Raises:
      ValueError: nothing at `data.start`, no system `data.system`; an unknown or missing key; a bad value.
    """
    data = config.from_dict(FlowData, values.get("data", {}), where="config.data")
    run = config.from_dict(FlowRun, {**values, "system": _system(data, values.get("system", {}))}, where="config")
    if data.codec:
        run = replace(run, system=with_codec(run.system, _named(data.codec, "codec")))
    return run


def _system(data: FlowData, own: Any) -> Any:
    """The settings of the system, nested; `own`: the config's."""
    if data.start and not is_folder(data.start) and not Path(data.start).exists():
        raise ValueError(f"config.data.start: nothing at {data.start}; expected a model's name, a model directory or "
                         "a weights file")  # fmt: skip
    base: dict[str, Any] = {}
    if is_folder(data.start):
        base = config.to_dict(_named(data.start, "start"))
    elif data.system:
        base = config.to_dict(_named(data.system, "system"))
        del base["mmdit"]
    made = _over(base, own)
    if isinstance(made, dict) and isinstance(made.get("mmdit"), dict):
        made["mmdit"] = _widths(made) | made["mmdit"]
    return made


def _over(base: Any, own: Any) -> Any:
    """`own` over `base`, section by section; one of another kind takes its place whole."""
    both = isinstance(base, Mapping) and isinstance(own, Mapping)
    if not both or own.get("kind", base.get("kind")) != base.get("kind"):
        return own
    return {**base, **{key: _over(base.get(key), value) for key, value in own.items()}}


def _widths(system: Mapping[str, Any]) -> dict[str, Any]:
    """Of those that the settings of the parts say; the others are at their defaults, which fit each other."""
    found = {}
    for name, path in WIDTHS.items():
        part: Any = system
        for key in path:
            part = part.get(key) if isinstance(part, Mapping) else None
        if part is not None:
            found[name] = part
    return found


def _named(model: str, key: str) -> SystemConfig:
    try:
        return pipeline.config_of(model)
    except ValueError as error:
        raise ValueError(f"config.data.{key}: {error}") from None
