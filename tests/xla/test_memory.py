"""What `--memory-report` promises, against what a process really takes: a public layout whose weights dominate."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import kfjax
from kfjax import system
from kfjax.commands import jobs
from kfjax.encoders.clip import CLIPTextConfig
from tests.tiny import public

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^(process|encode|sample|decode) +([\d. ]+)", re.MULTILINE)
PEAK = """
import sys
from kfjax.cli import main
code = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


def sums(report: str) -> dict[str, float]:
    """MB at most, of each row."""
    return {name: float(numbers.split()[-1]) for name, numbers in ROW.findall(report)}


def weights(report: str) -> dict[str, float]:
    return {name: float(numbers.split()[0]) for name, numbers in ROW.findall(report) if name != "process"}


def run(*arguments) -> str:
    command = [sys.executable, "-c", PEAK, "generate", str(jobs.EXAMPLE), "--duration", "1", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_report_counts_what_is_held(monkeypatch, tmp_path):
    """Of a model in parts one stage's weights at a time; of a small one all of them in every stage."""
    public.announce(monkeypatch)
    kfjax.convert.from_torch(public.write(tmp_path / "downloads"), tmp_path / "parts")
    parts = system.load(tmp_path / "parts")
    system.save(tmp_path / "whole", parts)
    in_turn, at_once = (kfjax.load(tmp_path / name).memory_report(duration=1.0) for name in ("parts", "whole"))
    assert weights(in_turn) == weights(at_once)
    sizes = {name: sum(x.nbytes for x in public.leaves(part)) / 1e6 for name, part in parts.params.items()}
    for stage, names in (("encode", ("clip", "sync", "text")), ("sample", ("mmdit",)), ("decode", ("vae", "vocoder"))):
        assert weights(in_turn)[stage] == pytest.approx(sum(sizes[name] for name in names), abs=0.1)
    shared = [sums(at_once)[stage] - sums(at_once)["process"] for stage in weights(at_once)]
    assert min(shared) > sum(weights(at_once).values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say a process's peak")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_takes_no_more_than_was_promised(monkeypatch, tmp_path, dtype):
    text = CLIPTextConfig(vocab=len(public.WORDS), width=640, depth=16, heads=10, mlp_width=2560)
    vision = replace(public.TOWERS.vision, width=640, depth=16, heads=10, mlp_width=2560, out_dim=640)
    monkeypatch.setattr(public, "TOWERS", replace(public.TOWERS, vision=vision, text=text))
    monkeypatch.setattr(public, "FLOW", replace(public.FLOW, width=512, heads=8, clip_dim=640, text_dim=640))
    public.announce(monkeypatch)
    model = tmp_path / "model"
    kfjax.convert.from_torch(public.write(tmp_path / "downloads"), model)
    report = run("--model", model, "--dtype", dtype, "--memory-report")
    assert weights(report)["encode"] > (600 if dtype == "float32" else 300)
    made = run("--model", model, "--dtype", dtype, "--output", tmp_path / "out.wav", "--steps", "2")
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", made)[1]) * 1024 / 1e6
    promised = max(sums(report).values())
    print(report, f"peak {peak:.1f}", sep="\n")
    assert 0.8 * promised < peak < 1.05 * promised  # what opens films comes to the process later
