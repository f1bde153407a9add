"""Torch files from before version 1.6, and what trainings keep beside weights: read without PyTorch, never run."""

import contextlib
import os
import random
from collections import OrderedDict

import numpy as np
import pytest

from kfjax.convert.formats.files import read_object, read_state

torch = pytest.importorskip("torch")


def saved(path, value, *, long_ago=True):
    torch.save(value, path, _use_new_zipfile_serialization=not long_ago)
    return path


def refusal(path) -> str:
    """The message of a refusal: one line that names the file."""
    with pytest.raises(ValueError) as error:
        read_object(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_every_kind_of_tensor(tmp_path):
    base = torch.arange(120.0).reshape(4, 5, 6)
    state = {str(x): torch.arange(-3, 3).to(x) for x in (torch.float64, torch.float16, torch.int64, torch.uint8)}
    state |= {"whole": base, "rows": base[1:3], "turned": base.transpose(0, 2), "stepped": base[::2, 1:, ::3]}
    state |= {"scalar": torch.tensor(3), "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(base[1])}
    got = read_state(saved(tmp_path / "x.pth", {"iteration": 7, "model": OrderedDict(state)}))
    assert list(got) == list(state)
    for key, value in state.items():
        want = value.detach().numpy()
        assert got[key].dtype == want.dtype
        np.testing.assert_array_equal(got[key], want, strict=True)
    assert np.shares_memory(got["whole"], got["turned"])


@pytest.mark.parametrize("long_ago", [False, True])
def test_arrays_of_numpy_beside_the_weights_are_passed_over(tmp_path, long_ago):
    """PANNs' files keep the state of the training's sampler."""
    sampler = {"indexes_per_class": [np.arange(5), np.arange(3)], "queue": [3, 1], "pointers": (0, 2)}
    made = {"iteration": 600_000, "model": {"x": torch.ones(2)}, "sampler": sampler}
    path = saved(tmp_path / "x.pth", made, long_ago=long_ago)
    np.testing.assert_array_equal(read_state(path)["x"], np.ones(2, np.float32), strict=True)
    found = read_object(path)
    assert found["iteration"] == 600_000
    assert found["sampler"] == {"indexes_per_class": [None, None], "queue": [3, 1], "pointers": (0, 2)}


class Hostile:
    """Unpickling it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("made",)


def test_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "names posix.mkdir" in refusal(saved(tmp_path / "x.pth", {"x": Hostile()}))
    assert "names torch.nn.modules.linear.Linear" in refusal(saved(tmp_path / "x.pth", torch.nn.Linear(2, 2)))
    assert not (tmp_path / "made").exists()


def test_cut_off_or_changed(tmp_path):
    path = saved(tmp_path / "x.pth", {"x": torch.arange(9.0), "y": torch.ones(2).half()})
    whole, chance, read = path.read_bytes(), random.Random(0), 0
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        refusal(path)
    # Nine values become two thousand million.
    assert whole.count(b"K\tN") == 1
    path.write_bytes(whole.replace(b"K\tN", b"J\xff\xff\xff\x7fN"))
    assert "larger than the file" in refusal(path)
    for _ in range(200):
        broken = bytearray(whole)
        broken[chance.randrange(len(broken))] = chance.randrange(256)
        path.write_bytes(broken)
        with contextlib.suppress(ValueError):
            read += len(read_object(path)) > 0
    assert read
