"""The whole chain at small size: from videos, by kfjax's commands alone, to a model that makes their sound in stereo.

Encoders and codec come as public files of the true layouts. Videos, features, training states and models are in a
bucket, which an emulator on this machine serves. Nothing learns much in a few steps: what is looked at is that every
command takes what the one before it has made, and that no interruption changes the losses.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kfjax import cli, media
from kfjax.convert import directory
from kfjax.nn.module import flatten
from kfjax.storage import stored_state
from tests.tiny import kling
from tests.tiny.crawl import RATE_HZ, pictures, recording

ROOT = Path(__file__).parents[1]
CAPTIONS = ("a ball bounces on wood", "", "rain on a roof")
FLOW, STEPS = "configs/flow.py:features-runlocal", 8
#: Of the generator and of Mono2Stereo: excerpts of both lengths, eight a step.
BATCHES = ("data.buckets=((0.7, 0.5), (1.2, 0.5))", "data.batch_seconds=8.0", f"loop.steps={STEPS}", "loop.log_every=1")
#: The vocoder and the VAE that are in the system.
VOCODER = ("training.vocoder.width=64", "training.vocoder.rates=(8, 4, 2, 2, 2, 2)", "vae.variant=edm2",
           "vae.latent_dim=8", "vae.width=8")  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def kfjax(*words: object) -> None:
    """A command, in this process and its eight fake devices."""
    assert cli.main([str(word) for word in words]) == 0


def write_clips(folder, table: Path, numbers: range) -> Path:
    """Videos with stereo sound, of 0.8 and of 1.28 seconds, and a table of them; a third has no caption."""
    table.parent.mkdir(exist_ok=True)
    lines = ["video,caption"]
    for k in numbers:
        seconds, file = 0.8 + 0.48 * (k % 2), table.with_name(f"{k}.mp4")
        media.write_video(file, pictures(k, round(25 * seconds), 64, 64), 25, recording(k, seconds), RATE_HZ)
        if folder != table.parent:
            (folder / file.name).put(file.read_bytes())
            file.unlink()
        lines.append(f"{folder / file.name},{CAPTIONS[k % 3]}")
    table.write_text("\n".join(lines) + "\n")
    return table


def train(workdir, settings: list[str], processes: int, devices: int, config: str = FLOW) -> list[subprocess.Popen]:
    """`kfjax train` in so many processes, each with so many fake devices, over all of which the weights are split."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"  # the last one counts
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "kfjax", "train", config, "--workdir", str(workdir), "--set", *settings,
             f"loop.mesh=fsdp={processes * devices}"]  # fmt: skip
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    several = lambda k: ["--distributed", f"127.0.0.1:{port},{k},{processes}"] if processes > 1 else []
    start = lambda k: subprocess.Popen([*words, *several(k)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    return [start(k) for k in range(processes)]


def finish(*running: subprocess.Popen) -> None:
    try:
        told = [process.communicate(timeout=400)[1].decode() for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running), "\n\n".join(told)


def kill_in_the_middle(workdir, *running: subprocess.Popen) -> int:
    """kill -9, to all processes, once there is a checkpoint; the newest one."""
    while not stored_state.steps(workdir / "checkpoints") and running[0].poll() is None:
        time.sleep(0.05)
    for process in running:
        process.kill()
    told = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [-9] * len(running), "\n\n".join(told)
    return stored_state.steps(workdir / "checkpoints")[-1]


def copied(folder, target: Path) -> Path:
    """What is below a folder of a bucket, on a disk, but for the lock."""
    for name in folder.below().keys() - {"lock"}:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((folder / name).read_bytes())
    return target


def losses(workdir) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def parts(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    return {path.stem: flatten(directory.read_part(path)) for path in folder.glob("*.safetensors")}


def differing(one: dict, two: dict) -> set[str]:
    """Parts that both have, but not bit for bit; a tensor that one of them lacks is no difference."""
    equal = lambda name: all(np.array_equal(one[name][key], two[name][key]) for key in one[name].keys() & two[name])
    return {name for name in one.keys() & two.keys() if not equal(name)}


def test_from_videos_to_a_model_and_back_to_torch(in_bucket, tmp_path, monkeypatch):
    gs = in_bucket
    base, mine, features = tmp_path / "base", tmp_path / "mine", gs / "features"
    clips = write_clips(gs / "clips", tmp_path / "clips.csv", range(24))
    held = write_clips(tmp_path / "held", tmp_path / "held" / "clips.csv", range(24, 26))
    with monkeypatch.context() as patch:
        kling.announce(patch)
        kfjax("convert", kling.write(tmp_path / "downloads"), base, "--system", kling.NAME)
    kfjax("extract", clips, "--system", base, "--output", features, "--seconds", 0.7, 1.2, "--shards", 2)
    corpora = f"data.corpora=(('{features}', 1.0),)"

    # The generator: undisturbed; killed, and on to the end with as many devices and with others.
    settings = [*BATCHES, corpora, f"data.system={base}"]
    finish(*train(tmp_path / "whole", settings, 2, 4))
    killed = kill_in_the_middle(gs / "flow", *train(gs / "flow", settings, 2, 4))
    again = copied(gs / "flow", tmp_path / "again")
    finish(*train(again, settings, 2, 4))  # one after the other: Gloo waits 30 s for a process, not longer
    finish(*train(gs / "flow", settings, 1, 2))
    want, got = losses(tmp_path / "whole"), losses(gs / "flow")
    assert killed < STEPS and list(want) == list(got) == list(range(1, STEPS + 1))
    assert losses(again) == want and all(got[step] == want[step] for step in range(1, killed + 1))
    assert list(got.values()) == pytest.approx(list(want.values()), rel=1e-5)

    # Mono2Stereo for the generator's model, a vocoder for that one's.
    settings = [*BATCHES, corpora, f"data.start={gs}/flow/model", "optim.learning_rate=0.01", "optim.ema_decay=0.0"]
    finish(*train(gs / "stereo", ["task=stereo", *settings], 2, 4))
    start = f"{gs}/stereo/model"
    settings = [*VOCODER, corpora, f"data.start={start}", f"data.vae={start}", f"data.folder={tmp_path / 'waves'}"]
    finish(*train(gs / "vocoder", settings, 2, 4, "configs/bigvgan.py:runlocal"))
    kfjax("export", gs / "vocoder", mine)
    before, made = parts(base), parts(mine)
    assert made.keys() - before.keys() == {"mmdit", "stereo"} and differing(made, before) == {"vocoder"}

    film, report = tmp_path / "out.mp4", tmp_path / "report"
    kfjax("generate", held.with_name("25.mp4"), "--model", mine, "--steps", 2, "--output", film)
    left, right = media.read_audio(film, RATE_HZ).T
    assert len(left) >= 1.28 * RATE_HZ and np.abs(left - right).max() > 0.02 * np.abs(left).max() > 0
    kfjax("evaluate", mine, "--benchmark", "folder", "--references", held, "--steps", 2, "--output", report,
          "--metrics", "onsets,stereo,levels")  # fmt: skip
    results = json.loads((report / "results.json").read_text())
    assert results["matching"]["measured"] == 2 and not results["unavailable"]

    with monkeypatch.context() as patch:
        kling.announce(patch)
        kfjax("convert", mine, tmp_path / "torch", "--to", "torch")
        kfjax("convert", tmp_path / "torch", tmp_path / "back", "--system", kling.NAME)
    back = parts(tmp_path / "back")
    assert made.keys() - back.keys() == {"mmdit", "stereo"} and not differing(back, made)
    lost = {key for name, part in back.items() for key in made[name].keys() ^ part.keys()}
    assert lost <= {"latent_mean", "latent_std"}  # which in public files the generator has
