"""Each measuring network by the name of its group."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_network(group: str, folder: Path) -> Any:
    """The network of a group (`measures.NETWORKS`), with its weights from a folder.

    Raises:
      Unavailable: they are not there.
    """
    from kfjax.evals.networks import clap, desync, embedders

    loaders = {"panns": embedders.load_panns, "imagebind": embedders.load_imagebind, "desync": desync.load,
               "clap": clap.load}  # fmt: skip
    return loaders[group](folder)
