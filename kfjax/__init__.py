"""Video to sound: a clip goes in, the clip with a synchronised soundtrack comes out.

model = kfjax.load()                                    # the built-in model; or a name, or a model directory
sound = model.generate("clip.mp4", prompt="a ball bounces on wood")
sound.save("clip_with_sound.mp4")

`__all__` is the public surface. `import kfjax` imports none of it: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfjax import convert
    from kfjax.commands.catalogue import models
    from kfjax.data.extract import extract
    from kfjax.evals.evaluate import evaluate
    from kfjax.making.sound import Sound
    from kfjax.pipeline import Model, load
    from kfjax.train.run import train

__all__ = ["Model", "Sound", "__version__", "convert", "evaluate", "extract", "load", "models", "train"]
__version__ = "0.1.0"

#: Public name -> (module, its name there); without a name it is the module itself.
_HOMES = {
    "Model": ("kfjax.pipeline", "Model"),
    "Sound": ("kfjax.making.sound", "Sound"),
    "convert": ("kfjax.convert", ""),
    "evaluate": ("kfjax.evals.evaluate", "evaluate"),
    "extract": ("kfjax.data.extract", "extract"),
    "load": ("kfjax.pipeline", "load"),
    "models": ("kfjax.commands.catalogue", "models"),
    "train": ("kfjax.train", ""),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted(__all__)
