"""`kfjax export`: from the checkpoint of a run to a model that makes sound."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import pytest

import kfjax
from kfjax import config, pipeline, system
from kfjax.cli import main
from kfjax.codec.bigvgan import BigVGAN, BigVGANConfig
from kfjax.codec.vae import MelVAE
from kfjax.data.encode import encoders_fingerprint
from kfjax.data.shards.marks import PARTS
from kfjax.generators.mmdit.config import MMDiTConfig
from kfjax.generators.mmdit.mmdit import MMDiT
from kfjax.nn import module
from kfjax.storage import disk
from kfjax.storage.checkpoint import StateStore, load_params
from kfjax.storage.stored_state import StoredState
from kfjax.structs import TrainState
from kfjax.train.tasks import codec_step
from kfjax.xla.sharding import make_mesh, param_shardings
from tests.tiny import features as tiny_features
from tests.tiny.system import CONFIG, tiny_system, write_model
from tests.trees import assert_equal

ROOT = Path(__file__).parents[2]

TRAIN = """
from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict({{
        "task": "flow",
        "system": {{}},
        "loop": {{"steps": 2, "seed": 0, "save_every": 1, "log_every": 1}},
        "step": {{"draws": 1, "drop_video": 0.1, "drop_text": 0.1}},
        "optim": {{"learning_rate": 1e-2}},
        "data": {{"start": "{start}", "corpora": (("{features}", 1.0),), "batch_seconds": 8.0,
                  "buckets": ((1.0, 1.0),)}},
    }}).lock()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, features of it, and a run of two steps on both, with one checkpoint a step."""
    folder = tmp_path_factory.mktemp("export")
    write_model(folder / "start")
    features = tiny_features.write(
        folder / "features", CONFIG, {1.0: 8}, fingerprint=encoders_fingerprint(tiny_system())
    )
    (folder / "config.py").write_text(TRAIN.format(start=folder / "start", features=features))
    assert main(["train", str(folder / "config.py"), "--workdir", str(folder / "run")]) == 0
    return folder


def stored(folder: Path, step: int, branch: str):
    return StoredState(folder / "run" / "checkpoints", step, branch)["mmdit"]


def test_the_averaged_weights_bit_for_bit_and_a_sound(folder, tmp_path):
    assert main(["export", str(folder / "run"), str(tmp_path / "mine")]) == 0
    made, base = system.load(tmp_path / "mine"), tiny_system()
    assert_equal(made.params["mmdit"], stored(folder, 2, "ema"))
    assert_equal(made.params["mmdit"], load_params(folder / "run" / "ema.safetensors")["mmdit"])
    assert_equal({name: made.params[name] for name in CONFIG.names if name != "mmdit"},
                 {name: base.params[name] for name in CONFIG.names if name != "mmdit"})  # fmt: skip
    assert made.cfg == CONFIG and made.tokenizer.words() == base.tokenizer.words()
    assert main(["generate", "--prompt", "rain", "--duration", "1", "--model", str(tmp_path / "mine"),
                 "--output", str(tmp_path / "rain.wav")]) == 0  # fmt: skip
    sound = kfjax.load(tmp_path / "mine").generate(prompt="rain", duration=1.0)
    assert sound.waveform.shape == (44100, 2) and np.isfinite(sound.waveform).all() and sound.waveform.any()


def test_every_file_has_its_digest_and_the_card_says_what_it_is(folder, tmp_path):
    assert main(["export", str(folder / "run"), str(tmp_path / "mine")]) == 0
    assert {path.name for path in disk.digests(tmp_path / "mine")} == {"config.json", "tokenizer.json", system.WEIGHTS}
    said = (tmp_path / "mine" / system.CARD).read_text()
    for line in ("# tiny, fine-tuned", "| trained on | features |", "| step | 2 |", "| weights | average (EMA) |",
                 "| mmdit | this run | not stated |", "| vae | tiny | not stated |", "Licence of the data: not stated.",
                 "Random weights for tests."):  # fmt: skip
        assert line in said


def test_a_step_and_the_raw_parameters(folder, tmp_path):
    options = {"first": ["--step", "1"], "raw": ["--raw"]}
    for name, given in options.items():
        assert main(["export", str(folder / "run"), str(tmp_path / name), *given]) == 0
    first, raw = (system.load(tmp_path / name).params["mmdit"] for name in options)
    assert_equal(first, stored(folder, 1, "ema"))
    assert_equal(raw, stored(folder, 2, "params"))
    differ = lambda one, two: any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True))
    assert differ(first, raw) and differ(raw, stored(folder, 2, "ema"))


def test_a_run_ends_with_the_same_directory(folder, tmp_path):
    assert main(["export", str(folder / "run"), str(tmp_path / "mine")]) == 0
    own = folder / "run" / "model"
    assert {path.name for path in own.iterdir()} == {path.name for path in (tmp_path / "mine").iterdir()}
    for path in own.iterdir():
        assert path.read_bytes() == (tmp_path / "mine" / path.name).read_bytes(), path.name


def test_a_start_that_has_gone_is_given_as_base(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    settings["data"]["start"] = str(tmp_path / "gone")
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    words = ["export", str(tmp_path / "run"), str(tmp_path / "mine")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "gone, which has gone; give that model as --base MODEL" in said
    assert main([*words, "--base", str(folder / "start")]) == 0
    assert_equal(system.load(tmp_path / "mine").params["mmdit"], stored(folder, 2, "ema"))


def test_on_one_device_bit_for_bit(folder, tmp_path):
    """Of a checkpoint whose matrices are split over eight devices, in a process that has one."""
    mesh = make_mesh({"fsdp": 8})
    params = {"mmdit": stored(folder, 2, "ema")}
    params = jax.device_put(params, param_shardings(params, mesh))
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params))
    made_run(tmp_path / "run", json.loads((folder / "run" / "config.json").read_text()), params)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"  # the last one counts
    words = [sys.executable, "-m", "kfjax", "export", str(tmp_path / "run"), str(tmp_path / "mine")]
    subprocess.run(words, check=True, env=os.environ | {"XLA_FLAGS": flags}, cwd=ROOT)
    assert (tmp_path / "mine" / system.WEIGHTS).read_bytes() == (folder / "run/model" / system.WEIGHTS).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_two_processes_bit_for_bit(folder, tmp_path):
    """Four devices each; the model that the run itself ends with comes from parameters gathered in memory."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    words = [sys.executable, "-m", "kfjax", "train", str(folder / "config.py"), "--workdir", str(tmp_path / "run"),
             "--set", "loop.mesh=fsdp=8", "--distributed"]  # fmt: skip
    options = {"env": os.environ | {"XLA_FLAGS": flags}, "cwd": ROOT}
    running = [subprocess.Popen([*words, f"127.0.0.1:{port},{i},2"], **options) for i in range(2)]
    assert [process.wait(500) for process in running] == [0, 0]
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / system.WEIGHTS).read_bytes() == (tmp_path / "run/model" / system.WEIGHTS).read_bytes()


def made_run(folder: Path, settings: dict, params: dict) -> Path:
    """What a run leaves on the disk, without having been trained."""
    placed = jax.tree.map(jax.numpy.asarray, params)  # where they are
    with StateStore(folder / "checkpoints") as store:
        store.save(7, TrainState(jax.numpy.int32(7), placed, {}, placed, jax.numpy.int32(0)), wait=True)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def drawn(part: str, *config) -> dict:
    cfg = config or CONFIG.parts()[part]
    return jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), module.shapes(*cfg))


VOCODER = {"width": 32, "hidden": 32, "depth": 1, "rounds": 2, "matches": 1}
BIGVGAN = BigVGANConfig(width=64, block_kernels=(3,), dilations=(1,))
FLOW = {"width": 32, "heads": 1, "joint_depth": 1, "single_depth": 1, "latent_dim": 8, "clip_dim": 16, "sync_dim": 32,
        "text_dim": 16, "hidden_multiple": 32}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "start")


def test_a_vocoder_alone_needs_a_model_around_it(start, tmp_path, capsys):
    weights = drawn("vocoder")
    settings = {"task": "vocoder", "data": {"folder": "runs/waves"}, "training": {"vocoder": VOCODER}}
    made_run(tmp_path / "run", settings, {"vocoder": weights})
    words = ["export", str(tmp_path / "run"), str(tmp_path / "mine")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "vocoder alone is no model" in said and "--base MODEL" in said
    assert main([*words, "--base", str(start)]) == 0
    made = system.load(tmp_path / "mine")
    assert_equal(made.params["vocoder"], weights)
    assert_equal(made.params["vae"], tiny_system().params["vae"])


def test_a_part_that_has_gone_from_its_bucket_is_the_bases(gs, start, tmp_path):
    data = {"folder": "runs/waves", "vae": str(gs / "gone")}
    made_run(tmp_path / "run", {"task": "vocoder", "data": data, "training": {"vocoder": VOCODER}},
             {"vocoder": drawn("vocoder")})  # fmt: skip
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "mine"), "--base", str(start)]) == 0
    assert_equal(system.load(tmp_path / "mine").params["vae"], tiny_system().params["vae"])


def test_every_part_of_a_codec_in_a_model(start, tmp_path, monkeypatch):
    """BigVGAN in place of the light vocoder, another Mono2Stereo, and a Mel-VAE with the statistics of its latents."""
    monkeypatch.setattr(codec_step, "with_statistics", lambda run, gen: gen)
    bigvgan = drawn("vocoder", BigVGAN, BIGVGAN)
    codec = {"vae": {"latent_dim": 8}, "stereo": {"width": 32, "depth": 1, "clip_dim": 16}}
    features = tiny_features.write(tmp_path / "features", CONFIG, {1.0: 1}, fingerprint=mark())
    runs = {
        "bigvgan": ({"data": {"folder": "runs/waves"}, "training": {"vocoder": asdict(BIGVGAN)}}, {"gen": bigvgan}),
        "stereo": ({"data": {"corpora": [[str(features), 1.0]]}, "system": {"mmdit": FLOW, **CODEC, "codec": codec}},
                   {"stereo": drawn("stereo")}),
        "codec": ({"data": {"folder": "runs/scenes"}, "training": {"vae": asdict(CONFIG.codec.vae)}},
                  {"gen": drawn("vae")}),
    }  # fmt: skip
    for task, (settings, params) in runs.items():
        made_run(tmp_path / task, {"task": task, **settings}, params)
        assert main(["export", str(tmp_path / task), str(tmp_path / f"{task}-model"), "--base", str(start)]) == 0
    made = {task: system.load(tmp_path / f"{task}-model") for task in runs}
    for task, part in {"bigvgan": "vocoder", "stereo": "stereo", "codec": "vae"}.items():
        assert_equal(made[task].params[part], next(iter(runs[task][1].values())))
        others = [name for name in CONFIG.names if name != part]
        assert_equal({name: made[task].params[name] for name in others},
                     {name: tiny_system().params[name] for name in others})  # fmt: skip
    assert made["bigvgan"].cfg.codec.vocoder == BIGVGAN


def mark() -> str:
    return encoders_fingerprint(tiny_system())


def features_run(folder: Path, *, model: str = "", fingerprint: str = "") -> Path:
    """A generator from nothing on extracted features, whose config names none of the encoders."""
    made = tiny_features.write(folder / "features", CONFIG, {1.0: 1}, fingerprint=fingerprint or mark())
    if model:
        (made / "extraction.json").write_text(json.dumps({"model": model}))
    settings = {"task": "flow", "system": {"name": "mine", "mmdit": FLOW, **CODEC}, "data": {
        "corpora": [[str(made), 1.0]], "encoders": "nowhere.safetensors"}}  # fmt: skip
    cfg = MMDiTConfig(**FLOW)
    return made_run(folder / "run", settings, {"mmdit": drawn("mmdit", MMDiT, cfg)})


CODEC = {"codec": {"vae": {"latent_dim": 8}, "stereo": {"clip_dim": 16}}, "clip": {"out_dim": 16},
         "sync": {"width": 32, "heads": 1}, "text": {"kind": "t5", "width": 16, "heads": 1}}  # fmt: skip


def test_a_run_on_features_has_the_parts_that_made_them(start, tmp_path):
    run = features_run(tmp_path, model=str(start))
    assert main(["export", str(run), str(tmp_path / "mine")]) == 0
    made = system.load(tmp_path / "mine")
    assert made.cfg.name == "mine" and made.cfg.mmdit.width == 32
    assert (made.cfg.text, made.cfg.clip, made.cfg.codec) == (CONFIG.text, CONFIG.clip, CONFIG.codec)
    for name in set(CONFIG.names) - {"mmdit"}:
        assert_equal(made.params[name], tiny_system().params[name])
    assert all((leaf == 0.5).all() for leaf in jax.tree.leaves(made.params["mmdit"]))
    said = (tmp_path / "mine" / system.CARD).read_text()
    assert said.startswith("# mine\n") and "| mmdit | this run | not stated |" in said and "| clip | tiny |" in said


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A model whose codec has other weights, and as mel and latents those of the tiny one."""
    tiny, folder = tiny_system(), tmp_path_factory.mktemp("models") / "other"
    codec = {name: jax.tree.map(lambda x: x + np.float32(0.25), tiny.params[name]) for name in ("vae", "vocoder")}
    system.save(folder, tiny._replace(cfg=replace(CONFIG, name="other"), params={**tiny.params, **codec}))
    return folder


@pytest.mark.parametrize("way", ["noted", "base", "start", "vocoder"])
def test_another_codec_in_the_slot_is_the_models(start, other, tmp_path, way):
    """However the rest of the model is found: latents are decoded by the codec that made them."""
    run = features_run(tmp_path, fingerprint=encoders_fingerprint(pipeline.load_system(start, PARTS, other)))
    noted = {"codec": str(other)} | ({} if way == "base" else {"model": str(start)})
    (tmp_path / "features" / "extraction.json").write_text(json.dumps(noted))
    settings, trained = json.loads((run / "config.json").read_text()), "mmdit"
    if way == "vocoder":
        trained, corpora = "vocoder", settings["data"]["corpora"]
        settings = {
            "task": "vocoder",
            "data": {"folder": "runs/waves", "corpora": corpora},
            "training": {"vocoder": VOCODER},
        }
        run = made_run(tmp_path / "vocoder", settings, {"vocoder": drawn("vocoder")})
    else:
        settings["data"] |= {"codec": str(other), "start": str(start) if way == "start" else ""}
    (run / "config.json").write_text(json.dumps(settings))
    given = ["--base", str(start)] if way == "base" else []
    assert main(["export", str(run), str(tmp_path / "mine"), *given]) == 0
    made, models = system.load(tmp_path / "mine"), {folder: system.load(folder).params for folder in (start, other)}
    for name in set(CONFIG.names) - {trained}:
        assert_equal(made.params[name], models[other if name in ("vae", "vocoder") else start][name])


def test_features_in_a_bucket_say_which_model_made_them(gs, start, tmp_path):
    run = features_run(tmp_path, model=str(start))
    for name in ("index.json", "extraction.json"):
        (gs / "features" / name).put((tmp_path / "features" / name).read_bytes())
    settings = json.loads((run / "config.json").read_text())
    settings["data"]["corpora"] = [[str(gs / "features"), 1.0]]
    (run / "config.json").write_text(json.dumps(settings))
    assert main(["export", str(run), str(tmp_path / "mine")]) == 0
    assert system.load(tmp_path / "mine").cfg.clip == CONFIG.clip


def test_without_mono2stereo_the_model_is_mono(tmp_path, capsys):
    folder, tiny = tmp_path / "parts", tiny_system()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(CONFIG)))
    tiny.tokenizer.save(folder / "tokenizer.json")
    for name in set(CONFIG.names) - {"stereo"}:
        system.save_params(folder / f"{name}.safetensors", tiny.params[name])
    run = features_run(tmp_path, fingerprint=mark())
    (tmp_path / "features" / "index.json").unlink()  # not here: nothing to compare with
    assert main(["export", str(run), str(tmp_path / "mine"), "--base", str(folder)]) == 0
    assert "there is no Mono2Stereo: the model is mono" in capsys.readouterr().err
    assert system.load(tmp_path / "mine").cfg.codec.stereo is None


@pytest.mark.parametrize("model", ["", "no-such-model", "{start}"])
def test_encoders_that_did_not_make_the_features_are_not_taken(start, tmp_path, capsys, model):
    model = model.format(start=start)
    run = features_run(tmp_path, model=model, fingerprint="beef")
    words = ["export", str(run), str(tmp_path / "mine")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "missing text, clip, sync, vae, vocoder, tokenizer.json" in said
    assert "--base MODEL takes the other parts" in said
    assert ("the features are those of" in said) == bool(model) and model in said
    assert main([*words, "--base", str(start)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"with encoders {mark()}, expected those of beef, which made the features" in said


def test_a_base_of_other_sizes_is_refused(folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(folder / "start", other)
    weights = {name: dict(part) for name, part in tiny_system().params.items()}
    weights["vae"]["mel_mean"] = np.zeros(3, np.float32)
    system.save_params(other / system.WEIGHTS, weights)
    settings = json.loads((folder / "run" / "config.json").read_text())
    settings["data"]["corpora"] = [["elsewhere", 1.0]]  # nothing to compare the base's encoders with
    made_run(tmp_path / "run", settings, {"mmdit": stored(folder, 2, "ema")})
    words = ["export", str(tmp_path / "run"), str(tmp_path / "mine"), "--base", str(other)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "vae does not fit the run's system: they differ in mel_mean" in said
    assert not (tmp_path / "mine").exists() and not list(tmp_path.glob(".mine-*"))
    assert module.shapes(MelVAE, CONFIG.codec.vae)["mel_mean"].shape == (128,)


@pytest.mark.parametrize("words, message", [
    (["run", "run"], "OUTPUT: .*run exists already; give a new name"),
    (["run", "mine", "--step", "9"], "--step: got 9, expected one of 1, 2"),
    (["nowhere", "mine"], "WORKDIR: no run in .*nowhere"),
    (["untrained", "mine"], "WORKDIR: no checkpoint in .*untrained yet"),
    (["damaged", "mine"], "config.json is damaged"),
    (["run", "mine", "--base", "no-such-model"], "no model directory at no-such-model"),
    (["run", "mine", "--base", "features"], "base: got features, expected a model directory"),
    (["run", "https://host/mine"], "https://host/mine"),
])  # fmt: skip
def test_bad_input_ends_in_one_line(folder, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folder)
    for name, text in {"untrained": (folder / "run" / "config.json").read_text(), "damaged": "{"}.items():
        Path(name).mkdir(exist_ok=True)
        Path(name, "config.json").write_text(text)
    assert main(["export", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert re.search(message, said), said
    assert not Path("mine").exists()


def test_a_damaged_checkpoint_is_refused(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    damaged = max((tmp_path / "run" / "checkpoints" / "2").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "mine")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is damaged" in said and "--step" in said
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "mine"), "--step", "1"]) == 0
