"""Weights files and training states: exact, complete, and refused with everything that is wrong named at once."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from kfjax.checkpoint import StateStore, WeightsError, load_params, save_params, unflatten
from kfjax.module import flatten
from kfjax.sharding import data_mesh, replicated
from kfjax.structs import TrainState
from kfjax.train.optim import OptimConfig, make_optimizer


def params(width=4):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    return {
        "mmdit": {"blocks": {0: {"kernel": draw(width, 3)}, 1: {"kernel": draw(width, 3)}, 10: {"kernel": draw(2)}}},
        "vae": {"scale": draw(), "rows": np.arange(5, dtype=np.int32)},
    }


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "model.safetensors"
    save_params(path, params())
    got = load_params(path, shapes(params()))
    assert_equal(got, params())
    assert [leaf.dtype for leaf in jax.tree.leaves(got)] == [leaf.dtype for leaf in jax.tree.leaves(params())]
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


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
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
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
