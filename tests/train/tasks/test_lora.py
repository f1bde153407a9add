"""LoRA: what it adds, what it leaves alone, what a run with it makes of a model directory."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import system
from kfjax.convert import directory
from kfjax.convert.formats import files
from kfjax.encoders.t5 import T5Encoder
from kfjax.generators.mmdit.mmdit import MMDiT
from kfjax.nn import module
from kfjax.nn.module import bind
from kfjax.scenes import Corpus
from kfjax.storage.checkpoint import load_params, save_params
from kfjax.train.engine.loop import init_state
from kfjax.train.tasks import model_directory
from kfjax.train.tasks.flow import config as flow_config
from kfjax.train.tasks.flow import product
from kfjax.train.tasks.flow.step import FlowStepConfig, merged, trained
from kfjax.train.tasks.lora import STACKED, LoRAConfig, init_lora, merge, targeted, with_words
from kfjax.train.tasks.lora_task import reading_tokenizer
from kfjax.train.tasks.make import abstract_params, make_task
from tests.tiny import corpus as tiny_corpus
from tests.tiny import public as tiny_public
from tests.tiny.system import CONFIG, tiny_system, write_model
from tests.trees import assert_equal

ROOT = Path(__file__).parents[3]
DEEP = dataclasses.replace(CONFIG.mmdit, joint_depth=4, single_depth=2)
SHAPES = module.shapes(MMDiT, DEEP)
CFG = LoRAConfig(rank=4, alpha=2.0)
KEY = jax.random.key(0)


def drawn(shapes, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(dtype), shapes)


PARAMS = drawn(SHAPES)


def differing(old, new) -> set[str]:
    """Paths of the arrays that are not the same bits."""
    old, new = module.flatten(old), module.flatten(new)
    assert old.keys() == new.keys()
    return {path for path in old if not np.array_equal(old[path], new[path])}


def test_the_start_is_the_base():
    assert_equal(jax.jit(merge, static_argnums=2)(PARAMS, init_lora(PARAMS, CFG, KEY), CFG), PARAMS)


def test_the_parameters_are_left_as_they_were():
    before = jax.tree.map(np.copy, PARAMS)
    merge(PARAMS, drawn(init_lora(PARAMS, CFG, KEY)), CFG)
    assert_equal(PARAMS, before)


def test_only_targets_change():
    lora = drawn(init_lora(SHAPES, CFG, KEY))
    changed = differing(PARAMS, merge(PARAMS, lora, CFG))
    assert changed == set(targeted(PARAMS, CFG))
    assert {"single/audio/out/kernel", "joint/text/qkv/kernel", "joint_last/clip/qkv/kernel"} <= changed
    assert not [path for path in changed if "mlp" in path or "modulation" in path]


@pytest.mark.parametrize("targets, paths", [
    ((r"final/conv/kernel",), {"final/conv/kernel"}),
    ((r"single/audio/mlp/w[12]/kernel", r".*_in/kernel"), {
        "single/audio/mlp/w1/kernel", "single/audio/mlp/w2/kernel",
        "audio_in/kernel", "clip_in/kernel", "sync_in/kernel", "text_in/kernel",
    }),
    ((r"single/.*",), {f"single/audio/{name}/kernel" for name in ("modulation", "qkv", "out", *(
        f"mlp/w{i}" for i in (1, 2, 3)))}),
])  # fmt: skip
def test_targets_by_rule(targets, paths):
    cfg = dataclasses.replace(CFG, targets=targets)
    assert set(targeted(SHAPES, cfg)) == paths
    pairs = {path.rpartition("/")[0] for path in module.flatten(init_lora(SHAPES, cfg, KEY))}
    assert pairs == paths


def test_shapes_of_the_pairs():
    cfg = dataclasses.replace(CFG, targets=(r".*/(qkv|out)/kernel", "clip_in/kernel"))
    lora = {path: leaf.shape for path, leaf in module.flatten(init_lora(SHAPES, cfg, KEY)).items()}
    assert lora["joint/text/qkv/kernel/down"] == (3, 64, 4) and lora["joint/text/qkv/kernel/up"] == (3, 4, 192)
    assert lora["single/audio/out/kernel/down"] == (2, 3 * 64, 4)  # a convolution's taps count as inputs
    assert lora["joint_last/audio/out/kernel/down"] == (3 * 64, 4)
    assert lora["clip_in/kernel/down"] == (16, 4) and lora["clip_in/kernel/up"] == (4, 64)


def test_stacked_branches_are_those_that_grow_with_depth():
    deeper = module.flatten(module.shapes(MMDiT, dataclasses.replace(DEEP, joint_depth=6, single_depth=5)))
    grown = {path for path, leaf in module.flatten(SHAPES).items() if leaf.shape != deeper[path].shape}
    assert {path.partition("/")[0] for path in grown} == set(STACKED)
    assert grown == {path for path in deeper if path.partition("/")[0] in STACKED}


def test_merged_is_unmerged():
    """The product of the pair on the input, beside the base: dense, and a convolution through a thin middle."""
    cfg = dataclasses.replace(CFG, targets=(r"single/audio/(qkv|out)/kernel",))
    lora = drawn(init_lora(SHAPES, cfg, KEY), seed=1)
    merged, base = (tree["single"]["audio"] for tree in (merge(PARAMS, lora, cfg), PARAMS))
    pairs = lora["single"]["audio"]
    x = np.random.default_rng(2).standard_normal((2, 10, 64)).astype(np.float32)
    convolve = lambda kernel: jax.lax.conv_general_dilated(
        x, jnp.asarray(kernel), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    for layer in range(2):
        pair = {name: leaf[layer] for name, leaf in pairs["qkv"]["kernel"].items()}
        beside = x @ base["qkv"]["kernel"][layer] + 0.5 * (x @ pair["down"]) @ pair["up"]
        np.testing.assert_allclose(x @ np.asarray(merged["qkv"]["kernel"][layer]), beside, rtol=1e-4, atol=1e-3)
        pair = {name: leaf[layer] for name, leaf in pairs["out"]["kernel"].items()}
        thin = convolve(pair["down"].reshape(3, 64, 4))
        beside = convolve(base["out"]["kernel"][layer]) + 0.5 * thin @ pair["up"]
        np.testing.assert_allclose(convolve(merged["out"]["kernel"][layer]), beside, rtol=1e-4, atol=1e-3)


def test_the_dtype_is_the_bases():
    base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    merged = merge(base, drawn(init_lora(base, CFG, KEY)), CFG)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(init_lora(base, CFG, KEY))} == {jnp.dtype(jnp.float32)}


def test_rank_0_is_none():
    assert init_lora(SHAPES, LoRAConfig(rank=0), KEY) == {}
    assert merge(PARAMS, {}, LoRAConfig(rank=0)) == PARAMS


def test_on_disk_and_back(tmp_path):
    lora = drawn(init_lora(SHAPES, CFG, KEY))
    save_params(tmp_path / "lora.safetensors", lora)
    shapes = jax.eval_shape(lambda: init_lora(SHAPES, CFG, KEY))
    assert_equal(load_params(tmp_path / "lora.safetensors", shapes), lora)


@pytest.mark.parametrize("values, message", [
    ({"rank": -1}, r"got rank -1, .* expected rank 0 or more"),
    ({"alpha": 0.0}, r"alpha 0; expected .* alpha over 0"),
    ({"targets": ("single/(",)}, r"'single/\(' is no regular expression"),
    ({"targets": ("single/audio/qvk/kernel",)}, r"matches no kernel; the nearest are single/audio/qkv/kernel"),
    ({"rank": 65}, r"lora\.rank: got 65, but \S+/out/kernel is \[192, 64\]; expected at most 64"),
])  # fmt: skip
def test_bad_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        init_lora(SHAPES, LoRAConfig(**{"rank": 4} | values), KEY)


def test_a_strange_pair_is_named():
    lora = init_lora(SHAPES, CFG, KEY)
    with pytest.raises(ValueError, match="a pair of rank 4, expected 8"):
        merge(PARAMS, lora, LoRAConfig(rank=8))
    with pytest.raises(ValueError, match="no parameter for double"):
        merge(PARAMS, {"double": lora["single"]}, CFG)


def test_it_trains_alone():
    with pytest.raises(ValueError, match=r"got lora\.rank 4, train_encoders True, stereo_weight 0\.5; LoRA trains"):
        FlowStepConfig(lora=CFG, train_encoders=True, stereo_weight=0.5)


def test_public_weights_go_back_to_pytorch_with_lora_in_them(tmp_path, monkeypatch):
    """The flow network's file has new values where LoRA was, else everything is as it was published, bit for bit."""
    tiny_public.announce(monkeypatch)
    quiet = lambda _: None
    directory.convert(tiny_public.write(tmp_path / "public"), tmp_path / "model", say=quiet)
    base = system.load(tmp_path / "model").params["mmdit"]
    learnt = drawn(init_lora(base, CFG, KEY))
    tuned, cfg = merge(base, learnt, CFG), system.load_config(tmp_path / "model" / "config.json")
    run = flow_run(cfg, start=str(tmp_path / "model"), corpora=(("features", 1.0),))
    model_directory.write(product.product(run, {"mmdit": base, "lora": learnt}), tmp_path / "tuned")
    loaded = system.load(tmp_path / "tuned")
    assert loaded.cfg == system.load(tmp_path / "model").cfg
    assert_equal(loaded.params["mmdit"], jax.tree.map(np.asarray, tuned))
    assert (tmp_path / "tuned" / "MODEL_CARD.md").read_text().startswith(f"# {cfg.name}, fine-tuned\n")
    for name in set(cfg.names) - {"mmdit"}:  # the same file under a second name
        assert (tmp_path / "tuned" / f"{name}.safetensors").samefile(tmp_path / "model" / f"{name}.safetensors")
    export = lambda name: directory.export(tmp_path / name, tmp_path / f"{name}-torch", say=quiet)
    before, after = export("model"), export("tuned")
    changed = {}
    for old, new in zip(before, after, strict=True):
        states = [files.read_state(path) for path in (old, new)]
        assert states[0].keys() == states[1].keys()
        changed |= {key: old.name for key, value in states[0].items() if not np.array_equal(value, states[1][key])}
    assert len(changed) > 10 and set(changed.values()) == {f"mmaudio_{tiny_public.VARIANT}.pth"}
    assert all("qkv" in key or "linear1" in key or "out" in key for key in changed), sorted(changed)


# New words: rows of the text encoder's table that no word has had.

FREE = 20


def test_words_are_the_last_rows_of_the_table():
    text = tiny_system().params["text"]
    words = np.random.default_rng(0).standard_normal((FREE, CONFIG.text.width)).astype(np.float16)
    changed = with_words(text, words)
    assert differing(text, changed) == {"embed/embedding"}
    table, before = changed["embed"]["embedding"], text["embed"]["embedding"]
    assert table.dtype == before.dtype and table.shape == before.shape
    np.testing.assert_array_equal(table[:-FREE], before[:-FREE])
    np.testing.assert_array_equal(table[-FREE:], words)


def test_only_words_that_are_read_have_gradients():
    text, known = tiny_system().params["text"], tiny_system().tokenizer
    tokenizer = known.extended(["a frog croaks"], room=CONFIG.text.vocab - known.vocab)
    first, new = known.vocab, tokenizer.vocab - known.vocab
    ids, mask = tokenizer.encode(["a frog rings", "a bell croaks"])
    encoded = lambda words: bind(T5Encoder, CONFIG.text, with_words(text, words))(ids, mask)
    grads = jax.jit(jax.grad(lambda words: jnp.square(encoded(words)[mask]).sum()))(text["embed"]["embedding"][first:])
    assert new == 2 and np.flatnonzero(np.abs(grads).sum(1)).tolist() == [0, 1]


@pytest.mark.parametrize("values, rows", [
    ({}, CONFIG.text.vocab - tiny_system().tokenizer.vocab),
    ({"step.lora.words": False}, 0),
    ({"data.corpora": (("features", 1.0),)}, 0),  # captions come encoded
    ({"system.text": {"vocab": tiny_system().tokenizer.vocab}}, 0),
])  # fmt: skip
def test_rows_that_are_free(folder, values, rows):
    config = config_of(folder)
    with config.unlocked():
        config.update_from_flattened_dict(values)
    shapes = abstract_params(config)
    assert shapes["words"].shape == (rows, CONFIG.text.width) if rows else "words" not in shapes


CAPTIONS = ["a frog croaks", "two frogs croak", "a frog croaks twice"]


@pytest.mark.parametrize("values, room, said", [
    ({}, 9, ["words that are new to the model, and learnt: 6 (croaks, frog, croak, frogs, twice, two)"]),
    ({}, 2, ["words that are new to the model, and learnt: 2 (croaks, frog)",
             "not read: captions with words outside the vocabulary: 2 (croak 1, frogs 1, twice 1, two 1); "
             "all 17 rows of the text encoder's table are taken"]),
    ({}, 0, ["not read: captions with words outside the vocabulary: 3 (croaks 2, frog 2, croak 1, frogs 1, twice 1, "
             "two 1); all 15 rows of the text encoder's table are taken"]),
    ({"step.lora.words": False}, 9, ["not read: captions with words outside the vocabulary: 3 (croaks 2, frog 2, "
                                     "croak 1, frogs 1, twice 1, two 1); step.lora.words=True learns words"]),
])  # fmt: skip
def test_words_that_are_learnt_and_words_that_are_not_read_are_said(folder, capsys, values, room, said):
    config = config_of(folder, **values)
    vocab = tiny_system().tokenizer.vocab + room
    cfg = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, vocab=vocab))
    run = dataclasses.replace(flow_config.read(config.to_dict()), system=cfg)
    tokenizer = reading_tokenizer(run, CAPTIONS)
    assert tokenizer.vocab <= vocab
    assert capsys.readouterr().err.splitlines() == [f"kfjax: {line}" for line in said]


def flow_run(cfg, **data):
    lora = dataclasses.replace(CFG, targets=(r"(a|b)/kernel",), words=True)
    return flow_config.FlowRun("flow", cfg, step=FlowStepConfig(lora=lora), data=flow_config.FlowData(**data))


def test_a_tuned_model_is_stored_as_its_start_was(tmp_path, monkeypatch):
    base = tiny_system()
    system.save(tmp_path / "start", base, card="# start\nLicence: Apache-2.0\n", dtype="float16")
    before = system.load(tmp_path / "start").params
    words = np.ones((CONFIG.text.vocab - base.tokenizer.vocab, CONFIG.text.width), np.float32)
    monkeypatch.setattr(product, "Corpus", lambda folder: folder)
    monkeypatch.setattr(product, "captions", lambda corpus: ["a frog croaks"])
    weights = before | {"words": words, "lora": drawn(init_lora(before["mmdit"], CFG, KEY))}
    run = flow_run(CONFIG, start=str(tmp_path / "start"), folder="frogs")
    model_directory.write(product.product(run, weights), tmp_path / "tuned", step=3)
    size = lambda name: (tmp_path / name / "model.safetensors").stat().st_size
    assert size("tuned") == size("start")
    tuned = system.load(tmp_path / "tuned")
    assert tuned.cfg == base.cfg and tuned.tokenizer.encode(["croaks"])[0][0, 0] == base.tokenizer.vocab
    changed = differing(before, tuned.params)
    assert {path.partition("/")[0] for path in changed} == {"mmdit", "text"}
    assert [path for path in changed if path.startswith("text")] == ["text/embed/embedding"]
    said = (tmp_path / "tuned" / "MODEL_CARD.md").read_text()
    for line in (
        "# tiny, fine-tuned",
        "| step | 3 |",
        "| trained on | frogs |",
        r"(a\|b)/kernel",
        "| words added | croaks, frog |",
        "Licence: that of the weights of tiny",
        "# start\nLicence: Apache-2.0",
    ):
        assert line in said
    assert (tmp_path / "start" / "MODEL_CARD.md").read_text() == "# start\nLicence: Apache-2.0\n"


# A run: the tiny system's directory in, LoRA and the network with it merged in out.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    tiny_corpus.render(folder / "scenes", durations={1.0: 8})
    write_model(folder / "model")
    return folder


def config_of(folder, **values):
    spec = importlib.util.spec_from_file_location("flow", ROOT / "configs" / "flow.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    config = loaded.get_config("lora-runlocal")
    paths = {"data.folder": str(folder / "scenes"), "data.start": str(folder / "model")}
    config.update_from_flattened_dict(paths | {"step.lora.rank": 4, "step.draws": 1} | values)
    return config


@pytest.fixture(scope="module")
def tuned(folder):
    """(config, task, state after two steps), its results exported as at a run's end."""
    config = config_of(folder)
    task, _ = make_task(config)
    state, step = init_state(task, KEY), jax.jit(task.step)
    for number in range(2):
        state, _ = step(state, task.batch(number), KEY)
    task.export(state.ema, folder / "run")
    return config, task, state


@pytest.mark.slow
def test_a_run_starts_from_the_directory(folder, tuned):
    config, task, _ = tuned
    start, base = task.init(KEY), system.load(folder / "model").params
    assert set(start) == {"text", "clip", "sync", "mmdit", "lora", "words"}
    whole = merged(start, FlowStepConfig(lora=LoRAConfig(**config.step.lora.to_dict())))
    assert_equal({name: whole[name] for name in ("text", "mmdit")}, {name: base[name] for name in ("text", "mmdit")})
    shapes = abstract_params(config)
    assert jax.tree.map(jnp.shape, {name: start[name] for name in shapes}) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.slow
def test_a_run_moves_lora_alone(tuned):
    _, task, state = tuned
    base = tiny_system().params
    for tree in (state.params, state.ema):
        for name in ("text", "clip", "sync", "mmdit"):
            assert not differing(base[name], tree[name])
    start = {name: task.init(KEY)[name] for name in ("lora", "words")}
    assert differing(start, {name: state.params[name] for name in start}) == set(module.flatten(start))
    assert int(state.step) == 2 and int(state.skipped) == 0
    sizes = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert sizes == 2 * module.count(start)  # of AdamW: nothing for what is frozen


@pytest.mark.slow
def test_a_run_exports_lora_and_merged_weights(folder, tuned):
    config, _, state = tuned
    cfg = LoRAConfig(**config.step.lora.to_dict())
    shapes = abstract_params(config)
    learnt = load_params(folder / "run" / "lora.safetensors", shapes["lora"] | {"words": shapes["words"]})
    assert_equal(learnt, jax.tree.map(np.asarray, state.ema["lora"] | {"words": state.ema["words"]}))
    words = learnt.pop("words")
    shapes = {name: module.shapes(*CONFIG.parts()[name]) for name in ("text", "clip", "sync", "mmdit")}
    merged = load_params(folder / "run" / "ema.safetensors", shapes)
    base = tiny_system().params
    assert differing(base["mmdit"], merged["mmdit"]) == set(targeted(base["mmdit"], cfg))
    assert_equal(merged["mmdit"], jax.tree.map(np.asarray, merge(base["mmdit"], learnt, cfg)))
    assert_equal(merged["text"], jax.tree.map(np.asarray, with_words(base["text"], words)))
    assert set(trained(state.params, FlowStepConfig(lora=cfg))) == {"lora", "words"}
    whole, before = system.load(folder / "run" / "model"), system.load(folder / "model")
    assert whole.cfg == before.cfg
    assert_equal(whole.params, before.params | {name: merged[name] for name in ("mmdit", "text")})


@pytest.mark.slow
def test_a_run_learns_the_words_of_its_captions(folder, tuned):
    """The scenes' words have ids of their own, and their rows alone have moved."""
    _, _, state = tuned
    known, tokenizer = (system.load(path).tokenizer for path in (folder / "model", folder / "run" / "model"))
    captions = {word for bucket in Corpus(folder / "scenes").buckets.values() for i in range(len(bucket))
                for word in re.findall(r"\w+|[^\w\s]", bucket.scene(i).caption)}  # fmt: skip
    assert set(tokenizer.words(known.vocab)) == captions - set(known.words())
    before, after = (tree["words"] for tree in (tuned[1].init(KEY), state.params))
    moved = np.flatnonzero((before != after).any(1))
    assert moved.size and moved.max() < tokenizer.vocab - known.vocab


@pytest.mark.slow
def test_a_whole_fine_tuning_starts_from_the_directory_too(folder):
    config = config_of(folder)
    with config.unlocked():
        config.step.lora.rank = 0
    task, _ = make_task(config)
    base, start = tiny_system().params, jax.jit(task.init)(KEY)
    assert_equal(start, {name: base[name] for name in ("text", "clip", "sync", "mmdit")})
    assert set(module.flatten(abstract_params(config))) == set(module.flatten({"mmdit": base["mmdit"]}))


@pytest.mark.parametrize("values, message", [
    ({"data.start": "nowhere"}, r"config\.data\.start: nothing at nowhere"),
    ({"data.start": "configs"}, r"no config\.json in configs"),
    ({"system.mmdit": {"width": 128}}, r"model does not fit"),
])  # fmt: skip
def test_another_base_is_refused(folder, monkeypatch, values, message):
    config = config_of(folder)
    with config.unlocked():
        config.update_from_flattened_dict(values)
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=message):
        make_task(config)
