"""Systems by name: the published widths, and Kling-Foley's from the files of its parts, without a generator."""

import json

import numpy as np
import pytest

from kfjax import cli, pipeline, system
from kfjax.commands import catalogue
from kfjax.convert import directory, hub, systems
from kfjax.convert.formats import files
from kfjax.rates import lengths
from tests.tiny import kling, public


@pytest.fixture
def known(monkeypatch):
    kling.announce(monkeypatch)


@pytest.fixture
def folder(known, tmp_path):
    return kling.write(tmp_path / "downloads")


@pytest.mark.parametrize("size", systems.KLING)
def test_the_paper_s_system(size):
    cfg = systems.named(f"kling-foley-{size}")
    assert (cfg.clip.size, cfg.clip.width, cfg.clip.out_dim, cfg.clip.activation) == (224, 1664, 1280, "quick_gelu")
    assert (cfg.text.kind, cfg.text.width, cfg.text_tokens) == ("t5", 768, 77)
    assert (cfg.codec.vae.variant, cfg.codec.vae.latent_dim, cfg.codec.vocoder.kind) == ("edm2", 40, "bigvgan")
    assert cfg.codec.stereo.clip_dim == 1280 and cfg.mmdit.sync_align == "timed"
    size = lengths(10.0, cfg.rates)
    assert (size.latents, size.clip, size.sync) == (431, 80, 240)


def test_a_folder_of_its_parts_becomes_a_system(folder, tmp_path, capsys):
    target = tmp_path / "kling"
    assert cli.main(["convert", str(folder), str(target), "--system", kling.NAME]) == 0
    parts = {f"{part}.safetensors" for part in ("text", "clip", "sync", "vae", "vocoder", "judge")}
    assert {path.name for path in target.iterdir()} == parts | {
        "config.json", "tokenizer.json", "sources.json", "SHA256SUMS",
    }  # fmt: skip
    loaded = pipeline.load_system(target, parts=("clip", "sync", "text", "vae"))
    assert loaded.cfg == systems.named(kling.NAME) and set(loaded.params) == {"clip", "sync", "text", "vae"}
    flow = public.state("mmaudio", public.VARIANT)
    np.testing.assert_array_equal(loaded.params["vae"]["latent_mean"], flow["latent_mean"].ravel())
    assert loaded.tokenizer.unread("a bell rings") == ((), "", "a bell rings")
    with pytest.raises(ValueError, match=r"missing mmdit\.safetensors, stereo\.safetensors; it serves to extract"):
        pipeline.load_system(target)
    assert cli.main(["convert", str(folder), str(target), "--system", "kling-foley-1b"]) == 2
    assert "did you mean kling-foley-1.5b?" in capsys.readouterr().err


def test_a_generator_of_another_system_is_not_kept_among_its_parts(folder, tmp_path, capsys):
    """Converted for its own system before: no model of two sizes is made of it."""
    directory.convert(folder / f"mmaudio_{public.VARIANT}.pth", tmp_path / "mine", say=lambda _: None)
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert cli.main(["convert", str(folder), str(tmp_path / "mine"), "--system", kling.NAME]) == 2
    said = capsys.readouterr().err
    assert "mine: got a directory with the generator of mmaudio-small-44k, expected that of kling-foley-tiny" in said
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    small = systems.SYSTEMS[public.VARIANT]
    directory.convert(folder / "v1-44.pth", tmp_path / "mine", system=small, say=lambda _: None)
    assert (tmp_path / "mine" / "vae.safetensors").is_file()


def test_the_way_back_is_exact(folder, tmp_path):
    directory.convert(folder, tmp_path / "kling", system=systems.named(kling.NAME), say=lambda _: None)
    written = directory.export(tmp_path / "kling", tmp_path / "again", say=lambda _: None)
    assert {path.name for path in written} >= {"open_clip_model.pth", "model.pth", "v1-44.pth"}
    for name, family in (("open_clip_model.pth", "clip"), ("model.pth", "t5")):
        again, before = files.read_state(tmp_path / "again" / name), public.state(family, kling.FAMILIES[family])
        assert again.keys() == before.keys() and all((again[key] == x).all() for key, x in before.items())


def test_by_name_what_is_fetched_is_noted_and_checked(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(public, "NAME", kling.NAME)
    public.write_hub_cache(tmp_path / "hub", folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("KFJAX_CACHE", str(tmp_path / "cache"))
    listed = {model.name: model for model in catalogue.models()}
    assert not listed[kling.NAME].here and not listed[kling.NAME].generates and listed["built-in"].generates
    assert pipeline.config_of(kling.NAME) == systems.named(kling.NAME)  # nothing fetched
    loaded = pipeline.load_system(kling.NAME, parts=("text",))
    assert loaded.cfg.name == kling.NAME and "no published checksum" in capsys.readouterr().err
    noted = json.loads((tmp_path / "cache/models" / hub.NOTED).read_text())
    source = next(source for source in hub.MODELS[kling.NAME] if source.repo == hub.META_CLIP)
    assert noted[source.path]["revision"] == "0" * 40 and len(noted[source.path]["sha256"]) == 64
    assert {model.name: model.here for model in catalogue.models()}[kling.NAME]
    # The same file with other content, under the same revision.
    (tmp_path / "cache/models" / kling.NAME).rename(tmp_path / "elsewhere")
    changed = next((tmp_path / "hub").rglob("open_clip_model.safetensors"))
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(
        ValueError, match=r"open_clip_model.safetensors: got sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"
    ):
        hub.fetch(kling.NAME, tmp_path / "cache/models")


def test_two_processes_that_fetch_note_both_their_files(tmp_path, monkeypatch):
    """One reads the notes, and writes its own when another has written since."""
    for name in "ab":
        (tmp_path / "0" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "0" / name).write_text(name)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file, revision: tmp_path / "0" / file)
    one, other = (hub.HubFile("us/models", name, 1, "mine") for name in "ab")
    digest_of = hub.disk.digest_of

    def meanwhile(path, kind):
        monkeypatch.setattr(hub.disk, "digest_of", digest_of)
        hub.download("other", (other,), tmp_path)
        return digest_of(path, kind)

    monkeypatch.setattr(hub.disk, "digest_of", meanwhile)
    hub.download("one", (one,), tmp_path)
    noted = json.loads((tmp_path / hub.NOTED).read_text())
    assert noted.keys() == {"us/models/a", "us/models/b"} and len(noted["us/models/a"]["sha256"]) == 64


def test_another_codec_in_the_slot(folder, tmp_path):
    directory.convert(folder, tmp_path / "kling", system=systems.named(kling.NAME), say=lambda _: None)
    parts = ("clip", "sync", "text", "vae")
    before = pipeline.load_system(tmp_path / "kling", parts)
    swapped = pipeline.load_system(tmp_path / "kling", parts, codec="built-in")
    assert swapped.cfg.codec.vae.latent_dim == 40 == swapped.cfg.mmdit.latent_dim
    assert swapped.cfg.codec.stereo == before.cfg.codec.stereo and swapped.cfg.clip == before.cfg.clip
    own = system.load(pipeline.BUILT_IN)
    np.testing.assert_array_equal(swapped.params["vae"]["latent_mean"], own.params["vae"]["latent_mean"])
    np.testing.assert_array_equal(swapped.params["clip"]["proj"], before.params["clip"]["proj"])
