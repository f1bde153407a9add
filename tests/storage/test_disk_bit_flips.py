"""One bit of a file on a disk turns over: whoever reads it is told, or gets what was written."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import pipeline, system
from kfjax.nn.module import flatten
from kfjax.storage import disk
from kfjax.storage.checkpoint import CheckpointError, StateStore
from kfjax.xla.sharding import make_mesh, param_shardings
from tests.tiny.system import tiny_system


def state():
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((64, 64), np.float32), "zero": np.zeros(64, np.float32)}
    like = {"params": weights, "ema": {"w": jnp.asarray(weights["w"], jnp.bfloat16)}, "step": np.int32(3)}
    like = jax.tree.map(jnp.asarray, like)
    return jax.device_put(like, param_shardings(like, make_mesh({"data": 2, "fsdp": 4})))


def bytes_of(tree) -> dict[str, bytes]:
    return {name: np.asarray(x).tobytes() for name, x in flatten(tree).items()}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(a checkpoint's folder, a model directory)."""
    folder = tmp_path_factory.mktemp("kept")
    with StateStore(folder / "checkpoints") as store:
        store.save(3, state())
    system.save(folder / "model", tiny_system(), card="Random weights.\n")
    return folder / "checkpoints", folder / "model"


def restore(folder):
    with StateStore(folder) as store:
        return bytes_of(store.restore(3, state()))


def load(folder):
    got = system.load(folder)
    return bytes_of(got.params), repr(got.cfg), got.tokenizer._inner.to_str()


def flip_and_read(folder, read, flips: int, rng) -> Counter:
    """(the file's name, whether it was refused) -> how often. Every file is as likely as another."""
    seen, whole = Counter(), read(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    for _ in range(flips):
        path = files[rng.integers(len(files))]
        before = path.read_bytes()
        damaged = bytearray(before)
        damaged[rng.integers(len(before))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            got = read(folder)
        except ValueError as error:
            assert "\n" not in str(error) and str(folder) in str(error)
            seen[path.name, True] += 1
        else:
            assert got == whole, f"{path}: a flipped bit was read silently"
            seen[path.name, False] += 1
        finally:
            path.write_bytes(before)
    assert read(folder) == whole
    return seen


@pytest.mark.parametrize("flips", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_read_silently(kept, flips):
    rng = np.random.default_rng(flips)
    seen = flip_and_read(kept[0], restore, flips, rng) + flip_and_read(kept[1], load, flips, rng)
    assert seen.total() == 2 * flips
    # Not read, or no digest of it: the card, orbax's notes of times and of the commit, a name in a list of digests.
    passed = {name for name, refused in seen if not refused}
    assert passed <= {"MODEL_CARD.md", "_CHECKPOINT_METADATA", "commit_success.txt", "SHA256SUMS"}
    assert sum(count for (_, refused), count in seen.items() if refused) >= flips


@pytest.mark.parametrize("name, old, new", [
    ("config.json", b'"steps": 2', b'"steps": 3'),
    ("tokenizer.json", b"rain", b"pain"),
    ("model.safetensors", b"\x00\x00\x80\x3f", b"\x00\x00\x80\x3e"),  # 1.0, 0.25
])  # fmt: skip
def test_what_a_flip_in_a_model_directory_says(kept, name, old, new):
    path = kept[1] / name
    before = path.read_bytes()
    assert old in before
    try:
        path.write_bytes(before.replace(old, new, 1))
        with pytest.raises(CheckpointError, match=rf"{path} is damaged \(its SHA-256 .*\); copy or export it again"):
            system.load(kept[1])
    finally:
        path.write_bytes(before)


def test_the_built_in_model_has_digests():
    folder = pipeline.BUILT_IN
    assert {path.name for path in disk.digests(folder)} == {"config.json", "tokenizer.json", "model.safetensors"}
    with disk.checked(disk.digests(folder)):
        pass
