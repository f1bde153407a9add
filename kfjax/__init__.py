"""Video to sound: a clip goes in, the clip with a synchronised stereo soundtrack comes out.

    model = kfjax.load()                                    # the built-in model, or the path of a model directory
    sound = model.generate("clip.mp4", prompt="a ball bounces on wood")
    sound.save("clip_with_sound.mp4")
"""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfjax.pipeline import Model

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(model: str | Path = "built-in") -> Model:
    """A model ready to generate: "built-in" or the path of a model directory. See `kfjax.pipeline.load`."""
    from kfjax.pipeline import load  # imports jax, which `import kfjax` must not

    return load(model)
