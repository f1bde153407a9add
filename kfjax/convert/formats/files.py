"""State dicts on disk, without PyTorch; the format is recognised by the content.

state = read_state("mmaudio_large_44k_v2.pth")     # {key: array}, dtypes kept
write_state("again.safetensors", state)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kfjax import command, config
from kfjax.command import quoted
from kfjax.convert.formats import candidates, safetensors_file, torch_file, torch_legacy, torch_pickle

State = dict[str, np.ndarray]

TORCH = (".pth", ".pt", ".ckpt", ".bin")
SAFETENSORS = ".safetensors"
INDEX = ".safetensors.index.json"
#: Types of eight bits, which kfjax does not compute in. Each of their values is a float32 exactly.
EIGHT_BITS = {dtype for name, dtype in safetensors_file.DTYPES.items() if name.startswith("F8_")}
#: First bytes of files that are mistaken for weights -> what they are, what to do.
_GET_AGAIN = "a download that was refused or led elsewhere; open its address in a browser, log in if asked, and get it"
_UNPACK = "unpack it and give the file inside"
STRANGERS = {
    b"version https://git-lfs": ("a git-lfs pointer, not the file it stands for", "run `git lfs pull`, or download it"),
    b"<": ("a web page (HTML or XML), not weights", _GET_AGAIN),
    b"{": ("JSON text, not weights", _GET_AGAIN),
    b"\x1f\x8b": ("a gzip archive", _UNPACK),
    b"BZh": ("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ": ("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a rar archive", _UNPACK),
    b"GGUF": ("a GGUF file", "get the same weights as .safetensors or .pth"),
    b"\x89HDF": ("an HDF5 file", "get the same weights as .safetensors or .pth"),
    b"\x93NUMPY": ("a NumPy array", "get the weights as .safetensors or .pth"),
}
_SAVE_AGAIN = "download it again or, if you trust where it is from, load it with torch and torch.save its state_dict()"

Say = Callable[[str], None]


def read_state(
    path: str | Path, inside: str | None = None, *, holding: Collection[str] = (), say: Say = command.say
) -> State:
    """The state dict in a file: {key: array}; not-a-number passes. Types of eight bits become float32, all others stay.

    Args:
      path: a file of `torch.save` or a safetensors file, whatever its name; a `.safetensors.index.json` or the folder
        of one (or of a single `.safetensors`).
      inside, holding: which state dict of several; see `candidates.choose`.
      say: told which was chosen, and what became of types of eight bits.

    Raises:
      ValueError: as `read_object`; or there is no such part, or more than one to choose from.
    """
    path = Path(path)
    found = read_object(path)
    told = lambda message: say(f"{quoted(path.name)}: {message}")
    try:
        state = candidates.choose(found, inside, holding, told)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if small := Counter(x.dtype.name for x in state.values() if x.dtype in EIGHT_BITS):
        kinds = ", ".join(f"{count} of {name}" for name, count in small.items())
        told(f"{kinds} of its {len(state)} tensors become float32")
    return {key: x.astype(np.float32) if x.dtype in EIGHT_BITS else x for key, x in state.items()}


def read_object(path: str | Path) -> Any:
    """Everything in a file: nested dicts, lists and plain values, with arrays at the leaves.

    Arrays are read-only views of the mapped file, with the strides they were saved with; those of torch files from
    before version 1.6 are read once.

    Raises:
      ValueError: no such file, no weights, a damaged file, or a pickle that names code (nothing is run).
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise ValueError(f"no weights at {path}: expected a file of {_suffixes()}; check the path")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    with path.open("rb") as file:
        head = file.read(512)
    if safetensors_file.is_one(head):
        read, kind, advice = safetensors_file.read, SAFETENSORS, "download or export it again"
    elif head.startswith((b"PK", torch_legacy.FIRST_BYTE)):
        read, kind, advice = torch_file.read, "torch", _SAVE_AGAIN
    else:
        raise ValueError(f"{path} {diagnosis(head)}")
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(f"{path} is no readable {kind} file: {quoted(str(error), 500)}; {advice}") from None


def diagnosis(head: bytes) -> str:
    """What a file that holds no weights is, by its first bytes, and what to do."""
    if not head:
        return "is empty, expected weights; download it again"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, (what, advice) in STRANGERS.items():
        if text.startswith(start):
            return f"is {what}: it begins with {quoted(text[:24])}; {advice}"
    if head[257:262] == b"ustar":
        return f"is a tar archive; {_UNPACK}"
    if not head.strip(b"\0"):
        return "is blank (it begins with zeros), as unfinished downloads are; download it again"
    return f"is no file of weights (it starts with {quoted(head[:8])}), expected {_suffixes()}; check the path"


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


def _suffixes() -> str:
    return ", ".join((*TORCH, SAFETENSORS, INDEX))


def _in_folder(folder: Path) -> Path:
    """The index in a folder of safetensors, or its single file."""
    for pattern in (f"*{INDEX}", f"*{SAFETENSORS}"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = candidates.listed([path.name for path in found])
            raise ValueError(f"{folder} holds {names}, expected one file or an index of them; give the file's own path")
    raise ValueError(f"{folder} holds no *{INDEX} and no *{SAFETENSORS}; give the path of the file itself")


def shards(index: Path) -> dict[str, str]:
    """What an index of sharded weights says: key -> the file beside it that has the tensor.

    Raises:
      ValueError: no index.
    """
    with index.open("rb") as file:
        head = file.read(512)
    if not head.lstrip().startswith(b"{"):
        raise ValueError(f"{index} {diagnosis(head)}")
    try:
        found = config.read_json(index)
        shard_of = found.get("weight_map") if isinstance(found, dict) else None
    except ValueError as error:
        raise ValueError(f"{index} is no index ({error}); download it again") from None
    plain = lambda name: isinstance(name, str) and Path(name).name == name and name.endswith(SAFETENSORS)
    if not isinstance(shard_of, dict) or not all(map(plain, shard_of.values())):
        raise ValueError(f"{index} is no index, expected a weight_map from keys to files beside it; download it again")
    return shard_of


def _read_shards(path: Path) -> State:
    """Every tensor of an index from the shard beside it that the index names."""
    shard_of = shards(path)
    names = sorted(set(shard_of.values()))
    if absent := [name for name in names if not (path.parent / name).is_file()]:
        raise ValueError(f"{path} names files that are not beside it: {candidates.listed(absent)}; download them")
    state = {}
    for name in names:
        shard = candidates.choose(read_object(path.parent / name), "", (), command.say)
        state |= {key: value for key, value in shard.items() if shard_of.get(key) == name}
    if missing := sorted(shard_of.keys() - state.keys()):
        raise ValueError(f"{path} names tensors that its files lack: {candidates.listed(missing)}; download them again")
    return {key: state[key] for key in shard_of}


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    # Other readers take files for PyTorch's by this note; the library expects C order.
    save_file({key: np.asarray(x, order="C") for key, x in arrays.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library writes for its owner alone
