"""The training loop: resumes bit for bit, stops cleanly, survives bad steps, compiles once."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kfjax.command
from kfjax.storage.checkpoint import WeightsError, load_params
from kfjax.train.engine import loop
from kfjax.train.engine.loop import Diverged, LoopConfig, run
from kfjax.xla.sharding import make_mesh, shard_init
from tests.tiny.task import make_batch, make_task, slow
from tests.trees import assert_equal

ROOT = Path(__file__).parents[3]
CFG = partial(LoopConfig, log_every=1, save_every=1000)


def losses(workdir: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(workdir, state) of 8 steps without interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(make_task(), workdir, CFG(steps=8))


def test_it_learns_and_logs(whole):
    workdir, state = whole
    assert int(state.step) == 8 and int(state.skipped) == 0
    curve = losses(workdir)
    assert list(curve) == list(range(1, 9))
    assert curve[8] < curve[1]
    assert_equal(load_params(workdir / "ema.safetensors"), jax.tree.map(np.asarray, state.ema))


def test_it_says_that_it_compiles_and_what_it_wrote(tmp_path, capfd):
    run(make_task(), tmp_path, CFG(steps=2))
    said = [line.strip() for line in re.split(r"[\r\n]+", capfd.readouterr().err) if line]
    assert said[0] == "compiling"  # the initialisation
    assert [line.startswith("compiling:") for line in said if "/2 [" in line][1:3] == [True, False]
    wrote = "SHA256SUMS, checkpoints/, ema.safetensors, metrics.jsonl"
    assert said[-1] == f"kfjax: step 2; wrote into {tmp_path}: {wrote}"


def test_a_resumed_run_is_the_uninterrupted_one(whole, tmp_path):
    asked = []
    task = make_task(lambda step: asked.append(step) or make_batch(step))
    run(task, tmp_path, CFG(steps=4))
    state = run(task, tmp_path, CFG(steps=8))
    assert asked == list(range(8))  # every batch once: the data position is the step
    assert_equal(state, whole[1])
    assert losses(tmp_path) == losses(whole[0])
    assert_equal(run(task, tmp_path, CFG(steps=8)), whole[1])  # nothing left to do


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole, tmp_path):
    """The checkpoint of step 4 is written while step 5 already reuses its memory."""

    def until_six(step):
        if step == 6:
            raise RuntimeError("power cut")
        return make_batch(step)

    with pytest.raises(RuntimeError, match="power cut"):
        run(make_task(until_six), tmp_path, CFG(steps=8, save_every=4))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["4"]
    assert not (tmp_path / "ema.safetensors").exists()
    assert_equal(run(make_task(), tmp_path, CFG(steps=8)), whole[1])


def test_sigterm_saves_and_exits_cleanly(tmp_path):
    """Another process, as on a cluster; what it leaves is continued here and equals a run in one piece."""
    script = [sys.executable, str(ROOT / "tests/tiny/task.py"), str(tmp_path / "run"), "60", "0.2"]
    process = subprocess.Popen(script, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    (saved,) = (int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert 2 <= saved < 60
    cfg = CFG(steps=60, log_every=2)
    assert_equal(run(make_task(), tmp_path / "run", cfg), run(make_task(), tmp_path / "whole", cfg))


def test_ctrl_c_ends_after_the_step_and_gives_the_handler_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def interrupt(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return slow(0.05)(step)

    state = run(make_task(interrupt), tmp_path, CFG(steps=100))
    assert 1 <= int(state.step) < 20
    assert (tmp_path / "checkpoints" / str(int(state.step))).is_dir()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_time_limit_ends_a_run_cleanly(tmp_path):
    state = run(make_task(slow(0.02)), tmp_path, CFG(steps=10_000, max_seconds=0.2))
    assert 1 <= int(state.step) < 1000
    assert (tmp_path / "ema.safetensors").exists()


def broken(*steps):
    def batch(step):
        values = make_batch(step)
        return values | {"y": values["y"] * np.float32(np.nan)} if step in steps else values

    return batch


def test_bad_steps_are_skipped_wholly(tmp_path):
    good = run(make_task(), tmp_path / "good", CFG(steps=3))
    bad = run(make_task(broken(3, 4)), tmp_path / "bad", CFG(steps=5))
    assert (int(bad.step), int(bad.skipped)) == (5, 2)
    assert_equal(bad._replace(step=good.step, skipped=good.skipped), good)
    after = run(make_task(broken(3, 4)), tmp_path / "bad", CFG(steps=6))
    assert int(after.skipped) == 0
    assert not np.array_equal(after.params["b"], good.params["b"])


@pytest.mark.parametrize("log_every", [2, 100])
def test_a_run_that_keeps_failing_stops_with_step_and_culprit(tmp_path, log_every):
    message = r"^4 non-finite steps in a row at step 6 \(batch: y: 32 of 32 are NaN \(100 %\)\); see to that, or lower"
    cfg = CFG(steps=100, max_skipped=4, log_every=log_every, save_every=2, prefetch=1)
    with pytest.raises(Diverged, match=message):
        run(make_task(broken(*range(2, 100))), tmp_path, cfg)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "4"]
    assert not (tmp_path / "ema.safetensors").exists()


def test_the_culprit_may_be_a_gradient(tmp_path):
    """Finite in the forward pass, not in the backward one: the root of zero."""

    def loss_of(params, batch, key):
        loss = jnp.mean(jnp.square(batch["x"] @ params["layers"][0]["w"])) + jnp.sqrt(jnp.sum(jnp.square(params["b"])))
        return loss, {"fit": loss}

    task = make_task()

    def step(state, batch, key):
        (loss, _), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params, batch, key)
        bad = ~jnp.isfinite(grads["b"]).all()
        return state._replace(step=state.step + 1, skipped=jnp.where(bad, state.skipped + 1, 0)), {"loss": loss}

    with pytest.raises(Diverged, match=r"at step 2 \(gradients: b: 2 of 2 are NaN \(100 %\)\)"):
        objective = lambda state, batch, key: loss_of(state.params, batch, key)
        run(task._replace(step=step, objective=objective), tmp_path, CFG(steps=9, max_skipped=2))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    def second(step):
        if step == 2:
            with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on .*another --workdir"):
                run(make_task(), tmp_path, CFG(steps=4))
        return make_batch(step)

    assert int(run(make_task(second), tmp_path, CFG(steps=4)).step) == 4
    assert list(losses(tmp_path)) == [1, 2, 3, 4]


def test_a_full_disk_ends_the_run_with_one_line_and_it_goes_on_from_the_last_save(tmp_path, capfd):
    """Files end at 12 KiB, less than one of the arrays, with an error like that of a full disk: EFBIG for ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    tiny = make_task()
    task = tiny._replace(init=lambda key: tiny.init(key) | {"unused": jax.random.normal(key, (4096,))})

    def fill(step):
        while step == 4 and not (tmp_path / "checkpoints" / "2").exists():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**12 if step >= 4 else limits[0], limits[1]))
        return make_batch(step)

    command = lambda argv: bool(run(task._replace(batch=fill), tmp_path, CFG(steps=9, save_every=2, prefetch=1))) - 1
    try:
        assert kfjax.command.run(command, []) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("kfjax")]
    assert len(said) == 1
    assert re.search(r"could not be written \(.*File too large\); that of step [24] is complete", said[0])
    state = run(task, tmp_path, CFG(steps=9))
    assert_equal(state, run(task, tmp_path / "whole", CFG(steps=9)))


def test_a_checkpoint_of_another_config_is_refused(whole):
    with pytest.raises(WeightsError, match=r"shape of ema/b: got \(2,\), expected \(5,\).*another --workdir"):
        run(make_task(width=5), whole[0], CFG(steps=9))


def one_device(spec):
    return make_mesh({}, jax.devices()[:1])


def test_the_number_of_devices_changes_nothing(whole, tmp_path, monkeypatch):
    workdir, state = whole
    assert state.params["b"].sharding.mesh.size == 8
    monkeypatch.setattr(loop, "mesh_of", one_device)
    single = run(make_task(), tmp_path, CFG(steps=8))
    assert single.params["b"].sharding.mesh.size == 1
    np.testing.assert_allclose(list(losses(tmp_path).values()), list(losses(workdir).values()), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), single, state)


def test_a_run_goes_on_with_other_devices(whole, tmp_path, monkeypatch):
    run(make_task(), tmp_path, CFG(steps=4))
    monkeypatch.setattr(loop, "mesh_of", one_device)
    state = run(make_task(), tmp_path, CFG(steps=8))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state, whole[1])


def test_on_a_mesh_every_state_is_split_and_the_run_is_the_same(whole, tmp_path):
    """Also when it goes on on another mesh."""
    run(make_task(), tmp_path, CFG(steps=4, mesh="data=4,fsdp=2"))
    state = run(make_task(), tmp_path, CFG(steps=8, mesh="data=2, fsdp=2, tensor=2"))
    adam = state.opt_state[1][0]
    for tree in (state.params, adam.mu, adam.nu, state.ema):
        w = tree["layers"][0]["w"]
        assert w.sharding.mesh.shape["tensor"] == 2
        assert {shard.data.shape for shard in w.addressable_shards} == {(3, 1)}
    np.testing.assert_allclose(list(losses(tmp_path).values()), list(losses(whole[0]).values()), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state, whole[1])


@pytest.mark.parametrize("spec, message", [
    ("v6e64", "loop.mesh: got 'v6e64', expected sizes as data=2,fsdp=4 or one of 8xh100, .*v6e-64"),
    ("data=2,fsdp=x", "loop.mesh: got 'data=2,fsdp=x'"),
    ("v6e-64", "v6e-64: fsdp 64 = 64 devices does not fit 8"),
    ("fsdp=4", "fsdp 4 = 4 devices does not fit 8: with the other axes kept, data 2 or fsdp 8"),
    ("model=8", "mesh axes model: expected some of data, fsdp, context, tensor"),
])  # fmt: skip
def test_a_mesh_that_does_not_fit_is_refused(spec, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(make_task(), tmp_path, CFG(mesh=spec))
    assert not list(tmp_path.iterdir())


def test_every_batch_shape_compiles_once(tmp_path, caplog):
    """Two buckets, six steps: one trace and one compilation a bucket; and as many when the run goes on."""
    traced = []
    buckets = lambda step: {name: x[: (16, 8)[step % 2]] for name, x in make_batch(step).items()}
    task = make_task(buckets)

    def step(state, batch, key):
        traced.append(batch["x"].shape[0])
        return task.step(state, batch, key)

    for steps in (6, 12):
        with jax.log_compiles():
            run(task._replace(step=step), tmp_path, CFG(steps=steps, mesh="data=4,fsdp=2"))
        assert traced == [16, 8]
        assert sum(record.getMessage().startswith("Compiling jit(step)") for record in caplog.records) == 2
        traced.clear(), caplog.clear()


def test_panels_see_the_average(tmp_path):
    seen = []

    def panel(params, step, folder):
        seen.append((step, folder, jax.tree.map(np.asarray, params)))
        return {"f1": step / 10}

    state = run(make_task(panel=panel), tmp_path, CFG(steps=5, panel_every=2))
    assert [(step, folder) for step, folder, _ in seen] == [(2, tmp_path / "panels"), (4, tmp_path / "panels")]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(x["step"], x["f1"]) for x in lines if x["kind"] == "panel"] == [(2, 0.2), (4, 0.4)]
    assert not np.array_equal(seen[-1][2]["b"], state.params["b"])


def test_validation_sees_the_average_where_it_lies(tmp_path):
    seen = []

    def validate(params, step):
        seen.append((step, params["layers"][0]["w"].sharding.mesh.shape["fsdp"]))
        return {"loss": step / 10}

    run(make_task(validate=validate), tmp_path, CFG(steps=5, validate_every=2, mesh="data=4,fsdp=2"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(x["step"], x["loss"]) for x in lines if x["kind"] == "validation"] == [(2, 0.2), (4, 0.4)]
    assert seen == [(2, 2), (4, 2)]


def test_a_task_may_export_in_its_own_way(tmp_path):
    exported = []
    state = run(make_task(export=lambda ema, folder: exported.append((ema, folder))), tmp_path, CFG(steps=2))
    assert exported[0][0] is state.ema and exported[0][1] == tmp_path
    assert not (tmp_path / "ema.safetensors").exists()


def test_the_seed_decides_the_run(whole, tmp_path):
    assert_equal(run(make_task(), tmp_path / "0", CFG(steps=8, seed=0)), whole[1])
    other = run(make_task(), tmp_path / "1", CFG(steps=8, seed=1))
    assert not np.array_equal(other.params["b"], whole[1].params["b"])


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="loop: got log_every 0, max_skipped -1, expected 1 or more"):
        LoopConfig(log_every=0, max_skipped=-1)


def test_stored_weights_go_to_the_devices_in_parts_and_into_no_program(tmp_path, monkeypatch):
    stored = np.random.default_rng(0).standard_normal((512, 256)).astype(np.float32)
    programs = []
    compiled = jax.jit

    def noted(function, **options):
        run = compiled(function, **options)
        return lambda *args: (programs.append(len(run.lower(*args).as_text())), run(*args))[1]

    task = make_task()
    task = task._replace(init=lambda key, drawn=task.init: drawn(key) | {"stored": jnp.asarray(stored)})
    init = lambda: loop.init_state(task, jax.random.key(0))
    with monkeypatch.context() as patched:
        patched.setattr(jax, "jit", noted)
        state = shard_init(init, make_mesh({"data": 2, "fsdp": 4}))()
    assert len(programs) == 1 and programs[0] < stored.nbytes / 8
    for tree in (state.params, state.ema):
        np.testing.assert_array_equal(tree["stored"], stored)
        assert {shard.data.shape for shard in tree["stored"].addressable_shards} == {(128, 256)}
