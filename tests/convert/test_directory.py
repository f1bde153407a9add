"""From public files to a model that makes sound, and back to the files."""

import errno
import json
import os
import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import numpy as np
import pytest

import kfjax
from kfjax import cli, media, system
from kfjax.commands import jobs
from kfjax.convert import directory, families, hub
from kfjax.convert.formats import files
from kfjax.storage import disk
from tests.tiny import public


@pytest.fixture
def known(monkeypatch):
    public.announce(monkeypatch)


@pytest.fixture
def folder(known, tmp_path):
    return public.write(tmp_path / "downloads")


@pytest.fixture
def model(folder, tmp_path):
    kfjax.convert.from_torch(folder, tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_becomes_a_whole_model(model):
    names = {path.name for path in model.iterdir()}
    parts = {f"{part}.safetensors" for part in ("mmdit", "vae", "vocoder", "clip", "text", "sync", "judge")}
    assert names == parts | {"config.json", "tokenizer.json", directory.SOURCES, disk.SUMS}
    loaded = system.load(model)
    assert loaded.cfg.name == public.NAME and set(loaded.params) == set(loaded.cfg.parts())


def test_the_latents_statistics_of_the_flow_reach_the_codec(model):
    loaded = system.load(model)
    flow = public.state("mmaudio", public.VARIANT)
    np.testing.assert_array_equal(loaded.params["vae"]["latent_mean"], flow["latent_mean"].ravel())
    np.testing.assert_array_equal(loaded.params["vae"]["latent_std"], flow["latent_std"].ravel())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_way_back_is_exact(model, folder, tmp_path, suffix):
    written = kfjax.convert.to_torch(model, tmp_path / "again", suffix=suffix)
    assert len(written) == len(public.WHOLE)
    for path in written:
        family, variant = families.recognise(files.read_state(path))
        want, got = public.state(family.name, variant), files.read_state(path)
        assert want.keys() <= got.keys()
        for key, value in want.items():
            assert got[key].dtype == value.dtype
            np.testing.assert_array_equal(got[key], value)


def test_half_precision_stays_half(known, tmp_path):
    from ml_dtypes import bfloat16

    for dtype in (np.float16, bfloat16):
        state = public.state("mmaudio-vae", "44k", dtype)
        files.write_state(tmp_path / "vae.pth", state)
        directory.convert(tmp_path / "vae.pth", tmp_path / dtype.__name__)
        directory.export(tmp_path / dtype.__name__, tmp_path / "again.safetensors")
        again = files.read_state(tmp_path / "again.safetensors")
        assert again.keys() == state.keys()
        assert all(again[key].dtype == dtype and (again[key] == state[key]).all() for key in state)


def test_by_name_from_the_hub_s_cache_to_a_film_with_sound(folder, tmp_path, monkeypatch, capsys):
    public.write_hub_cache(tmp_path / "hub", folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "out.mp4"
    arguments = ["generate", str(jobs.EXAMPLE), "--model", public.NAME, "--prompt", "a bell", "--duration", "1"]
    assert cli.main([*arguments, "--steps", "2", "--output", str(output)]) == 0
    assert "licences" in capsys.readouterr().err
    sound = media.read_audio(output, 44100)
    assert media.probe(output).has_video and np.abs(sound[:44100]).max() > 0
    np.testing.assert_allclose(sound[:, 0], sound[:, 1], atol=0.05)  # the public systems are mono
    # The second time nothing is fetched or converted.
    monkeypatch.setattr(hub, "download", None)
    assert hub.fetch(public.NAME, tmp_path / "cache" / "models").is_dir()


def test_what_the_hub_does_not_give_is_named_at_once(known, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path / "cache"))
    assert cli.main(["generate", str(jobs.EXAMPLE), "--model", public.NAME]) == 2
    error = capsys.readouterr().err
    for source in hub.MODELS[public.NAME]:
        assert source.file in error
    assert f"kfjax convert FOLDER {public.NAME}" in error
    assert not list((tmp_path / "cache").glob("models/*"))


@pytest.fixture
def hub_that_answers(monkeypatch, tmp_path):
    """A hub on this machine that gives one answer to everything."""
    servers = []

    def start(status: int, headers: dict[str, str]):
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD
            log_message = lambda *_: None

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{servers[-1].server_port}"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "GatedRepoError"),
        (404, {"X-Error-Code": "EntryNotFound"}, "EntryNotFoundError"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "RevisionNotFoundError"),
        (200, {}, "FileMetadataError|LocalEntryNotFoundError"),  # a proxy's page instead of the file
    ],
)
def test_what_the_hub_refuses_is_named(status, headers, said, known, hub_that_answers, tmp_path, monkeypatch, capsys):
    hub_that_answers(status, headers)
    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path / "cache"))
    assert cli.main(["generate", str(jobs.EXAMPLE), "--model", public.NAME]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert re.search(said, error) and "kfjax convert FOLDER" in error
    assert not list((tmp_path / "cache").glob("models/*"))


@pytest.mark.parametrize(("kind", "digits"), [("md5", 32), ("sha256", 64)])
def test_another_checksum_is_refused(kind, digits, folder, tmp_path, monkeypatch):
    public.write_hub_cache(tmp_path / "hub", folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    first, *rest = hub.MODELS[public.NAME]
    monkeypatch.setitem(hub.MODELS, public.NAME, (first._replace(checksum="0" * digits), *rest))
    with pytest.raises(ValueError, match=rf"got {kind} [0-9a-f]{{{digits}}}, expected 0{{{digits}}}; delete the file"):
        hub.fetch(public.NAME, tmp_path / "cache")


def test_models_share_their_parts_on_disk(model, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    model.rename(cache / "one")
    kfjax.convert.from_torch(tmp_path / "downloads", tmp_path / "two")
    hub._share(tmp_path / "two", cache)
    assert (tmp_path / "two" / "clip.safetensors").samefile(cache / "one" / "clip.safetensors")


def test_on_a_disk_without_links_each_has_its_own(tmp_path, monkeypatch):
    for name in ("cache/one", "two"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "clip.safetensors").write_bytes(b"weights")

    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    hub._share(tmp_path / "two", tmp_path / "cache")
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["clip.safetensors"]
    assert (tmp_path / "two" / "clip.safetensors").read_bytes() == b"weights"


def test_an_unfinished_model_says_which_parts_it_lacks(folder, tmp_path):
    directory.convert(folder / f"mmaudio_{public.VARIANT}.pth", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"missing text\.safetensors, clip\.safetensors, sync\.safetensors"):
        system.load(tmp_path / "model")


def test_the_dry_run_prints_every_tensor_and_writes_nothing(folder, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["convert", str(folder / "v1-44.pth"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    layout = families.named("mmaudio-vae").layout("44k")
    assert len(lines) == 1 + len(layout)
    assert all(any(line.startswith(f"  {key} ") for line in lines) for key in layout)
    assert sorted(tmp_path.rglob("*")) == before


def broken(state: dict, how: str) -> dict:
    first = sorted(state)[0]
    if how == "missing":
        return {key: value for key, value in state.items() if key != first}
    if how == "unused":
        return state | {"something.else": np.zeros(3, np.float32)}
    if how == "misshapen":
        return state | {first: np.zeros((3, 5), np.float32)}
    return state | {first: np.full_like(state[first], np.nan)}


@pytest.mark.parametrize("how, message", [
    ("missing", "missing    data_mean"), ("unused", "unused     something.else"), ("misshapen", r"got \(3, 5\)"),
    ("nan", "NaN or infinite values in"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_and_nothing_is_written(known, tmp_path, capsys, how, message):
    path = tmp_path / "vae.pth"
    files.write_state(path, broken(public.state("mmaudio-vae", "44k"), how))
    assert cli.main(["convert", str(path), str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    with pytest.raises(ValueError, match=message):
        directory.read_parts(path)
    if how != "nan":
        assert "nearest to mmaudio-vae 44k" in error
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("arguments, message", [
    (["nowhere.pth", "model"], "no such file or folder"),
    (["empty", "model"], "a folder without weights"),
    (["other.safetensors", "model"], "unknown kind of weights"),
    (["other.safetensors"], "expected a folder to write to"),
    (["empty", "again", "--to", "torch"], "no converted weights"),
    (["other.safetensors", "other.safetensors"], "is a file"),
    (["other.safetensors", "--dry-run", "--to", "torch"], "leave one of them out"),
])  # fmt: skip
def test_mistakes_get_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    files.write_state(tmp_path / "other.safetensors", {"a.b": np.zeros(3, np.float32)})
    assert cli.main(["convert", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


def test_public_sizes_are_told_apart_by_shape():
    for family in families.FAMILIES:
        for variant in family.configs:
            # Broadcast views: a gigabyte's shape at no cost.
            state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in family.layout(variant).items()}
            found, name = families.recognise(state)
            assert (found.name, name) == (family.name, variant)


def test_every_published_model_has_its_sources():
    for name, sources in hub.MODELS.items():
        assert name.startswith(("mmaudio-", "kling-foley-")) and len(sources) == 7
        assert all(source.megabytes > 0 and source.licence for source in sources)
        unknown = {source.repo for source in sources if source.repo not in hub.REVISIONS}
        assert unknown <= {hub.META_CLIP}
        assert all(re.fullmatch("[0-9a-f]{40}", hub.REVISIONS[s.repo]) for s in sources if s.repo not in unknown)
        # Every weights file but one, whose digest is noted when it is fetched.
        assert all(source.checksum or source.megabytes < 2 or source.repo in unknown for source in sources)
    assert json.dumps([source.file for source in hub.MODELS["mmaudio-large-44k-v2"]])


def tree(folder):
    """Every file below a folder, with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("how", ["none", "new", "nested", "older"])
def test_a_refused_folder_leaves_the_target_as_it_was(known, tmp_path, how):
    """The last file is refused after the others have been converted."""
    (tmp_path / "downloads").mkdir()
    files.write_state(tmp_path / "downloads" / "a.pth", public.state("mmaudio-vae", "44k"))
    files.write_state(tmp_path / "downloads" / "b.pth", broken(public.state("synchformer", "synchformer"), "nan"))
    target = tmp_path / ("some/where/model" if how == "nested" else "model")
    if how in ("new", "older"):
        target.mkdir()
    if how == "older":
        directory.convert(tmp_path / "downloads" / "a.pth", target)
    before, folders = tree(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"b\.pth: got NaN"):
        directory.convert(tmp_path / "downloads", target)
    assert tree(tmp_path) == before and sorted(tmp_path.rglob("*")) == folders


def test_two_networks_of_one_kind_are_refused_by_name(known, tmp_path):
    (tmp_path / "downloads" / "more").mkdir(parents=True)
    files.write_state(tmp_path / "downloads" / "v1-44.pth", public.state("mmaudio-vae", "44k"))
    files.write_state(tmp_path / "downloads" / "more" / "vae.safetensors", public.state("mmaudio-vae", "44k"))
    both = r"v1-44\.pth \(mmaudio-vae 44k\) and more/vae\.safetensors \(mmaudio-vae 44k\), expected one file for vae"
    with pytest.raises(ValueError, match=both):
        directory.convert(tmp_path / "downloads", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_parts_in_sub_folders(folder, model, tmp_path):
    (folder / "ext_weights" / "words").mkdir(parents=True)
    (folder / ".cache").mkdir()
    for name in ("v1-44.pth", "synchformer_state_dict.pth"):
        (folder / name).rename(folder / "ext_weights" / name)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).rename(folder / "ext_weights" / "words" / name)
    (folder / ".cache" / "x.pth").write_bytes(b"not looked at")
    (folder / "._v1-44.pth").write_bytes(b"not looked at")
    said = []
    directory.convert(folder, folder / "model", say=said.append)
    assert tree(folder / "model") == tree(model)
    assert "ext_weights/v1-44.pth: mmaudio-vae 44k -> vae" in said
    directory.convert(folder, folder / "model", say=said.append)  # what it wrote is no part to convert
    assert tree(folder / "model") == tree(model)


def test_a_missing_vocabulary_is_named_and_can_follow(folder, tmp_path, capsys):
    words = tmp_path / "words"
    words.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (folder / name).rename(words / name)
    assert cli.main(["convert", str(folder), str(tmp_path / "model")]) == 0
    told = "vocab.json and merges.txt of openai/clip-vit-large-patch14"
    assert told in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"missing tokenizer.json; .*{told}"):
        system.load(tmp_path / "model")
    assert cli.main(["convert", str(words), str(tmp_path / "model")]) == 0
    assert system.load(tmp_path / "model").cfg.name == public.NAME


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "ema.module."])
def test_a_training_s_file(known, tmp_path, prefix, capsys):
    """Under a prefix, beside an optimizer, in a safetensors file that is called .pth."""
    state = public.state("mmaudio-vae", "44k")
    path = tmp_path / "last.pth"
    files.write_state(tmp_path / "x.safetensors", {prefix + key: x for key, x in state.items()} | {"step": np.array(3)})
    (tmp_path / "x.safetensors").rename(path)
    assert cli.main(["convert", str(path), str(tmp_path / "model")]) == 0
    assert f"last.pth: taken is {prefix[:-1]}, the only state dict in it" in capsys.readouterr().out
    directory.export(tmp_path / "model", tmp_path / "again.pth")
    again = files.read_state(tmp_path / "again.pth")
    assert again.keys() == state.keys() and all((again[key] == x).all() for key, x in state.items())


def test_eight_bits_are_converted_with_a_word(known, tmp_path):
    import ml_dtypes

    made = {key: x.astype(ml_dtypes.float8_e4m3fn) for key, x in public.state("mmaudio-vae", "44k").items()}
    header, data = {}, b""
    for key, x in made.items():
        header[key] = {"dtype": "F8_E4M3", "shape": x.shape, "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    said = []
    directory.convert(tmp_path / "x.safetensors", tmp_path / "model", say=said.append)
    assert said[0] == f"x.safetensors: {len(made)} of float8_e4m3fn of its {len(made)} tensors become float32"
    directory.export(tmp_path / "model", tmp_path / "again.pth")
    for key, value in files.read_state(tmp_path / "again.pth").items():
        np.testing.assert_array_equal(value, made[key].astype(np.float32), strict=True)
