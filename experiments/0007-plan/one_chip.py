"""What encoders and a sampling step need of one chip: operations, bytes moved and memory, from compiled programs.

    python -m experiments 0007/one_chip [--only clip sync … film] [--chip h200 v5e-8]    compile what is missing
    python -m experiments 0007/one_chip --decode                                         decoding, on this machine
    python -m experiments 0007/one_chip --print                                          the tables of what is there

Encoders are those of the paper's system at full width with random shapes, in bfloat16 (the codec in float32), for a
batch of 16 excerpts of ten seconds. The sampling step is mmaudio-large-44k-v2's, guided, on windows of eight seconds.
Operations are counted from the traced function, bytes and memory from the compiled program.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.harness import markdown, read_json, write_json

RESULTS = Path(__file__).with_name("one_chip.json")
EXCERPTS, SECONDS, HOURS = 16, 10.0, 100_000
ENCODERS = ("clip", "sync", "text", "vae")
WINDOW, OVERLAP, AT_ONCE, STEPS = 8, 2, 8, 25
#: Films that are decoded: name -> width, height.
FILMS = {"720p": (1280, 720), "1080p": (1920, 1080)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[*ENCODERS, "film"], choices=[*ENCODERS, "film"])
    parser.add_argument("--chip", nargs="+", default=["h200", "v5e-8"], metavar="TOPOLOGY")
    parser.add_argument("--decode", action="store_true", help="measure decoding alone")
    parser.add_argument("--print", action="store_true", help="print the tables, compile nothing")
    args = parser.parse_args()
    if args.decode:
        keep("decode", {name: decoded(*size) for name, size in FILMS.items()})
    elif not args.print:
        from kfjax.plan import topology as machines

        for topology in args.chip:
            machines.leave_chips_alone(machines.find(topology))  # before jax is imported
            for name in args.only:
                if f"{name}:{topology}" not in read_json(RESULTS, {}):
                    keep(f"{name}:{topology}", compiled(topology, *program(name)))
    found = read_json(RESULTS, {})
    print("\n".join([*extraction(found), "", *films(found)]))


def keep(name: str, value: Any) -> None:
    write_json(RESULTS, read_json(RESULTS, {}) | {name: value})


def program(name: str) -> tuple[Callable[..., Any], list[Any]]:
    """A function and the shapes of its arguments."""
    import jax
    import jax.numpy as jnp

    from kfjax.rates import Rates, lengths

    if name == "film":
        return sampling_step()
    size = lengths(SECONDS, Rates())
    half = partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16))
    batch = lambda *shape, dtype=jnp.uint8: jax.ShapeDtypeStruct((EXCERPTS, *shape), dtype)
    from kfjax.nn.module import bind, shapes

    if name == "clip":
        from kfjax.encoders.clip import CLIPVision
        from kfjax.encoders.configs import CLIPVisionConfig

        cfg = CLIPVisionConfig(frames_at_once=16)
        frames = batch(size.clip, 224, 224, 3)
        return lambda p, x: bind(CLIPVision, cfg, p)(x), [half(shapes(CLIPVision, cfg)), frames]
    if name == "sync":
        from kfjax.encoders.configs import SynchformerConfig
        from kfjax.encoders.synchformer import Synchformer

        cfg = SynchformerConfig(segments_at_once=8)
        frames = batch(size.sync_frames, 224, 224, 3)
        return lambda p, x: bind(Synchformer, cfg, p)(x), [half(shapes(Synchformer, cfg)), frames]
    if name == "text":
        from kfjax.encoders.configs import T5Config
        from kfjax.encoders.t5 import T5Encoder

        cfg = T5Config()
        words = batch(77, dtype=jnp.int32), batch(77, dtype=bool)
        return lambda p, *x: bind(T5Encoder, cfg, p)(*x), [half(shapes(T5Encoder, cfg)), *words]
    return codec(batch(size.samples, dtype=jnp.float32))


def codec(wave: Any) -> tuple[Callable[..., Any], list[Any]]:
    from kfjax import system
    from kfjax.codec import codec_of
    from kfjax.convert.systems import SYSTEMS

    cfg = SYSTEMS["large_44k_v2"]
    encode = codec_of(cfg.codec).encode
    return lambda p, x: encode({"vae": p}, cfg.codec, x), [system.part_shapes(cfg, "vae")["vae"], wave]


def sampling_step() -> tuple[Callable[..., Any], list[Any]]:
    """One guided step of a batch of windows, as `kfjax generate` calls it for a long film."""
    import jax
    import jax.numpy as jnp

    from kfjax import generation, system
    from kfjax.convert.systems import SYSTEMS
    from kfjax.flow import sampler
    from kfjax.rates import lengths
    from kfjax.structs import Features, Given

    cfg = SYSTEMS["large_44k_v2"]
    size = lengths(float(WINDOW), cfg.rates)
    of = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct((AT_ONCE, *shape), dtype)
    given = Given(of(77, dtype=bool), *2 * [of(dtype=jnp.float32)], *2 * [of(dtype=bool)])
    dims = (size.clip, cfg.mmdit.clip_dim), (size.sync, cfg.mmdit.sync_dim), (77, cfg.mmdit.text_dim)
    seen = Features(*(of(*shape) for shape in dims), given)
    network = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), system.part_shapes(cfg, "mmdit")["mmdit"]
    )
    latents = of(size.latents, cfg.mmdit.latent_dim, dtype=jnp.float32)

    step = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), sampler.schedule(1))

    def run(params: Any, features: Any, *rest: Any) -> Any:
        constants = {"cfg": cfg, "branches": ("full", "empty"), "method": "euler"}
        return generation.sample.jitted(params, features, None, *rest, **constants)

    return run, [network, seen, jax.ShapeDtypeStruct((2,), jnp.float32), step, latents]


def compiled(topology: str, run: Callable[..., Any], shapes: list[Any]) -> dict[str, Any]:
    """Operations, bytes moved and memory of one call on the first chip of a topology."""
    import jax
    from jax.sharding import SingleDeviceSharding

    from kfjax.plan import hlo
    from kfjax.plan import topology as machines
    from kfjax.plan.operations import operations
    from kfjax.plan.plan import compiler_options
    from kfjax.xla.memory import Memory

    found = machines.find(topology)
    place = SingleDeviceSharding(machines.devices(found)[0])
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes)
    start = time.monotonic()
    program = jax.jit(run).lower(*placed).compile(compiler_options(found.platform))
    memory = Memory.of(program)
    print(f"{topology}: {time.monotonic() - start:.0f} s", flush=True)
    return {
        "chip": found.kind, "flops": operations(jax.make_jaxpr(run)(*shapes), loops=1),
        "bytes": hlo.traffic_bytes(program.as_text() or "", loops=1), "peak_bytes": memory.peak,
        "weights": memory.arguments,
    }  # fmt: skip


def decoded(width: int, height: int) -> dict[str, float]:
    """Processor seconds that reading ten seconds of a film takes: both encoders' frames and the sound."""
    import numpy as np

    from kfjax import media
    from kfjax.media import FrameSpec

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (height // 8 + 80, width // 8 + 80, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    grain = rng.integers(0, 12, (height + 64, width + 64, 1), np.uint8)  # which a camera has, and compresses badly
    frames = (
        np.minimum(picture[2 * i : 2 * i + height, 2 * i : 2 * i + width], 243)
        + grain[7 * i % 64 :, 11 * i % 64 :][:height, :width]
        for i in range(250)
    )
    specs, counts = (FrameSpec(8.0, 224, "stretch"), FrameSpec(25.0, 224, "crop")), (80, 250)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        media.write_video(path, frames, 25, 0.1 * rng.standard_normal((441_000, 2)).astype(np.float32), 44100)
        start = time.process_time()
        media.read_frames(path, specs, counts=counts)
        media.read_audio(path, 44100, 1)
        used = time.process_time() - start
        return {"processor_seconds": round(used, 3), "megabits_per_second": round(path.stat().st_size * 8e-7, 2)}


def least_seconds(one: dict[str, Any]) -> tuple[float, str]:
    """The longer of computing at bfloat16's peak and moving bytes at the memory's bandwidth, and which it is."""
    from kfjax.train.engine.flops import CHIPS

    chip = CHIPS[one["chip"]]
    computing, moving = one["flops"] / chip.flops_per_second, one["bytes"] / chip.hbm_bytes_per_second
    return max(computing, moving), "computing" if computing > moving else "memory"


def extraction(found: dict[str, Any]) -> list[str]:
    header = ["encoder", "chip", "TFLOP an excerpt", "GB moved an excerpt", "peak, GiB", "excerpts/s at most",
              "limited by"]  # fmt: skip
    rows, chips = [], dict.fromkeys(key.partition(":")[2] for key in found if ":" in key)
    for topology in chips:
        there = {name: found[f"{name}:{topology}"] for name in ENCODERS if f"{name}:{topology}" in found}
        for name, one in there.items():
            seconds, limit = least_seconds(one)
            figures = one["flops"] / EXCERPTS / 1e12, one["bytes"] / EXCERPTS / 1e9, one["peak_bytes"] / 2**30
            rows.append([name, one["chip"], *(f"{x:.2f}" for x in figures), f"{EXCERPTS / seconds:.1f}", limit])
        if len(there) == len(ENCODERS):
            each = sum(least_seconds(one)[0] for one in there.values()) / EXCERPTS
            hours = HOURS * 3600 / SECONDS * each / 3600
            flops = sum(one["flops"] for one in there.values()) / EXCERPTS / 1e12
            rows.append(["all", there["clip"]["chip"], f"{flops:.2f}", "", "", f"{1 / each:.1f}",
                         f"{HOURS:,} hours of film: {hours:,.0f} chip hours"])  # fmt: skip
    said = (
        f"{name} ({one['megabits_per_second']} Mbit/s) {one['processor_seconds']}"
        for name, one in found.get("decode", {}).items()
    )
    return [*markdown(header, rows), "", f"Processor seconds to decode ten seconds: {', '.join(said)}."]


def films(found: dict[str, Any]) -> list[str]:
    """Of films in windows: steps are the same program, however long the film is."""
    from kfjax.making.windows import make_plan
    from kfjax.rates import Rates

    header = ["film, s", "chip", "windows", "TFLOP a second of sound", "seconds of work a second of sound, at least",
              "peak, GiB"]  # fmt: skip
    rows = []
    for one in (one for key, one in found.items() if key.startswith("film:")):
        for seconds in (60, 600):
            windows = len(make_plan(seconds, Rates(), WINDOW, OVERLAP).starts)
            share = STEPS * windows / AT_ONCE / seconds
            least, _ = least_seconds(one)
            rows.append([f"{seconds}", one["chip"], f"{windows}", f"{share * one['flops'] / 1e12:.2f}",
                         f"{share * least:.4f}", f"{one['peak_bytes'] / 2**30:.2f}"])  # fmt: skip
    return markdown(header, rows)


if __name__ == "__main__":
    main()
