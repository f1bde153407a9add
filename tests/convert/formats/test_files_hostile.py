"""Hostile and damaged files: one line each, soon, in little memory, and nothing that a terminal would obey."""

import json
import pickle
import random
import re
from itertools import count

import numpy as np
import pytest

from kfjax import config, system
from kfjax.command import quoted
from kfjax.convert import directory
from kfjax.convert.formats import files
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.storage.checkpoint import WeightsError, load_params, unflatten
from tests import hostile_files as hostile
from tests.tiny import public

SECONDS = 20
#: What a message may be: a line that can be read.
LONGEST = 1500


def assert_held(outcomes: dict[str, hostile.Outcome]) -> None:
    assert outcomes
    for name, (said, seconds, peak) in outcomes.items():
        assert not said or said.startswith("ValueError: /"), (name, said[:300])
        assert said.isprintable() and len(said) < LONGEST, (name, len(said), said[:300])
        assert seconds < SECONDS and peak < hostile.MEMORY, (name, seconds, peak)


def small_files(folder):
    """A few whole files of every container."""
    folder.mkdir()
    state = {"weight": np.arange(60.0).reshape(3, 20), "half": np.ones(5, np.float16), "bias": np.float32(1)}
    files.write_state(folder / "a.pth", state)
    files.write_state(folder / "b.pth", state, inside="model")
    files.write_state(folder / "c.safetensors", state)
    hostile.long_ago(folder / "d.pth", b"\x80\2" + hostile.flat_dict(a=hostile.tensor()) + b".")
    (folder / "e.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": "f.safetensors"}}))
    files.write_state(folder.parent / "f.safetensors", state)


def test_some_hostile_files(tmp_path):
    """The quick ones; all of them in the slow test below."""
    small_files(tmp_path / "whole")
    quick = ("deep tuples as size", "doubled tuples", "expanded", "escapes", "itself", "hash", "axes")
    chosen = [name for name in hostile.PICKLES if any(part in name for part in quick)]
    outcomes = hostile.measured(tmp_path, [":".join(["pickles", *chosen]), "mutated:300:1"], timeout_seconds=120)
    assert len(outcomes) == 2 * len(chosen) + 300
    assert_held(outcomes)
    assert 0 < sum(not outcome.said for outcome in list(outcomes.values())[-300:]) < 300


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_hostile_file(tmp_path):
    outcomes = hostile.measured(tmp_path, list(hostile.KINDS), timeout_seconds=3000)
    assert_held(outcomes)
    read = [name for name, outcome in outcomes.items() if not outcome.said]
    assert "nothing hostile (archive)" in read and "nothing hostile (long_ago)" in read
    slowest = max(outcomes.values(), key=lambda outcome: outcome.seconds)
    largest = max(outcome.peak_bytes for outcome in outcomes.values())
    print(f"{len(outcomes)} files, {len(read)} read, {slowest.seconds:.1f} s and {largest / 1e6:.0f} MB at most")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_damaged_files(tmp_path):
    small_files(tmp_path / "whole")
    outcomes = hostile.measured(tmp_path, ["mutated:4000:0"], timeout_seconds=1500)
    assert_held(outcomes)
    read = sum(not outcome.said for outcome in outcomes.values())
    assert len(outcomes) == 4000 and 0 < read < 4000
    print(f"{len(outcomes)} files, {read} read")


def refused(path) -> str:
    with pytest.raises(ValueError) as error:
        files.read_object(path)
    said = str(error.value)
    assert str(path) in said and said.isprintable() and len(said) < LONGEST
    return said


@pytest.mark.parametrize(
    "head, message",
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer, not the file it stands for"),
        (pickle.dumps({"weight": 1}, 2), "pickle"),
        (b"\n <!DOCTYPE html>", "a web page (HTML or XML), not weights: it begins with b'<!DOCTYPE html>'"),
        (b'{"error": "not found"}', "JSON text, not weights"),
        (b"\x1f\x8b\x08", "a gzip archive: it begins with b'\\x1f\\x8b\\x08'; unpack it"),
        (bytes(257) + b"ustar", "a tar archive; unpack it"),
        (bytes(300), "is blank"),
        (b"PK\3\4" + bytes(100), "cut off"),
        ((100).to_bytes(8, "little") + b'{"a"', "cut off"),
        (b"\x1b]0;x\x07", r"it starts with b'\x1b]0;x\x07'"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.npz", "x"])
def test_what_is_no_file_of_weights(tmp_path, head, message, name):
    (tmp_path / name).write_bytes(head)
    said = refused(tmp_path / name)
    assert message in said
    assert re.search(r"\b(download|get|give|check|unpack)\b", said)


def test_what_is_no_index_of_weights(tmp_path):
    path = tmp_path / "x.safetensors.index.json"
    path.write_bytes(b"<html>")
    assert "a web page (HTML or XML), not weights" in refused(path)
    path.write_bytes(b'{"error": "not found"}')
    assert "is no index, expected a weight_map" in refused(path)


@pytest.mark.parametrize("found, shown", [
    ("plain", "plain"), (hostile.ESCAPES, r"\x1b]0;owned\x07\x1b[31m\n\r\u202e\ud800"), (5, "5"), (None, "None"),
    ((1, -2), "(1, -2)"), ("x" * 10**6, "x" * 79 + "…"), (b"\x1b" * 10**6, None), ([[[[1]]]], "[[[...]]]"),
    (np.zeros(10**6), "a ndarray"), ({"a": {"b": {"c": 1}}}, "{'a': {'b': {...}}}"),
], ids=count())  # fmt: skip
def test_what_is_quoted_is_short_and_printable(found, shown):
    got = quoted(found)
    assert shown is None or got == shown
    assert len(got) <= 80 and got.isprintable()


def test_what_is_quoted_takes_no_time():
    nested = ((1,), (1,))
    for _ in range(200):
        nested = (nested, nested)
    assert len(quoted(nested)) <= 80


@pytest.mark.parametrize("text, message", [
    (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"), (b"{", "no valid JSON"), (b"\xff", "no valid JSON"),
    (b"9" * 5000, "no valid JSON"), (b" " * (config.MAX_JSON_BYTES + 1), "more than 16 MiB"),
], ids=count())  # fmt: skip
def test_json_is_bounded(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        config.read_json(path)
    with pytest.raises(ValueError, match=r"config\.json"):
        system.load_config(path)


@pytest.mark.parametrize("values", [
    {"name": ["x"] * 10**6}, {"defaults": {"steps": 10**400}}, {"defaults": {"guidance": 10**400}},
    {hostile.ESCAPES: 1}, {"k" * 10**6: 1}, {"mmdit": {"width": "\x1b[31m" * 10**5}}, {"mmdit": [[[[]]]]},
])  # fmt: skip
def test_values_of_a_config_are_quoted(tmp_path, values):
    (tmp_path / "config.json").write_text(json.dumps({"mmdit": {}} | values))
    with pytest.raises(ValueError) as error:
        system.load_config(tmp_path / "config.json")
    assert str(error.value).isprintable() and len(str(error.value)) < LONGEST


@pytest.mark.parametrize("names", [["a", "a/b"], ["a/b", "a"], ["a/" * 10**5 + "a"], ["0", "00"]])
def test_names_of_tensors_that_make_no_tree(names):
    with pytest.raises(WeightsError, match="can't be the name of a tensor"):
        unflatten(dict.fromkeys(names, np.zeros(1)))
    assert unflatten({"²/1": 0}) == {"²": {1: 0}}


@pytest.mark.parametrize("name, header", hostile.headers().items())
def test_weights_of_a_model_directory(tmp_path, name, header):
    made = header()
    (tmp_path / "x.safetensors").write_bytes(len(made).to_bytes(8, "little") + made + bytes(16))
    with pytest.raises(WeightsError) as error:
        load_params(tmp_path / "x.safetensors", {"weight": np.zeros(3)})
    assert str(error.value).isprintable() and len(str(error.value)) < LONGEST


def test_a_damaged_vocabulary(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(public.WORDS)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    chance, held = random.Random(0), 0
    path = tmp_path / "tokenizer.json"
    Tokenizer.clip(tmp_path / "vocab.json", tmp_path / "merges.txt").save(path)
    whole = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged[: chance.choice((len(damaged), chance.randrange(len(damaged))))])
        try:
            Tokenizer.load(path).encode(["a dog"])
        except ValueError as error:
            assert str(error).isprintable() and len(str(error)) < LONGEST
            held += 1
    assert held > 100


@pytest.mark.parametrize("content", [
    b"[" * 100_000, b"[]", b'{"vae": 1}', b'{"vae": {"family": "\x1b[31m", "variant": "44k", "file": "x"}}',
    b'{"../vae": {"family": "mmaudio-vae", "variant": "44k", "file": "x"}}',
    b'{"vae": {"family": "mmaudio", "variant": "../../x", "file": "x"}}',
    b'{"vae": {"family": "mmaudio-vae", "variant": ["44k"], "file": "x"}}',
], ids=count())  # fmt: skip
def test_sources_that_lead_elsewhere(tmp_path, content):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / directory.SOURCES).write_bytes(content)
    with pytest.raises(ValueError, match="does not say where parts are from") as error:
        directory.export(tmp_path / "model", tmp_path / "again")
    assert str(error.value).isprintable() and len(str(error.value)) < LONGEST
    assert not (tmp_path / "again").exists()
