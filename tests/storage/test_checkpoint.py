"""Weights files and training states: exact, complete, and refused with everything that is wrong named at once."""

import asyncio
import os
import resource
import shutil
import time
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from kfjax.nn.module import flatten
from kfjax.storage import checkpoint
from kfjax.storage.checkpoint import CheckpointError, StateStore, WeightsError, load_params, save_params, unflatten
from kfjax.structs import TrainState
from kfjax.train.engine.optim import OptimConfig, make_optimizer
from kfjax.xla.sharding import data_mesh, make_mesh, param_shardings, replicated
from tests.trees import assert_equal


def params(width=4):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return {
        "mmdit": {"blocks": {0: {"kernel": draw(width, 3)}, 1: {"kernel": draw(width, 3)}, 10: {"kernel": draw(2)}}},
        "vae": {"scale": draw(), "rows": np.arange(5, dtype=np.int32)},
    }


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "model.safetensors"
    save_params(path, params())
    got = load_params(path, shapes(params()))
    assert_equal(got, params())
    assert [leaf.dtype for leaf in jax.tree.leaves(got)] == [leaf.dtype for leaf in jax.tree.leaves(params())]
    assert sorted(p.name for p in path.parent.iterdir()) == ["SHA256SUMS", "model.safetensors"]


def test_flat_names_and_back():
    assert_equal(unflatten(flatten(params())), params())
    assert set(unflatten({"a/0/b": 1, "a/1/b": 2})["a"]) == {0, 1}


@pytest.mark.parametrize("dtype, error", [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_half_precision_storage_comes_back_as_float32(tmp_path, dtype, error):
    save_params(tmp_path / "full.safetensors", params())
    save_params(tmp_path / "half.safetensors", params(), dtype=dtype)
    got = load_params(tmp_path / "half.safetensors", shapes(params()))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {"float32", "int32"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=error), got, params())
    np.testing.assert_array_equal(got["vae"]["rows"], params()["vae"]["rows"])
    want = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)).astype(x.dtype) if x.dtype.kind == "f" else x, params())
    assert_equal(got, want)


def test_every_floating_type_is_cast(tmp_path):
    half = {"a": np.ones(3, np.float16), "b": jnp.ones(3, jnp.bfloat16)}
    save_params(tmp_path / "x.safetensors", half, dtype="float32")
    assert {x.dtype.name for x in load_file(tmp_path / "x.safetensors").values()} == {"float32"}


def test_arrays_are_placed_in_turn(tmp_path, monkeypatch):
    """Neither the file nor its float32 form is ever held beside what is made of it."""
    each, count = 2**20, 16
    big = {f"w{i}": np.full(each // 4, i, np.float32) for i in range(count)}
    save_params(tmp_path / "big.safetensors", big)
    monkeypatch.setattr(checkpoint, "_BYTES_AT_ONCE", 3 * each)  # the file is opened several times
    tracemalloc.start()
    got = load_params(tmp_path / "big.safetensors", shapes(big), place=lambda x: x.astype(np.float16))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_equal(got, {name: x.astype(np.float16) for name, x in big.items()})
    assert held < 0.6 * count * each
    assert peak < held + 3 * each


def test_everything_wrong_is_named_at_once(tmp_path):
    wrong = params()
    wrong["mmdit"]["blocks"][1] = {"kernal": np.zeros(1, np.float32)}
    wrong["vae"]["scale"] = np.float32(np.nan)
    wrong["mmdit"]["blocks"][10]["kernel"] = np.zeros((2, 1), np.float32)
    save_params(tmp_path / "model.safetensors", wrong)
    with pytest.raises(WeightsError) as caught:
        load_params(tmp_path / "model.safetensors", shapes(params()))
    message = str(caught.value)
    for part in (
        "missing: mmdit/blocks/1/kernel", "unknown: mmdit/blocks/1/kernal",
        "shape of mmdit/blocks/10/kernel: got (2, 1), expected (2,)", "not finite: vae/scale", "Export the model again",
    ):  # fmt: skip
        assert part in message
    assert "\n" not in message


def test_a_long_list_is_cut(tmp_path):
    many = {f"w{i:02}": np.zeros(1, np.float32) for i in range(20)}
    save_params(tmp_path / "many.safetensors", many)
    with pytest.raises(WeightsError, match=r"unknown: w07; and 12 more\. Export"):
        load_params(tmp_path / "many.safetensors", {})


def test_unreadable_files(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match=r"no weights at .*model\.safetensors"):
        load_params(path)
    save_params(path, params())
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4], b"", b"not weights at all"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"is not a readable \.safetensors file"):
            load_params(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.safetensors"
    save_params(path, {"a": np.ones(2, np.float32)})
    with pytest.raises(Exception):  # noqa: B017  (whatever the library says to an array of objects)
        save_params(path, {"a": np.array([object()])})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["SHA256SUMS", "model.safetensors"]
    np.testing.assert_array_equal(load_params(path)["a"], [1, 1])


def state(width=4, **more):
    weights = jax.tree.map(jnp.asarray, params(width) | more)
    weights = {name: part for name, part in weights.items() if name != "vae"}
    tx = make_optimizer(OptimConfig())
    return TrainState(jnp.array(7), weights, tx.init(weights), weights, jnp.array(2))


def test_states_come_back_bit_for_bit(tmp_path):
    with StateStore(tmp_path) as store:
        assert store.latest() is None
        store.save(7, state())
        store.save(7, state(), wait=True)  # the last step of a run may be saved already
    with StateStore(tmp_path) as store:
        assert store.latest() == 7
        assert_equal(store.restore(7, jax.tree.map(jnp.zeros_like, state())), state())


def test_states_come_back_on_this_machines_mesh(tmp_path):
    everywhere = replicated(data_mesh())
    with StateStore(tmp_path) as store:
        store.save(1, state())
        got = store.restore(1, jax.device_put(state(), everywhere))
    assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(got))


def test_the_newest_few_are_kept(tmp_path):
    with StateStore(tmp_path, keep=2) as store:
        for step in (1, 2, 3):
            store.save(step, state(), wait=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


def test_some_are_kept_for_good(tmp_path):
    with StateStore(tmp_path, keep=1, keep_every=4) as store:
        for step in (2, 4, 6, 8, 10):
            store.save(step, state())
    assert steps(tmp_path) == [4, 8, 10]


def test_no_clock_decides_which_is_the_newest(tmp_path, monkeypatch):
    """Neither one that jumps back by years while saving, nor the files' times."""
    now = time.time()
    with StateStore(tmp_path, keep=2) as store:
        for step in (1, 2, 3):
            monkeypatch.setattr(time, "time", lambda step=step: now - 1e8 * step)
            store.save(step, state(), wait=True)
    os.utime(tmp_path / "2", (now + 1e6, now + 1e6))
    with StateStore(tmp_path) as store:
        assert store.latest() == 3 and steps(tmp_path) == [2, 3]
        store.save(4, state())
    assert steps(tmp_path) == [3, 4]


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def test_half_a_checkpoint_is_none(tmp_path):
    """What a kill leaves: the temporary names, which the next run clears away."""
    with StateStore(tmp_path) as store:
        store.save(3, state())
    shutil.copytree(tmp_path / "3", tmp_path / "5.orbax-checkpoint-tmp")
    with StateStore(tmp_path) as store:
        assert store.latest() == 3
        store.save(5, state())
    with StateStore(tmp_path) as store:
        assert store.latest() == 5
        assert_equal(store.restore(5, state()), state())


@pytest.fixture
def full_disk():
    """Files end at 64 KiB, with an error like that of a full disk: EFBIG for ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set_limit(full: bool):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]) if full else before)

    yield set_limit
    set_limit(False)


def test_a_full_disk_leaves_what_was_complete(tmp_path, full_disk, capfd):
    draw = lambda seed: jnp.asarray(np.random.default_rng(seed).standard_normal(2**16))
    large = lambda x: {f"w{k}": draw(x + k) for k in range(12)}  # one fails while others are still being written
    message = r"File too large.*step 2 is complete"
    with pytest.raises(CheckpointError, match=message) as caught, StateStore(tmp_path, keep=1) as store:
        store.save(2, large(2), wait=True)
        full_disk(True)
        store.save(4, large(4))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert capfd.readouterr().err == ""  # no tracebacks from the threads that write
    full_disk(False)
    with StateStore(tmp_path, keep=1) as store:
        assert store.latest() == 2
        assert_equal(store.restore(2, large(0)), large(2))
        store.save(4, large(4))
    with StateStore(tmp_path) as store:
        assert_equal(store.restore(4, large(0)), large(4))


def test_a_failed_save_does_not_hide_what_ended_the_run(tmp_path, full_disk):
    with pytest.raises(ZeroDivisionError), StateStore(tmp_path) as store:
        full_disk(True)
        store.save(4, {"w": np.random.default_rng(0).standard_normal(2**16)})
        raise ZeroDivisionError


@pytest.mark.parametrize("file", ["manifest.ocdbt", "_METADATA"])
@pytest.mark.parametrize("length", [0, 30, None])
def test_damaged_files_are_named_and_left(tmp_path, file, length):
    with StateStore(tmp_path) as store:
        store.save(3, state())
    damaged = tmp_path / "3" / "default" / file
    if length is None:
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:length])
    message = rf"/3/default/{file} is damaged \(.+\); delete {tmp_path}/3 to go on from an earlier step"
    with pytest.raises(CheckpointError, match=message), StateStore(tmp_path) as store:
        store.restore(3, state())
    for sums in tmp_path.rglob("SHA256SUMS"):  # earlier versions wrote none
        sums.unlink()
    message = r"/3 can't be read \(.+\); if it is damaged, delete that folder"
    with pytest.raises(CheckpointError, match=message), StateStore(tmp_path) as store:
        store.restore(3, state())
    assert steps(tmp_path) == [3]


def test_what_fails_waits_for_what_it_has_begun(tmp_path):
    """Else tensorstore answers to a loop that is closed, and the answer is an error that nobody can catch."""
    from orbax.checkpoint._src import asyncio_utils

    ended = []

    async def slow():
        await asyncio.sleep(0.02)
        ended.append("slow")

    async def bad():
        raise OSError("disk")

    async def both():
        await asyncio.gather(slow(), bad())

    with StateStore(tmp_path), pytest.raises(OSError, match="disk"):
        asyncio_utils.run_sync(both())
    assert ended == ["slow"]


def test_states_that_earlier_versions_stored(tmp_path):
    """Whole on a mesh of one axis, by orbax's manager as it comes; they go on, split over another mesh."""
    import orbax.checkpoint as ocp

    options, handler = ocp.CheckpointManagerOptions(max_to_keep=2, create=True), ocp.StandardCheckpointHandler()
    with ocp.CheckpointManager(tmp_path, item_handlers=handler, options=options) as manager:
        manager.save(7, args=ocp.args.StandardSave(jax.device_put(state(), replicated(data_mesh()))))
    where = param_shardings(state(), make_mesh({"data": 2, "fsdp": 4}))
    like = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state(), where)
    with StateStore(tmp_path) as store:
        got = store.restore(store.latest(), like)
    assert_equal(got, state())
    assert jax.tree.map(lambda x: x.sharding, got) == where
    assert len({str(shard.index) for shard in got.ema["mmdit"]["blocks"][0]["kernel"].addressable_shards}) == 4


def test_a_state_of_other_types_is_refused(tmp_path):
    with StateStore(tmp_path) as store:
        store.save(3, {"w": jnp.ones(3), "n": jnp.arange(2)}, wait=True)
        with pytest.raises(WeightsError, match="type of w: got float32, expected bfloat16; use the config"):
            store.restore(3, {"w": jnp.ones(3, jnp.bfloat16), "n": jnp.arange(2)})


@pytest.mark.parametrize("like, message", [
    (lambda: state(5), r"shape of ema/mmdit/blocks/0/kernel: got \(4, 3\), expected \(5, 3\)"),
    (lambda: state(clip={"w": np.ones(2, np.float32)}), "missing: ema/clip/w; missing: opt_state/1/0/mu/clip/w"),
    (lambda: state()._replace(ema={}), "unknown: ema/mmdit/blocks/0/kernel"),
])  # fmt: skip
def test_a_state_of_another_config_is_refused(tmp_path, like, message):
    with StateStore(tmp_path) as store:
        store.save(3, state(), wait=True)
        with pytest.raises(WeightsError, match=rf"step 3 is of another configuration: .*{message}.*--workdir"):
            store.restore(3, like())
