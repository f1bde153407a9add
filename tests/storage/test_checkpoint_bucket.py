"""Training states in a bucket: complete once the object that is written last is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.storage import disk, stored_state
from kfjax.storage.checkpoint import CheckpointError, StateStore, save_params
from kfjax.storage.stored_state import StoredState
from kfjax.system import load as load_system
from kfjax.system import save as save_system
from tests.tiny import buckets
from tests.tiny.system import tiny_system


def state(value: float):
    return {"params": {"a": {"w": jnp.full((4, 3), value)}}, "step": jnp.asarray(int(value))}


@pytest.mark.parametrize("every", [15, pytest.param(5, marks=pytest.mark.slow)])
@buckets.S3_ON_DEMAND
def test_a_state_survives_a_store_that_fails_now_and_then(in_bucket, store, monkeypatch, every):
    buckets.impatient(monkeypatch)
    with StateStore(in_bucket / "checkpoints", keep=1) as states:
        states.save(1, state(1), wait=True)
        store.fail_every = every
        states.save(2, state(2), wait=True)
        store.calm()
        jax.tree.map(np.testing.assert_array_equal, states.restore(2, state(0)), state(2))
    assert stored_state.steps(in_bucket / "checkpoints") == [2]
    np.testing.assert_array_equal(StoredState(in_bucket / "checkpoints", 2, "params")["a"]["w"], np.full((4, 3), 2.0))


def test_a_half_written_state_is_none(in_bucket):
    with StateStore(in_bucket) as store:
        store.save(1, state(1), wait=True)
        store.save(2, state(2), wait=True)
    (in_bucket / "2" / "commit_success.txt").unlink()
    assert stored_state.steps(in_bucket) == [1]
    with StateStore(in_bucket, keep=1) as store:
        assert store.latest() == 1
        store.save(2, state(5), wait=True)  # over what was left
        jax.tree.map(np.testing.assert_array_equal, store.restore(2, state(0)), state(5))
    assert stored_state.steps(in_bucket) == [2] and {name[0] for name in in_bucket.below()} == {"2"}
    np.testing.assert_array_equal(StoredState(in_bucket, 2, "params")["a"]["w"], np.full((4, 3), 5.0))


@buckets.S3_ON_DEMAND
def test_credentials_that_expire_midway_are_told_in_one_line(in_bucket, store, monkeypatch):
    buckets.impatient(monkeypatch)
    with StateStore(in_bucket) as states:
        states.save(1, state(1), wait=True)
        store.expire()
        told = r"a checkpoint could not be written \(.*(401|Forbidden).*\); which ones are"
        with pytest.raises(CheckpointError, match=told):
            states.save(2, state(2), wait=True)
        store.calm()


def test_a_guard_is_asked_before_every_save(gs):
    def lost():
        raise ValueError("lost")

    with StateStore(gs, guard=lost) as store:
        with pytest.raises(ValueError, match="lost"):
            store.save(1, state(1))
        assert store.latest() is None


def test_a_model_in_a_bucket(gs):
    small = tiny_system()
    save_system(gs / "model", small, card="It is small.")
    got = load_system(gs / "model")
    assert got.cfg == small.cfg
    jax.tree.map(np.testing.assert_array_equal, got.params, jax.tree.map(np.asarray, small.params))
    save_system(gs / "model", small)  # a model may be replaced
    (gs / "model" / "model.safetensors").put(b"damaged")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_system(gs / "model")
    (gs / "model" / "config.json").unlink()
    with pytest.raises(ValueError, match="is not empty and holds no model"):
        save_system(gs / "model", small)
    (gs / "model" / "UPLOADING").put(b"")  # as an upload leaves it that breaks off
    save_system(gs / "model", small)
    assert "UPLOADING" not in disk.sizes(gs / "model") and load_system(gs / "model").cfg == small.cfg
    save_params(gs / "ema.safetensors", small.params["vae"])
    with pytest.raises(ValueError, match="is not empty and holds no model"):
        save_system(gs, small)
