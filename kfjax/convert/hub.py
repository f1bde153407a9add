"""Published models by name: sources, sizes and licences of their parts.

    directory = fetch("mmaudio-large-44k-v2", Path("~/.cache/kfjax/models").expanduser())

A part is downloaded with `huggingface_hub` (whose cache it stays in), checked, converted once and shared by all models
that use it. File names and checksums: docs of the MMAudio repository; revisions and SHA-256: the hub's
metadata. Where no checksum is known the file's SHA-256 is noted when it is first fetched, and checked from then on.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kfjax import command, config
from kfjax.convert import directory, systems
from kfjax.convert.systems import KLING, SYSTEMS, rate_of
from kfjax.storage import disk


class HubFile(NamedTuple):
    """One published file.

    Attributes:
      repo, file: on the hub, at the repository's revision of `REVISIONS`.
      megabytes: size.
      licence: of the weights.
      checksum: of the content: MD5 or SHA-256, told apart by its length. None: none is known; see `NOTED`.
    """

    repo: str
    file: str
    megabytes: int
    licence: str
    checksum: str | None = None

    @property
    def name(self) -> str:
        return Path(self.file).name

    @property
    def path(self) -> str:
        return f"{self.repo}/{self.file}"


#: In the folder of converted models: {"repository/file": {"revision", "sha256"}} of files without a known checksum.
NOTED = "fetched.json"
MMAUDIO, NC, MIT, APPLE = "hkchengrex/MMAudio", "CC-BY-NC-4.0", "MIT", "Apple AMLR"
DFN5B = "apple/DFN5B-CLIP-ViT-H-14-384"  # since renamed to ...-378; the hub leads from one to the other
CLIP_WORDS = "openai/clip-vit-large-patch14"  # the vocabulary that all CLIP text towers share
BIGVGAN = "nvidia/bigvgan_v2_44khz_128band_512x"
META_CLIP = "timm/vit_gigantic_patch14_clip_224.metaclip_2pt5b"  # in open_clip's layout, its tag `metaclip_fullcc`
T5 = "google-t5/t5-base"
#: Of a repository that is not here its newest revision is fetched, and noted.
REVISIONS = {
    MMAUDIO: "eb13a1a98fdbec91753775c57b074ccdfc60587c",
    DFN5B: "01b771ed0d1395ca5ffdd279897d665ebe00dfd2",
    CLIP_WORDS: "32bd64288804d66eefd0ccbe215aa642df71cc41",
    BIGVGAN: "95a9d1dcb12906c03edd938d77b9333d6ded7dfb",
    T5: "a9723ea7f1b39c1eae772870f3b547bf6ef7e6c1",
}

FLOWS = {
    "small_16k": HubFile(MMAUDIO, "weights/mmaudio_small_16k.pth", 601, NC, "af93cde404179f58e3919ac085b8033b"),
    "small_44k": HubFile(MMAUDIO, "weights/mmaudio_small_44k.pth", 601, NC, "babd74c884783d13701ea2820a5f5b6d"),
    "medium_44k": HubFile(MMAUDIO, "weights/mmaudio_medium_44k.pth", 2400, NC, "5a56b6665e45a1e65ada534defa903d0"),
    "large_44k": HubFile(MMAUDIO, "weights/mmaudio_large_44k.pth", 3900, NC, "fed96c325a6785b85ce75ae1aafd2673"),
    "large_44k_v2": HubFile(MMAUDIO, "weights/mmaudio_large_44k_v2.pth", 3900, NC, "01ad4464f049b2d7efdaa4c1a59b8dfe"),
}
CODECS = {
    "16k": (
        HubFile(MMAUDIO, "ext_weights/v1-16.pth", 655, NC, "69f56803f59a549a1a507c93859fd4d7"),
        HubFile(MMAUDIO, "ext_weights/best_netG.pt", 429, NC, "eeaf372a38a9c31c362120aba2dde292"),
    ),
    "44k": (
        HubFile(MMAUDIO, "ext_weights/v1-44.pth", 1200, NC, "fab020275fa44c6589820ce025191600"),
        HubFile(
            BIGVGAN,
            "bigvgan_generator.pt",
            489,
            MIT,
            "d9fe7ec6bd0b44ed9d66973d5012d8181c1570b01e5c72df51973e241dccd357",
        ),
    ),
}
SYNCHFORMER = HubFile(
    MMAUDIO, "ext_weights/synchformer_state_dict.pth", 907, NC, "5b2f5594b0730f70e41e549b7c94390c"
)  # fmt: skip
ENCODERS = (
    SYNCHFORMER,
    HubFile(
        DFN5B,
        "open_clip_pytorch_model.bin",
        3947,
        APPLE,
        "c07a17b547d461c60a3cce5062b26bf8545b13de602c4c59d8490361eb716033",
    ),
    HubFile(CLIP_WORDS, "vocab.json", 1, MIT),
    HubFile(CLIP_WORDS, "merges.txt", 1, MIT),
)
KLING_ENCODERS = (
    SYNCHFORMER,
    HubFile(META_CLIP, "open_clip_model.safetensors", 10158, NC),  # 4 bytes a parameter
    HubFile(
        T5, "model.safetensors", 892, "Apache-2.0", "a90903540cc02cbeb7ff9f823f1a80eb778c7e22426a0e620b01c77a5ec8f5b4"
    ),
    HubFile(T5, "tokenizer.json", 1, "Apache-2.0"),
)
MODELS = {cfg.name: (FLOWS[variant], *CODECS[rate_of(variant)], *ENCODERS) for variant, cfg in SYSTEMS.items()}
# The mean and deviation of the public VAE's latents lie in the file of a flow network.
MODELS |= {cfg.name: (FLOWS["small_44k"], *CODECS["44k"], *KLING_ENCODERS) for cfg in KLING.values()}


def fetch(name: str, cache: Path) -> Path:
    """The model directory of a published model; downloads and converts what is not there yet.

    Args:
      name: a key of `MODELS`.
      cache: folder of converted models.

    Raises:
      ValueError: unknown name; files that could not be had, all named, with where to put them; a wrong checksum.
    """
    if name not in MODELS:
        raise ValueError(no_model(name))
    target = cache / name
    if target.is_dir():
        return target
    sources = MODELS[name]
    licences = ", ".join(sorted({source.licence for source in sources}))
    size = sum(source.megabytes for source in sources) / 1000
    command.say(f"{name}: {len(sources)} files, {size:.1f} GB in all; licences of the weights: {licences}")
    cache.mkdir(parents=True, exist_ok=True)
    paths = download(name, sources, cache)
    making = Path(tempfile.mkdtemp(dir=cache, prefix=f".{name}-"))
    try:
        together = making / "sources"
        together.mkdir()
        for source, path in zip(sources, paths, strict=True):
            (together / source.name).symlink_to(path.resolve())
        directory.convert(together, making / "model", system=systems.named(name), say=command.say)
        _share(making / "model", cache)
        try:
            disk.replace(making / "model", target)
        except OSError:
            if not (target / "config.json").is_file():  # another process has made it meanwhile: the same one
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def no_model(name: str) -> str:
    """The message for an unknown model: the nearest name."""
    near = difflib.get_close_matches(name, ["built-in", *MODELS], n=1)
    advice = f"did you mean {near[0]}? " if near else ""
    return f"no model directory at {name}, and no model of that name; {advice}`kfjax models` lists the names"


def download(name: str, sources: tuple[HubFile, ...], cache: Path) -> list[Path]:
    """Local paths of the files, from the hub or its cache.

    Args:
      cache: folder of converted models, which has `NOTED`.

    Raises:
      ValueError: names every file that could not be had, with what to do; or a file with another checksum.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    noted, new = _noted(cache), {}
    paths, missing = [], []
    for source in sources:
        revision = REVISIONS.get(source.repo) or noted.get(source.path, {}).get("revision")
        try:
            paths.append(Path(hf_hub_download(source.repo, source.file, revision=revision)))
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            missing.append(f"{source.repo} {source.file} ({type(error).__name__})")
    if missing:
        for_system = f" --system {name}" if name in {cfg.name for cfg in KLING.values()} else ""
        raise ValueError(
            f"{name}: could not get {'; '.join(missing)}. Connect to the hub, or download these and the other files of "
            f"the model into one folder by hand and run: kfjax convert FOLDER {name}{for_system}; then give "
            f"{'--system' if for_system else '--model'} {name}"
        )
    for source, path in zip(sources, paths, strict=True):
        expected = source.checksum or noted.get(source.path, {}).get("sha256")
        kind = "md5" if expected and len(expected) == 32 else "sha256"
        got = disk.digest_of(path, kind)
        if expected and got != expected:
            raise ValueError(f"{path}: got {kind} {got}, expected {expected}; delete the file and try again")
        if not expected:
            new[source.path] = {"revision": _revision(path, source), "sha256": got}
            command.say(
                f"{source.path}: no published checksum is known; its SHA-256 {got} is noted, and checked from now on"
            )
    if new:
        with disk.alone(
            cache / f"{NOTED}.lock"
        ):  # another process may have noted its own meanwhile; the first note of a file stays
            disk.write_text(cache / NOTED, json.dumps(new | _noted(cache), indent=1) + "\n", noted=False)
    return paths


def _noted(cache: Path) -> dict[str, dict[str, str]]:
    return config.read_json(cache / NOTED) if (cache / NOTED).is_file() else {}


def _revision(path: Path, source: HubFile) -> str:
    """The commit that the hub's cache keeps the file under."""
    return path.parents[len(Path(source.file).parts) - 1].name


def _share(made: Path, cache: Path) -> None:
    """Replace parts that another model of the cache has too by hard links."""
    for path in made.glob("*.safetensors"):
        for other in cache.glob(f"*/{path.name}"):
            if _same(path, other):
                link = path.with_name(f".{path.name}")
                with suppress(OSError):  # a disk without links
                    os.link(other, link)
                    os.replace(link, path)
                break


def _same(one: Path, other: Path) -> bool:
    """Whether two files are equal. `one` has just been written, so its noted digest is its own."""
    if one.stat().st_size != other.stat().st_size:
        return False
    return (disk.digests(one).get(one) or disk.digest_of(one)) == disk.digest_of(other)
