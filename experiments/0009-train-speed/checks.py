"""Does the device compute what it should? A small network's loss and gradients, and the ways of a layer compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kfjax.data.batches import SyntheticInput
from kfjax.data.buckets import Buckets
from kfjax.nn import layers
from kfjax.nn.module import shapes
from kfjax.train.tasks.flow import step as flow_step

from .convolution import WAYS
from .step import Trainer, changed

SMALL = "configs/flow.py:features-runlocal"
#: Above what rounding makes: of bfloat16 through a whole network, of float32 on two machines, of one layer in float32.
HALF, SINGLE, LAYER = 5e-2, 1e-3, 1e-5


class Check(NamedTuple):
    """A relative difference (None: not finite) and the limit that it must be below."""

    name: str
    got: float | None
    limit: float
    ok: bool


def check(name: str, got: float, limit: float) -> Check:
    finite = bool(np.isfinite(got))
    return Check(name, got if finite else None, limit, finite and bool(got < limit))


def run() -> Iterator[Check]:
    """All checks, one after the other."""
    with jax.default_matmul_precision("highest"):  # else a GPU multiplies float32 with a mantissa of ten bits
        yield from _network()
        yield from _convolution()
    if jax.default_backend() == "gpu":
        yield from _attention()


def _network() -> Iterator[Check]:
    """One step's loss and gradients: finite, the same in bfloat16, the same on this machine's processor."""
    exact, gradient = _loss("float32")
    half, half_gradient = _loss("bfloat16")
    yield check("loss, bfloat16 against float32", abs(half / exact - 1), HALF)
    yield check("gradients, bfloat16 against float32", far(half_gradient, gradient), HALF)
    if jax.default_backend() != "cpu":
        with jax.default_device(jax.devices("cpu")[0]):
            there, gradient_there = _loss("float32")
        yield check("loss, device against processor", abs(exact / there - 1), SINGLE)
        yield check("gradients, device against processor", far(gradient, gradient_there), SINGLE)


def _loss(dtype: str) -> tuple[float, np.ndarray]:
    """Loss and all gradients of a small network whose weights are all away from zero."""
    config = changed(SMALL, width=128, heads=2)
    config.step.compute_dtype = dtype
    trainer = Trainer(config, 2.0)
    planner = trainer.planner
    batch = SyntheticInput(planner.system, Buckets({2.0: 1.0}, batch_seconds=8.0, multiple_of=4, seed=0), seed=0)(0)
    rng = np.random.default_rng(1)
    draw = lambda x: (0.05 * rng.standard_normal(x.shape)).astype(np.float32)
    params = {"mmdit": jax.tree.map(draw, shapes(*planner.system.parts()["mmdit"]))}
    gradients = lambda p, batch, key: flow_step.gradients(p, p, batch, key, planner.system, planner.step)
    (loss, _), grads = jax.jit(gradients)(params, batch, jax.random.key(2))
    return float(loss), np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(grads))])


def _convolution() -> Iterator[Check]:
    x = jax.random.normal(jax.random.key(0), (2, 100, 96))
    kernel = jax.random.normal(jax.random.key(1), (3, 96, 128))
    got = {}
    for how in WAYS:
        value, gradients = jax.jit(jax.value_and_grad(
            lambda x, kernel, how=how: jnp.sum(jnp.sin(layers.convolve(x, kernel, how=how) / 17)), (0, 1)
        ))(x, kernel)  # fmt: skip
        got[how] = np.concatenate([np.ravel(part) for part in (value, *gradients)])
    for how in WAYS[1:]:
        yield check(f"convolution, {how} against library", far(got[how], got["library"]), LAYER)


def _attention() -> Iterator[Check]:
    """cuDNN's against XLA's, with a token count that must be filled up; float32 from the same numbers is the truth."""
    tokens = [jax.random.normal(jax.random.key(seed), (2, 431, 17, 64), jnp.bfloat16) for seed in range(3)]

    def run(attend, tokens):
        y, back = jax.vjp(attend, *tokens)
        return np.concatenate([np.ravel(jnp.asarray(x, jnp.float32)) for x in (y, *back(y))])

    truth = run(layers.attention, [x.astype(jnp.float32) for x in tokens])
    for how in ("xla", "cudnn"):
        attend = lambda *tokens, how=how: layers.fused_attention(*tokens, implementation=how)
        yield check(f"attention, {how} in bfloat16 against float32", far(run(attend, tokens), truth), HALF)


def far(a: Any, b: Any) -> float:
    """Norm of the difference, relative to b's; not a number where either has one that is not finite."""
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))
