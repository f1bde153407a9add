"""The pickle inside a torch file: read by a stack machine that runs no code, and written.

    found = loads(data, record)         # plain containers with numpy leaves; record(key, size) -> a storage's bytes
    data = dumps({"weight": array})     # storages are named "0", "1", ... in the order of the mapping

A pickle is a program whose instructions may call any function it names, which is how hostile files work. Here the
instructions are interpreted one by one, and a name is looked up in the tables below only, so nothing else can be
called. Everything that `torch.save` writes for tensors, parameters and plain containers is understood.
Arrays that are NumPy's own, as trainings keep them beside their weights, are passed over: None stands in their place.

A pickle can also demand unbounded work and memory: instructions, bytes, nesting and repeated values are counted
beforehand, and a file that exceeds the limits below is refused. The largest public files need less than a hundredth.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import ml_dtypes
import numpy as np

from kfjax.command import quoted

#: The storage class that stands for a dtype in a torch file.
STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_DTYPES = {f"torch {name}": dtype for name, dtype in STORAGES.items()} | {
    "torch.storage UntypedStorage": np.dtype(np.uint8)
}
#: Dtypes without a storage class: the tensor names them.
_LATER_DTYPES = {
    f"torch {name}": np.dtype(getattr(ml_dtypes, name, name))
    for name in (
        "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
        "uint16", "uint32", "uint64",
    )
}  # fmt: skip

#: A pickle's instructions, those that make something large counted as several: some 60,000 tensors; 100 bytes each.
MAX_STEPS = 3_000_000
_COSTS = {"EMPTY_SET": 4, "BINPERSID": 8, "REDUCE": 16}
MAX_BYTES = 64 * 2**20
#: Nested containers that are begun and not yet ended.
MAX_MARKS = 200
#: NumPy has no arrays of more.
MAX_AXES = 64
MAX_KEY_CHARACTERS = 1000
#: Values that all tensors of a file may have beyond those of their storages, as expanded tensors do.
MAX_REPEATED = 2**24

#: (key, bytes that the pickle says it has) -> the storage, uint8.
Record = Callable[[str, int], np.ndarray]


@dataclass(frozen=True)
class _Name:
    """A name of the tables below, as a placeholder on the stack ("module name")."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """The bytes that tensors lie in."""

    dtype: np.dtype
    raw: np.ndarray  # uint8, a whole number of values


def loads(data: bytes | mmap, record: Record, *, steps: int = MAX_STEPS) -> Any:
    """The pickled object: nested dicts, lists, tuples and sets of plain values, with tensors as numpy arrays.

    Tensors are views of what `record(key, size)` returns (uint8, 1-D): strides, offsets and shared storages are kept
    and nothing is copied. Ordered dicts come back as dicts, and attributes of theirs (`_metadata`) are left out.
    Lists and dicts may contain themselves, at any depth: a caller that walks them must bound the depth.

    Args:
      data: the pickle, or a mapped file, which is left behind its end.
      record: finds a storage by its key.
      steps: how many instructions are followed.

    Raises:
      ValueError: the pickle names something else, is damaged, too long, or describes a tensor outside its storage.
    """
    return _Machine(record, steps).run(data)


def _instructions(data: bytes | mmap) -> Iterator[tuple[str, Any]]:
    """Names and arguments up to the end. Unlike with `pickletools.genops`, what isn't known is refused unread."""
    start = data.tell() if isinstance(data, mmap) else 0
    file, name = io.BytesIO(data[start : start + MAX_BYTES]), ""
    while name != "STOP":
        code = file.read(1)
        if not code:
            raise ValueError(f"the pickle is damaged (it has no end within {file.tell()} bytes)")
        name = _OPCODES[code].name if code in _OPCODES else f"the instruction {code!r}"
        if name not in _KNOWN:
            raise ValueError(f"the pickle uses {name}, which no file of tensors needs")
        argument = _OPCODES[code].arg
        yield name, argument.reader(file) if argument else None
    if isinstance(data, mmap):
        data.seek(start + file.tell())


class _Machine:
    """Pickle's stack machine, with those instructions that data needs."""

    def __init__(self, record: Record, steps: int):
        self.record = record
        self.left = steps
        self.repeated = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes | mmap) -> Any:
        try:
            for opcode, argument in _instructions(data):
                self.spend(_COSTS.get(opcode, 1))
                self.step(opcode, argument)
            found = self.pop(object)
        except (IndexError, KeyError, TypeError, OverflowError) as error:  # an empty stack, the wrong operands
            raise ValueError(f"the pickle is damaged ({type(error).__name__}: {quoted(str(error))})") from None
        if self.stack or self.marks or isinstance(found, _Name):
            raise ValueError("the pickle is damaged (it ends in the middle)")
        return found

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise ValueError("the pickle has too many instructions, expected a description of tensors")

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _ARGUMENT:
            self.stack.append(argument)
        elif opcode in _MADE:
            self.stack.append(_MADE[opcode]())
        elif opcode in _TUPLES:
            self.stack.append(tuple(reversed([self.pop(object) for _ in range(_TUPLES[opcode])])))
        elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if opcode == "MEMOIZE" else argument] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)

    def pop(self, kind: type) -> Any:
        value = self.stack.pop()
        if not isinstance(value, kind):
            raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
        return value

    def pop_mark(self) -> list[Any]:
        """Everything since the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def top(self, kind: type) -> Any:
        value = self.pop(kind)
        self.stack.append(value)
        return value

    def mark(self, _: None) -> None:
        if len(self.marks) == MAX_MARKS:
            raise ValueError(f"the pickle is nested deeper than {MAX_MARKS}, expected a description of tensors")
        self.marks.append(self.stack)
        self.stack = []

    def marked_tuple(self, _: None) -> None:
        values = self.pop_mark()
        self.stack.append(tuple(values))

    def append(self, _: None) -> None:
        value = self.pop(object)
        self.top(list).append(value)

    def appends(self, _: None) -> None:
        values = self.pop_mark()
        self.top(list).extend(values)

    def additems(self, _: None) -> None:
        values = self.pop_mark()
        self.top(set).update(map(_key, values))

    def setitem(self, _: None) -> None:
        value, key = self.pop(object), self.pop(object)
        self.top(dict)[_key(key)] = value

    def setitems(self, _: None) -> None:
        values = self.pop_mark()
        self.top(dict).update(zip(map(_key, values[::2]), values[1::2], strict=True))

    def name(self, text: str) -> None:
        if text not in _KNOWN_NAMES:
            module, _, name = text.rpartition(" ")
            raise ValueError(f"the pickle names {quoted(f'{module}.{name}')}, which could run code and which no tensor "
                             "needs")  # fmt: skip
        self.stack.append(_Name(text))

    def stack_name(self, _: None) -> None:
        name, module = self.pop(str), self.pop(str)
        self.name(f"{module} {name}")

    def call(self, _: None) -> None:
        arguments, callee = self.pop(tuple), self.pop(_Name)
        if callee.text in _PASSED_OVER:
            self.stack.append(None)
            return
        if callee.text not in _CALLS:
            raise ValueError(f"the pickle calls {callee.text}, which only names a type")
        self.stack.append(_CALLS[callee.text](self, *arguments))

    def build(self, _: None) -> None:
        self.pop(object)  # attributes of an ordered dict, such as the versions of modules: no values
        if self.top(object) is not None:  # what is passed over
            self.top(dict)

    def storage(self, _: None) -> None:
        identity = self.pop(tuple)
        plain = len(identity) == 5 or (len(identity) == 6 and identity[5] is None)
        if not plain or not isinstance(identity[0], str) or not isinstance(identity[1], _Name):
            raise ValueError("the pickle refers to an outside object that is no storage")
        _, name, key, _, count = identity[:5]
        if name.text not in _DTYPES or not isinstance(key, str):
            raise ValueError(f"the pickle takes {name.text} for the type of a storage")
        (count,), dtype = _whole((count,), "length"), _DTYPES[name.text]
        raw = self.record(key, count * dtype.itemsize)
        if count * dtype.itemsize > raw.size:
            raise ValueError(f"storage {quoted(key)} holds {raw.size} bytes, expected {count} x {dtype.itemsize}")
        self.stack.append(_Storage(dtype, raw[: count * dtype.itemsize]))

    def tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any = False, hooks: Any = None,
        metadata: Any = None,
    ) -> np.ndarray:  # fmt: skip
        """A view of `storage`; offset and strides count values."""
        if not isinstance(storage, _Storage):
            raise TypeError(f"a tensor in a {type(storage).__name__}")
        if not (metadata is None or (isinstance(metadata, dict) and not metadata)):
            raise ValueError(f"a tensor is stored with {quoted(metadata)}; expected plain values; resolve it before "
                             "saving")  # fmt: skip
        (offset,), size, stride = _whole((offset,), "offset"), _whole(size, "size"), _whole(stride, "stride")
        if len(size) != len(stride):
            raise ValueError(f"a tensor has {len(size)} axes and {len(stride)} strides")
        width, held = storage.dtype.itemsize, storage.raw.size // storage.dtype.itemsize
        if 0 in size:
            return np.empty(size, storage.dtype)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if last >= held:
            raise ValueError(f"a tensor of size {quoted(size)} reaches value {last} of its storage, which holds {held}")
        self.repeated += max(0, math.prod(size) - held)
        if self.repeated > MAX_REPEATED:
            raise ValueError(f"a tensor of size {quoted(size)} repeats the {held} values of its storage; save it with "
                             ".contiguous()")  # fmt: skip
        steps = tuple(step * width for step in stride)
        return np.ndarray(size, storage.dtype, buffer=storage.raw, offset=offset * width, strides=steps)

    def later_tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
    ) -> np.ndarray:
        """The same in a storage of bytes, of a dtype that has no storage class."""
        if not isinstance(storage, _Storage) or not isinstance(dtype, _Name) or dtype.text not in _LATER_DTYPES:
            raise TypeError(f"a tensor of {quoted(dtype)} in a {type(storage).__name__}")
        typed = _LATER_DTYPES[dtype.text]
        values = storage.raw[: storage.raw.size // typed.itemsize * typed.itemsize]
        return self.tensor(_Storage(typed, values), offset, size, stride, grad, hooks, metadata)

    def parameter(self, tensor: Any, grad: Any = False, hooks: Any = None) -> np.ndarray:
        if not isinstance(tensor, np.ndarray):
            raise TypeError(f"a parameter made of a {type(tensor).__name__}")
        return tensor

    def ordered_dict(self, items: Any = ()) -> dict[Any, Any]:
        if not isinstance(items, tuple | list) or not all(isinstance(x, tuple | list) and len(x) == 2 for x in items):
            raise TypeError("an ordered dict of something else than pairs")
        self.spend(len(items))  # the same list may be given many times
        return {_key(key): value for key, value in items}

    def size(self, values: Any) -> tuple[int, ...]:
        return _whole(values, "size")


def _key(key: Any) -> Any:
    # Hashing deeply nested tuples exhausts the interpreter's own stack; longer numbers can all have one hash.
    if not isinstance(key, str | bytes | int | float | None) or (isinstance(key, int) and key.bit_length() > 64):
        raise ValueError(f"the pickle uses a {type(key).__name__} as a key; expected plain values")
    if isinstance(key, str | bytes) and len(key) > MAX_KEY_CHARACTERS:
        raise ValueError(f"the pickle uses a key of {len(key)} characters; expected {MAX_KEY_CHARACTERS} at most")
    return key


def _whole(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_AXES or not all(map(_is_whole, values)):
        raise ValueError(f"the {what} of a tensor is {quoted(values)}; expected whole numbers from 0")
    return tuple(values)


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


_CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _Machine.ordered_dict,
    "torch Size": _Machine.size,
    "torch._utils _rebuild_tensor_v2": _Machine.tensor,
    "torch._utils _rebuild_tensor_v3": _Machine.later_tensor,
    "torch._utils _rebuild_parameter": _Machine.parameter,
}
#: Names of pickled NumPy arrays, which are no weights and are passed over.
_PASSED_OVER = {
    "numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct", "numpy ndarray", "numpy dtype",
    "_codecs encode",
}  # fmt: skip
_KNOWN_NAMES = _CALLS.keys() | _DTYPES.keys() | _LATER_DTYPES.keys() | _PASSED_OVER
_ARGUMENT = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"} | {
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.marked_tuple,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.additems,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_KNOWN = _ARGUMENT | _MADE.keys() | _TUPLES.keys() | _STEPS.keys() | {
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "PROTO", "FRAME", "STOP",
}  # fmt: skip


def dumps(state: Mapping[str, np.ndarray], inside: str = "") -> bytes:
    """The pickle of an ordered dict of contiguous tensors of the dtypes in `STORAGES`, as `torch.save` writes it.

    With `inside`, of a dict that holds it under that key.
    """
    classes = {dtype: name for name, dtype in STORAGES.items()}
    items = [
        _plain(key) + _tensor_program(str(index), classes[value.dtype], value.shape)
        for index, (key, value) in enumerate(state.items())
    ]
    made = b"".join([_ORDERED_DICT, pickle.MARK, *items, pickle.SETITEMS])
    if inside:
        made = pickle.EMPTY_DICT + _plain(inside) + made + pickle.SETITEM
    return pickle.PROTO + b"\2" + made + pickle.STOP


def _plain(value: Any) -> bytes:
    """The instructions that push plain values."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


_ORDERED_DICT = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _tensor_program(storage: str, storage_class: str, shape: tuple[int, ...]) -> bytes:
    """The instructions that push a C-contiguous tensor filling its storage."""
    count = int(np.prod(shape, dtype=object))
    strides = [int(np.prod(shape[axis + 1 :], dtype=object)) for axis in range(len(shape))]
    identity = [_plain("storage"), _global("torch", storage_class), _plain(storage), _plain("cpu"), _plain(count)]
    arguments = [
        *(pickle.MARK, *identity, pickle.TUPLE, pickle.BINPERSID),
        *map(_plain, (0, tuple(shape), tuple(strides), False)),  # offset, size, stride, no gradient
        _ORDERED_DICT,  # no hooks
    ]
    rebuild = _global("torch._utils", "_rebuild_tensor_v2")
    return b"".join([rebuild, pickle.MARK, *arguments, pickle.TUPLE, pickle.REDUCE])
