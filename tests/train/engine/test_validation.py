"""Held-out figures that differ only when the model does."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax.rates import lengths
from kfjax.structs import FeatureBatch, Features, Given, Posterior
from kfjax.train.engine.validation import Validation
from kfjax.train.tasks.flow.step import FlowStepConfig, flow_figures, spread_times
from kfjax.xla.sharding import make_mesh, param_shardings
from tests.tiny.system import CONFIG, tiny_system
from tests.tiny.task import WEIGHTS, make_batch


def error(params, batch, key):
    """Of a linear map, measured through noise."""
    missed = jnp.square((batch["x"] + jax.random.normal(key, batch["x"].shape)) @ params["w"] - batch["y"]).sum(-1)
    high = batch["x"][:, 0] > 0
    figures = {"loss": missed.mean(), "loss_high": (missed * high).sum() / jnp.maximum(high.sum(), 1)}
    return figures | {"loss_high_count": high.sum(), "loss_never": jnp.nan, "loss_never_count": jnp.zeros(())}


TRUE = {"w": jnp.asarray(WEIGHTS)}
NEAR = {"w": TRUE["w"] + 0.01}


def test_two_visits_are_identical_and_a_better_model_is_seen():
    visit = Validation(error, make_batch, 4)
    first = visit(TRUE, 10)
    assert visit(TRUE, 2000) == first == Validation(error, make_batch, 4)(TRUE, 10)
    best = {"w": TRUE["w"] * 14 / 17}  # what noise leaves of the weights, about
    assert visit(best, 10)["loss"] < first["loss"] < visit({"w": TRUE["w"] * 1.1}, 10)["loss"]
    assert Validation(error, make_batch, 4, seed=1)(TRUE, 10) != first


def test_the_pairing_shows_what_new_noise_would_hide():
    """A hundredth on every weight: the difference is a small part of the scatter between seeds."""
    pairs = [
        [Validation(error, make_batch, 2, seed=seed)(params, 0)["loss"] for params in (TRUE, NEAR)] for seed in range(6)
    ]
    scatter, gained = np.std([a for a, _ in pairs]), [b - a for a, b in pairs]
    assert min(gained) > 0 and max(gained) < scatter


def test_means_go_by_counts_and_sizes():
    sizes = {0: 16, 1: 8}
    cut = lambda i: {name: x[: sizes[i]] for name, x in make_batch(i).items()}
    got = Validation(error, cut, 2)(TRUE, 0)
    parts = [error(TRUE, cut(i), jax.random.fold_in(jax.random.key(0), i)) for i in sizes]
    assert got["loss"] == pytest.approx(float(2 * parts[0]["loss"] + parts[1]["loss"]) / 3, rel=1e-5)
    counts = [float(part["loss_high_count"]) for part in parts]
    high = sum(float(part["loss_high"]) * count for part, count in zip(parts, counts, strict=True)) / sum(counts)
    assert counts[0] != counts[1] and got["loss_high"] == pytest.approx(high, rel=1e-5)
    assert got.keys() == {"loss", "loss_high"}  # nothing is said of what there is none of


def test_parameters_are_used_where_they_lie():
    mesh = make_mesh({"data": 2, "fsdp": 4})
    wide = {"w": jnp.asarray(np.tile(WEIGHTS, (1, 4)))}
    batch = lambda i: make_batch(i) | {"y": np.tile(make_batch(i)["y"], (1, 4))}
    visit = Validation(error, batch, 2)
    split = jax.device_put(wide, param_shardings(wide, mesh))
    assert not split["w"].is_fully_replicated
    got, want = visit(split, 0), visit(wide, 0)
    assert got.keys() == want.keys() and all(got[name] == pytest.approx(want[name], rel=1e-5) for name in want)


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="validation: got 0 batches, expected 1 or more"):
        Validation(error, make_batch, 0)


def test_times_are_spread_evenly_over_the_path_in_random_order():
    times = np.asarray(spread_times(jax.random.key(0), 40))
    assert sorted(np.floor(times * 40)) == list(range(40))
    assert not np.array_equal(np.sort(times), times)


SIZE, CFG = lengths(0.7, CONFIG.rates), FlowStepConfig(drop_video=0.5, drop_text=0.5, draws=3, accumulate=2)


def features(i: int) -> FeatureBatch:
    rng, b = np.random.default_rng(i), 8
    normal = lambda *shape: rng.standard_normal((b, *shape)).astype(np.float32)
    encoded = Features(
        clip=normal(SIZE.clip, 16), sync=normal(SIZE.sync, 32), text=normal(CONFIG.text_tokens, 16),
        given=Given.whole(np.ones((b, CONFIG.text_tokens), bool), 0.7)._replace(has_video=np.arange(b) % 2 == 0),
    )  # fmt: skip
    return FeatureBatch(encoded, Posterior(normal(SIZE.latents, 8), np.full((b, SIZE.latents, 8), 0.1, np.float32)))


def test_of_the_flow_by_time_and_conditions():
    """Whatever the training step draws, drops or accumulates."""
    params = {"mmdit": tiny_system().params["mmdit"]}
    visit = Validation(flow_figures(CONFIG, CFG), features, 2)
    got = visit(params, 0)
    assert visit(params, 500) == got
    assert got["loss"] == pytest.approx((got["loss_video_text"] + got["loss_text"]) / 2, rel=1e-5)
    assert "loss_no_condition" not in got and "loss_video" not in got
    assert 6 <= len([name for name in got if name.startswith("loss_t") and name[6:].isdigit()]) <= 10
    silent = jax.tree.map(np.zeros_like, params)
    assert visit(silent, 0)["loss"] != got["loss"]


@pytest.mark.slow
def test_training_lowers_it():
    import optax

    from kfjax.structs import TrainState
    from kfjax.train.tasks.flow.step import make_step

    tx, params = optax.adam(3e-3), jax.tree.map(jnp.asarray, {"mmdit": tiny_system().params["mmdit"]})
    step = jax.jit(make_step(CONFIG, replace(CFG, draws=1, accumulate=1, drop_video=0.1, drop_text=0.1), tx))
    state = TrainState(jnp.int32(0), params, tx.init(params), params, jnp.int32(0))
    visit = Validation(flow_figures(CONFIG, CFG), features, 2)
    curve = [visit(params, 0)["loss"]]
    for _ in range(3):
        for _ in range(10):
            i = int(state.step)
            state, _ = step(state, features(i % 2), jax.random.key(i))
        curve.append(visit(state.params, i)["loss"])
    assert sorted(curve, reverse=True) == curve and curve[-1] < 0.8 * curve[0]


@pytest.mark.slow
def test_two_processes_see_the_same():
    """Of arrays that are split over both, the same culprit and the same validation, that of one process."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    root, script = Path(__file__).parents[3], Path(__file__).parents[1] / "process_look.py"
    path = str(root)
    environment = os.environ | {"PYTHONPATH": path, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = ["timeout", "-k", "20", "240", sys.executable, str(script), str(port)]
    started = [subprocess.Popen([*command, number], env=environment, stdout=subprocess.PIPE) for number in "01"]
    said = [process.communicate()[0].decode().splitlines()[-1] for process in started]
    name, loss = said[0].rsplit(" ", 1)
    assert said[0] == said[1] and name == "w: 1 of 128 are NaN (0.781 %)"
    through_noise = lambda params, batch, key: {
        "loss": jnp.square(batch["x"] @ params["w"] - batch["y"] + jax.random.normal(key, batch["y"].shape)).mean()
    }
    assert float(loss) == pytest.approx(Validation(through_noise, make_batch, 3)({"w": jnp.ones((3, 2))}, 0)["loss"])
