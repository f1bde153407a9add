"""Every runlocal config, from its file to trained weights, each on what the one before made."""
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_corpus

from kfjax import module
from kfjax.checkpoint import load_params, save_params
from kfjax.codec.vae import MelVAE, VAEConfig
from kfjax.codec.vocoder import Vocoder, VocoderConfig
from kfjax.train.loop import init_state, run
from kfjax.train.tasks import abstract_params, make_task

ROOT = Path(__file__).parents[2]

READOUTS = ("readout", "caption", "sound")


def config_of(name: str, variant: str, **values):
    """The config of `configs/name.py:variant` with some of its values replaced, as by `--set`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    config = loaded.get_config(variant)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


def figures(workdir: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a corpus to train on and one to look at."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_corpus.render(folder / "scenes", size=64, durations={1.0: 10})
    tiny_corpus.render(folder / "heldout", size=64, durations={1.0: 6}, split="heldout")
    return folder


@pytest.fixture(scope="module")
def vae(runs):
    config = config_of("codec", "runlocal", data__folder=str(runs / "scenes"))
    task, loop = make_task(config)
    state = run(task, runs / "vae", loop)
    return config, state, runs / "vae" / "vae.safetensors"


SMALL_VOCODER = {"width": 16, "hidden": 16, "depth": 1, "rounds": 1, "matches": 1}


def shrink_vocoder(config) -> None:
    with config.unlocked():
        config.training.update({"vocoder": SMALL_VOCODER, "piece_seconds": 0.5})


@pytest.fixture(scope="module")
def vocoder(runs):
    config = config_of("codec", "vocoder-runlocal", data__folder=str(runs / "waves"))
    shrink_vocoder(config)
    task, loop = make_task(config)
    state = run(task, runs / "vocoder", loop)
    return config, state, runs / "vocoder" / "vocoder.safetensors"


def assert_trained(config, state):
    """The run did what the config says, on the parameters the config has."""
    assert int(state.step) == config.loop.steps and int(state.skipped) == 0
    shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    assert shapes(state.params) == shapes(abstract_params(config))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_codec(vae):
    config, state, path = vae
    assert_trained(config, state)
    weights = load_params(path, module.shapes(MelVAE, VAEConfig(**config.training.vae)))
    for part in ("encoder", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, weights[part], jax.tree.map(np.asarray, state.ema["gen"][part]))
    assert not np.array_equal(weights["latent_std"], np.ones_like(weights["latent_std"]))  # measured at the end
    assert weights["mel_mean"].min() < -2  # of the corpus


def test_vocoder(vocoder):
    config, state, path = vocoder
    assert_trained(config, state)
    weights = load_params(path, module.shapes(Vocoder, VocoderConfig(**SMALL_VOCODER)))
    jax.tree.map(np.testing.assert_array_equal, weights, jax.tree.map(np.asarray, state.ema))


@pytest.mark.slow
def test_vocoder_on_decoded_mels(runs, vae, vocoder):
    folders = {"data__folder": str(runs / "waves"), "data__scenes": str(runs / "scenes")}
    config = config_of(
        "codec", "vocoder-finetune-runlocal", data__vae=str(vae[2]), data__start=str(vocoder[2]), **folders
    )
    shrink_vocoder(config)
    task, loop = make_task(config)
    start = jax.tree.map(np.asarray, task.init(jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, start, load_params(vocoder[2]))
    assert_trained(config, run(task, runs / "finetuned", loop))
    assert (runs / "finetuned" / "vocoder.safetensors").exists()
    # It hears the decoded mel: on the corpus's sound as it is, the same step has another loss.
    plain, _ = make_task(vocoder[0])
    batch, key = task.batch(0), jax.random.key(0)
    first = [jax.jit(t.step)(init_state(task, key), batch, key)[1]["loss"] for t in (task, plain)]
    assert float(first[0]) > float(first[1]) + 0.1


def flow_config(runs, vae_path, **values):
    paths = {"data__folder": runs / "scenes", "data__tokenizer": runs / "tokenizer.json", "data__vae": vae_path}
    return config_of("flow", "runlocal", **{key: str(path) for key, path in paths.items()} | values)


@pytest.fixture(scope="module")
def flow(runs, vae, vocoder):
    config = flow_config(runs, vae[2], data__heldout=str(runs / "heldout"), data__vocoder=str(vocoder[2]))
    with config.unlocked():
        config.system.codec["vocoder"] = SMALL_VOCODER
        config.panel["steps"] = 2
    task, loop = make_task(config)
    return config, run(task, runs / "flow", loop)


@pytest.mark.slow
def test_flow(runs, flow):
    config, state = flow
    assert_trained(config, state)
    assert set(state.params) == {"text", "clip", "sync", "mmdit", "stereo", *READOUTS}
    (panel,) = figures(runs / "flow", "panel")
    assert 0 <= panel["f1"] <= 1 and 0 <= panel["f1_shuffled"] <= 1 and 0.5 < panel["f1_ceiling"] <= 1
    assert {path.suffix for path in (runs / "flow" / "panels").iterdir()} >= {".wav", ".png"}
    train = figures(runs / "flow", "train")
    assert [line["step"] for line in train] == [2, 4]
    assert all(np.isfinite([line[name] for name in ("loss", "stereo", "align")]).all() for line in train)


@pytest.mark.slow
def test_flow_with_frozen_encoders(runs, vae, flow):
    trained = {name: jax.tree.map(np.asarray, flow[1].params[name]) for name in ("text", "clip", "sync")}
    save_params(runs / "encoders.safetensors", trained)
    frozen = {"step__train_encoders": False}
    config = flow_config(runs, vae[2], data__encoders=str(runs / "encoders.safetensors"), **frozen)
    task, _ = make_task(config)
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert set(params) == {"text", "clip", "sync", "mmdit", "stereo", *READOUTS}
    assert set(abstract_params(config)) == {"mmdit", "stereo", *READOUTS}
    optimised = {part for name in module.flatten(jax.eval_shape(task.init_opt, params)) for part in name.split("/")}
    assert "audio_in" in optimised and "class_embedding" not in optimised
    with pytest.raises(ValueError, match=r"no weights at .*nowhere"):
        make_task(flow_config(runs, vae[2], data__encoders=str(runs / "nowhere"), **frozen))


@pytest.mark.slow
def test_stereo_on_the_encoders_of_a_run(runs, vae, flow):
    config = flow_config(runs, vae[2], task="stereo", data__encoders=str(runs / "flow" / "ema.safetensors"))
    task, loop = make_task(config)
    state = run(task, runs / "stereo", loop)
    assert int(state.step) == 4 and int(state.skipped) == 0
    assert set(state.params) == set(abstract_params(config)) == {"stereo"}
    load_params(runs / "stereo" / "stereo.safetensors", state.ema["stereo"])


@pytest.fixture(scope="module")
def untrained_vae(runs):
    """Random weights of the right shapes: enough to make latents."""
    cfg = VAEConfig(**config_of("flow", "runlocal").system.codec.vae)
    save_params(runs / "untrained.safetensors", module.init(MelVAE, cfg, jax.random.key(0)))
    return runs / "untrained.safetensors"


def test_batches_are_the_same_in_another_run_and_divide_over_devices(runs, untrained_vae):
    one, two = (make_task(flow_config(runs, untrained_vae))[0].batch(0) for _ in range(2))
    assert all(len(leaf) == 8 for leaf in jax.tree.leaves(one))
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("values, message", [
    ({"task": "sing"}, r"config\.task: got 'sing', expected one of codec, vocoder, flow, stereo"),
    ({"data__vae": "nowhere.safetensors"}, r"no weights at nowhere\.safetensors"),
    ({"data__folder": "nowhere"}, r"nowhere: no corpus\.json there"),
    ({"data__buckets": ((9.0, 1.0),)}, r"no scenes of \[9\.0\] s in the corpus"),
])  # fmt: skip
def test_what_is_not_there_is_named(runs, untrained_vae, values, message):
    with pytest.raises(ValueError, match=message):
        make_task(flow_config(runs, untrained_vae, **values))


@pytest.mark.parametrize("section, message", [
    ("system", r"unknown key config\.system\.nmae; did you mean config\.system\.name"),
    ("step", r"unknown key config\.step\.nmae"),
    ("loop", r"unknown key config\.loop\.nmae"),
    ("optim", r"unknown key config\.optim\.nmae"),
])  # fmt: skip
def test_unknown_keys_are_named(runs, untrained_vae, section, message):
    config = flow_config(runs, untrained_vae)
    with config.unlocked():
        config[section]["nmae"] = 1
    with pytest.raises(ValueError, match=message):
        make_task(config)
