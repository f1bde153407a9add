"""JSON files of an extraction: its index, and the notes of its shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfjax.storage import disk


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError if the file holds no JSON object."""
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no JSON ({error}); delete it and run kfjax extract again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got {type(values).__name__}, expected a JSON object; run kfjax extract again")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Atomic: the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, json.dumps(values) + "\n", noted=False)
