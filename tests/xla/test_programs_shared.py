"""One folder of compiled programs for several processes: what one has compiled, the next reads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROCESS = """
import collections, json
import jax
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name.rpartition("/")[2]]))
from kfjax import pipeline
pipeline.start()
print(float(jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.ones((8, 8)))))
print(json.dumps(seen))
"""


@pytest.mark.parametrize("where", ["disk", pytest.param("bucket", marks=pytest.mark.slow)])
def test_a_second_process_compiles_nothing(request, tmp_path, where):
    folder = (tmp_path if where == "disk" else request.getfixturevalue("gs")) / "programs"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(folder)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    options = {"env": environment, "capture_output": True, "text": True, "check": True}
    run = lambda: subprocess.run([sys.executable, "-c", PROCESS], **options).stdout
    (value, first), (again, second) = (run().split("\n")[:2] for _ in range(2))
    first, second = json.loads(first), json.loads(second)
    asked = second["compile_requests_use_cache"]
    assert value == again == "512.0" and first["cache_misses"] == asked > 0 and "cache_hits" not in first
    assert second["cache_hits"] == asked and "cache_misses" not in second
