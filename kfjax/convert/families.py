"""Every kind of public weights file, and which one a state dict is.

    family, variant = recognise(state)                                   # by keys and shapes
    parts = family.from_torch(state, family.configs[variant])

A new family is a file in `tables` and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kfjax.command import quoted
from kfjax.convert.family import Family
from kfjax.convert.rules import State
from kfjax.convert.tables import bigvgan, clip, imagebind, mmaudio, panns, synchformer, synchformer_whole, t5, vae

FAMILIES = (
    mmaudio.FAMILY,
    vae.FAMILY,
    bigvgan.FAMILY,
    clip.FAMILY,
    synchformer_whole.FAMILY,  # before the next, which reads the visual branch of the same file
    synchformer.FAMILY,
    panns.FAMILY,
    imagebind.FAMILY,
    t5.FAMILY,
)
TELLTALES = frozenset([*(family.telltale for family in FAMILIES), clip.TRANSFORMERS])


def named(name: str) -> Family:
    """The family of that name. Raises ValueError for an unknown one."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise ValueError(f"family: got {quoted(name)}, expected one of {', '.join(family.name for family in FAMILIES)}")


def in_table_layout(state: State) -> State:
    """A state dict in the layout of its family's table: files of one network are published in several."""
    return clip.from_transformers(state) if clip.TRANSFORMERS in state else state


def recognise(state: Mapping[str, np.ndarray]) -> tuple[Family, str]:
    """Family and variant of a state dict; the nearest variant where none fits exactly.

    `Family.from_torch` then names every difference from it.

    Raises:
      ValueError: no known family.
    """
    family = next((family for family in FAMILIES if family.telltale in state), None)
    if family is None:
        some = ", ".join(quoted(key) for key in sorted(state)[:3]) or "no tensors"
        known = ", ".join(family.name for family in FAMILIES)
        raise ValueError(f"got an unknown kind of weights ({some}, …), expected one of {known}; give such a file")
    got = {key: tuple(value.shape) for key, value in state.items()}

    def distance(variant: str) -> int:
        return len(got.items() ^ family.layout(variant).items())

    return family, min(family.configs, key=distance)
