"""Weights that a run starts from or reads: from a model directory, or from a weights file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from kfjax import pipeline
from kfjax.convert import hub
from kfjax.nn import module
from kfjax.storage.checkpoint import load_params
from kfjax.system import UNUSED, WEIGHTS, load


def is_name(path: str) -> bool:
    """Whether it is the name of a model, and nothing that is on this disk."""
    return bool(path) and not Path(path).exists() and (path == "built-in" or path in hub.MODELS)


def is_folder(path: str) -> bool:
    """Whether it names a folder, or a model; "" does not, although for pathlib it is the current folder."""
    return bool(path) and (Path(path).is_dir() or is_name(path))


def folder_of(path: str) -> Path:
    """The folder, or that of a model by its name, which is fetched where it is not there yet."""
    return pipeline.folder_of(path) if is_name(path) else Path(path)


def read_parts(path: str, expected: module.Params, optional: Collection[str] = ()) -> module.Params:
    """The parts in `expected` (their shapes), from a model directory or a weights file that may hold others too.

    Args:
      optional: those that may be missing.

    Raises:
      ValueError: no weights there, or weights of other shapes.
    """
    stored = _of_folder(folder_of(path), expected, optional) if is_folder(path) else load_params(path)
    expected = {name: shapes for name, shapes in expected.items() if name in stored or name not in optional}
    missing = sorted(expected.keys() - stored.keys())
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; expected a model directory, or a flow run's weights")
    found = {name: stored[name] for name in expected}
    got, want = ({path: leaf.shape for path, leaf in module.flatten(tree).items()} for tree in (found, expected))
    wrong = sorted(name for name in got.keys() | want.keys() if got.get(name, ...) != want.get(name, ...))
    if wrong:
        raise ValueError(f"{path} does not fit config.system: they differ in {', '.join(wrong[:6])}; give its system")
    return found


def _of_folder(folder: Path, names: Collection[str], optional: Collection[str]) -> Mapping[str, module.Params]:
    """These parts of a model directory, which may lack all others."""
    if (folder / WEIGHTS).is_file():
        return load(folder).params
    there = [name for name in names if name not in optional or (folder / f"{name}.safetensors").is_file()]
    return load(folder, there).params if there else {}


def read_part(path: str, name: str, expected: module.Params) -> module.Params:
    """The weights of one part, from a model directory, a folder of converted parts, or a file of their own."""
    own = Path(path, f"{name}.safetensors")
    if is_folder(path) and not own.is_file():
        return read_parts(path, {name: expected})[name]
    return load_params(own if is_folder(path) else path, expected, skip=UNUSED)
