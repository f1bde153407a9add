"""results.json of an experiment: every finished cell with its scores of each scene, so that a stopped run goes on."""
from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import numpy as np

Scores = dict[str, list | float]


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
