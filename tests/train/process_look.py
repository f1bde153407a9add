"""One of two processes that look at the same split arrays: python process_look.py PORT PROCESS.

Prints what `culprit` and `Validation` say.
"""

import sys

import jax
import jax.numpy as jnp

from kfjax.train.engine.nonfinite import culprit
from kfjax.train.engine.validation import Validation
from kfjax.xla.sharding import make_mesh, param_shardings
from tests.tiny.task import make_batch


def weights():
    w = jnp.ones((8, 16))
    return {"fine": w, "w": w.at[3, 11].set(jnp.nan)}


def error(params, batch, key):
    missed = batch["x"] @ params["w"][:, :2] - batch["y"] + jax.random.normal(key, batch["y"].shape)
    return {"loss": jnp.square(missed).mean()}


if __name__ == "__main__":
    port, process = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    mesh = make_mesh({"data": 2, "fsdp": 2})
    split = lambda make: jax.jit(make, out_shardings=param_shardings(jax.eval_shape(make), mesh))()
    visit = Validation(error, make_batch, 3)
    print(culprit(split(weights)), visit(split(lambda: {"w": jnp.ones((3, 16))}), 0)["loss"])
