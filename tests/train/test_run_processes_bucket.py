"""Two processes that train together on a working folder in a bucket, and one that goes on alone."""

import numpy as np
import pytest

from kfjax.nn.module import flatten
from kfjax.storage import cache, disk, stored_state
from kfjax.storage.checkpoint import load_params
from tests.train.test_run_processes import finish, losses, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_as_on_a_disk(gs, tmp_path, monkeypatch):
    monkeypatch.setenv("ROWS", str(tmp_path))
    for workdir in (gs / "run", tmp_path / "whole"):
        finish(start(workdir, 6, 2))
    assert stored_state.steps(gs / "run" / "checkpoints") == [6] and not (gs / "run" / "lock").exists()
    assert {"metrics.jsonl", "ema.safetensors"} <= disk.sizes(gs / "run").keys()
    finish(start(gs / "run", 9, 1))
    finish(start(tmp_path / "whole", 9, 1))
    assert len(losses(gs / "run")) == 9 and losses(gs / "run") == losses(tmp_path / "whole")
    got, want = (
        flatten(load_params(cache.local(folder / "ema.safetensors"))) for folder in (gs / "run", tmp_path / "whole")
    )
    for name, x in want.items():
        np.testing.assert_array_equal(got[name], x)
