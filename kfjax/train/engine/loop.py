"""The training loop of every task: resume, run, log, validate, save, stop cleanly.

A `Task` defines what is trained; the loop decides when. Everything random comes from `fold_in(root key, step)` and
batches are a pure function of the step, so a resumed run is bit for bit the uninterrupted one.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from kfjax.command import say
from kfjax.storage import disk
from kfjax.storage.checkpoint import StateStore, save_params
from kfjax.storage.lock import hold
from kfjax.structs import TrainState
from kfjax.train.engine.distributed import together
from kfjax.train.engine.log import Log, LogConfig, compiling, entries
from kfjax.train.engine.nonfinite import blame
from kfjax.train.engine.prefetch import Feed, placed
from kfjax.train.engine.throughput import Work, count_clips
from kfjax.xla.memory import examples_that_fit, limit_bytes
from kfjax.xla.sharding import PRESETS, batch_runs, make_mesh, param_shardings, put_batch, replicated, shard_init


class Task(NamedTuple):
    """What is trained.

    Attributes:
      init: key -> parameters (nested dict).
      init_opt: parameters -> optimiser state.
      step: (state, batch, key) -> (state, metrics); pure; counts `state.step` up, and `state.skipped` where it skips.
      batch: step number -> the global batch, numpy arrays whose first axis counts examples; pure, so that all
        processes agree on the batch. Where making all of it on every process would be a waste, the callable has a
        method `batch.runs(step, numbers, of)` as well: with that batch cut into `of` equal runs of rows, only the runs
        `numbers` (ascending, possibly with gaps), one after another. With several processes the loop calls it with
        `sharding.batch_runs(mesh)`; for all numbers it must give what `batch(step)` gives. Both are called ahead of
        time from a thread of the loop's, mostly with consecutive steps; after a resume with any step.
      validate: (averaged parameters, step) -> figures on held-out examples. Optional.
      panel: (averaged parameters, step, folder) -> figures; pictures and sounds go into the folder. Optional.
      export: (averaged parameters, workdir), at the end of a run; writes ema.safetensors where it is not given.
      work: what a step on such a batch does, for the rates in the log.
      objective: (state, batch, key) -> (what the step minimises over `state.params`, its terms by name); finds
        the first non-finite gradient when a run stops for non-finite steps. Where parts are trained against each
        other it is the sum of what each minimises, the other held fixed. Without it only batch, state and figures are
        searched.

    With several processes all of them run `validate`, on sharded parameters; the first one alone runs `panel`
    and `export`, on parameters gathered to its host.
    """

    init: Callable[[jax.Array], Any]
    init_opt: Callable[[Any], Any]
    step: Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]
    batch: Callable[[int], Any]
    panel: Callable[[Any, int, Path], dict[str, float]] | None = None
    validate: Callable[[Any, int], dict[str, float]] | None = None
    export: Callable[[Any, Path], None] | None = None
    work: Callable[[Any], Work] = count_clips
    objective: Callable[[TrainState, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]] | None = None


@dataclass(frozen=True)
class LoopConfig:
    """When the loop does what, in steps, and on which devices.

    Attributes:
      keep: how many checkpoints are kept, the newest ones.
      keep_every: checkpoints of steps that are a multiple of it are kept for good; 0 = none.
      max_skipped: non-finite steps in a row that end the run.
      max_seconds: ends a run early and cleanly; 0 = no limit.
      prefetch: batches made ahead of time.
      log: where figures go besides metrics.jsonl.
      mesh: "" = all devices hold copies of the model; a name of `sharding.PRESETS`; or sizes, as "data=2,fsdp=4". A
        run may go on with another.

    Raises:
      ValueError: a number of steps below 1.
    """

    steps: int = 1000
    seed: int = 0
    log_every: int = 20
    save_every: int = 500
    panel_every: int = 1000
    validate_every: int = 1000
    max_skipped: int = 20
    max_seconds: float = 0.0
    prefetch: int = 2
    keep: int = 2
    keep_every: int = 0
    mesh: str = ""
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self):
        every = ("log_every", "save_every", "panel_every", "validate_every")
        counts = ("steps", *every, "max_skipped", "prefetch", "keep")
        wrong = [f"{name} {getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if wrong:
            raise ValueError(f"loop: got {', '.join(wrong)}, expected 1 or more")
        if self.keep_every < 0:
            raise ValueError(f"loop.keep_every: got {self.keep_every}, expected 0 (none) or more")


class Diverged(ValueError):
    """Too many non-finite steps in a row."""


class OutOfMemory(ValueError):
    """More than the devices hold."""


def init_state(task: Task, key: jax.Array) -> TrainState:
    """Fresh state: EMA starts as the parameters."""
    params = task.init(key)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, task.init_opt(params), jax.tree.map(jnp.copy, params), zero)


def mesh_of(spec: str) -> Mesh:
    """The mesh that `LoopConfig.mesh` names, over all devices of all processes.

    Raises:
      ValueError: no such preset, or sizes that do not fit the devices.
    """
    if not spec:
        return make_mesh({"data": jax.device_count()})
    if spec in PRESETS:
        return make_mesh(PRESETS[spec])
    try:
        axes = {axis.strip(): int(size) for axis, size in (part.split("=") for part in spec.split(","))}
    except ValueError:
        presets = ", ".join(PRESETS)
        raise ValueError(f"loop.mesh: got {spec!r}, expected sizes as data=2,fsdp=4 or one of {presets}") from None
    return make_mesh(axes)


def run(task: Task, workdir: str | Path, cfg: LoopConfig, *, claim: Callable[[], None] | None = None) -> TrainState:
    """Train until `cfg.steps`, resuming from `workdir` when it holds a checkpoint, made on whatever devices.

    SIGTERM and Ctrl-C save and return; with several processes it is enough that one of them gets the signal. Writes
    metrics.jsonl, checkpoints/, panels/ and the exported weights into `workdir`, which all processes must see.

    Args:
      claim: called by the first process once no other run can write into `workdir`, before this one does.

    Raises:
      Diverged: `cfg.max_skipped` non-finite steps in a row; it names the step and the first tensor at fault.
      CheckpointError: the disk is full, or a checkpoint can't be read.
      OutOfMemory: the state, or a step on such a batch, does not fit on the devices.
      ValueError: another run holds `workdir`; the mesh fits neither the devices nor the batch.
    """
    workdir, mesh = disk.path(workdir), mesh_of(cfg.mesh)
    lock = hold(workdir) if jax.process_index() == 0 else None
    with lock or nullcontext(), _Stop() as stop, jax.set_mesh(mesh), together():
        before = entries(workdir) if jax.process_index() == 0 else {}
        if jax.process_index() == 0 and claim is not None:
            claim()
        guard = lock.check if lock else lambda: None
        checkpoints = StateStore(workdir / "checkpoints", keep=cfg.keep, keep_every=cfg.keep_every, guard=guard)
        with checkpoints as store, together():  # before the store waits for a save that can't end
            open_log = partial(Log, workdir, cfg.log, last=cfg.steps, guard=guard)
            state = _train(task, _start(task, store, mesh, cfg), store, stop, mesh, open_log, cfg)
            store.save(int(state.step), state)
        _on_first_process(task.export or export_average, state.ema, workdir)
    if jax.process_index() == 0:
        written = [name for name, stat in sorted(entries(workdir).items()) if before.get(name) != stat]
        say(f"step {int(state.step)}; wrote into {workdir}: {', '.join(name for name in written if name != 'lock')}")
    return state


def export_average(params: Any, folder: Path) -> None:
    """What a run of a task without `export` leaves."""
    save_params(folder / "ema.safetensors", params)


def _start(task: Task, store: StateStore, mesh: Mesh, cfg: LoopConfig) -> TrainState:
    """The stored state, or a new one; every leaf is made or read where it lives, and never whole on one device."""
    init = lambda: init_state(task, jax.random.fold_in(jax.random.key(cfg.seed), 0))
    with _room("the weights, their average and the optimiser", mesh, lambda: "split them with loop.mesh=fsdp=N"):
        if (latest := store.latest()) is None:
            with compiling():
                return shard_init(init, mesh)()
        shapes = jax.eval_shape(init)
        place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        return store.restore(latest, jax.tree.map(place, shapes, param_shardings(shapes, mesh)))


def _train(
    task: Task, state: TrainState, store: StateStore, stop: _Stop, mesh: Mesh, open_log: Callable[..., Log],
    cfg: LoopConfig,
) -> TrainState:  # fmt: skip
    """The state after `cfg.steps`, or after the step at which the processes agreed to stop."""
    first, step_fn = int(state.step), _compiled(task, state, mesh, cfg)
    unread: deque[tuple[int, jax.Array]] = deque()
    with (
        Feed(task.batch, mesh, first, cfg.steps, ahead=cfg.prefetch) as feed,
        open_log(first=first) as log,
    ):
        for done in range(first + 1, cfg.steps + 1):
            with log.waiting("data"):
                batch = next(feed)
            late = bool(cfg.max_seconds) and log.elapsed() > cfg.max_seconds
            work = task.work(batch)
            logs, saves = done % cfg.log_every == 0 or done == cfg.steps, done % cfg.save_every == 0
            wishes = _everywhere(stop.requested or late, mesh)
            smaller = partial(_smaller, step_fn, (state, batch, wishes), mesh)
            with _room(f"{work.clips} examples a step", mesh, smaller):
                with log.compiling(batch):
                    state, metrics, signs = step_fn(state, batch, wishes)
                log.step(done, metrics, work)
                unread.append((done, signs))
                if logs:
                    log.metrics(done)
                # One step is left running, so that the devices do not wait for the host.
                asked, step, skipped = _read(unread, 0 if logs or saves else 1)
            if skipped >= cfg.max_skipped:
                why = _why(task, step_fn, state, step, mesh, cfg)
                advice = "see to that, or lower the learning rate"
                raise Diverged(f"{skipped} non-finite steps in a row at step {step} ({why}); {advice}")
            if saves:
                with log.waiting("save"):
                    log.flush()
                    store.save(done, state)
            _look(task, state.ema, done, log, log.folder / "panels", cfg)
            if asked:
                break
    return state


@contextmanager
def _room(what: str, mesh: Mesh, advice: Callable[[], str]) -> Iterator[None]:
    """Turns the devices' out-of-memory error into one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0].partition("RESOURCE_EXHAUSTED: ")[2][:200].rstrip(" .")
        devices = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
        raise OutOfMemory(f"{what}: do not fit on {devices} ({reason}); {advice()}") from error


def _smaller(step_fn: Callable[..., Any], arguments: tuple[Any, Any, Any], mesh: Mesh) -> str:
    """Advice where a step does not fit in memory: the batch that would fit, if one process can find it out alone."""
    otherwise = "raise step.accumulate, or split the model (loop.mesh=fsdp=N)"
    limit = limit_bytes(mesh.devices.flat[0])
    if limit is None or jax.process_count() > 1:
        return f"halve the batch, {otherwise}; kfjax plan says what fits"
    say("out of memory; asking the compiler how many examples would fit")
    try:
        fits = examples_that_fit(step_fn, arguments, batch_runs(mesh)[1], limit)
    except jax.errors.JaxRuntimeError as error:
        return f"halve the batch, {otherwise} (how many fit can't be said: {str(error).splitlines()[0]})"
    return f"about {fits} would; or {otherwise}" if fits else f"no batch would; {otherwise}"


def _look(task: Task, ema: Any, done: int, log: Log, folder: Path, cfg: LoopConfig) -> None:
    """Validation and panel, where step `done` is one of theirs."""
    if task.validate is not None and done % cfg.validate_every == 0:
        with log.waiting("validation"):
            figures = task.validate(ema, done)
        log.write(done, figures, "validation")
    if task.panel is not None and done % cfg.panel_every == 0:
        with log.waiting("panel"):
            seen = _on_first_process(_panel, ema, task.panel, done, folder)
        if seen is not None:
            log.write(done, seen[0], "panel", seen[1])


def _panel(ema: Any, panel: Callable[[Any, int, Path], dict[str, float]], step: int, folder: Path):
    """Its figures and the files that it made."""
    before = set(folder.glob("*"))
    figures = panel(ema, step, folder)
    return figures, sorted(set(folder.glob("*")) - before)


def _read(unread: deque[tuple[int, jax.Array]], left: int) -> tuple[bool, int, int]:
    """(stop requested, step, non-finite steps in a row up to it), read from all but the `left` newest steps.

    They are awaited. The step is the one with most such steps in a row.
    """
    taken = [unread.popleft() for _ in range(len(unread) - left)]
    read = [(step, *np.asarray(signs).tolist()) for step, signs in taken]
    step, _, skipped = max(read, key=lambda signs: signs[2], default=(0, 0, 0))
    return any(wish for _, wish, _ in read), step, skipped


def _why(task: Task, step_fn: Callable[..., Any], state: TrainState, step: int, mesh: Mesh, cfg: LoopConfig) -> str:
    """What is not finite in `step`, which is run once more; `state`, of a few steps later at most, is used up."""
    given, objective = task.objective, None
    if given is not None:
        key = jax.random.fold_in(jax.random.key(cfg.seed), step)
        objective = lambda state, batch: given(state, batch, key)
    assert isinstance(state.step, jax.Array)
    state = state._replace(step=jax.device_put(np.int32(step - 1), state.step.sharding))
    batch = placed(task.batch, step - 1, mesh)
    try:
        found = blame(step_fn, state, batch, _everywhere(False, mesh), objective=objective)
    except jax.errors.JaxRuntimeError as error:  # a look at the gradients takes memory of its own
        return f"no tensor is named, since looking for it failed: {str(error).splitlines()[0]}"
    return found or "all tensors are finite when it runs again"


def _compiled(task: Task, state: TrainState, mesh: Mesh, cfg: LoopConfig):
    """(state, batch, stop requests) -> (state, metrics, [stop requested, skipped steps]), compiled once for each shape.

    The state is donated and updated in place. Stop requests are combined across hosts inside the step: only one of
    them may have received the signal, and all must stop after the same step.
    """

    def step(state, batch, wishes):
        key = jax.random.fold_in(jax.random.key(cfg.seed), state.step + 1)
        state, metrics = task.step(state, batch, key)
        return state, metrics | {"skipped": state.skipped}, jnp.stack([jnp.max(wishes), state.skipped])

    everywhere = replicated(mesh)
    where = jax.tree.map(lambda x: x.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(where, everywhere, everywhere))


def _everywhere(wish: bool, mesh: Mesh) -> jax.Array:
    """This process's stop request on each of its devices."""
    return put_batch(np.full(len(batch_runs(mesh)[0]), wish, np.int32), mesh)


def _on_first_process(function: Callable[..., Any], params: Any, *args: Any) -> Any:
    """`function(params, *args)`; of several processes the first one runs it, on parameters gathered to its host."""
    if jax.process_count() == 1:
        return function(params, *args)
    from jax.experimental.multihost_utils import process_allgather, sync_global_devices

    whole = jax.tree.map(lambda x: process_allgather(x, tiled=True), params)
    result = None
    if jax.process_index() == 0:
        with jax.set_mesh(make_mesh({}, jax.local_devices()[:1])):
            result = function(whole, *args)
    sync_global_devices("after what the first process does alone")
    return result


class _Stop:
    """SIGTERM and SIGINT ask for a clean end after the current step; a second SIGINT ends at once.

    jax.distributed takes SIGTERM for itself; what it set is replaced here, and can't be given back from Python.
    """

    def __enter__(self):
        self.requested = False
        try:
            self._old = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread, as in notebooks and tests: nobody sends signals there
            self._old = {}
        return self

    def _ask(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
