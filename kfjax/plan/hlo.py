"""What a compiled program sends between its devices and moves in their memory, read from its text.

    for sent in collectives(compiled.as_text()):
        print(sent.kind, sent.count, sent.wire_bytes)

XLA's text lists computations, one instruction a line; a loop's body is a computation of its own, named where it is
called, with the number of its turns beside it. Names and attributes: openxla.org/xla/operation_semantics.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
#: Bytes of an element; what is not here (tokens, tuples' own) has none.
_BITS = {"pred": 8, "bf16": 16} | {f"{letter}{bits}": bits for letter in "fsu" for bits in (4, 8, 16, 32, 64)}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\w*\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)")
#: Instructions whose computations run one after the other in memory; those of a fusion are one pass over its operands.
_FLOW = ("while", "call", "conditional")
#: Nothing is written by them.
_IDLE = (*_FLOW, "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier")


class Instruction(NamedTuple):
    """One line of a computation: `rest` is what follows the opening bracket, operands and attributes."""

    name: str
    shape: str
    operation: str
    rest: str

    def called(self) -> list[str]:
        return [name.strip(" %") for group in _CALLED.findall(self.rest) for name in group.strip("{}").split(",")]

    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])


class Sent(NamedTuple):
    """All collectives of one kind in one run of the program.

    Attributes:
      count: operations, each as often as its loop turns.
      bytes: of the whole arrays that they make or sum up, per device.
      wire_bytes: that one device receives, where groups pass parts round in a ring.
      groups: devices that take part in one operation, every size that occurs.
    """

    kind: str
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple's own is not needed
    bytes: float
    wire_bytes: float
    groups: tuple[int, ...]


Computations = dict[str, list[Instruction]]


def computations(hlo: str) -> tuple[str, Computations]:
    """The entry computation's name and the instructions of all computations.

    Raises:
      ValueError: no program of XLA's.
    """
    entry, found, inside = "", {}, None
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            inside = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            inside = None
        elif inside is not None and (instruction := _INSTRUCTION.match(line)):
            inside.append(Instruction(*instruction.groups()))
    if not entry:
        raise ValueError("program: got a text without ENTRY, expected that of a compiled program (`as_text()`)")
    return entry, found


def turns(entry: str, found: Computations, *, fused: bool = True, loops: int | None = None) -> dict[str, int]:
    """How often each computation runs in one run of the program; without `fused` only those that loops and calls run.

    Args:
      loops: turns of a loop that an argument bounds.

    Raises:
      ValueError: such a loop, and `loops` is not given.
    """
    runs: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for instruction in found.get(name, ()):
            each = times * _trips(instruction, found, loops) if instruction.operation == "while" else times
            for callee in instruction.called() if fused or instruction.operation in _FLOW else ():
                visit(callee, each)

    visit(entry, 1)
    return dict(runs)


def _trips(loop: Instruction, found: Computations, unknown: int | None) -> int:
    """How often a loop turns: as the compiler notes, else the bound that its condition compares with."""
    if known := re.search(r'known_trip_count[\\":={\s]+n[\\":=\s]+(\d+)', loop.rest):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    body = found[condition[1]] if condition else ()
    bounds = [int(i.rest.split(")")[0]) for i in body if i.operation == "constant" and "32[]" in i.shape]
    if len(bounds) != 1 and unknown is not None:
        return unknown
    if len(bounds) != 1:
        raise ValueError(f"program: the loop {loop.name} does not say how often it turns")
    return bounds[0]


def collectives(hlo: str) -> list[Sent]:
    """What one run of a compiled program sends, by kind, in the order of `KINDS`; kinds that do not occur are left out.

    Args:
      hlo: `jax.jit(f).lower(...).compile().as_text()`.

    Raises:
      ValueError: no program of XLA's, or a loop without a number of turns.
    """
    entry, found = computations(hlo)
    counts: Counter[str] = Counter()
    sizes, wire, groups = defaultdict(float), defaultdict(float), defaultdict(set)
    for name, times in turns(entry, found).items():
        for instruction in found.get(name, ()):
            for kind, size, members in _collective(name, instruction):
                counts[kind] += times
                sizes[kind] += times * size
                wire[kind] += times * size * _share(kind, members)
                groups[kind].add(members)
    return [Sent(k, counts[k], sizes[k], wire[k], tuple(sorted(groups[k]))) for k in KINDS if counts[k]]


def _collective(computation: str, instruction: Instruction) -> Iterator[tuple[str, float, int]]:
    """(kind, bytes of the whole array, devices of a group), if the instruction is a collective."""
    kind = instruction.operation.removesuffix("-start")
    if kind not in KINDS:
        return
    started = instruction.operation != kind
    members = _group(instruction.rest)
    size = array_bytes(instruction.shape)
    if started and kind in ("all-gather", "reduce-scatter"):  # its result is (what is given, what comes)
        size *= members / (members + 1)
    elif started and kind == "collective-permute":
        size /= 2
    elif kind == "reduce-scatter":  # its result is one device's part
        size *= members
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # the TPU compiler's way to write it: every device keeps a part of the sum
    yield kind, size, members


def _share(kind: str, members: int) -> float:
    """Bytes that a device receives for each byte of the whole array."""
    part = (members - 1) / members
    return {"all-reduce": 2 * part, "collective-permute": 1.0}.get(kind, part)


def _group(attributes: str) -> int:
    """Devices of one group: of a list `{{0,1},{2,3}}`, a table `[2,64]<=[128]`, or axes of a mesh, maybe cut in parts:
    `mesh['data'=2,'fsdp'=64] {'fsdp','data':(1)2}`."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return listed[1].count(",") + 1
    if table := re.search(r"replica_groups=\[(?:\d+,)*(\d+)\]<=", attributes):
        return int(table[1])
    if named := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2]))
    return 2 if "source_target_pairs" in attributes else 1


def array_bytes(shape: str) -> float:
    """Bytes of an array's or a tuple's shape as XLA writes it: f32[2,3]{1,0}, (bf16[8], s32[])."""
    sizes = ((_BITS.get(kind, 0), dims) for kind, dims in _ARRAY.findall(shape))
    return sum(bits / 8 * math.prod(int(d) for d in dims.split(",") if d) for bits, dims in sizes)


def traffic_bytes(hlo: str, *, loops: int | None = None) -> float:
    """Bytes that a device writes to its memory and reads from it in one run of a program, roughly.

    Everything written is counted twice, since something reads it; what an instruction reads more than once, or keeps in
    a faster memory of the chip, is not seen or left out. A slice put into a larger array is a slice written.

    Args:
      loops: turns of a loop that an argument bounds.

    Raises:
      ValueError: no program of XLA's, or such a loop, and `loops` is not given.
    """
    entry, found = computations(hlo)
    return 2 * sum(
        times * sum(_written(instruction, found[name], found) for instruction in found.get(name, ()))
        for name, times in turns(entry, found, fused=False, loops=loops).items()
    )


def _written(instruction: Instruction, siblings: list[Instruction], found: Computations) -> float:
    operation = instruction.operation
    if operation in _IDLE or operation.endswith("-done") or "S(1)" in instruction.shape:  # S(1): the chip's own memory
        return 0.0
    if operation.endswith("-start"):  # (what is given, what comes)
        return array_bytes(instruction.shape) / 2
    if operation == "fusion" and (inside := found.get(instruction.called()[0])):
        return _stored(inside[-1], {i.name: i for i in inside})
    return _stored(instruction, {i.name: i for i in siblings})


def _stored(root: Instruction, siblings: dict[str, Instruction]) -> float:
    """Bytes of a computation's result that are new."""
    operands = [siblings[name] for name in root.operands() if name in siblings]
    if root.operation == "tuple":
        return sum(_stored(operand, siblings) for operand in operands)
    if root.operation == "bitcast" and operands:
        return _stored(operands[0], siblings)
    if root.operation == "dynamic-update-slice" and len(operands) > 1:
        return array_bytes(operands[1].shape)
    return array_bytes(root.shape)
