"""Extracted features on disk: the generator's conditions and target latents, one record per excerpt.

    with ShardWriter(folder, shard=0, of=1, fingerprint=mark) as shard:
        shard.add(8.0, example)
    write_index(folder)

    bucket = Folder(folder, fingerprint=mark).buckets[8.0]
    parse(bucket[5]).clip                                        # bf16 [64 1024], a view into the record's bytes

    FOLDER/index.json                        schema, fingerprint, and per bucket the shapes and the shards' sizes
    FOLDER/8s/00003-of-00016.array_record    shard 3's excerpts of 8 seconds (ArrayRecord, uncompressed)
    FOLDER/shards/00003-of-00016.json        shard 3 is complete: what its files hold

A record is `KFX1`, the length of its header (u32, little-endian), the header (JSON: id, schema, fingerprint, times,
presence, and dtype, shape and offset of every array), and the arrays, raw and little-endian at multiples of 64 bytes.
Features that a presence mask hides are not stored; they read as zeros. What Mono2Stereo learns from is there where the
extraction was asked for it: `stereo_mono` and `stereo_ratio`, a byte a mel bin each, stored of stereo recordings.
Only numpy here: readers run in processes that must not touch an accelerator.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from kfjax.data.shards.json_files import read_json, write_json
from kfjax.data.shards.marks import Marks
from kfjax.data.shards.record_file import RecordFile, array_record, locked, noted_places, open_records, read_range
from kfjax.storage import cache, disk
from kfjax.storage.bucket import STREAMS
from kfjax.structs import Given, StereoMels

SCHEMA = 1
INDEX = "index.json"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_MAGIC = b"KFX1"
_ALIGN = 64
_ARRAYS = ("clip", "sync", "text", "text_mask", "mean", "std")
#: Arrays that a folder need not have: those of `Example.stereo`.
STEREO = ("stereo_mono", "stereo_ratio")
_DTYPES: dict[str, np.dtype] = {name: BFLOAT16 for name in _ARRAYS}
_DTYPES |= {"text_mask": np.dtype(bool), "stereo_mono": np.dtype(np.uint8), "stereo_ratio": np.dtype(np.int8)}
_SCALARS = {"seconds_start": float, "seconds_total": float, "has_video": bool, "has_text": bool}


class Example(NamedTuple):
    """One excerpt: `structs.Features` and `structs.Posterior` without their batch axis, and where it came from."""

    id: str  # unique in its folder, and the same however the extraction was split or interrupted
    clip: np.ndarray  # bf16 [v, clip_dim]
    sync: np.ndarray  # bf16 [s, sync_dim]
    text: np.ndarray  # bf16 [l, text_dim]
    given: Given  # text_mask bool [l], all else scalars
    mean: np.ndarray  # bf16 [n, d], of the normalised latents
    std: np.ndarray  # bf16 [n, d]
    stereo: StereoMels | None = None  # u8 and i8 [f, m]; None: the folder has none


def pack(example: Example, fingerprint: str) -> bytes:
    """The record of an example; floating-point arrays are rounded to bfloat16.

    Args:
      fingerprint: of the encoders that made it.

    Raises:
      ValueError: NaN or infinite values in what is stored.
    """
    if wrong := not_finite(example):
        raise ValueError(f"{example.id}: got NaN or infinite values in {', '.join(wrong)}; leave it out")
    arrays, pieces, offset, stored = {}, [], 0, _stored(example)
    for name, array in arrays_of(example).items():
        array = np.ascontiguousarray(array, _DTYPES[name])
        arrays[name] = [array.dtype.name, array.shape, offset if name in stored else None]
        if name in stored:
            pieces.append(_padded(array.tobytes()))
            offset += len(pieces[-1])
    header = {"schema": SCHEMA, "fingerprint": fingerprint, "id": example.id, "arrays": arrays}
    header |= {name: kind(getattr(example.given, name)) for name, kind in _SCALARS.items()}
    header |= {} if example.stereo is None else {"has_stereo": bool(example.stereo.there)}
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_padded(_MAGIC + struct.pack("<I", len(text)) + text), *pieces])


def parse(record: bytes) -> Example:
    """The example in a record. Its arrays are read-only views of `record`: nothing is copied.

    Raises:
      ValueError: not such a record, or one of another schema; NaN or infinite values.
    """
    header, start = _header(record)
    try:
        names = _ARRAYS + (STEREO if "has_stereo" in header else ())
        arrays = {name: _array(record, start, name, *header["arrays"][name]) for name in names}
        given = Given(arrays.pop("text_mask"), **{name: header[name] for name in _SCALARS})
        mono, ratio = (arrays.pop(name, None) for name in STEREO)
        stereo = None if mono is None or ratio is None else StereoMels(mono, ratio, header["has_stereo"])
        example = Example(id=header["id"], given=given, stereo=stereo, **arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"record: its header does not describe it ({error}); extract the features again") from None
    if wrong := not_finite(example):
        raise ValueError(f"record: got NaN or infinite values in {', '.join(wrong)}; extract the features again")
    return example


def not_finite(example: Example) -> list[str]:
    """Names of the arrays that are stored and hold NaN or infinite values once they are bfloat16."""
    stored = _stored(example)
    return [name for name, array in arrays_of(example).items() if name in stored and not _finite(array)]


def arrays_of(example: Example) -> dict[str, np.ndarray]:
    """Name -> array, of all that a record stores as such."""
    named: dict[str, Any] = example._asdict() | {"text_mask": example.given.text_mask}
    mels: dict[str, Any] = {} if example.stereo is None else dict(zip(STEREO, example.stereo, strict=False))
    return {name: named[name] for name in _ARRAYS} | mels


def _stored(example: Example) -> list[str]:
    """Names of the arrays whose values are stored: not those of what the example lacks."""
    given = example.given
    there = {"clip": given.has_video, "sync": given.has_video, "text": given.has_text}
    there |= dict.fromkeys(STEREO, example.stereo is not None and example.stereo.there)
    return [name for name in (*_ARRAYS, *STEREO) if there.get(name, True)]


def _finite(array: np.ndarray) -> bool:
    """Whether no exponent is all ones: many times as fast as `np.isfinite` on bfloat16."""
    bits = None if np.asarray(array).dtype.itemsize == 1 else np.asarray(array, BFLOAT16).view(np.uint16)
    return bits is None or not (bits & 0x7F80 == 0x7F80).any()


def _header(record: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the arrays begin."""
    if record[:4] != _MAGIC or len(record) < 8:
        raise ValueError(f"record: begins with {bytes(record[:4])!r}, expected {_MAGIC!r}; extract the features again")
    end = 8 + struct.unpack_from("<I", record, 4)[0]
    try:
        header = json.loads(record[8:end])
        schema = header["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"record: its header is damaged ({error}); extract the features again") from None
    _check_schema("record", schema)
    return header, -(-end // _ALIGN) * _ALIGN


def _array(record: bytes, start: int, name: str, dtype: str, shape: Sequence[int], offset: int | None) -> np.ndarray:
    if dtype != _DTYPES[name].name:
        raise ValueError(f"{name} is {dtype}, expected {_DTYPES[name].name}")
    if offset is None:
        return np.broadcast_to(_DTYPES[name].type(0), shape)
    if min(offset, *shape) < 0:  # numpy gives both a meaning
        raise ValueError(f"shape {shape}, offset {offset}")
    return np.frombuffer(record, _DTYPES[name], math.prod(shape), start + offset).reshape(shape)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGN)


def _check_schema(where: str | Path, schema: Any) -> None:
    if schema != SCHEMA:
        raise ValueError(f"{where}: got features of schema {schema}, expected {SCHEMA}; extract them again")


class ShardWriter:
    """Writes one shard: a file per bucket, all under temporary names until the block ends without an error.

    The shard's note is written last: without it the shard is incomplete and is written anew.

    Args:
      shard, of: which shard of how many.
      fingerprint: of the encoders.

    Attributes:
      remember: anything else to note of the shard (JSON).

    Raises:
      ValueError: another process is writing this shard; examples of one bucket with different shapes; a file that
        can't be written.
    """

    def __init__(self, folder: Path, shard: int, of: int, fingerprint: str):
        array_record()  # before an hour's work
        self.folder, self.name, self.fingerprint = disk.path(folder), _name(shard, of), fingerprint
        self.remember: dict[str, Any] = {}
        self._files: dict[float, RecordFile] = {}
        self._open = ExitStack()

    def __enter__(self) -> ShardWriter:
        path = _note(self.folder, self.name).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open.enter_context(locked(path))
        self._discard()
        return self

    def add(self, seconds: float, example: Example) -> None:
        """Append to the bucket of `seconds`."""
        if seconds not in self._files:
            path = _bucket(self.folder, seconds) / f"{self.name}.array_record"
            self._files[seconds] = self._open.enter_context(RecordFile(path))
        shapes = {name: list(np.shape(array)) for name, array in arrays_of(example).items()}
        self._files[seconds].write(pack(example, self.fingerprint), shapes)

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self._complete()
            else:
                self._discard()
        except ValueError:
            self._discard()
            raise
        finally:
            self._open.close()

    def _complete(self) -> None:
        for file in self._files.values():
            file.close()
        buckets = [
            {"seconds": seconds, "count": file.count, "bytes": file.temporary.stat().st_size,
             "sha256": disk.digest_of(file.temporary), "shapes": file.shapes, "records": file.places()}
            for seconds, file in sorted(self._files.items())
        ]  # fmt: skip
        for file in self._files.values():
            disk.replace(file.temporary, file.path)
        disk.sync(self.folder)  # the buckets' folders may be new
        note = {"schema": SCHEMA, "fingerprint": self.fingerprint, "buckets": buckets, **self.remember}
        write_json(_note(self.folder, self.name), note)  # last: this completes the shard

    def _discard(self) -> None:
        """What an earlier attempt left, or this one."""
        _note(self.folder, self.name).unlink(missing_ok=True)
        for path in disk.glob(self.folder, "*s", f"{self.name}.array_record*"):
            path.unlink()
        self._files.clear()


def write(folder: Path, buckets: Mapping[float, Iterable[Example]], fingerprint: str, *, shards: int = 1) -> Path:
    """A whole folder at once, distributed over `shards`; returns it."""
    dealt = {seconds: list(examples) for seconds, examples in buckets.items()}
    for k in range(shards):
        with ShardWriter(folder, k, shards, fingerprint) as shard:
            for seconds, examples in dealt.items():
                for example in examples[k::shards]:
                    shard.add(seconds, example)
    write_index(folder)
    return folder


def notes(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> note of every complete shard, in order."""
    found = sorted((disk.path(folder) / "shards").glob("*.json"))
    with ThreadPoolExecutor(STREAMS) as pool:
        return dict(zip((path.stem for path in found), pool.map(read_json, found), strict=True))


def is_done(folder: Path, shard: int, of: int) -> bool:
    """Whether the shard is complete and its files are still what was written."""
    note = _note(folder, _name(shard, of))
    if not note.is_file():
        return False
    path = lambda bucket: _bucket(folder, bucket["seconds"]) / f"{note.stem}.array_record"
    return all(disk.size_of(path(bucket)) == bucket["bytes"] for bucket in read_json(note)["buckets"])


def write_index(folder: Path) -> None:
    """Write the folder's index once all of its shards are there.

    Raises:
      ValueError: shards are missing, or do not belong together.
    """
    folder, found = disk.path(folder), notes(folder)
    of = {name.partition("-of-")[2] for name in found}
    marks = {(note["schema"], note["fingerprint"]) for note in found.values()}
    if len(of) != 1 or len(marks) != 1:
        got = f"shards of {sorted(of)} and of encoders {sorted(marks)}" if found else "no shards"
        raise ValueError(f"{folder}: got {got}, expected those of one extraction; extract into an empty folder")
    total = int(*of)
    missing = [name for name in (_name(k, total) for k in range(total)) if name not in found]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} of {total} shards are missing: {_some(missing)}; extract them too")
    ((schema, fingerprint),) = marks
    merged: dict[float, dict[str, Any]] = {}
    for k in range(total):
        for part in found[_name(k, total)]["buckets"]:
            bucket = merged.setdefault(part["seconds"], {"seconds": part["seconds"], "shapes": part["shapes"]})
            if bucket["shapes"] != part["shapes"]:
                where = f"shard {k} has other shapes of {part['seconds']:g} s than those before"
                raise ValueError(f"{folder}: {where}; extract into an empty folder")
            shard = {"shard": k, "count": part["count"], "bytes": part["bytes"], "sha256": part.get("sha256", "")}
            bucket.setdefault("shards", []).append(shard)
    buckets = [merged[seconds] for seconds in sorted(merged)]
    index = {"schema": schema, "fingerprint": fingerprint, "of": total, "buckets": buckets}
    index |= {name: note[name] for note in found.values() for name in ("marks",) if name in note}
    write_json(folder / INDEX, index)


class Folder:
    """Extracted features, opened for reading. Only sizes are looked at until an example is asked for.

    Attributes:
      buckets: seconds -> `RecordBucket`.
      shapes: seconds -> name of an `Example`'s array -> its shape.
      fingerprint, marks: of the encoders that made the features; the latter of each part too.
      of: the number of shards.
      copied: of a folder in a bucket, whether there is room for all shards here; else single records are fetched.

    Raises:
      ValueError: no finished extraction, another schema, features of other encoders than those with `fingerprint`,
        shards that are missing or have another size than when they were written (all named).
    """

    def __init__(self, path: str | Path, *, fingerprint: str | Marks | None = None):
        self.path = disk.path(path)
        if disk.in_bucket(self.path):
            self.path.check_bucket()
        if not (self.path / INDEX).is_file():
            done = "an unfinished extraction" if (self.path / "shards").is_dir() else f"no {INDEX}"
            raise ValueError(f"{self.path}: got {done}, expected features; run kfjax extract to its end")
        index = read_json(self.path / INDEX)
        _check_schema(self.path, index.get("schema"))
        try:
            self.fingerprint = index["fingerprint"]
            self.marks = Marks(**index["marks"]) if "marks" in index else Marks(self.fingerprint)
            self.shapes = {float(b["seconds"]): {k: tuple(v) for k, v in b["shapes"].items()} for b in index["buckets"]}
            self.buckets = {float(b["seconds"]): self._bucket(b, index["of"]) for b in index["buckets"]}
            self.of = index["of"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path / INDEX}: is damaged ({error!r}); run kfjax extract again") from None
        expected = Marks(fingerprint) if isinstance(fingerprint, str) else fingerprint
        if expected is not None and expected.differing(self.marks):
            raise ValueError(f"{self.path}: got features of encoders {self.marks.unlike(expected)}")
        self._check_files()
        shards = self._shards()
        self.copied = disk.in_bucket(self.path) and cache.fits(str(self.path), sum(s.size_bytes for s in shards))
        for shard in shards:
            shard.copied = self.copied

    def _bucket(self, bucket: dict[str, Any], of: int) -> RecordBucket:
        folder = _bucket(self.path, bucket["seconds"])
        path = lambda shard: folder / f"{_name(shard, of)}.array_record"
        made = lambda s: Shard(path(s["shard"]), s["count"], s["bytes"], self.fingerprint, s.get("sha256", ""))
        return RecordBucket([*map(made, bucket["shards"])])

    def _shards(self) -> list[Shard]:
        return [shard for bucket in self.buckets.values() for shard in bucket.shards]

    def _check_files(self) -> None:
        shards = self._shards()
        relative = lambda shard: str(shard.path.relative_to(self.path))
        there = disk.sizes(self.path)
        missing = [relative(shard) for shard in shards if relative(shard) not in there]
        if missing:
            count = f"{len(missing)} of {len(shards)} files are missing"
            raise ValueError(f"{self.path}: {count}: {_some(missing)}; copy them again, or run kfjax extract again")
        sizes = {shard: there[relative(shard)] for shard in shards}
        wrong = [f"{relative(s)} ({size} of {s.size_bytes} bytes)" for s, size in sizes.items() if size != s.size_bytes]
        if wrong:
            raise ValueError(f"{self.path}: truncated or replaced: {_some(wrong)}; copy again, or extract again")


class RecordBucket(Sequence[bytes]):
    """The records of one duration, shard after shard: a source for grain. Pickles without its open files."""

    def __init__(self, shards: Sequence[Shard]):
        self.shards = list(shards)
        self._ends = list(itertools.accumulate(len(shard) for shard in self.shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]  # no slices
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        which = self._which(index)
        return self.shards[which][index - self._ends[which] + len(self.shards[which])]

    def ahead(self, indices: Iterable[int]) -> None:
        """Begin to fetch what these records are in, where that is in a bucket."""
        for which in sorted({self._which(index) for index in indices}):
            self.shards[which].ahead()

    def _which(self, index: int) -> int:
        return bisect.bisect_right(self._ends, index)

    def __iter__(self) -> Iterator[bytes]:
        return (shard[i] for shard in self.shards for i in range(len(shard)))


class Shard:
    """One ArrayRecord file: `count` records in `size_bytes`, opened at the first record that is asked for.

    Of one in a bucket a copy in this machine's cache is read, or where it is not `copied` the record alone, if the
    shard's note says where it is; an earlier version's does not.

    Args:
      digest: the file's SHA-256, with which a copy is compared; "" where none was noted.

    Raises:
      ValueError: on reading, a damaged file, or one that other encoders made; see `cache.fetch`.
    """

    def __init__(self, path: Path, count: int, size_bytes: int, fingerprint: str, digest: str = ""):
        self.path, self.count, self.size_bytes, self.fingerprint = path, count, size_bytes, fingerprint
        self.digest, self.copied, self._asked = digest, False, False
        self._reader, self._places = None, None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < self.count:
            raise IndexError(f"record {index} of {self.count}")
        return self._read(index)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None, "_asked": False}

    def ahead(self) -> None:
        """Begin to fetch it, if it is in a bucket and not open."""
        if disk.in_bucket(self.path) and self.copied and not self._asked:
            cache.ahead([(self.path, self.size_bytes, self.digest)])
        self._asked = True

    def _read(self, index: int) -> bytes:
        if disk.in_bucket(self.path) and not self.copied:
            self._places = noted_places(self.path) if self._places is None else self._places
            if self._places:
                return read_range(self.path, self._places[index])
        try:
            if (reader := self._reader) is None:
                reader = self._reader = self._open()
            return reader.read([index])[0]
        except RuntimeError as error:  # all that the library raises
            raise ValueError(f"{self.path}: record {index} is damaged ({error}); copy or extract it again") from None

    def _open(self):
        options = {"size": self.size_bytes, "digest": self.digest, "gone": self._close}
        reader = open_records(self.path, self.count, **options)
        mark = _header(reader.read([0])[0])[0].get("fingerprint")
        if mark != self.fingerprint:
            raise ValueError(
                f"{self.path}: got features of encoders {mark}, expected those of {self.fingerprint}, "
                "as in the rest of its folder; extract it again"
            )
        return reader

    def _close(self) -> None:
        self._reader, self._asked = None, False


def _name(shard: int, of: int) -> str:
    return f"{shard:05d}-of-{of:05d}"


def _bucket(folder: Path, seconds: float) -> Path:
    return disk.path(folder) / f"{seconds:g}s"


def _note(folder: Path, name: str) -> Path:
    return disk.path(folder) / "shards" / f"{name}.json"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
