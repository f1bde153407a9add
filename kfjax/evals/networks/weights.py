"""Where the weights of a measuring network are: in one folder, converted or as they are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from kfjax.convert import directory, families
from kfjax.convert.family import Family
from kfjax.evals.networks.base import Unavailable
from kfjax.nn.module import Params
from kfjax.system import UNUSED

#: Family of `kfjax.convert.families` -> where its files are published.
HOMES = {
    "panns": "https://zenodo.org/records/3987831",
    "imagebind": "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
    "synchformer-whole": "https://github.com/hkchengrex/MMAudio/releases/tag/v0.1",
}


def find(folder: str | Path, family_name: str, variants: Sequence[str]) -> tuple[str, dict[str, Params]]:
    """The first of `variants` that the folder has, and the parameters of its parts as float32.

    A converted directory is read first, then the public file by its name.

    Args:
      folder: of the weights of all measuring networks.
      family_name: a key of `HOMES`.
      variants: of the family, the preferred one first.

    Returns:
      The variant, and part -> its parameters; integers keep their type.

    Raises:
      Unavailable: none of them is there, or what is there does not fit.
    """
    folder, family = Path(folder), families.named(family_name)
    for variant in variants:
        parts, path = directory.converted(folder, family_name, variant), folder / family.files(variant)
        if not parts and path.is_file():
            parts = _read(path, family, variant)
        if parts:
            used = {part: {name: params[name] for name in params if name != UNUSED} for part, params in parts.items()}
            return variant, jax.tree.map(_float32, used)
    files = " or ".join(family.files(variant) for variant in variants)
    raise Unavailable(
        f"{folder}: got no weights of {family_name}, expected {files}; get it from {HOMES[family_name]} and put it "
        f"there, or its conversion: kfjax convert {family.files(variants[0])} {folder}"
    )


def _read(path: Path, family: Family, variant: str) -> dict[str, Params]:
    """The parts of a public file, which must be what its name says."""
    try:
        found, parts = directory.read_parts(path)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise Unavailable(f"{reason}; kfjax convert {path} --dry-run says more, or get the file again") from None
    if (found.family.name, found.variant) != (family.name, variant):
        raise Unavailable(
            f"{path}: got {found.family.name} {found.variant}, expected {family.name} {variant}; give the file its own "
            "name"
        )
    return parts


def _float32(x: np.ndarray) -> np.ndarray:
    return x if np.issubdtype(x.dtype, np.integer) else np.asarray(x, np.float32)
