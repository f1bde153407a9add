"""Video to sound: a clip goes in, the clip with a synchronised soundtrack comes out.

model = kfjax.load()                                    # the built-in model; or a name, or a model directory
sound = model.generate("clip.mp4", prompt="a ball bounces on wood")
sound.save("clip_with_sound.mp4")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kfjax import convert

if TYPE_CHECKING:
    from kfjax.pipeline import Model

__all__ = ["__version__", "convert", "load"]
__version__ = "0.1.0"


def load(model: str | Path = "built-in", *, dtype: Literal["float32", "bfloat16"] | None = None) -> Model:
    """A model ready to generate: "built-in", a published model's name, or the path of a model directory.

    See `kfjax.pipeline.load`.
    """
    from kfjax.pipeline import load  # imports jax, which `import kfjax` must not

    return load(model, dtype=dtype)
