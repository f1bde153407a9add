"""Files that are made to hang, fill memory or confuse a terminal, and what reading them costs in a process of its own.

    outcomes = measured(folder, ["pickles", "safetensors"])       # {name: Outcome}

Run as a script it is that process: `python hostile_files.py FOLDER KIND...`.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

SOME = 3_000_000
MEMORY = 10**9
#: Escape sequences and line breaks, which must not reach a terminal.
ESCAPES = "\x1b]0;owned\x07\x1b[31m\n\r\u202e\ud800"


class Outcome(NamedTuple):
    """What became of one file: `said` is "" where it was read, "TypeError: ..." where reading failed otherwise."""

    said: str
    seconds: float  # of the processor
    peak_bytes: int


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


KEY, WORD = text("0"), text("storage")


def tensor(
    storage=b"ctorch\nFloatStorage\n", key=KEY, count=b"K\4", offset=b"K\0", size=b"K\4\x85", stride=b"K\1\x85",
    more=b"", word=WORD, identity=b"",
) -> bytes:  # fmt: skip
    """Instructions that push a tensor; every piece of it is instructions itself."""
    place = b"(" + word + storage + key + text("cpu") + count + identity + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + offset + size + stride + b"\x89N" + more + b"tR"


def doubled(times: int) -> bytes:
    """Two of two of two ...: small to write down, endless to print."""
    return b"K\1\x85" + b"q\0" + b"".join(b"h\0h\0\x86q\0" for _ in range(times))


def deep(times: int) -> bytes:
    return b")" + b"\x85" * times


def flat_dict(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


#: Name -> instructions, made when they are wanted.
PICKLES: dict[str, Callable[[], bytes]] = {
    "nothing hostile": lambda: flat_dict(a=tensor()),
    **{
        f"{how} as {field}": (lambda field=field, value=value: tensor(**{field: value()}))
        for how, value in {
            "doubled tuples": lambda: doubled(60), "deep tuples": lambda: deep(100_000),
            "a deep list": lambda: b"]" * 100_000 + b"a" * 99_999, "a long text": lambda: text("x" * 10**7),
            "a long tuple": lambda: b"(" + b"K\1" * 10**6 + b"t", "a tensor": tensor, "escapes": lambda: text(ESCAPES),
            "a list of itself": lambda: b"]q\0h\0a", "bytes": lambda: b"B" + struct.pack("<I", 10**7) + bytes(10**7),
        }.items()
        for field in ("offset", "size", "stride", "more", "count", "key", "storage", "word", "identity")
    },
    "three million tuples": lambda: deep(SOME),
    "three million lists": lambda: b"]" * SOME + b"a" * (SOME - 1),
    "three million dicts": lambda: b"}K\0" * SOME + b"}" + b"s" * SOME,
    "a hundred thousand tuples": lambda: deep(100_000),
    "dicts a hundred thousand deep": lambda: b"}" + b"X\1\0\0\0a}" * 100_000 + b"s" * 100_000,
    "marks": lambda: b"(" * 50_000_000,
    "marks and ends": lambda: b"(" * SOME + b"t" * SOME,
    "marked lists": lambda: b"(]" * SOME,
    "sets": lambda: b"\x8f" * 60_000_000,
    "empty dicts": lambda: b"}" * 60_000_000,
    "memo": lambda: b"N" + b"\x94" * 60_000_000,
    "far memo": lambda: b"N" + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - i) for i in range(SOME)),
    "numbers that share a hash": lambda: (
        b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(200_000)) + b"u"
    ),
    "floats": lambda: b"}(" + b"".join(b"G" + struct.pack(">d", 2.0**i) + b"N" for i in range(-1000, 1000)) + b"u",
    "one list, made a dict again and again": lambda: (
        b"ccollections\nOrderedDict\nq\0(" + b"K\1K\1\x86" * 100_000 + b"t\x85q\1" + b"h\0h\1R" * 300_000
    ),
    "one size, checked again and again": lambda: (
        b"ctorch\nSize\nq\0(" + b"K\1" * 10**6 + b"t\x85q\1" + b"h\0h\1R" * 300_000
    ),
    "an ordered dict of a tensor": lambda: b"ccollections\nOrderedDict\n" + tensor() + b"\x85R",
    "an ordered dict of a text": lambda: b"ccollections\nOrderedDict\n" + text("ab" * 10**6) + b"\x85R",
    "tensors": lambda: tensor()[:-2] + b"tq\0ctorch._utils\n_rebuild_tensor_v2\nq\1" + b"h\1h\0R" * SOME,
    "storages": lambda: b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\4tq\0"
        + b"h\0Q" * SOME,
    "expanded to gigabytes": lambda: tensor(size=number(2**31) + b"\x85", stride=b"K\0\x85"),
    "expanded to exabytes": lambda: tensor(size=number(2**40) + number(2**20) + b"\x86", stride=b"K\0K\0\x86"),
    "many expanded": lambda: b"(" + tensor(size=number(2**20) + b"\x85", stride=b"K\0\x85") * 500 + b"t",
    "no values of a large shape": lambda: tensor(size=b"K\0" + number(2**62) + number(2**62) + b"\x87",
                                                 stride=b"K\0K\0K\0\x87"),
    "65 axes": lambda: tensor(size=b"(" + b"K\1" * 65 + b"t", stride=b"(" + b"K\1" * 65 + b"t"),
    "a text of four gigabytes": lambda: b"X\xff\xff\xff\xffabc",
    "a text of exabytes": lambda: b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"abc",
    "bytes of exabytes": lambda: b"\x8e" + struct.pack("<Q", 2**63 - 1) + b"abc",
    "a frame of exabytes": lambda: b"\x95" + struct.pack("<Q", 2**63 - 1) + b"}",
    "a long number": lambda: b"\x8b" + struct.pack("<i", 10**7) + bytes(10**7),
    "a long decimal": lambda: b"I" + b"9" * 10**7 + b"\n",
    "a long name": lambda: b"c" + b"m" * 10**7 + b"\n" + b"n" * 10**7 + b"\n",
    "a name without an end": lambda: b"c" + b"m" * 10**7,
    "a name with escapes": lambda: b"\x8c\x09os\n\x1b[31m\n" + text(ESCAPES) + b"\x93",
    "a key with escapes": lambda: b"}" + text(ESCAPES) + b"Ns",
    "a tensor's key with escapes": lambda: b"}" + text(ESCAPES) + tensor() + b"s",
    "a long key": lambda: b"}" + text("k" * 10**7) + tensor() + b"s",
    "long texts": lambda: b"(" + text("\U0001f600" * 10**6) * 15 + b"t",
    "dicts in one another": lambda: b"}q\0h\0" + text("a") + b"h\0sh\0" + text("b") + b"h\0s0.",
    "a dict of itself": lambda: b"}q\0" + text("model") + b"h\0s" + text("ema") + b"h\0s",
    "one dict a million times": lambda: b"".join([
        flat_dict(a=tensor()), b"q\0",
        *(b"}(" + b"".join(text(f"k{i}") + b"h\0" for i in range(100)) + b"uq\0" for _ in range(6)),
    ]),
    "attributes of itself": lambda: b"}q\0h\0b",
    "other instructions": lambda: bytes(range(256)),
    "text": lambda: b"(dp0\nS'a'\np1\nI1\ns.",
    "nothing": lambda: b"",
}  # fmt: skip


def archive(path: Path, program: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/data/0", bytes(16))


def long_ago(path: Path, program: bytes) -> None:
    """As before version 1.6 of torch."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    values = pickle.dumps(["0"], 2) + struct.pack("<Q", 4) + bytes(16)
    path.write_bytes(b"".join(pickle.dumps(x, 2) for x in head) + program + values)


def pickles(folder: Path, names: Collection[str] = PICKLES) -> Iterator[tuple[str, Path]]:
    for name in names:
        program = PICKLES[name]
        for container in (archive, long_ago):
            container(folder / "x.pth", b"\x80\2" + program() + b".")
            yield f"{name} ({container.__name__})", folder / "x.pth"


def archives(folder: Path) -> Iterator[tuple[str, Path]]:
    path = folder / "x.pth"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(300_000):
            file.writestr(zipfile.ZipInfo(f"archive/data/{i:060}"), b"")
    yield "300,000 records", path
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", bytes(100 * 2**20))
    yield "a description of 100 MiB", path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(500 * 2**20))
    yield "a bomb", path
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{ESCAPES[:-1]}/data.pkl", b"}.")
        file.writestr("b/data.pkl", b"}.")
    yield "names with escapes", path
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, 30 * 2**20, 0, 0)
    path.write_bytes(b"PK\3\4" + bytes(30 * 2**20 - 4) + end)
    yield "a directory of 30 MiB", path


def headers() -> dict[str, Callable[[], bytes]]:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    of = lambda **changed: lambda: json.dumps({"a": entry | changed}).encode()
    return {
        "deep lists": lambda: b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep dicts": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "deep notes": lambda: b'{"__metadata__":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        "deep shape": lambda: b'{"a":{"dtype":"F32","data_offsets":[0,16],"shape":' + b"[" * 900 + b"]" * 900 + b"}}",
        "lists": lambda: b'{"a":[' + b"[]," * 5_000_000 + b"[]]}",
        "objects": lambda: b'{"a":[' + b"{}," * 5_000_000 + b"{}]}",
        "names": lambda: json.dumps({f"{i}": 0 for i in range(200_000)}).encode(),
        "tensors": lambda: json.dumps({f"{i}": entry for i in range(150_000)}).encode(),
        "a long header": lambda: b"{" + b" " * (100 * 2**20) + b"}",
        "a long name": lambda: json.dumps({"x" * 10**7: entry | {"shape": [5]}}).encode(),
        "escapes": lambda: json.dumps({ESCAPES: entry | {"dtype": ESCAPES}}).encode(),
        "a long type": of(dtype="x" * 10**7), "a list for a type": of(dtype=[]), "F4": of(dtype="F4"),
        "F6": of(dtype="F6_E2M3"), "a long shape": of(shape=[1] * 10**6), "a large shape": of(shape=[2**62, 2**62]),
        "nothing of a large shape": of(shape=[2**61, 2**61, 0], data_offsets=[0, 0]),
        "below zero": of(shape=[-4]), "halves": of(shape=[0.5]), "truth": of(shape=[True]), "turned": of(
            data_offsets=[16, 0]), "beyond": of(data_offsets=[0, 2**60], shape=[2**58]), "a hole": of(
            data_offsets=[4, 16], shape=[3]), "digits": lambda: b'{"a":' + b"9" * 10**6 + b"}",
        "no object": lambda: b"{" + b"\xff" * 9, "a list": lambda: b"[]", "nothing": lambda: b"{}",
        "65 axes": of(shape=[4] + [1] * 65),
    }  # fmt: skip


def safetensors(folder: Path) -> Iterator[tuple[str, Path]]:
    for name, header in headers().items():
        made = header()
        (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(made)) + made + bytes(16))
        yield f"safetensors: {name}", folder / "x.safetensors"
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", 2**31) + b'{"a":1}')
    yield "safetensors: a header of two gigabytes", folder / "x.safetensors"
    index = folder / "x.safetensors.index.json"
    for name, content in {
        "deep": b'{"weight_map":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "large": b"{" + b" " * (32 * 2**20) + b"}",
        "outside": b'{"weight_map": {"a": "../x.safetensors"}}', "escapes": json.dumps(
            {"weight_map": {ESCAPES[:-1]: "\x1b[31m.safetensors"}}).encode(), "blank": bytes(1000), "nothing": b"",
        "many": json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(200_000)}}).encode(),
    }.items():  # fmt: skip
        index.write_bytes(content)
        yield f"index: {name}", index


def mutated(folder: Path, count: int, seed: int) -> Iterator[tuple[str, Path]]:
    """Files of `folder/whole`, cut off or with bytes changed."""
    chance = random.Random(seed)
    whole = sorted((folder / "whole").iterdir())
    for i in range(count):
        path = whole[i % len(whole)]
        data = bytearray(path.read_bytes())
        how = chance.choice(("cut", "bit", "bytes", "joined"))
        if how == "cut":
            del data[chance.randrange(len(data)) :]
        elif how == "bit":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif how == "bytes":
            for _ in range(chance.randint(1, 20)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        else:
            first, second = sorted(chance.randrange(len(data)) for _ in range(2))
            data[first:second] = b"" if chance.random() < 0.5 else 2 * data[first:second]
        (folder / path.name).write_bytes(data)
        yield f"{how} {i} of {path.name}", folder / path.name


KINDS = {"pickles": pickles, "archives": archives, "safetensors": safetensors}


def measured(folder: Path, kinds: list[str], *, timeout_seconds: float) -> dict[str, Outcome]:
    """What reading every file of these kinds costs, in one process for all.

    Kinds are those of `KINDS`, `pickles:NAME:NAME:...` and `mutated:COUNT:SEED`.

    Raises AssertionError where that process dies or stands still, naming the file it was at.
    """
    command = [sys.executable, __file__, str(folder), *kinds]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    try:
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"stands still at {str(late.stdout)[-300:]}") from None
    assert run.returncode == 0, run.stdout[-300:] + run.stderr[-2000:]
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    return {line[0]: Outcome(*line[1:]) for line in lines if len(line) > 1}


def _main(folder: Path, kinds: list[str]) -> None:
    import resource

    from kfjax.convert.formats.files import read_state

    resource.setrlimit(resource.RLIMIT_AS, (4 * MEMORY, 4 * MEMORY))
    for kind in kinds:
        what, *rest = kind.split(":")
        if what == "mutated":
            made = mutated(folder, *map(int, rest))
        else:
            made = pickles(folder, rest) if rest else KINDS[what](folder)
        for name, path in made:
            print(json.dumps([name]), flush=True)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            start, before = time.process_time(), _memory("VmRSS")
            try:
                found = read_state(path, holding=("a", "weight"), say=assert_a_line)
                _ = [x.tobytes() for x in found.values()]  # values are read when they are used
                said = ""
            except ValueError as error:
                said = f"ValueError: {error}"
            except Exception as error:
                said = f"{type(error).__name__}! {error}"
            print(json.dumps([name, said, time.process_time() - start, _memory("VmHWM") - before]), flush=True)
            path.unlink()


def assert_a_line(message: str) -> None:
    assert message.isprintable() and len(message) < 2000, message[:2000]


def _memory(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
