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
def test_a_state_survives_a_store_that_fails_now_and_then(gs, google, monkeypatch, every):
    buckets.impatient(monkeypatch)
    with StateStore(gs / "checkpoints", keep=1) as store:
        store.save(1, state(1), wait=True)
        google.fail_every = every
        store.save(2, state(2), wait=True)
        google.calm()
        jax.tree.map(np.testing.assert_array_equal, store.restore(2, state(0)), state(2))
    assert stored_state.steps(gs / "checkpoints") == [2]
    np.testing.assert_array_equal(StoredState(gs / "checkpoints", 2, "params")["a"]["w"], np.full((4, 3), 2.0))


def test_a_half_written_state_is_none(gs):
    with StateStore(gs) as store:
        store.save(1, state(1), wait=True)
        store.save(2, state(2), wait=True)
    (gs / "2" / "commit_success.txt").unlink()
    assert stored_state.steps(gs) == [1]
    with StateStore(gs) as store:
        assert store.latest() == 1
        store.save(2, state(5), wait=True)  # over what was left
        jax.tree.map(np.testing.assert_array_equal, store.restore(2, state(0)), state(5))


def test_credentials_that_expire_midway_are_told_in_one_line(gs, google, monkeypatch):
    buckets.impatient(monkeypatch)
    with StateStore(gs) as store:
        store.save(1, state(1), wait=True)
        google.status = 401
        with pytest.raises(CheckpointError, match=r"a checkpoint could not be written \(.*401.*\); which ones are"):
            store.save(2, state(2), wait=True)
        google.calm()


def test_no_states_in_s3():
    with pytest.raises(ValueError, match="s3://b/run: orbax keeps no training states in S3; give a folder or gs://"):
        StateStore("s3://b/run")


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
