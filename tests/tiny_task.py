"""A run of the training loop in milliseconds: a linear map under dropout, with a real optimiser.

python tests/tiny_task.py WORKDIR STEPS SECONDS_A_BATCH
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kfjax.structs import TrainState
from kfjax.train.engine.loop import LoopConfig, Task, run
from kfjax.train.engine.optim import OptimConfig, ema, guarded_update, make_optimizer

WEIGHTS = np.arange(6.0, dtype=np.float32).reshape(3, 2)


def make_batch(step: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng((5, step)).standard_normal((16, 3)).astype(np.float32)
    return {"x": x, "y": x @ WEIGHTS}


def make_task(batch=make_batch, width: int = 2, **rest) -> Task:
    tx = make_optimizer(OptimConfig(learning_rate=0.3, warmup=0.0, weight_decay=0.01))

    def init(key):
        return {"layers": {0: {"w": jax.random.normal(key, (3, width))}}, "b": jnp.zeros(width)}

    def loss_of(params, batch, key):
        x = batch["x"] * jax.random.bernoulli(key, 0.8, batch["x"].shape)
        return jnp.mean(jnp.square(x @ params["layers"][0]["w"] + params["b"][None] - batch["y"]))

    def step(state: TrainState, batch, key):
        loss, grads = jax.value_and_grad(loss_of)(state.params, batch, key)
        params, opt_state, finite, norm = guarded_update(tx, grads, state.params, state.opt_state, loss)
        averaged = ema(state.ema, params, jnp.where(finite, 0.9, 1.0))
        skipped = jnp.where(finite, 0, state.skipped + 1)
        return TrainState(state.step + 1, params, opt_state, averaged, skipped), {"loss": loss, "norm": norm}

    return Task(init, tx.init, step, batch, **rest)


def slow(seconds: float):
    def batch(step: int):
        time.sleep(seconds)
        return make_batch(step)

    return batch


if __name__ == "__main__":
    folder, steps, seconds = sys.argv[1:]
    run(make_task(slow(float(seconds))), Path(folder), LoopConfig(steps=int(steps), log_every=2, save_every=1000))
