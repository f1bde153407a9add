"""Plans: the real step compiled for eight fake devices, the search for a batch, what is said and what is refused."""

import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from kfjax import config as strict
from kfjax.nn.module import count, shapes
from kfjax.plan.hlo import Sent
from kfjax.plan.plan import FIRST_BATCH, DoesNotFit, Plan, Planner, main, next_batch, report, to_json
from kfjax.plan.topology import TOPOLOGIES, find, gpu_description
from kfjax.rates import lengths
from kfjax.train.engine.flops import CHIPS, train_flops
from kfjax.xla.memory import Memory
from kfjax.xla.sharding import PRESETS
from tests.tiny.system import CONFIG

ROOT = Path(__file__).parents[2]


def small() -> ConfigDict:
    system = strict.to_dict(CONFIG) | {"mmdit": strict.to_dict(CONFIG.mmdit) | {"remat": "blocks", "single_depth": 2}}
    step = {"compute_dtype": "bfloat16"}
    return ConfigDict({"task": "flow", "system": system, "step": step, "optim": {}, "loop": {}})


@lru_cache(maxsize=1)
def planned() -> Plan:
    return Planner(small(), "small", find("here"), axes="data=2,fsdp=4", seconds=1.0).plan(2)


def test_a_plan_on_the_devices_at_hand():
    plan = planned()
    assert plan.mesh == {"data": 2, "fsdp": 4, "context": 1, "tensor": 1}
    assert (plan.chips, plan.batch_per_chip, plan.batch) == (8, 2, 16)
    network = Planner(small(), "small", find("here"), axes="fsdp=8").system.mmdit
    assert plan.flops == train_flops(network, lengths(1.0, CONFIG.rates), CONFIG.text_tokens, 16)
    assert plan.hardware_flops > plan.flops  # blocks are computed again
    parts = CONFIG.parts()
    assert plan.parameters == count(shapes(parts["mmdit"][0], network))
    # Parameters, two moments and the average: a quarter of each on a device, but for what does not divide.
    state = 4 * 4 * plan.parameters
    assert state / 4 < plan.memory.arguments < state / 2
    assert plan.memory.aliased > 0.9 * state / 4 and plan.memory.temporaries > 0
    assert plan.traffic_bytes > plan.memory.arguments


def test_the_system_is_that_of_the_model_directory_it_starts_from(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(strict.to_dict(CONFIG)))
    config = ConfigDict({"task": "flow", "data": {"start": str(tmp_path)}, "system": {"mmdit": {"single_depth": 3}}})
    mmdit = Planner(config, "lora", find("here"), axes="data=8").system.mmdit
    assert mmdit == dataclasses.replace(CONFIG.mmdit, single_depth=3)
    config.data.start = str(tmp_path / "none")
    with pytest.raises(ValueError, match=r"config\.data\.start: nothing at"):
        Planner(config, "lora", find("here"), axes="data=8")


def test_mono2stereo_is_planned_along():
    config = small()
    with config.unlocked():
        config.step.stereo_weight = 0.5
    _, parameters = Planner(config, "c", find("here")).lower(1)
    assert parameters > planned().parameters


def test_the_step_sends_weights_and_gradients_and_no_tokens():
    sent = {one.kind: one for one in planned().sent}
    assert "all-to-all" not in sent
    assert sent["all-gather"].count > 10 and 4 in sent["all-gather"].groups
    assert sent["all-gather"].wire_bytes < sent["all-gather"].bytes


def test_chips_of_unknown_figures_have_no_times():
    plan = planned()
    assert plan.chip == "" and plan.bounds() == {} and plan.mfu_bound() == 0
    assert "not known" in report(plan)
    json.dumps(to_json(plan))


def example(**changes) -> Plan:
    sent = (Sent("all-gather", 60, 8e9, 4e9, (64,)), Sent("all-reduce", 2, 8.0, 16.0, (64,)))
    memory = Memory(arguments=2.0**30, outputs=2.0**30, aliased=2.0**30, temporaries=3 * 2.0**30, program=0.0)
    values = dict(config="flow.py:1.5b", topology="v6e-64", mesh={"data": 1, "fsdp": 64}, chip="v6e", seconds=10.0,
                  batch_per_chip=8, batch=512, parameters=1_530_000_000, memory=memory, flops=3e15, hardware_flops=4e15,
                  traffic_bytes=16e9, sent=sent, compile_seconds=70.0)  # fmt: skip
    return Plan(**values | changes)


def test_the_slowest_of_three_is_the_bound():
    plan = example()
    assert plan.bounds() == pytest.approx({"computing": 4e15 / 64 / 918e12, "memory": 0.01, "links": 0.01})
    assert plan.mfu_bound() == pytest.approx(0.75)  # of what is computed a quarter is computed again
    slow = example(sent=(Sent("all-gather", 60, 8e11, 4e11, (64,)),))
    assert max(slow.bounds(), key=slow.bounds().get) == "links" and slow.mfu_bound() < 0.06


def test_a_report_says_what_each_figure_is():
    text = report(example())
    for part in (
        "flow.py:1.5b on v6e-64: 64 v6e, fsdp 64", "1.53 B parameters; 8 clips of 10 s a chip, 512 a step",
        "peak              4.00 GiB of 32", "all-gather             60 times      3.73 GiB into each chip",
        "918 TFLOP/s", "1600 GB/s", "400 GB/s", "utilisation at most 75 % of peak",
    ):  # fmt: skip
        assert part in text, text


# --- the largest batch ---


@pytest.mark.parametrize("border", [1, 3, 15, 16, 17, 100, 1000])
@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_the_search_ends_near_the_border_after_few_tries(border, constant):
    needs = lambda batch: constant + batch * (1 + 0.02 * math.sin(batch))  # not quite a line
    capacity, tried = needs(border) + 0.5, {}
    while (batch := next_batch(tried, capacity)) is not None:
        assert batch not in tried and batch >= 1
        tried[batch] = needs(batch)
        assert len(tried) <= 8, tried
    best = max(b for b in tried if tried[b] <= capacity)
    assert best > border - max(1, border / 8)


def test_the_search_ends_where_nothing_fits():
    tried = {FIRST_BATCH: 50.0}
    while (batch := next_batch(tried, 10.0)) is not None:
        tried[batch] = 30.0 + batch
    assert min(tried) == 1 and min(tried.values()) > 10.0


class Pretended(Planner):
    """A planner whose compiler needs a gigabyte and a tenth of one for each clip."""

    def __init__(self, capacity: float):
        self.limit, self.compiled, self.name, self.topology, self.seconds = capacity, [], "c", find("v6e-64"), 10.0
        self.step = SimpleNamespace(accumulate=1)

    capacity = property(lambda self: self.limit)

    def plan(self, batch_per_chip):
        self.compiled.append(batch_per_chip)
        needed = (1 + batch_per_chip / 10) * 2.0**30
        if needed > self.limit:
            raise self._refusal(batch_per_chip, needed, self.limit)
        return example(batch_per_chip=batch_per_chip, memory=Memory(needed, 0, 0, 0, 0))


def test_the_largest_batch_is_told_while_it_is_looked_for():
    planner, said = Pretended(31 * 2.0**30), []
    best = planner.largest(said.append)
    assert 300 - 300 // 16 <= best.batch_per_chip <= 300
    assert len(planner.compiled) == len(said) <= 6
    assert said[0] == f"{FIRST_BATCH} a chip: 2.6 GiB, fits" and any("does not fit" in line for line in said)


def test_not_even_one_clip():
    with pytest.raises(DoesNotFit, match=r"1 clips .* needs 1.1 GiB, expected at most 1.0; try a topology with more"):
        Pretended(2.0**30).largest(lambda _: None)


def test_a_batch_that_does_not_fit_says_what_would():
    class Refusing:
        def compile(self, options):
            raise RuntimeError("RESOURCE_EXHAUSTED: ... Used 62.50G of 31.25G hbm. Exceeded hbm capacity by 31.25G.")

    planner = Pretended(0.0)
    planner.mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform="tpu")]))
    with pytest.raises(DoesNotFit, match=r"64 clips of 10 s on each chip of v6e-64: needs 62.5 GiB, expected at most "
                       r"31.2; try --batch-per-chip 30, or --max"):  # fmt: skip
        planner._compile(Refusing(), 64)


def test_a_batch_beyond_the_memory_is_refused_where_the_compiler_does_not(monkeypatch):
    planner = Planner(small(), "small", find("here"), axes="data=2,fsdp=4", seconds=1.0)
    monkeypatch.setattr(Planner, "capacity", 1e6)
    monkeypatch.setattr(Planner, "lower", lambda *_: (None, 0))
    monkeypatch.setattr(Planner, "_compile", lambda *_: None)
    monkeypatch.setattr(Planner, "_read", lambda *_: example(batch_per_chip=2))
    with pytest.raises(DoesNotFit, match=r"try a topology with more memory or chips"):
        planner.plan(2)


# --- bad input ---


def test_an_unknown_topology_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"--topology: got v7-9, expected one of v5e-8, .*, 8xh200, here"):
        main(["configs/flow.py:1.5b", "--topology", "v7-9", "--max"])


def test_a_batch_below_one_is_refused():
    with pytest.raises(ValueError, match=r"--batch-per-chip: got 0, expected 1 or more"):
        main(["configs/flow.py:1.5b", "--topology", "v6e-64", "--batch-per-chip", "0"])


def test_meshes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"fsdp 6 = 6 devices does not fit 8"):
        Planner(small(), "small", find("here"), axes="fsdp=6")
    with pytest.raises(ValueError, match=r"--mesh: got 'fsdp', expected sizes as data=2,fsdp=32"):
        Planner(small(), "small", find("here"), axes="fsdp")


def test_only_the_generators_training_is_planned():
    with pytest.raises(ValueError, match=r"got a config of task 'codec', expected flow"):
        Planner(ConfigDict({"task": "codec"}), "codec", find("here"))


def test_chips_without_known_memory_have_no_largest_batch():
    with pytest.raises(ValueError, match=r"--max: the memory of these chips is not known"):
        next_batch({FIRST_BATCH: 1.0}, math.inf)


def test_a_compiler_that_is_missing_is_named(monkeypatch):
    from jax.experimental import topologies

    def missing(*_, **__):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(ValueError, match=r"v6e-64: no compiler for v6e is installed; pip install '\.\[plan\]'"):
        Planner(small(), "small", find("v6e-64"))


@pytest.mark.parametrize("platform, topology, option", [
    ("gpu", "8xh100", "xla_gpu_enable_triton_gemm"), ("cpu", "here", "xla_backend_optimization_level"),
    ("gpu", "here", None), ("tpu", "v6e-64", None),
])  # fmt: skip
def test_compilers_are_told_what_they_can_not_do_without_the_chips(platform, topology, option):
    planner = Planner(small(), "small", find("here"), axes="data=8")
    planner.topology = find(topology)
    planner.mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    options = planner._compile(SimpleNamespace(compile=lambda options: options), 1)
    assert option in options if option else options is None


def test_every_preset_has_a_topology_of_known_chips():
    assert PRESETS.keys() == TOPOLOGIES.keys() - {"here", "h200"}  # a single chip is not divided
    assert all(t.kind in CHIPS and (t.name not in PRESETS or t.slices == PRESETS[t.name].slices)
               for t in TOPOLOGIES.values() if t.kind)  # fmt: skip


def test_a_gpu_is_described_with_its_own_memory():
    for kind in ("H100", "H200"):
        described = gpu_description(kind)
        memory, speed = (
            int(re.search(rf"{name}: (\d+)", described)[1]) for name in ("memory_size", "memory_bandwidth")
        )
        assert CHIPS[kind].hbm_bytes * 0.98 < memory <= CHIPS[kind].hbm_bytes
        assert speed == CHIPS[kind].hbm_bytes_per_second and f'"NVIDIA {kind}' in described


# --- the command, for chips that are not here ---


def find_plugin(name: str) -> bool:
    return importlib.util.find_spec("jax_plugins") is not None and bool(importlib.util.find_spec(f"jax_plugins.{name}"))


def run(*args: str) -> subprocess.CompletedProcess:
    command = "import sys; from kfjax.plan.plan import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", command, *args], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="TPU compiler not installed: extra `plan`")
def test_a_small_network_on_a_small_torus(tmp_path):
    done = run("configs/flow.py:features-runlocal", "--topology", "v5e-16", "--batch-per-chip", "2", "--seconds", "1",
               "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["chips"] == 16 and plan["batch"] == 32 and 0 < plan["peak_bytes"] < 16 * 2**30
    assert "all-to-all" not in {sent["kind"] for sent in plan["sent"]} and plan["bounds"]["links"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not find_plugin("xla_cuda12"), reason="CUDA compiler not installed: extra `cuda`")
def test_a_small_network_on_gpus():
    done = run("configs/flow.py:features-runlocal", "--topology", "8xh100", "--batch-per-chip", "2", "--seconds", "1",
               "--json", "--set", "step.compute_dtype=bfloat16")  # fmt: skip
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["chips"] == 8 and plan["batch"] == 16 and 0 < plan["peak_bytes"] < 2**30
    assert "all-to-all" not in {sent["kind"] for sent in plan["sent"]} and plan["bounds"]["links"] > 0
