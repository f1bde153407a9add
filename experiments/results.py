"""Experiments on sampled scenes: their arguments, and a results.json that holds every finished cell with its scores of
each scene, so that a stopped run goes on."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

MODEL = Path(__file__).resolve().parents[1] / "kfjax" / "assets" / "model"
Scores = dict[str, list | float]


def main(
    about: str, folder: Path, measure: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None
) -> None:
    """Measure what results.json lacks, unless only a report is asked for, and write the report of what there is.

    Args:
      about: the script's docstring.
      folder: the experiment's; its `report.py` has `write(results, folder)`.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n\n")[0])
    add = parser.add_argument
    add("--model", type=Path, default=MODEL, help="model directory (default: the built-in model)")
    add("--corpus", type=Path, help="folder of held-out scenes; rendered if missing (default: runs/heldout-…)")
    add("--seconds", type=float, default=2.5, help="of the scenes (default %(default)s)")
    add("--scenes", type=int, default=24, help="the corpus' first in which something is struck (default %(default)s)")
    add("--seeds", type=int, default=3, help="of the noise (default %(default)s)")
    add("--output", type=Path, default=folder / "results.json")
    add("--report", action="store_true", help="measure nothing: tables and plots of what there is")
    args = parser.parse_args(argv)
    if not args.report:
        measure(args)
    import report

    report.write(Results(args.output), args.output.parent)


class Results:
    """Cell -> seed -> name of a score -> its value, or its values for every scene.

    Args:
      path: of the file; read where it exists.
      settings: what all cells share; None: those of the file.

    Raises:
      ValueError: the file holds cells of other settings; no settings and no file.
    """

    def __init__(self, path: Path, settings: dict | None = None):
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        if settings is None and not found:
            raise ValueError(f"{path}: no such file, expected measured results; run the experiment first")
        if settings is not None and found and found["settings"] != settings:
            raise ValueError(f"{path}: holds cells of {found['settings']}, expected {settings}; give another --output")
        self.settings: dict = found["settings"] if settings is None else settings
        self.cells: dict[str, dict[str, Scores]] = found.get("cells", {})
        #: Anything else: the scenes, how long things took.
        self.notes: dict = found.get("notes", {})

    def has(self, cell: str, seed: int) -> bool:
        return str(seed) in self.cells.get(cell, {})

    def put(self, cell: str, seed: int, scores: Scores) -> None:
        """Keep a cell and write the file."""
        self.cells.setdefault(cell, {})[str(seed)] = _rounded(scores)
        self.write()

    def of(self, cell: str, score: str) -> np.ndarray:
        """[seeds, scenes], or [seeds] for a score of the whole; NaN where a scene does not count."""
        return np.array([own[score] for _, own in sorted(self.cells[cell].items())], float)

    def write(self) -> None:
        """As JSON, every list of numbers on one line."""
        text = json.dumps({"settings": self.settings, "notes": _rounded(self.notes), "cells": self.cells}, indent=1)
        text = re.sub(r"\[([^\[\]{}]*)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(text + "\n")
        os.replace(temporary, self.path)


def _rounded(value):
    """Four decimals; what is not a number is null."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_rounded(part) for part in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
