"""The generator's own step on a preset's mesh, through the loop: stopped, it goes on without compiling more."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from kfjax.data.batches import SyntheticInput
from kfjax.data.buckets import Buckets
from kfjax.nn.module import flatten
from kfjax.system import init_parts
from kfjax.train.engine.loop import LoopConfig, Task, run
from kfjax.train.engine.optim import OptimConfig, make_optimizer
from kfjax.train.tasks.flow import step as flow_step
from kfjax.xla.sharding import PRESETS
from tests.tiny.system import CONFIG

SYSTEM = replace(CONFIG, mmdit=replace(CONFIG.mmdit, heads=4, joint_depth=2, single_depth=2, hidden_multiple=64))
MESH = ",".join(f"{axis}={size}" for axis, size in PRESETS["v5p-256"].shrunk().axes.items())
STEP = flow_step.FlowStepConfig()
TX = make_optimizer(OptimConfig(learning_rate=1e-3, warmup=0.0))
BUCKETS = Buckets({1.0: 0.5, 0.5: 0.5}, batch_seconds=8.0, multiple_of=8, seed=1)


def task(traced: list[int]) -> Task:
    """`traced` gets the latents of every batch that the step is traced for."""
    step = flow_step.make_step(SYSTEM, STEP, TX)

    def seen(state, batch, key):
        traced.append(batch.posterior.mean.shape[1])
        return step(state, batch, key)

    init = lambda key: init_parts(SYSTEM, ("mmdit",), key)
    return Task(
        init,
        lambda params: TX.init(flow_step.trained(params, STEP)),
        seen,
        SyntheticInput(SYSTEM, BUCKETS, seed=1),
        export=lambda params, folder: None,
    )


def losses(workdir) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_stopped_run_compiles_every_bucket_once_more_and_ends_as_the_whole_one(tmp_path, caplog):
    assert {BUCKETS.of(step)[0] for step in range(4)} == {BUCKETS.of(step)[0] for step in range(4, 8)} == {0, 1}
    ends = {}
    for name, stops in {"whole": (8,), "stopped": (4, 8)}.items():
        for steps in stops:
            traced: list[int] = []
            with jax.log_compiles():
                ends[name] = run(task(traced), tmp_path / name, LoopConfig(steps=steps, log_every=1, mesh=MESH))
            assert sorted(traced) == [22, 44]  # latents of half a second and of one
            assert sum(record.getMessage().startswith("Compiling jit(step)") for record in caplog.records) == 2
            caplog.clear()
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    whole = flatten(ends["whole"])
    for path, leaf in flatten(ends["stopped"]).items():
        np.testing.assert_array_equal(leaf, whole[path], err_msg=path)
        assert leaf.sharding == whole[path].sharding, path
        assert leaf.sharding.is_fully_replicated <= (leaf.size < 1024), path
