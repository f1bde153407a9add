"""`kfjax plan CONFIG --topology v6e-64`: what a training run needs of a machine, before there is one.

The training step of the config is compiled for the real chips by their own compiler, with shapes in place of arrays:
nothing is allocated, no chip is needed, and what does not fit is refused as it would be there. Memory and collectives
are read from the compiled program, operations counted from the configuration; the time is a bound (`Plan.bounds`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kfjax import command
from kfjax.plan.topology import TOPOLOGIES, Topology, devices, find, leave_chips_alone
from kfjax.xla.memory import Memory, refused

if TYPE_CHECKING:
    import jax
    from ml_collections import ConfigDict

TEXT = """\
Compile the training step of a config for chips that are not here, and say what it needs.

  kfjax plan configs/flow.py:1.5b --topology v6e-64 --batch-per-chip 32     memory, collectives, time of a step
  kfjax plan configs/flow.py:6b --topology v5p-256 --max                    the largest batch that fits
  kfjax plan configs/flow.py:6b --topology v6e-64 --mesh fsdp=32,data=2     another division of the same chips
"""
_GIB = 2.0**30
#: Of a chip's memory, what the compiler gives to programs: libtpu keeps some back, jax preallocates less on a GPU.
USABLE = {"tpu": 0.975, "cuda": 0.9, "here": 0.9}
#: A CPU's plan ends with what is partitioned and fused; most of the compiler's time goes into what comes after that.
_NO_MACHINE_CODE: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
#: Without a GPU XLA can't try tilings for matrix kernels of its own, and stops where its guess has none that fits; the
#: libraries' kernels are found without one.
_NO_TRIED_KERNELS: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}
#: The search for the largest batch begins here.
FIRST_BATCH = 16


class DoesNotFit(ValueError):
    """A batch that needs more memory than a chip has; `needed_bytes` of `capacity_bytes`, as the compiler says."""

    def __init__(self, message: str, needed_bytes: float, capacity_bytes: float):
        super().__init__(message)
        self.needed_bytes, self.capacity_bytes = needed_bytes, capacity_bytes


@dataclass(frozen=True)
class Plan:
    """What one training step needs.

    Attributes:
      mesh: axis -> size.
      chip: its kind in `flops.CHIPS`, "" where its figures are not known.
      batch_per_chip, batch: clips of `seconds`, on one chip and on all; chips that share a clip have a part of each.
      flops, hardware_flops: operations of the step on all chips, without and with what is computed again.
      traffic_bytes: that one chip reads from its memory and writes to it, roughly.
      sent: collectives by kind.
      compile_seconds: elapsed.
    """

    config: str
    topology: str
    mesh: Mapping[str, int]
    chip: str
    batch_per_chip: int
    batch: int
    seconds: float
    parameters: int
    memory: Memory
    flops: float
    hardware_flops: float
    traffic_bytes: float
    sent: tuple[Any, ...]
    compile_seconds: float

    @property
    def chips(self) -> int:
        return math.prod(self.mesh.values())

    def bounds(self) -> dict[str, float]:
        """Seconds that a step takes at least: computing at peak, memory and links at their full bandwidth.

        Each as if the two others ran beside it. Empty where the chip's figures are not known.
        """
        from kfjax.train.engine.flops import chip

        if (known := chip(self.chip)) is None:
            return {}
        return {
            "computing": self.hardware_flops / self.chips / known.flops_per_second,
            "memory": self.traffic_bytes / known.hbm_bytes_per_second,
            "links": sum(sent.wire_bytes for sent in self.sent) / known.links_bytes_per_second,
        }

    def mfu_bound(self) -> float:
        """Model FLOP/s utilisation of a step as long as the longest of `bounds`; 0 where those are not known."""
        from kfjax.train.engine.flops import mfu

        seconds = max(self.bounds().values(), default=0.0)
        return mfu(self.flops, seconds, self.chips, self.chip) if seconds else 0.0


def main(argv: Sequence[str]) -> int:
    """Print what the step of a config needs on a topology.

    Raises:
      ValueError: an unknown topology, config or key; no compiler for it here; a mesh or a batch that does not fit.
    """
    args = _parse(argv)
    topology = find(args.topology)
    leave_chips_alone(topology)

    from kfjax.train.config import apply, load_config

    config = load_config(args.config)
    for assignment in args.set:
        apply(config, assignment)
    planner = Planner(config, args.config, topology, axes=args.mesh, seconds=args.seconds)
    plan = planner.largest() if args.max else planner.plan(args.batch_per_chip)
    print(json.dumps(to_json(plan), indent=1) if args.json else report(plan))
    return 0


def _parse(argv: Sequence[str]):
    from argparse import RawDescriptionHelpFormatter

    parser = command.Parser(prog="kfjax plan", description=TEXT, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "config",
        type=command.local,
        metavar="CONFIG[:VARIANT]",
        help="a Python file with get_config(variant), of task flow",
    )
    add("--topology", required=True, metavar="NAME", help=f"one of {', '.join(TOPOLOGIES)}")
    batch = parser.add_mutually_exclusive_group(required=True)
    batch.add_argument("--batch-per-chip", type=int, metavar="N", help="clips on each chip")
    batch.add_argument("--max", action="store_true", help="find the largest batch that fits, by compiling a few")
    add("--seconds", type=float, default=10.0, help="of every clip (default 10)")
    add("--mesh", default="", metavar="AXIS=N,…", help="sizes of data, fsdp, context, tensor; default: the topology's")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as of kfjax train")
    add("--json", action="store_true", help="the same figures, for programs")
    args = parser.parse_args(argv)
    if args.batch_per_chip is not None and args.batch_per_chip < 1:
        raise ValueError(f"--batch-per-chip: got {args.batch_per_chip}, expected 1 or more")
    return args


class Planner:
    """Plans of one config on one topology, for any batch.

    Args:
      config: of `kfjax train`, with task "flow". It trains on extracted features, whatever data the config names.
      name: of the config, for the report.
      axes: of the mesh, "fsdp=32,data=2"; "" = the topology's own.
      seconds: of every clip.

    Raises:
      ValueError: another task; a bad config; a mesh that divides neither the chips nor the parameters.
    """

    def __init__(self, config: ConfigDict, name: str, topology: Topology, *, axes: str = "", seconds: float = 10.0):
        from kfjax.rates import lengths
        from kfjax.train.tasks.flow.config import read
        from kfjax.xla.sharding import PRESETS, make_mesh

        if config.task != "flow":
            raise ValueError(f"plan: got a config of task {config.task!r}, expected flow; see configs/flow.py")
        self.name, self.topology, self.seconds = name, topology, seconds
        run = read(config.to_dict())
        self.system, self.step, self.optim = run.system, run.step, run.optim
        self.lengths = lengths(seconds, self.system.rates)
        chips = devices(topology)
        self.mesh = make_mesh(_sizes(axes) if axes else PRESETS.get(topology.name, {"data": len(chips)}), chips)
        self.kind = topology.kind or chips[0].device_kind

    def plan(self, batch_per_chip: int) -> Plan:
        """Compile the step for a batch.

        Raises:
          DoesNotFit: more memory than a chip has.
        """
        lowered, parameters = self.lower(batch_per_chip)
        start = time.monotonic()
        compiled = self._compile(lowered, batch_per_chip)
        plan = self._read(compiled, batch_per_chip, parameters, time.monotonic() - start)
        if plan.memory.peak > self.capacity:  # not every compiler refuses by itself
            raise self._refusal(batch_per_chip, plan.memory.peak, self.capacity)
        return plan

    def largest(self, say=command.say) -> Plan:
        """The plan of the largest batch that fits, to a sixteenth of it; every try is told to `say`.

        Raises:
          DoesNotFit: not even one clip a chip.
        """
        tried: dict[int, float] = {}
        plans: dict[int, Plan] = {}
        refusals: list[DoesNotFit] = []
        while (batch := next_batch(tried, self.capacity)) is not None:
            try:
                plans[batch] = self.plan(batch)
                tried[batch] = plans[batch].memory.peak
            except DoesNotFit as error:
                tried[batch] = max(error.needed_bytes, 1.01 * self.capacity)
                refusals.append(error)
            verdict = "fits" if batch in plans else "does not fit"
            say(f"{batch} a chip: {tried[batch] / _GIB:.1f} GiB, {verdict}")
        if not plans:
            raise refusals[-1]
        return plans[max(plans)]

    @property
    def capacity(self) -> float:
        """Bytes of a chip that a program may use; infinite where they are not known."""
        from kfjax.train.engine.flops import chip

        known = chip(self.kind)
        return math.inf if known is None else USABLE[self.topology.platform] * known.hbm_bytes

    def rows(self, batch_per_chip: int) -> int:
        """Clips of a batch on all chips: those that split the tokens or the layers of a clip share it."""
        return batch_per_chip * self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def lower(self, batch_per_chip: int) -> tuple[jax.stages.Lowered, int]:
        """The step as the training loop compiles it, before compilation, and the number of parameters it trains."""
        import jax
        import jax.numpy as jnp

        from kfjax.nn.module import count
        from kfjax.structs import TrainState
        from kfjax.train.engine.optim import make_optimizer
        from kfjax.train.tasks.flow.step import make_step, trained
        from kfjax.xla.sharding import batch_sharding, param_shardings, replicated

        params, tx = self._params(), make_optimizer(self.optim)
        zero = lambda: jnp.zeros((), jnp.int32)
        start = lambda p: TrainState(zero(), p, tx.init(trained(p, self.step)), p, zero())
        state = jax.eval_shape(start, params)
        key = jax.eval_shape(lambda: jax.random.key(0))
        where = param_shardings(state, self.mesh)
        placed = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        split = batch_sharding(self.mesh)
        args = (
            jax.tree.map(placed, state, where),
            jax.tree.map(lambda x: placed(x, split), self._batch(self.rows(batch_per_chip))),
            placed(key, replicated(self.mesh)),
        )
        step = make_step(self.system, self.step, tx)
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, replicated(self.mesh)))
            return jitted.lower(*args), count(trained(params, self.step))

    def _params(self) -> Any:
        """Shapes of what the step reads: the parts that train; on features no encoder is among them."""
        import jax

        from kfjax.system import part_shapes
        from kfjax.train.tasks.flow.step import init_readouts, trained_parts
        from kfjax.train.tasks.lora import init_lora

        network = part_shapes(self.system, "mmdit")
        if self.step.lora.rank:
            pairs = lambda: init_lora(network["mmdit"], self.step.lora, jax.random.key(0))
            return network | {"lora": jax.eval_shape(pairs)}
        trains = part_shapes(self.system, *trained_parts(self.step))
        return network | trains | jax.eval_shape(lambda: init_readouts(self.system, self.step))

    def _batch(self, rows: int) -> Any:
        """Shapes of a batch of extracted features, in bfloat16 as they are stored."""
        import jax
        import jax.numpy as jnp

        from kfjax.structs import FeatureBatch, Features, Given, Posterior, StereoMels

        cfg, size, words = self.system.mmdit, self.lengths, self.system.text_tokens

        def array(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
            return jax.ShapeDtypeStruct((rows, *shape), dtype)

        features = Features(
            clip=array(size.clip, cfg.clip_dim),
            sync=array(size.sync, cfg.sync_dim),
            text=array(words, cfg.text_dim),
            given=Given(array(words, dtype=bool), *2 * [array(dtype=jnp.float32)], *2 * [array(dtype=bool)]),
        )
        latents = array(size.latents, cfg.latent_dim)
        stereo = None
        if self.step.stereo_weight:
            mels = size.mel, self.system.codec.mel.bands
            stereo = StereoMels(array(*mels, dtype=jnp.uint8), array(*mels, dtype=jnp.int8), array(dtype=bool))
        return FeatureBatch(features, Posterior(latents, latents), stereo)

    def _compile(self, lowered: jax.stages.Lowered, batch_per_chip: int) -> jax.stages.Compiled:
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        try:
            return lowered.compile(compiler_options("cpu" if on_cpu else self.topology.platform))
        except RuntimeError as error:
            if (sizes := refused(error)) is None:
                why = str(error).strip().splitlines()[0]
                raise ValueError(f"{self.name} on {self.topology.name}: its compiler says {why}; try another") from None
            raise self._refusal(batch_per_chip, *sizes) from None

    def _refusal(self, batch_per_chip: int, needed: float, capacity: float) -> DoesNotFit:
        fewer = int(batch_per_chip * capacity / needed * 0.95)
        fewer -= fewer % self.step.accumulate
        would = f"try --batch-per-chip {fewer}, or --max" if fewer else "try a topology with more memory or chips"
        return DoesNotFit(
            f"{self.name}, {batch_per_chip} clips of {self.seconds:g} s on each chip of {self.topology.name}: needs "
            f"{needed / _GIB:.1f} GiB, expected at most {capacity / _GIB:.1f}; {would}",
            needed,
            capacity,
        )

    def _read(self, compiled: jax.stages.Compiled, batch_per_chip: int, parameters: int, seconds: float) -> Plan:
        from kfjax.plan import hlo
        from kfjax.train.engine.flops import chip, train_flops

        known, text = chip(self.kind), compiled.as_text() or ""
        batch, words = self.rows(batch_per_chip), self.system.text_tokens
        recomputes = self.system.mmdit.remat in (True, "blocks")
        flops = lambda hardware: train_flops(
            self.system.mmdit, self.lengths, words, batch * self.step.draws, hardware=hardware
        )
        return Plan(
            config=self.name,
            topology=self.topology.name,
            mesh=dict(self.mesh.shape),
            chip=known.kind if known else "",
            batch_per_chip=batch_per_chip,
            batch=batch,
            seconds=self.seconds,
            parameters=parameters,
            memory=Memory.of(compiled),
            flops=flops(False),
            hardware_flops=flops(recomputes),
            traffic_bytes=hlo.traffic_bytes(text),
            sent=tuple(hlo.collectives(text)),
            compile_seconds=seconds,
        )


def compiler_options(platform: str) -> dict[str, Any] | None:
    """What a compiler for "tpu", "cuda" or "cpu" is told where there is none of these chips."""
    return {"cpu": _NO_MACHINE_CODE, "cuda": _NO_TRIED_KERNELS}.get(platform)


def next_batch(tried: Mapping[int, float], capacity: float) -> int | None:
    """The batch to try next in a search for the largest one that fits, None when it is found, to a sixteenth.

    Memory is close to a straight line over the batch, so two tries lead near the border, from either side: a compiler
    that refuses says how much it would have needed, and says it within seconds.

    Args:
      tried: batch -> bytes that it needs.
    """
    if not tried:
        return FIRST_BATCH
    fits = max((b for b, needed in tried.items() if needed <= capacity), default=0)
    refused = min((b for b, needed in tried.items() if needed > capacity), default=None)
    grain = max(1, fits // 16)
    if refused is not None and refused - fits <= grain:
        return None
    if math.isinf(capacity):
        raise ValueError("--max: the memory of these chips is not known; give --batch-per-chip N")
    near = sorted(tried, key=lambda b: abs(tried[b] - capacity))[:2]
    slope = tried[near[0]] / near[0]  # through nothing: too steep, so too low a guess
    if len(near) > 1 and (rise := (tried[near[0]] - tried[near[1]]) / (near[0] - near[1])) > 0:
        slope = rise
    guess = int(near[0] + (capacity - tried[near[0]]) / slope)
    # Where the guess confirms what is known to fit, a little more must be seen to fail.
    guess = max(guess, fits + grain)
    return min(guess, 8 * max(tried)) if refused is None else min(guess, refused - 1)


def _sizes(axes: str) -> dict[str, int]:
    try:
        return {axis.strip(): int(size) for axis, size in (part.split("=") for part in axes.split(","))}
    except ValueError:
        raise ValueError(f"--mesh: got {axes!r}, expected sizes as data=2,fsdp=32") from None


def to_json(plan: Plan) -> dict[str, Any]:
    """All figures of a plan as dicts, lists and scalars, the derived ones too."""
    sent = [one._asdict() for one in plan.sent]
    derived = {"chips": plan.chips, "peak_bytes": plan.memory.peak, "bounds": plan.bounds()}
    return asdict(plan) | {"sent": sent} | derived | {"mfu_bound": plan.mfu_bound()}


def report(plan: Plan) -> str:
    """A plan for people."""
    from kfjax.train.engine.flops import chip

    known, memory = chip(plan.chip), plan.memory
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    gib = lambda size: f"{size / _GIB:9.2f} GiB"
    whole = f" of {known.hbm_bytes / _GIB:.0f}" if known else ""
    lines = [
        f"{plan.config} on {plan.topology}: {plan.chips} {plan.chip or 'chips'}, {mesh}",
        f"  {plan.parameters / 1e9:.2f} B parameters; {plan.batch_per_chip} clips of {plan.seconds:g} s a chip, "
        f"{plan.batch} a step; compiled in {plan.compile_seconds:.0f} s",
        "memory of one chip",
        f"  arguments    {gib(memory.arguments)}   state and batch",
        f"  temporaries  {gib(memory.temporaries)}",
        f"  new outputs  {gib(memory.outputs - memory.aliased)}   the rest takes the arguments' place",
        f"  program      {gib(memory.program)}",
        f"  peak         {gib(memory.peak)}{whole}",
        "sent by one step",
    ]
    for sent in plan.sent:
        among = ", ".join(map(str, sent.groups))
        wire = f"{sent.wire_bytes / _GIB:9.2f} GiB into each chip"
        lines.append(f"  {sent.kind:<18} {sent.count:6d} times {wire}, in groups of {among}")
    lines += [] if plan.sent else ["  nothing"]
    lines += [
        "operations of one step",
        f"  model {plan.flops / 1e15:.3f} PFLOP, with what is computed again {plan.hardware_flops / 1e15:.3f}",
    ]
    return "\n".join(lines + _times(plan))


def _times(plan: Plan) -> list[str]:
    from kfjax.train.engine.flops import chip

    bounds, known = plan.bounds(), chip(plan.chip)
    if known is None:
        return ["time of one step: not known, nor the figures of these chips"]
    seconds = max(bounds.values())
    what = {
        "computing": f"at {known.flops_per_second / 1e12:.0f} TFLOP/s, bfloat16",
        "memory": f"{plan.traffic_bytes / _GIB:.1f} GiB at {known.hbm_bytes_per_second / 1e9:.0f} GB/s: what the "
        "program writes, counted twice",
        "links": f"at {known.links_bytes_per_second / 1e9:.0f} GB/s: all links of a chip in use, a network between "
        "slices left out",
    }
    lines = [f"  {name:<12} {bounds[name] * 1e3:9.1f} ms   {what[name]}" for name in bounds]
    return [
        "time of one step, at least",
        *lines,
        f"  longest      {seconds * 1e3:9.1f} ms   {plan.batch / seconds:.0f} clips/s, "
        f"utilisation at most {100 * plan.mfu_bound():.0f} % of peak",
    ]
