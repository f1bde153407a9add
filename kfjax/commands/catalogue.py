"""The models and systems that have a name."""

from __future__ import annotations

from typing import NamedTuple

from kfjax import pipeline, system
from kfjax.nn import module
from kfjax.system import SystemConfig


class ModelInfo(NamedTuple):
    """A model that `load` takes by name, or a system without a generator, for `extract` and `train` alone.

    Attributes:
      name: for `load`.
      sample_rate_hz: of its sound.
      channels: 1 where left and right are the same.
      megabytes: size of its files.
      licences: of the weights.
      here: it is on this disk; otherwise it is fetched and converted when it is first used.
      parameters: of the generator, in millions.
      generates: its generator has weights.
    """

    name: str
    sample_rate_hz: int
    channels: int
    megabytes: float
    licences: tuple[str, ...]
    here: bool
    parameters: float
    generates: bool = True


def models() -> list[ModelInfo]:
    """All names of models and systems, as `kfjax models` lists them; nothing is fetched."""
    from kfjax.convert import hub, systems

    def info(cfg: SystemConfig, name: str, megabytes: float, licences: set[str], here: bool) -> ModelInfo:
        channels = 1 if cfg.codec.stereo is None else 2
        parameters = module.count(system.part_shapes(cfg, "mmdit")) / 1e6
        rate_hz, generates = cfg.rates.sample_rate_hz, cfg not in systems.KLING.values()
        return ModelInfo(name, rate_hz, channels, megabytes, tuple(sorted(licences)), here, parameters, generates)

    listed = []
    if pipeline.BUILT_IN.is_dir():
        size = sum(path.stat().st_size for path in pipeline.BUILT_IN.iterdir()) / 1e6
        own = system.load_config(pipeline.BUILT_IN / system.CONFIG)
        listed.append(info(own, "built-in", size, {"Apache-2.0"}, True))
    for cfg in (*systems.SYSTEMS.values(), *systems.KLING.values()):
        sources = hub.MODELS[cfg.name]
        size = sum(source.megabytes for source in sources)
        here = (pipeline.cache_folder() / "models" / cfg.name).is_dir()
        listed.append(info(cfg, cfg.name, size, {source.licence for source in sources}, here))
    return listed
