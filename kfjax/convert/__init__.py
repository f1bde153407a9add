"""Public PyTorch weights in kfjax, and back: numerically the same; the way back is bit-exact.

kfjax.convert.from_torch("downloads/", "mmaudio")     # a file, or a folder of files, into a model directory
kfjax.convert.to_torch("mmaudio", "again/")           # the files as they were published
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["from_torch", "to_torch"]


def from_torch(source: str | Path, target: str | Path, *, inside: str | None = None) -> None:
    """Convert weights into a model directory; see `kfjax.convert.directory.convert`."""
    from kfjax.convert.directory import convert  # imports jax, which `import kfjax` must not

    convert(source, target, inside=inside)


def to_torch(directory: str | Path, target: str | Path, *, suffix: str = ".pth") -> list[Path]:
    """Write converted weights as the files they were; see `kfjax.convert.directory.export`."""
    from kfjax.convert.directory import export

    return export(directory, target, suffix=suffix)
