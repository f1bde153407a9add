"""Safetensors files, memory-mapped: a header of JSON, then the values of all tensors.

The format: https://huggingface.co/docs/safetensors. Its library knows no NumPy type for values of eight bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from kfjax import config
from kfjax.command import quoted

State = dict[str, np.ndarray]

DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype(np.bool_), "C64": np.dtype("<c8"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}  # fmt: skip
#: NumPy has no arrays of more.
MAX_AXES = 64


def is_one(head: bytes) -> bool:
    """Whether the first nine bytes or more of a file are those of a safetensors file: a length, then an object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def read(path: Path) -> State:
    """The tensors of a file, read-only views of the mapped file.

    Raises:
      ValueError: damaged, cut off, or of a type that no array has; the message does not name the file.
    """
    data = np.memmap(path, np.uint8, mode="r")
    length = int.from_bytes(bytes(data[:8]), "little")
    if length > config.MAX_JSON_BYTES:
        raise ValueError(f"its header is said to have {length} bytes, expected {config.MAX_JSON_BYTES} at most")
    if 8 + length > data.size:
        raise ValueError("it is cut off in its header")
    header = config.parse_json(bytes(data[8 : 8 + length]))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    state = {key: _tensor(key, entry, data[8 + length :]) for key, entry in header.items()}
    _check_places(header, data.size - 8 - length)
    return state


def _tensor(key: str, entry: Any, data: np.ndarray) -> np.ndarray:
    dtype, shape, (start, end) = _described(key, entry)
    if end > data.size:
        raise ValueError(f"it is cut off: tensor {quoted(key)} ends at byte {end} of the values, it has {data.size}")
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {quoted(key)} of shape {quoted(shape)} lies in {end - start} bytes")
    return data[start:end].view(dtype).reshape(shape)


def _described(key: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    """Type, shape and place of a tensor."""
    named = isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}
    if not named or not isinstance(entry["dtype"], str):
        raise ValueError(f"tensor {quoted(key)} is described by {quoted(entry)}")
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"tensor {quoted(key)} is of type {quoted(entry['dtype'])}, expected {', '.join(DTYPES)}")
    shape, place = entry["shape"], entry["data_offsets"]
    whole = all(isinstance(x, list) and all(type(n) is int and 0 <= n < 2**62 for n in x) for x in (shape, place))
    if not whole or len(place) != 2 or place[0] > place[1] or len(shape) > MAX_AXES:
        raise ValueError(f"tensor {quoted(key)} is described by {quoted(entry)}")
    return DTYPES[entry["dtype"]], tuple(shape), (place[0], place[1])


def _check_places(header: Mapping[str, Any], size: int) -> None:
    """Tensors neither overlap nor leave holes: the format's rule, and what a file holds is no more than its size."""
    end = 0
    for start, following in sorted(entry["data_offsets"] for entry in header.values()):
        if start != end:
            raise ValueError(f"its tensors overlap or leave a hole at byte {end} of the values")
        end = following
    if end != size:
        raise ValueError(f"its tensors end at byte {end} of the values, the file at {size}")
