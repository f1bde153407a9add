"""What a run says of itself: lines that survive kills, honest rates, trackers, a profile."""

import json
import struct
import sys
import time
import types
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imsave

from kfjax import media
from kfjax.train.engine import throughput
from kfjax.train.engine.log import Log, LogConfig, cut
from kfjax.train.engine.throughput import Throughput, Work, count_clips, memory


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


PLAIN = LogConfig()


def run(workdir, steps, *, first=0, cfg=PLAIN, every=1, metrics=lambda step: {"loss": jnp.float32(step)}):
    """As the loop does it: `steps` steps after `first`, a line every `every`."""
    with Log(workdir, cfg, first=first, last=first + steps) as log:
        for done in range(first + 1, first + steps + 1):
            with log.waiting("data"):
                pass
            log.step(done, metrics(done), Work(2))
            if done % every == 0:
                log.metrics(done)


def test_a_line_a_time(tmp_path):
    run(tmp_path, 4, every=2)
    written = [(line["step"], line["kind"], line["loss"]) for line in lines(tmp_path)]
    assert written == [(2, "train", 2), (4, "train", 4)]
    assert all(
        {"elapsed", "host_gib", "seconds_per_step", "clips_per_second", "data_wait"} <= line.keys()
        for line in lines(tmp_path)
    )
    assert "compile_seconds" in lines(tmp_path)[0] and "compile_seconds" not in lines(tmp_path)[1]


def test_a_resumed_run_writes_no_step_twice(tmp_path):
    run(tmp_path, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "kind": "tr')
    run(tmp_path, 3, first=3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("broken", ['{"step": 1', '{"step": 1}', "[1]\n", '{"loss": 2}\n', '{"step": "x"}\n', "\x00\n"])
def test_what_is_no_line_is_cut(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + broken)
    cut(path, 5)
    assert path.read_text() == '{"step": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_file_is_left_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    cut(path, 5)
    path.write_text('{"step": 1}\n{"step": 5}\n')
    before = path.stat()
    cut(path, 5)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_counted_means_are_over_all_steps_and_empty_ones_are_left_out(tmp_path):
    losses, counts = {1: 3.0, 2: np.nan, 3: 1.0}, {1: 1, 2: 0, 3: 3}
    metrics = lambda step: {
        "loss": jnp.float32(step), "early": jnp.float32(losses[step]), "early_count": jnp.int32(counts[step]),
        "late": jnp.float32(0), "late_count": jnp.int32(0), "skipped": jnp.int32(step == 2),
    }  # fmt: skip
    run(tmp_path, 3, every=3, metrics=metrics)
    (line,) = lines(tmp_path)
    assert (line["loss"], line["early"], line["early_count"]) == (3, 1.5, 4)
    assert "late" not in line and "late_count" not in line
    assert (line["skipped"], line["skipped_steps"]) == (0, 1)


def test_numbers_that_are_none_are_null(tmp_path):
    run(tmp_path, 1, metrics=lambda step: {"loss": jnp.float32(np.nan), "scale": np.float32(np.inf)})
    assert lines(tmp_path)[0]["loss"] is None and lines(tmp_path)[0]["scale"] is None


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    run(tmp_path / "run", 2, cfg=LogConfig(tensorboard=True, wandb="x", profile=(1, 2)))
    assert not (tmp_path / "run").exists()


class Device:
    """A clock, and steps on a device that finish when they will."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def tick(self, seconds):
        self.now += seconds


@pytest.fixture
def device(monkeypatch):
    device = Device()
    device.busy = False
    monkeypatch.setattr(throughput, "_done", lambda pending: not device.busy)
    return device


def test_rates(device, monkeypatch):
    monkeypatch.setattr(throughput, "_utilisation", lambda flops, seconds: {"tflops_per_device": flops / seconds})
    rates, work = Throughput(device), Work(clips=4, audio_seconds=32.0, flops=100.0)
    device.tick(60)
    rates.step(work, ())  # compiles
    assert rates.figures() == {"compile_seconds": 60}
    for _ in range(5):
        with rates.waiting("data"):
            device.tick(0.5)
        device.tick(1.5)
        rates.step(work, ())
    with rates.waiting("panel"):
        device.tick(1000)
    with rates.waiting("save"):
        device.tick(2)
    assert rates.figures() == {
        "seconds_per_step": 12 / 5, "clips_per_second": 20 / 12, "audio_seconds_per_second": 160 / 12,
        "tflops_per_device": 500 / 12, "data_wait": 2.5 / 12, "save_stall_seconds": 2,
    }  # fmt: skip
    assert rates.figures() == {}


def test_another_shape_compiles_anew_and_is_left_out_of_the_rates(device):
    rates = Throughput(device)
    rates.step(Work(8), ())
    rates.figures()
    for work, seconds in [(Work(8), 1), (Work(2), 30), (Work(2), 1), (Work(8), 2)]:
        device.tick(seconds)
        rates.step(work, ())
    assert rates.figures() == {
        "seconds_per_step": 1.5,
        "clips_per_second": 10 / 3,
        "data_wait": 0,
        "compile_seconds": 30,
    }


def test_waiting_for_data_counts_only_when_the_device_waits_too(device):
    rates = Throughput(device)
    rates.step(Work(1), ())
    rates.figures()
    for device.busy in (True, False, True):
        with rates.waiting("data"):
            device.tick(1)
        rates.step(Work(1), ())
    device.tick(1)
    assert rates.figures()["data_wait"] == 1 / 4


@pytest.mark.parametrize("kind, expected", [("TPU v5p", 0.5), ("cpu", None)])
def test_utilisation(monkeypatch, kind, expected):
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(device_kind=kind)])
    figures = throughput._utilisation(459e12 * jax.device_count(), 2.0)
    assert figures["tflops_per_device"] == pytest.approx(459 / 2)
    assert figures.get("mfu") == (expected and pytest.approx(expected))


def test_the_work_of_a_batch_and_the_memory_of_a_process():
    assert count_clips({"x": np.zeros((6, 3))}) == Work(clips=6)
    assert 0.01 < memory()["host_gib"] < 100


def test_a_profile_of_some_steps(tmp_path):
    double = jax.jit(lambda x: {"loss": x * 2})
    run(tmp_path, 4, cfg=LogConfig(profile=(2, 3)), metrics=lambda step: double(jnp.float32(step)))
    assert list((tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb"))
    data = jax.profiler.ProfileData.from_file(str(next((tmp_path / "profile").rglob("*.xplane.pb"))))
    events = Counter(event.name for plane in data.planes for line in plane.lines for event in line.events)
    assert events["train"] == 2


def test_writing_a_profile_is_no_part_of_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: time.sleep(0.6))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: time.sleep(0.6))
    run(tmp_path, 4, cfg=LogConfig(profile=(2, 3)), every=4)
    assert lines(tmp_path)[0]["seconds_per_step"] < 0.3


@pytest.mark.parametrize("first, traced", [(2, True), (3, False)])
def test_a_run_resumed_within_the_window_profiles_the_rest(tmp_path, first, traced):
    run(tmp_path, 2, first=first, cfg=LogConfig(profile=(2, 3)))
    assert any(tmp_path.rglob("*.xplane.pb")) == traced


@pytest.mark.parametrize("window", [(0, 3), (5, 4), (-1, 2)])
def test_a_senseless_window_is_refused(window):
    with pytest.raises(ValueError, match=rf"log.profile: got {window[0]} to {window[1]}, expected first and last"):
        LogConfig(profile=window)


@pytest.mark.parametrize("cfg, package", [
    (LogConfig(tensorboard=True), "tensorboardX"), (LogConfig(wandb="foley"), "wandb"),
])  # fmt: skip
def test_a_package_that_is_not_there_is_named(tmp_path, monkeypatch, cfg, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"log\.\w+ needs {package} .*'\.\[log\]' .*, or unset it"):
        Log(tmp_path, cfg, first=0, last=1)


def show(workdir, step, cfg, *, first=0):
    """A panel with a picture and a sound, named as panels are."""
    folder = workdir / "panels"
    folder.mkdir(exist_ok=True)
    media.write_wav(folder / f"{step:07d}-0.wav", np.zeros((100, 2), np.float32), 44100)
    imsave(folder / f"{step:07d}-0.png", np.zeros((3, 5)))
    with Log(workdir, cfg, first=first, last=step) as log:
        log.write(step, {"f1": step / 8}, "panel", files=sorted(folder.glob(f"{step:07d}-*")))


def events(folder):
    """What TensorBoard would read, file by file: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def test_tensorboard_gets_figures_pictures_and_sounds(tmp_path):
    pytest.importorskip("tensorboardX")
    show(tmp_path, 4, LogConfig(tensorboard=True))
    values = [(event.step, value) for event in events(tmp_path / "tensorboard") for value in event.summary.value]
    assert {(step, value.tag) for step, value in values} == {(4, "panel/f1"), (4, "panels/0.png"), (4, "panels/0.wav")}
    by_kind = {value.WhichOneof("value"): getattr(value, value.WhichOneof("value")) for _, value in values}
    assert by_kind["simple_value"] == 0.5
    assert by_kind["image"].encoded_image_string == (tmp_path / "panels" / "0000004-0.png").read_bytes()
    assert (by_kind["image"].height, by_kind["image"].width) == (3, 5)
    assert (by_kind["audio"].sample_rate, by_kind["audio"].num_channels) == (44100, 2)
    assert by_kind["audio"].length_frames == 100


def test_tensorboard_hides_what_a_resumed_run_writes_again(tmp_path):
    pytest.importorskip("tensorboardX")
    run(tmp_path, 2, first=2, cfg=LogConfig(tensorboard=True))
    starts = [event for event in events(tmp_path / "tensorboard") if event.WhichOneof("what") == "session_log"]
    assert [(event.step, event.session_log.status) for event in starts] == [(3, 1)]


@pytest.mark.slow
def test_wandb_offline_goes_on_in_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    show(tmp_path, 4, LogConfig(wandb="foley"))
    run(tmp_path, 2, first=4, cfg=LogConfig(wandb="foley"))
    name = (tmp_path / "wandb" / "run_id").read_text()
    folders = list(tmp_path.rglob("offline-run-*"))
    assert len(folders) == 2 and all(folder.name.endswith(f"-{name}") for folder in folders)
    assert len(list((tmp_path / "wandb").rglob("*.png"))) == len(list((tmp_path / "wandb").rglob("*.wav"))) == 1
