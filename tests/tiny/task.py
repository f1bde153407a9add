"""A run of the training loop in milliseconds: a linear map under dropout, with a real optimiser.

python tests/tiny/task.py WORKDIR STEPS SECONDS_A_BATCH
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from kfjax.train.engine.loop import LoopConfig, Task, run
from kfjax.train.engine.optim import OptimConfig, make_optimizer
from kfjax.train.engine.update import gradients_of, make_step

WEIGHTS = np.arange(6.0, dtype=np.float32).reshape(3, 2)


def make_batch(step: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng((5, step)).standard_normal((16, 3)).astype(np.float32)
    return {"x": x, "y": x @ WEIGHTS}


def make_task(batch=make_batch, width: int = 2, **rest) -> Task:
    tx = make_optimizer(OptimConfig(learning_rate=0.3, warmup=0.0, weight_decay=0.01))

    def init(key):
        return {"layers": {0: {"w": jax.random.normal(key, (3, width))}}, "b": jnp.zeros(width)}

    def loss(params, batch, key):
        x = batch["x"] * jax.random.bernoulli(key, 0.8, batch["x"].shape)
        value = jnp.mean(jnp.square(x @ params["layers"][0]["w"] + params["b"][None] - batch["y"]))
        return value, {"loss": value}

    step = make_step(gradients_of(loss), tx, lambda params: params, 0.9)
    return Task(init, tx.init, step, batch, **rest)


def slow(seconds: float):
    def batch(step: int):
        time.sleep(seconds)
        return make_batch(step)

    return batch


if __name__ == "__main__":
    folder, steps, seconds = sys.argv[1:]
    run(make_task(slow(float(seconds))), folder, LoopConfig(steps=int(steps), log_every=2, save_every=1000))
