"""experiments/0009-train-speed: what it measures with, and that all of it runs at tiny sizes."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
MODULES = ("roofline", "step", "convolution", "parts", "checks", "curve", "gpu")


@pytest.fixture(scope="module")
def speed():
    """The experiment's modules."""
    return SimpleNamespace(**{name: import_module(f"experiments.0009-train-speed.{name}") for name in MODULES})


class FakeTrainer:
    """`step.Trainer` on a device where `fixed` bytes and one for every row are needed, and running takes some more."""

    def __init__(self, fixed: float, most: int, running: int):
        self.fixed, self.most, self.running, self.ran, self.forgotten = fixed, most, running, [], 0

    def needs(self, rows: int) -> float:
        if rows > self.most:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7 bytes")
        return self.fixed + rows

    def run(self, rows: int) -> float:
        self.ran.append(rows)
        if rows > self.running:
            raise RuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory")
        return 0.5

    def forget(self) -> None:
        self.forgotten += 1

    def flops(self, rows: int, hardware: bool = False) -> float:
        return (4 if hardware else 3) * 1e9 * rows

    def program(self, rows: int):
        return SimpleNamespace(as_text=lambda: "ENTRY %main (x: f32[8]) -> f32[8] {\n  %y = f32[8]{0} negate(%x)\n}\n")


@pytest.mark.parametrize("compiler, device, found", [(1000, 1000, 100), (40, 1000, 40), (1000, 60, None)])
def test_the_largest_batch_is_found_by_compiling_and_reported_once_it_ran(speed, compiler, device, found):
    trainer = FakeTrainer(30.0, compiler, device)
    card = speed.roofline.Card(1e12, 1e9)
    figures = speed.step.measure(trainer, 130.0, card, 1024, 1, lambda: True)
    if found:
        assert 0.9 * found <= figures["batch"] <= found
        assert not trainer.forgotten
    else:  # what fits as planned does not run: freed, and the next smaller one
        assert figures["batch"] <= device and trainer.forgotten
        assert max(trainer.ran) > device
    assert figures["clips_per_second"] == pytest.approx(figures["batch"] / figures["seconds"])
    assert figures["of_matmul"] == pytest.approx(figures["flops"] / figures["seconds"] / 1e12)
    assert figures["loss"] == 0.5 and str(figures["batch"]) in figures["tried"]


def test_where_nothing_runs_that_is_the_result(speed):
    figures = speed.step.measure(FakeTrainer(0.0, 1000, 0), 20.0, speed.roofline.Card(1, 1), 1024, 1, lambda: True)
    assert figures["batch"] == 0
    assert all(needed is None for rows, needed in figures["tried"].items() if int(rows) <= 20)


def test_other_errors_are_not_taken_for_a_lack_of_memory(speed):
    def broken():
        raise RuntimeError("INTERNAL: the kernel is wrong")

    with pytest.raises(RuntimeError, match="kernel is wrong"):
        speed.step.attempt(broken)


def test_the_search_ends_with_its_time_and_its_largest_batch(speed):
    late = iter([True, False])
    assert len(dict(speed.step.search(FakeTrainer(0.0, 9999, 0), 1e9, 1024, lambda: next(late)))) == 1
    assert dict(speed.step.search(FakeTrainer(0.0, 9999, 0), 1e9, 4, lambda: True)) == {4: 4.0}


def test_a_roofline_names_what_limits(speed):
    card = speed.roofline.Card(100.0, 10.0)
    wide = speed.roofline.roofline(400.0, 20.0, 8.0, card)
    assert (wide["bound"], wide["intensity"], wide["of_bound"], wide["of_matmul"]) == ("compute", 20.0, 0.5, 0.5)
    thin = speed.roofline.roofline(40.0, 40.0, 8.0, card)
    assert (thin["bound"], thin["of_bound"], thin["of_matmul"]) == ("memory", 0.5, 0.05)


def test_the_fastest_is_that_of_a_block_in_training(speed):
    row = lambda times, passes, **seconds: {"passes": passes, "shape": {"times": times}, "seconds": seconds}
    rows = [
        row(2, "both", library=3.0, gemms=2.0, unfolded=9.0),
        row(1, "both", library=1.0, gemms=2.0, unfolded=9.0),
        row(0, "both", library=0.0, gemms=99.0, unfolded=0.0),  # in no block
        row(2, "forward", library=0.0, gemms=99.0, unfolded=0.0),
    ]
    assert speed.convolution.fastest(rows) is None  # one convolution of a block is missing
    assert speed.convolution.fastest([*rows, row(1, "both", library=1.0, gemms=1.0, unfolded=1.0)]) == "gemms"
    part = lambda name, times, seconds: {"part": name, "passes": "both", "times": times, "seconds": seconds}
    assert speed.parts.fastest_attention([part("conv", 23, 1.0)]) is None
    rows = [part("a, xla", 6, 1.0), part("b, xla", 17, 3.0), part("a, cudnn", 6, 2.0), part("b, cudnn", 17, 1.0)]
    assert speed.parts.fastest_attention(rows) == "cudnn"


def test_a_stage_that_hangs_or_fails_is_noted(speed, tmp_path, monkeypatch):
    monkeypatch.setattr(speed.gpu, "COMMAND", [sys.executable, str(tmp_path / "gpu.py")])
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    args = SimpleNamespace(output=tmp_path)
    for name, code in {"good": "", "bad": "raise SystemExit(3)", "slow": "import time; time.sleep(60)"}.items():
        (tmp_path / "gpu.py").write_text(code)
        speed.gpu.launch(name, 1.0 if name == "slow" else 60.0, args)
    speed.gpu.launch("late", 0.5, args)
    ends = {name: one["ended"] for name, one in speed.gpu.read(tmp_path)["stages"].items()}
    assert ends == {
        "good": "done", "bad": "failed with exit code 3", "slow": "stopped at its limit of 1 s",
        "late": "not begun: no time left",
    }  # fmt: skip


def test_the_rates_of_the_card_and_the_report(speed, tmp_path, capsys):
    given = ["--output", str(tmp_path), "--small"]
    assert speed.gpu.main([*given, "--stage", "card"]) == 0
    card = json.loads((tmp_path / "results.json").read_text())["card"]
    assert card["flops_per_second"] > 0 and card["bytes_per_second"] > 0 and card["memory_bytes"]
    wrong = speed.checks.check("loss", float("nan"), 0.1)
    speed.gpu.write(tmp_path, speed.gpu.read(tmp_path) | {"checks": [wrong._asdict()], "step": [
        {"remat": "none", "layers": {"convolution": "gemms", "attention": "xla"}, "batch": 0}
    ]})  # fmt: skip
    assert speed.gpu.main([*given, "--table"]) == 1  # a check has failed
    printed = capsys.readouterr().out
    for line in ("128^3", "| loss | not finite | 0.1 | FAILED |", "| none | gemms, xla | none ran"):
        assert line in printed


@pytest.mark.slow
def test_all_of_it_at_tiny_sizes(speed, tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    for more in ([], ["--curve", "--steps", "3"]):
        command = [*speed.gpu.COMMAND, "--output", str(tmp_path), "--small", *more]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: one["ended"] for name, one in results["stages"].items()} == dict.fromkeys(
        ("checks", "card", "convolution", "parts", "step", "curve"), "done"
    )
    assert len(results["checks"]) == 4
    assert results["convolution"]["fastest"] in ("library", "gemms", "unfolded")
    assert results["parts"]["attention"] is None  # a choice on a GPU alone
    assert {row["part"].partition(",")[0] for row in results["parts"]["rows"]} == {
        "attention", "conv", "adaLN", "single block",
    }  # fmt: skip
    step = results["step"][0]
    assert step["batch"] == 4 and step["planned_gib"] > 0 and step["clips_per_second"] > 0
    assert results["curve"]["steps"] == 3 and results["curve"]["skipped"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "metrics.jsonl", "results.json"}
    assert "of the matmul rate" in done.stdout
