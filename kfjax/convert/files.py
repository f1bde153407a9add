"""State dicts on disk, in the formats that public weights come in: by suffix, without PyTorch.

    state = read_state("mmaudio_large_44k_v2.pth")     # {key: array}, dtypes kept
    write_state("again.safetensors", state)
"""
from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kfjax.convert import torch_file, torch_pickle

State = dict[str, np.ndarray]

TORCH = (".pth", ".pt", ".ckpt", ".bin")
SAFETENSORS = ".safetensors"
INDEX = ".safetensors.index.json"
#: Parts that are taken unasked when they are all the weights there are.
WELL_KNOWN = ("generator", "state_dict", "model")


def read_state(path: str | Path, inside: str | None = None) -> State:
    """The state dict in a file: {key: array}; nothing is cast, and not-a-number passes.

    Args:
      path: `.pth`, `.pt`, `.ckpt` or `.bin` of `torch.save`; `.safetensors`; a `.safetensors.index.json` or the
        folder of one (or of a single `.safetensors`).
      inside: the key of the state dict in a file that holds several things. Left out, a `generator`, `state_dict` or
        `model` is taken where it is the only dict of tensors.

    Raises:
      ValueError: as `read_object`; or there is no such part, or more than one to choose from.
    """
    found = read_object(path)
    if inside is None:
        return found if _is_state(found) else _only_part(Path(path), found)
    if not isinstance(found, dict) or inside not in found:
        raise ValueError(f"{path} has no part {inside!r}; expected one of {_parts(found)}")
    if not _is_state(found[inside]):
        raise ValueError(f"{inside!r} in {path} is {_outline(found[inside])}, expected tensors; name another part")
    return found[inside]


def read_object(path: str | Path) -> Any:
    """Everything in a file: nested dicts, lists and plain values, with arrays at the leaves.

    Arrays of a torch file are read-only views of the mapped file, with the strides they were saved with; those of
    safetensors, and of torch files from before version 1.6, are read once.

    Raises:
      ValueError: no such file, an unknown suffix, a damaged file, or a pickle that names code (nothing is run).
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise ValueError(f"no weights at {path}: expected a file of {_suffixes()}; check the path")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix in TORCH:
        return torch_file.read(path)
    raise ValueError(f"{path} has the suffix {path.suffix!r}, expected {_suffixes()}; rename or convert it")


def write_state(path: str | Path, state: Mapping[str, np.ndarray], *, inside: str = "") -> None:
    """Write a state dict as `.safetensors` or torch file: same keys, order (torch), shapes and dtypes.

    A torch file loads with `torch.load(path, weights_only=True)`. The file appears whole or not at all.

    Args:
      inside: key of the state dict in the torch file; "" where the file is the state dict.

    Raises:
      ValueError: another suffix, an empty state dict, or a dtype that PyTorch has not.
    """
    path = Path(path)
    if path.suffix not in (*TORCH, SAFETENSORS):
        raise ValueError(f"cannot write {path}: got suffix {path.suffix!r}, expected .pth or {SAFETENSORS}; rename it")
    arrays = {key: np.asarray(value) for key, value in state.items()}
    if not arrays:
        raise ValueError(f"nothing to write to {path}: got an empty state dict, expected arrays")
    known = set(torch_pickle.STORAGES.values())
    if unknown := [f"{key} ({x.dtype})" for key, x in arrays.items() if x.dtype not in known]:
        expected = ", ".join(sorted(map(str, known)))
        raise ValueError(f"cannot write {path}: got {', '.join(unknown[:8])}, expected {expected}; convert them")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        if path.suffix == SAFETENSORS:
            _write_safetensors(temporary, arrays)
        else:
            torch_file.write(temporary, arrays, inside)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_state(found: Any) -> bool:
    return isinstance(found, dict) and bool(found) and all(
        isinstance(key, str) and isinstance(value, np.ndarray) for key, value in found.items()
    )


def _only_part(path: Path, found: Any) -> State:
    parts = _parts(found)
    if len(parts) == 1 and parts[0] in WELL_KNOWN:
        return found[parts[0]]
    wanted = f"name a part (inside=) out of {parts}" if parts else "expected a state dict; take another file"
    raise ValueError(f"{path} holds {_outline(found)}, not only tensors; {wanted}")


def _parts(found: Any) -> list[str]:
    return [key for key, value in found.items() if _is_state(value)] if isinstance(found, dict) else []


def _outline(found: Any, most: int = 8) -> str:
    """What something is, for messages: a dict by its keys, those of tensors left out when there are others."""
    if not isinstance(found, dict):
        return f"a {type(found).__name__}"
    keys = [str(key) for key, value in found.items() if not isinstance(value, np.ndarray)]
    tensors = len(found) - len(keys)
    shown = ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
    return f"{tensors} tensors" + (f" and {shown}" if keys else "") if tensors else f"a dict of {shown or 'nothing'}"


def _suffixes() -> str:
    return ", ".join((*TORCH, SAFETENSORS, INDEX))


def _in_folder(folder: Path) -> Path:
    """The index in a folder of safetensors, or its single file."""
    for pattern in (f"*{INDEX}", f"*{SAFETENSORS}"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{folder} holds {names}, expected one file or an index of them; give the file's own path")
    raise ValueError(f"{folder} holds no *{INDEX} and no *{SAFETENSORS}; give the path of the file itself")


def _read_shards(path: Path) -> State:
    """Every tensor of an index from the shard beside it that the index names."""
    try:
        shard_of = json.loads(path.read_text())["weight_map"]
        names = sorted(set(shard_of.values()))
        plain = all(Path(name).name == name and name.endswith(SAFETENSORS) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError):
        plain = False
    if not plain:
        raise ValueError(f"{path} is no index, expected a weight_map from keys to files beside it; download it again")
    if absent := [name for name in names if not (path.parent / name).is_file()]:
        raise ValueError(f"{path} names files that are not beside it: {', '.join(absent)}; download them")
    state = {}
    for name in names:
        shard = _read_safetensors(path.parent / name)
        state |= {key: value for key, value in shard.items() if shard_of.get(key) == name}
    if missing := sorted(shard_of.keys() - state.keys()):
        raise ValueError(f"{path} names tensors that its files lack: {', '.join(missing[:8])}; download them again")
    return {key: state[key] for key in shard_of}


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no readable {SAFETENSORS} file ({error}); download or export it again") from None


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    # Other readers take files for PyTorch's by this note; the library expects C order.
    save_file({key: np.asarray(x, order="C") for key, x in arrays.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library writes for its owner alone
