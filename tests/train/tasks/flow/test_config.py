"""The system of a run: a named system's, or the model's that it starts from, each one line; all keys can be set."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from kfjax.cli import main
from kfjax.convert import systems
from kfjax.data.encode import encoders_fingerprint, marks_of
from kfjax.data.shards.records import read_json, write_json
from kfjax.generators.mmdit.sizes import SIZES
from kfjax.train import config as command
from kfjax.train.engine.loop import init_state
from kfjax.train.tasks.flow.config import read
from kfjax.train.tasks.make import abstract_params, make_task
from tests.tiny import features as tiny_features
from tests.tiny.system import CONFIG, tiny_system, write_model


def config(variant: str, *settings: str):
    made = command.load_config(f"configs/flow.py:{variant}")
    command.complete(made)
    for setting in settings:
        command.apply(made, setting)
    return made


def run(variant: str, *settings: str):
    return read(config(variant, *settings).to_dict())


@pytest.mark.parametrize("size", SIZES)
def test_the_paper_s_sizes_are_the_named_systems(size):
    named = systems.named(f"kling-foley-{size}")
    assert run(size).system == replace(named, mmdit=replace(named.mmdit, remat=True))


@pytest.mark.parametrize("variant", ["finetune", "lora"])
@pytest.mark.parametrize("name", ["mmaudio-small-44k", "mmaudio-small-16k"])
def test_of_a_named_start_the_whole_system_is_the_model_s(variant, name):
    got, want = run(variant, f"data.start={name}").system, systems.named(name)
    assert got == replace(want, mmdit=replace(want.mmdit, remat=got.mmdit.remat, unroll=got.mmdit.unroll))
    shapes = abstract_params(config(variant, f"data.start={name}"))  # nothing is fetched
    assert set(shapes) == {"mmdit" if variant == "finetune" else "lora"}


@pytest.mark.parametrize("variant, sizes", [("1.5b", SIZES["1.5b"]), ("features-runlocal", None)])
def test_a_fresh_network_on_another_system_s_features(variant, sizes):
    got, named = run(variant, "data.system=mmaudio-large-44k-v2").system, systems.named("mmaudio-large-44k-v2")
    assert (got.mmdit.clip_dim, got.mmdit.text_dim, got.mmdit.sync_dim, got.mmdit.latent_dim) == (1024, 1024, 768, 40)
    assert (got.clip, got.text, got.sync, got.codec) == (named.clip, named.text, named.sync, named.codec)
    assert got.mmdit.activation == "silu" and got.mmdit.final_cond == "extended"  # ours, not MMAudio's
    assert sizes is None or (got.mmdit.width, got.mmdit.single_depth) == (sizes.width, sizes.single_depth)
    small = run(variant, "data.system=mmaudio-small-16k").system
    assert (small.mmdit.latent_dim, small.rates.sample_rate_hz) == (20, 16000)


def test_another_codec_in_the_slot():
    got = run("1.5b", "data.codec=mmaudio-small-16k").system
    assert (got.mmdit.latent_dim, got.codec.mel.bands, got.rates.sample_rate_hz) == (20, 80, 16000)
    assert got.codec.stereo is None
    assert got.clip == systems.named("kling-foley-1.5b").clip
    own = run("1.5b", "data.codec=built-in").system
    assert own.codec.vae.variant == "plain" and own.codec.stereo == systems.named("kling-foley-1.5b").codec.stereo


@pytest.mark.parametrize("settings, message", [
    (["data.system=mmaudio-small-44"], r"config\.data\.system: .*did you mean mmaudio-small-44k\?"),
    (["data.codec=nowhere"], r"config\.data\.codec: no model directory at nowhere"),
    (["data.start=nowhere"], r"config\.data\.start: nothing at nowhere; expected a model's name"),
    (["system.mmdit.clip_dim=7"], r"mmdit\.clip_dim is 7, the part it reads gives 1280"),
])  # fmt: skip
def test_what_does_not_fit_is_said(settings, message):
    with pytest.raises(ValueError, match=message):
        run("1.5b", *settings)


def test_every_key_can_be_set_also_at_its_default():
    got = run(
        "1.5b", "system.mmdit.clip_dim=1280", "system.mmdit.rope=none", "step.ema_decay=0.99",
        "system.clip.frames_at_once=4", "panel.sounds=1", "system.codec.stereo=None", "step.lora.rank=0",
    )  # fmt: skip
    assert (got.system.mmdit.rope, got.step.ema_decay, got.system.clip.frames_at_once) == ("none", 0.99, 4)
    assert got.panel.sounds == 1 and got.system.codec.stereo is None
    assert run("lora", "step.known=0.4", "system.known_as=clean").system.known_as == "clean"
    for setting, message in (
        ("system.mmdit.ropes=none", r"unknown key system\.mmdit\.ropes; did you mean system\.mmdit\.rope\?"),
        ("step.ema_decay=often", r"step\.ema_decay got 'often' \(str\), expected float"),
        ("system.clip=1", r"unknown key system\.clip; "),
    ):
        with pytest.raises(ValueError, match=message):
            config("1.5b", setting)
    with pytest.raises(ValueError, match=r"config\.system\.mmdit\.rope: got 'round', expected one of aligned"):
        run("1.5b", "system.mmdit.rope=round")


@pytest.mark.parametrize("spec", ["codec.py", "codec.py:vocoder-finetune", "bigvgan.py", "ablation.py"])
def test_so_can_those_of_the_other_configs(spec):
    made = command.load_config(f"configs/{spec}")
    known = command.defaults(made)
    written = {key for key, value in command.flat(made.to_dict()) if value != {}}
    assert written <= known.keys() and len(known) > len(written)
    key = next(key for key in known if key not in written and isinstance(known[key], int | float))
    command.assign(made, key, known[key])
    assert dict(command.flat(made.to_dict()))[key] == known[key]


def test_a_run_goes_on_with_a_key_at_its_default(tmp_path):
    before = config("1.5b")
    command.write_config(tmp_path, before)
    command.check_workdir(tmp_path, config("1.5b", "step.ema_decay=0.999"), command.settings_of(before))
    with pytest.raises(ValueError, match=r"step\.ema_decay was 0\.999, is 0\.9; give"):
        command.check_workdir(tmp_path, config("1.5b", "step.ema_decay=0.9"), command.settings_of(before))
    # A run of before the system had a name.
    values = read_json(tmp_path / "config.json")
    del values["data"]["system"], values["data"]["codec"]
    write_json(tmp_path / "config.json", values)
    command.check_workdir(tmp_path, before, command.settings_of(before))
    assert read(values).system.mmdit == read(before.to_dict()).system.mmdit


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model directory, and features of its system and of another."""
    root = tmp_path_factory.mktemp("tiny")
    write_model(root / "model")
    mark = encoders_fingerprint(tiny_system())
    tiny_features.write(root / "features", CONFIG, {1.0: 8}, fingerprint=mark)
    wider = replace(CONFIG, clip=replace(CONFIG.clip, out_dim=24), mmdit=replace(CONFIG.mmdit, clip_dim=24),
                    codec=replace(CONFIG.codec, stereo=None))  # fmt: skip
    tiny_features.write(root / "wider", wider, {1.0: 8})
    index = read_json(root / "wider/index.json")
    write_json(
        root / "wider/index.json", index | {"marks": {"whole": tiny_features.MARK, "parts": {}, "system": "wide"}}
    )
    return root


@pytest.mark.parametrize(
    "variant, setting", [("finetune-runlocal", "data.start"), ("features-runlocal", "data.system")]
)
def test_one_line_trains_on_features_of_a_folder_s_system(tiny, variant, setting):
    corpora = f"data.corpora=(('{tiny / 'features'}', 1.0),)"
    task, _ = make_task(config(variant, f"{setting}={tiny / 'model'}", corpora))
    batch = task.batch(0)
    assert batch.features.clip.shape == (8, 8, 16)
    state = jax.eval_shape(lambda: init_state(task, jax.random.key(0)))
    assert set(state.params) == {"mmdit"}
    if setting == "data.start":
        weights = task.init(jax.random.key(0))["mmdit"]
        assert all(map(np.array_equal, jax.tree.leaves(weights), jax.tree.leaves(tiny_system().params["mmdit"])))


def test_features_of_another_system_are_refused_with_the_remedy(tiny, tmp_path, capsys):
    corpora = f"data.corpora=(('{tiny / 'wider'}', 1.0),)"
    settings = ["--workdir", str(tmp_path / "run"), "--set", corpora, f"data.system={tiny / 'model'}"]
    assert main(["train", "configs/flow.py:features-runlocal", *settings]) == 2
    said = capsys.readouterr().err
    assert "clip of 1 s is (8, 24), the system's is (8, 16)" in said and "--set data.system=wide" in said
    assert main(["train", "configs/flow.py:finetune-runlocal", *settings[:-1], f"data.start={tiny / 'model'}"]) == 2
    mark = marks_of(tiny_system()).whole
    assert f"got features of encoders {tiny_features.MARK}, expected those of {mark}" in capsys.readouterr().err
