"""Two processes that train together on a working folder in a bucket, and one that goes on alone."""

import numpy as np
import pytest

from kfjax.nn.module import flatten
from kfjax.storage import cache, disk, stored_state
from kfjax.storage.checkpoint import load_params
from tests.train.test_run_processes import finish, losses, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_as_on_a_disk(in_bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("ROWS", str(tmp_path))
    for workdir in (in_bucket / "run", tmp_path / "whole"):
        finish(start(workdir, 6, 2))
    assert stored_state.steps(in_bucket / "run" / "checkpoints") == [6] and not (in_bucket / "run" / "lock").exists()
    assert {"metrics.jsonl", "ema.safetensors"} <= disk.sizes(in_bucket / "run").keys()
    finish(start(in_bucket / "run", 9, 1))
    finish(start(tmp_path / "whole", 9, 1))
    assert len(losses(in_bucket / "run")) == 9 and losses(in_bucket / "run") == losses(tmp_path / "whole")
    weights = [folder / "ema.safetensors" for folder in (in_bucket / "run", tmp_path / "whole")]
    got, want = (flatten(load_params(cache.local(path))) for path in weights)
    for name, x in want.items():
        np.testing.assert_array_equal(got[name], x)
