"""Weights and training states on disk.

A weights file is one `.safetensors` with flat names ("mmdit/single/audio/qkv/kernel"); a training state is an orbax
checkpoint. Writing goes to a temporary name and is renamed, so that a reader never sees half a file; what is written
gets digests (`kfjax.storage.disk`), which are checked when it is read.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from kfjax.command import quoted
from kfjax.nn.module import Params, flatten
from kfjax.storage import bucket, disk
from kfjax.storage.disk import CheckpointError
from kfjax.storage.orbax_bucket import temporary_path_class

T = TypeVar("T")


class WeightsError(ValueError):
    """A weights file that does not fit: everything wrong with it in one message."""


#: Of names in a weights file; ours have seven.
MAX_PARTS = 100


def weights_fingerprint(params: Params) -> str:
    """Short hash of what makes features or latents: of all weights of an encoder, of a VAE's all but its decoder's."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten({name: part for name, part in params.items() if name != "decoder"}).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()[:16]


def unflatten(flat: dict[str, Any]) -> Params:
    """`{"a/b": x}` to nested dicts; all-digit names become the integers that lists of modules use.

    Raises:
      WeightsError: a name that is another's beginning, or has more than `MAX_PARTS` parts.
    """
    nested: dict[Any, Any] = {}
    for name, leaf in flat.items():
        parts = [int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in name.split("/", MAX_PARTS)]
        node = nested
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                break
        if len(parts) > MAX_PARTS or not isinstance(node, dict) or parts[-1] in node:
            raise WeightsError(f"{quoted(name)} can't be the name of a tensor here: it is too long, or another's")
        node[parts[-1]] = leaf
    return nested


def save_params(path: str | Path, params: Params, *, dtype: str | None = None) -> None:
    """Write a nested dict of arrays as safetensors; `dtype` (e.g. "bfloat16") casts floating-point leaves."""
    from safetensors.numpy import save_file

    def leaf(x):
        x = np.asarray(x)
        if dtype and jax.numpy.issubdtype(x.dtype, jax.numpy.floating):
            x = x.astype(jax.numpy.dtype(dtype))
        return np.asarray(x, order="C")  # ascontiguousarray would make vectors of scalars

    path = disk.path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.writing(path) as temporary:
        save_file({name: leaf(x) for name, x in flatten(params).items()}, temporary)
        temporary.chmod(0o644)  # the library writes for its owner alone


def load_params(
    path: str | Path,
    expected: Params | None = None,
    *,
    skip: str = "",
    place: Callable[[np.ndarray], Any] = lambda x: x,
) -> Params:
    """Read a weights file; floating-point leaves come back as float32.

    Args:
      expected: nested dict of shapes (`module.shapes`) that the file must match exactly.
      skip: a branch at the root that is neither read nor checked.
      place: makes of every array what is returned in its stead, a cast one on a device for example, before the next
        is read: no second copy of all is ever held.

    Raises:
      WeightsError: unreadable file; missing, unknown or misshapen tensors; NaN or infinite values. All at once.
      CheckpointError: the file is not as it was written.
    """
    from safetensors import SafetensorError

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: expected a .safetensors file; check the model directory")
    flat, endless = {}, []
    with disk.checked(disk.digests(path)):
        try:
            for name, x in _tensors(path, skip):
                x = _float32(x)  # before the check, which takes three times as long on halves
                if not np.isfinite(x).all():
                    endless.append(f"not finite: {quoted(name)}")
                flat[name] = place(x)
        except (SafetensorError, OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            # The library has no type of its own for dtypes that NumPy lacks.
            why = f"is not a readable .safetensors file ({quoted(str(error), 200)}); copy or export it again"
            raise WeightsError(f"{path} {why}") from None
        problems = endless if expected is None else _differences(flat, flatten(expected)) + endless
        if problems:
            advice = "Export the model again (kfjax export WORKDIR OUTPUT), or fix its config"
            raise WeightsError(f"{path} does not fit its configuration: {_shown(problems)}. {advice}")
    return unflatten(flat)


#: Of a weights file, read before it is opened anew: pages that were read count as the process's own until it is closed.
_BYTES_AT_ONCE = 2**26


def reading_bytes(shapes: Params) -> int:
    """Host memory that `load_params` needs beside what it returns: pages of the file, and one tensor in float32."""
    largest = max(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    return _BYTES_AT_ONCE + 2 * largest


def _tensors(path: Path, skip: str) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    names = None
    while names is None or names:
        with safe_open(path, "numpy") as file:
            if names is None:
                names = [name for name in file.keys() if not (skip and name.startswith(f"{skip}/"))]  # noqa: SIM118
            done = 0
            while names and done < _BYTES_AT_ONCE:
                name = names.pop(0)
                x = file.get_tensor(name)
                done += x.nbytes
                yield name, x


def _float32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32, copy=False) if jax.numpy.issubdtype(x.dtype, jax.numpy.floating) else x


def _differences(got: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    problems = [f"missing: {name}" for name in sorted(expected.keys() - got.keys())]
    problems += [f"unknown: {quoted(name)}" for name in sorted(got.keys() - expected.keys())]
    for name in sorted(expected.keys() & got.keys()):
        if tuple(got[name].shape) != tuple(expected[name].shape):
            problems.append(f"shape of {name}: got {tuple(got[name].shape)}, expected {tuple(expected[name].shape)}")
    return problems


def _shown(problems: list[str], most: int = 8) -> str:
    rest = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + rest


class StateStore:
    """Training states under `folder`; saving is asynchronous, restoring exact.

    A state is written under a temporary name that no reader takes for a checkpoint. Which one is the newest is decided
    by the steps' numbers, never by a clock. A context manager: what is being saved is on disk when it ends. With
    several processes all of them call everything, in the same order, on a folder that all of them see. The folder is
    the store's alone: what a killed run left half-written is cleared away. Each process notes digests of its own files
    before the state counts as complete; on restoring each checks a part of all files. In a bucket the object
    commit_success.txt, written last, makes a state complete, and the store's own checksums take the place of digests.

    Args:
      keep: how many are kept, the newest ones.
      keep_every: those of steps that are a multiple of it are kept for good; 0 = none.
      guard: called before a state is written; raises where this run may not write any more.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 2,
        keep_every: int = 0,
        guard: Callable[[], None] = lambda: None,
    ):
        import orbax.checkpoint as ocp
        from orbax.checkpoint._src import asyncio_utils

        # orbax's own closes the loop while tensorstore still writes other files, and nothing public decides how orbax's
        # threads make or close their loops. Not all its versions have this function.
        if hasattr(asyncio_utils, "_run_sync_via_new_loop"):
            asyncio_utils._run_sync_via_new_loop = _run_to_the_end
        self._ocp, self._folder, self._guard = ocp, disk.path(folder).resolve(), guard
        logging.getLogger("absl").addFilter(not_of_orbax)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_every or None, create=True, cleanup_tmp_directories=True,
            temporary_path_class=temporary_path_class(self._folder),
        )  # fmt: skip
        handler = ocp.StandardCheckpointHandler()
        if not disk.in_bucket(self._folder):
            handler = _signing(handler)
        self._manager = ocp.CheckpointManager(str(self._folder), item_handlers=handler, options=options)

    def __enter__(self) -> StateStore:
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        try:
            self.close()
        except CheckpointError:
            if kind is None:  # else what ended the block says more
                raise

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, *, wait: bool = False) -> None:
        """Save `state` as `step`; `wait` until it is on disk. Waits in any case for the save before to be finished.

        Raises:
          CheckpointError: this state, or the one before, could not be written; earlier ones are as they were.
        """
        self._guard()
        with self._writing():
            if step != self.latest():
                self._manager.save(step, args=self._ocp.args.StandardSave(state))
            if wait:
                self._manager.wait_until_finished()

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step` in the structure, dtypes and shardings of `like`, arrays or `jax.ShapeDtypeStruct`s.

        Raises:
          WeightsError: the stored state is of another configuration; it names what differs.
          CheckpointError: files are missing or damaged.
        """
        with self._writing():
            self._manager.wait_until_finished()
        self._check(step)
        stored = self._read(step, lambda: self._described(step))
        stored, expected = flatten(stored), flatten(like)
        problems = _differences(stored, expected) or [
            f"type of {name}: got {stored[name].dtype}, expected {leaf.dtype}"
            for name, leaf in expected.items()
            if np.dtype(stored[name].dtype) != leaf.dtype
        ]
        if problems:
            raise WeightsError(
                f"the checkpoint at step {step} is of another configuration: {_shown(problems)}; "
                "use the config that made it, or another --workdir"
            )
        abstract = jax.tree.map(_abstract, like)
        return self._read(step, lambda: self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract)))

    def close(self) -> None:
        """Waits until everything is on disk. Raises CheckpointError if it can't be written."""
        with self._writing():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not (isinstance(error, _DISK) or bucket.is_answer(error)):
                raise
            raise CheckpointError(
                f"{self._folder}: a checkpoint could not be written ({_line(error)}); {self._kept()}. "
                "Make room or check the permissions, and run again"
            ) from error

    def _kept(self) -> str:
        try:
            self._manager.reload()  # it has counted on success
            kept = self.latest()
        except Exception as error:
            if not (isinstance(error, OSError) or bucket.is_answer(error)):
                raise
            return "which ones are complete, the store does not tell"
        return f"{'none is' if kept is None else f'that of step {kept} is'} complete"

    def _check(self, step: int) -> None:
        """Compare all files of a state with their digests; of several processes each takes a part of them."""
        if disk.in_bucket(self._folder):
            return
        folder = self._folder / str(step)
        advice = f"delete {folder} to go on from an earlier step"
        damaged = None
        try:
            expected = list(disk.digests(folder).items())[jax.process_index() :: jax.process_count()]
            with disk.checked(dict(expected), advice=advice):
                pass
        except CheckpointError as error:
            damaged = error
        if jax.process_count() > 1:
            from jax.experimental.multihost_utils import process_allgather

            if process_allgather(np.array(damaged is not None)).any() and damaged is None:
                damaged = CheckpointError(f"{folder} is damaged, as another process says; {advice}")
        if damaged is not None:
            raise damaged

    def _described(self, step: int) -> Any:
        """The stored state's structure, shapes and dtypes."""
        if not (stored := self._manager.item_metadata(step)):
            raise FileNotFoundError("no description of what is in it")
        return stored

    def _read(self, step: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except jax.errors.JaxRuntimeError:  # no room for it on the devices: nothing is wrong with the files
            raise
        except Exception as error:  # tensorstore has no type of its own for a missing file
            raise CheckpointError(
                f"{self._folder / str(step)} can't be read ({_line(error)}); "
                "if it is damaged, delete that folder to go on from an earlier step"
            ) from error


def _signing(handler: Any) -> Any:
    """The handler, which now notes digests of what it has written before a checkpoint counts.

    Of what each process writes for itself there, by that process; of the rest by the first one. Methods of the one
    instance are replaced, since orbax looks up what belongs to a handler by its class.
    """
    from orbax.checkpoint.future import ChainedFuture

    save, finalize = handler.async_save, handler.finalize

    async def async_save(directory: Any, *args: Any, **kwargs: Any) -> list[Any]:
        begun = await save(directory, *args, **kwargs)
        own = Path(getattr(directory, "path", directory)) / f"{_OWN}{jax.process_index()}"

        def sign() -> None:
            if own.is_dir():
                disk.sign(own, _files(own))

        return [ChainedFuture(begun, sign)]

    def finalize_and_sign(directory: Any) -> None:
        finalize(directory)
        folder = Path(directory)
        disk.sign(folder, [path for path in _files(folder) if not path.relative_to(folder).parts[0].startswith(_OWN)])

    handler.async_save, handler.finalize = async_save, finalize_and_sign
    return handler


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


#: Folders in a checkpoint that one process each writes, by its number.
_OWN = "ocdbt.process_"

#: What orbax and tensorstore raise when files can't be written.
_DISK = (OSError, ValueError, RuntimeError)


#: How long what has been begun is awaited after a failure: what another process was to do may never be done.
_PATIENCE_SECONDS = 120


def _run_to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises, once all that it has begun has ended too.

    Where one file can't be read or written, orbax raises while tensorstore is still at the others. Its threads answer
    to the loop in which they were asked, so that must not be closed before.
    """
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(work)
    finally:
        if left := asyncio.all_tasks(loop):
            ended = asyncio.gather(*left, return_exceptions=True)
            loop.run_until_complete(asyncio.wait([ended], timeout=_PATIENCE_SECONDS))
        asyncio.set_event_loop(None)
        loop.close()


def not_of_orbax(record: logging.LogRecord) -> bool:
    """A filter for logs. orbax's threads print tracebacks of what is raised here, once and in one line."""
    return "orbax" not in record.pathname


def _line(error: BaseException) -> str:
    """The end of what tensorstore and orbax say, where the reason is: theirs is a page long."""
    text = " ".join(str(error.__cause__ or error).split())
    reason = re.split(r" \[\w+=|\. See full TensorStore", text)[0]
    return ": ".join(reason.split(": ")[-2:])[-200:]


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of a leaf on this machine's mesh; stored shardings are never trusted."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))
