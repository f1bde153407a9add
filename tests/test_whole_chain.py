"""The whole chain at small size: from videos, by kfjax's commands alone, to a model that makes their sound in stereo.

The model that it begins with has the public layout, so that it can go back there. Features, training states and models
are in a bucket, which an emulator on this machine serves; the videos are on a disk. Weights are random at first: what is
looked at is that every command takes what the one before it has made, and that no interruption changes the losses.
"""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from kfjax import cli, media, system
from kfjax.convert import directory
from kfjax.nn.module import flatten
from kfjax.storage import stored_state
from tests.tiny import chain, public
from tests.tiny.crawl import RATE_HZ, pictures, recording

ROOT = Path(__file__).parents[1]
CONFIG = "tests/tiny/chain.py"
CAPTIONS = ("a ball bounces on wood", "", "rain on a roof")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def kfjax(*words: object) -> None:
    """A command, in this process and its eight fake devices."""
    assert cli.main([str(word) for word in words]) == 0


def write_clips(folder: Path, count: int, first: int = 0) -> Path:
    """A table of videos with stereo sound, of 0.8 and 1.28 seconds; a third of them has no caption."""
    folder.mkdir()
    lines = ["video,caption"]
    for k in range(first, first + count):
        seconds = 0.8 + 0.48 * (k % 2)
        frames = pictures(k, round(25 * seconds), 64, 64)
        media.write_video(folder / f"{k}.mp4", frames, 25, recording(k, seconds), RATE_HZ)
        lines.append(f"{k}.mp4,{CAPTIONS[k % 3]}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def flow(workdir, settings: list[str], processes: int, devices: int) -> list[subprocess.Popen]:
    """`kfjax train` of the generator in so many processes, each with so many fake devices; the weights are split."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"  # the last one counts
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "kfjax", "train", f"{CONFIG}:flow", "--workdir", str(workdir), "--set", *settings,
             f"loop.mesh=fsdp={processes * devices}"]  # fmt: skip
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    several = lambda k: ["--distributed", f"127.0.0.1:{port},{k},{processes}"] if processes > 1 else []
    start = lambda k: subprocess.Popen([*words, *several(k)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    return [start(k) for k in range(processes)]


def finish(running: list[subprocess.Popen]) -> None:
    try:
        told = [process.communicate(timeout=300)[1].decode() for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running), "\n\n".join(told)


def kill_in_the_middle(running: list[subprocess.Popen], workdir) -> None:
    """kill -9, to all processes, once there is a checkpoint."""
    while not stored_state.steps(workdir / "checkpoints") and running[0].poll() is None:
        time.sleep(0.05)
    for process in running:
        process.kill()
    told = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [-9] * len(running), "\n\n".join(told)


def copied(folder, target: Path) -> Path:
    """What is below a folder of a bucket, on a disk."""
    for name in folder.below():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((folder / name).read_bytes())
    return target


def losses(workdir) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def test_from_videos_to_a_model_and_back_to_torch(gs, tmp_path, monkeypatch):
    train, held = write_clips(tmp_path / "clips", 24), write_clips(tmp_path / "held", 2, first=24)
    base, features = tmp_path / "base", gs / "features"
    with monkeypatch.context() as patch:
        public.announce(patch)
        kfjax("convert", public.write(tmp_path / "downloads"), base)
    kfjax("extract", train, "--model", base, "--output", features, "--seconds", 0.7, 1.2, "--stereo", "--shards", 2)
    corpora = f"data.corpora=(('{features}', 1.0),)"

    # The generator: undisturbed; killed; and to the end on other devices, and on as many as before.
    settings = [corpora, f"data.start={base}"]
    finish(flow(tmp_path / "whole", settings, 2, 4))
    kill_in_the_middle(flow(gs / "flow", settings, 2, 4), gs / "flow")
    again, killed = copied(gs / "flow", tmp_path / "again"), stored_state.steps(gs / "flow" / "checkpoints")[-1]
    with suppress(FileNotFoundError):
        (again / "lock").unlink()
    finish(flow(again, settings, 2, 4))
    finish(flow(gs / "flow", settings, 1, 2))
    want, got = losses(tmp_path / "whole"), losses(gs / "flow")
    assert 0 < killed < chain.STEPS and list(want) == list(range(1, chain.STEPS + 1))
    assert losses(again) == want and got.keys() == want.keys()
    assert [got[step] for step in range(1, killed + 1)] == [want[step] for step in range(1, killed + 1)]
    assert list(got.values()) == pytest.approx(list(want.values()), rel=1e-5)

    # Mono2Stereo on the generator's model, the vocoder on that one's.
    kfjax("train", f"{CONFIG}:stereo", "--workdir", gs / "stereo", "--set", corpora, f"data.start={gs}/flow/model")
    last = f"{gs}/stereo/model"
    waves = f"data.folder={tmp_path / 'waves'}"
    settings = [corpora, f"data.start={last}", f"data.vae={last}", waves]
    kfjax("train", f"{CONFIG}:vocoder", "--workdir", gs / "vocoder", "--set", *settings)
    kfjax("export", gs / "vocoder", tmp_path / "mine")
    check_model(tmp_path / "mine", base)

    film = tmp_path / "out.mp4"
    kfjax("generate", held.with_name("25.mp4"), "--model", tmp_path / "mine", "--steps", 2, "--output", film)
    sound = media.read_audio(film, RATE_HZ)
    assert sound.shape[1] == 2 and len(sound) >= 1.28 * RATE_HZ and np.abs(sound[:, 0] - sound[:, 1]).max() > 1e-3
    report = tmp_path / "report"
    kfjax("evaluate", tmp_path / "mine", "--benchmark", "folder", "--references", held, "--steps", 2,
          "--metrics", "onsets,stereo,levels", "--output", report)  # fmt: skip
    found = json.loads((report / "results.json").read_text())
    assert found["matching"]["measured"] == 2 and not found["unavailable"]

    with monkeypatch.context() as patch:
        public.announce(patch)
        kfjax("convert", tmp_path / "mine", tmp_path / "torch", "--to", "torch")
        kfjax("convert", tmp_path / "torch", tmp_path / "back")
    check_same(tmp_path / "back", tmp_path / "mine")


def check_model(made: Path, base: Path) -> None:
    """What was trained has changed, and nothing else."""
    now, before = system.load(made), system.load(base)
    assert now.cfg.codec.stereo is not None and now.params.keys() - before.params.keys() == {"stereo"}
    same = lambda part: all((x == flatten(before.params[part])[name]).all()
                            for name, x in flatten(now.params[part]).items())  # fmt: skip
    assert {part for part in before.params if not same(part)} == {"mmdit", "vocoder"}


def check_same(back: Path, made: Path) -> None:
    """Every part that the public layout has, bit for bit; it has no Mono2Stereo."""
    parts = {path.name for path in back.glob("*.safetensors")}
    assert {path.name for path in made.glob("*.safetensors")} - parts == {"stereo.safetensors"}
    for name in parts:
        got, want = (flatten(directory.read_part(folder / name)) for folder in (back, made))
        assert got.keys() == want.keys()
        for key, x in want.items():
            np.testing.assert_array_equal(got[key], x, strict=True)
