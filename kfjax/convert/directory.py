"""Public weights into a kfjax model directory, and back.

    convert("downloads/", "mmaudio")              # every weights file in the folder that is known
    export("mmaudio", "again/", suffix=".pth")    # the public files, bit for bit

Converted parts lie side by side as `PART.safetensors`; `sources.json` says what each came from. A flow network brings
the `config.json` of its system, a vocabulary its `tokenizer.json`: with all parts there the directory can be loaded.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kfjax import config, disk
from kfjax.checkpoint import save_params, unflatten
from kfjax.convert import families, files, rules
from kfjax.convert.families import Family
from kfjax.convert.systems import SYSTEMS
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.module import Params, flatten

SOURCES = "sources.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
Say = Callable[[str], None]


class Found(NamedTuple):
    """A weights file and what it is."""

    path: Path
    family: Family
    variant: str


def convert(source: str | Path, target: str | Path, *, inside: str | None = None, say: Say = print) -> list[Found]:
    """Convert a weights file, or all in a folder, into the model directory `target`, beside what it holds already.

    Args:
      inside: key of the state dict in a file that holds several things.
      say: told of every file that is done.

    Raises:
      ValueError: nothing to convert, an unknown kind, values that are not finite; missing, unused and misshapen keys,
        all named at once with the nearest known variant.
    """
    source, target = Path(source), Path(target)
    _check_target(target)
    done = []
    for path in weight_files(source):
        found, parts = read_parts(path, inside=inside)
        target.mkdir(parents=True, exist_ok=True)
        for part, params in parts.items():
            save_params(target / f"{part}.safetensors", params)
        _remember(target, found, parts)
        done.append(found)
        say(f"{path.name}: {found.family.name} {found.variant} -> {', '.join(parts)}")
    _complete_codec(target)
    _write_tokenizer(source, target, say)
    return done


def read_parts(path: Path, *, inside: str | None = None) -> tuple[Found, dict[str, Params]]:
    """What a weights file is, and its parameters by part, dtypes kept.

    Raises:
      ValueError: as `convert`.
    """
    state = files.read_state(path, inside)
    found = Found(path, *_recognised(path, state))
    try:
        parts = found.family.to_parts(state, found.variant)
    except ValueError as error:
        raise ValueError(f"{path}: nearest to {found.family.name} {found.variant}, but {error}") from None
    # Only of what is taken: files carry masks besides, whose minus infinity is meant.
    if wrong := [name for name, value in flatten(parts).items() if not _finite(value)]:
        raise ValueError(f"{path}: got NaN or infinite values in {', '.join(wrong[:5])}; get the file again")
    return found, parts


def weight_files(source: Path) -> list[Path]:
    """The weights that `convert` reads: the file itself, or those of a folder (sharded ones as their index).

    Raises:
      ValueError: no such file or folder, or a folder without any.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder; give public weights ({', '.join(files.TORCH)}, …)")
    inside = sorted(path for path in source.iterdir() if path.is_file())
    shards = {shard for path in inside if path.name.endswith(files.INDEX) for shard in _shards(path)}
    known = (*files.TORCH, files.SAFETENSORS, files.INDEX)
    found = [path for path in inside if path.name.endswith(known) and path.name not in shards]
    if not found:
        raise ValueError(f"{source}: got a folder without weights, expected files in {', '.join(files.TORCH)} or "
                         f"{files.SAFETENSORS}; give another")
    return found


def mapping(path: str | Path, *, inside: str | None = None) -> Iterator[str]:
    """The dry run: a line for every tensor of the file, where it would go. Writes nothing.

    Raises:
      ValueError: as `convert`.
    """
    found, parts = read_parts(Path(path), inside=inside)
    yield f"{path}: {found.family.name} {found.variant} -> {', '.join(parts)}"
    cfg = found.family.configs[found.variant]
    ours = flatten(found.family.shapes(cfg))
    for rule in found.family.table(cfg):
        shape = ours[rule.jax_path].shape
        for key, want in rules.torch_shapes_of(rule, shape).items():
            place = f"{rule.jax_path} {list(shape)}"
            yield f"  {key} {list(want)} -> {place}"


def export(directory: str | Path, target: str | Path, *, suffix: str = ".pth", say: Say = print) -> list[Path]:
    """Write the public files of a directory's converted parts: keys, shapes, dtypes and values as they were read.

    Args:
      target: a folder, or the name of a file where the directory holds one public file.
      suffix: ".pth" or ".safetensors", for a folder.

    Raises:
      ValueError: nothing there that came from public weights, several files for one name, an unknown suffix.
    """
    directory, target = Path(directory), Path(target)
    sources = _sources(directory)
    if not sources:
        raise ValueError(f"{directory}: holds no converted weights (no {SOURCES}); give the target of kfjax convert")
    wholes = {(source["family"], source["variant"]) for source in sources.values()}
    one = target.suffix in (*files.TORCH, files.SAFETENSORS)
    if one and len(wholes) > 1:
        names = ", ".join(" ".join(whole) for whole in sorted(wholes))
        raise ValueError(f"{target}: got one name for {len(wholes)} files ({names}); give a folder")
    written = []
    for name, variant in sorted(wholes):
        family, parts = families.named(name), converted(directory, name, variant)
        path = target if one else target / Path(family.files(variant)).with_suffix(suffix)
        files.write_state(path, family.to_state(parts, variant), inside=family.inside)
        say(f"{', '.join(parts)} -> {path}")
        written.append(path)
    return written


def converted(directory: Path, family: str, variant: str) -> dict[str, Params]:
    """What a directory holds of one public file: {part: parameters}, empty where it holds nothing of it."""
    return {
        part: read_part(directory / f"{part}.safetensors")
        for part, source in _sources(directory).items() if (source["family"], source["variant"]) == (family, variant)
    }  # fmt: skip


def read_part(path: Path) -> Params:
    """A part's parameters with their own dtypes, its `unused` branch too.

    Raises:
      CheckpointError: the file is not as it was written.
    """
    with disk.checked(disk.digests(path)):
        return unflatten(files.read_state(path))


def _recognised(path: Path, state: Mapping[str, np.ndarray]) -> tuple[Family, str]:
    try:
        return families.recognise(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _finite(value: np.ndarray) -> bool:
    return not np.issubdtype(np.float32 if value.dtype.kind == "V" else value.dtype, np.floating) or bool(
        np.isfinite(value).all()
    )


def _check_target(target: Path) -> None:
    if target.is_file():
        raise ValueError(f"{target}: is a file, expected a folder to write the model to; give another name")
    if (target / "model.safetensors").is_file():
        raise ValueError(f"{target}: holds a model in one file, expected a new or a converted one; give another name")


def _remember(target: Path, found: Found, parts: Mapping[str, Params]) -> None:
    sources = _sources(target)
    for part in parts:
        sources[part] = {"family": found.family.name, "variant": found.variant, "file": found.path.name}
    _write_json(target / SOURCES, sources)
    if found.family.name == "mmaudio":
        _write_json(target / "config.json", config.to_dict(SYSTEMS[found.variant]))


def _complete_codec(target: Path) -> None:
    """The latents' statistics come with the flow network and belong to the codec."""
    flow, codec = target / "mmdit.safetensors", target / "vae.safetensors"
    if flow.is_file() and codec.is_file():
        latent = read_part(flow)[families.UNUSED]["latent"]
        save_params(codec, read_part(codec) | {f"latent_{name}": value for name, value in latent.items()})


def _sources(directory: Path) -> dict[str, dict[str, str]]:
    path = directory / SOURCES
    with disk.checked(disk.digests(path)):
        return json.loads(path.read_text()) if path.is_file() else {}


def _write_tokenizer(source: Path, target: Path, say: Say) -> None:
    """CLIP's vocabulary, where the folder has it."""
    vocabulary, merges = source / VOCABULARY, source / MERGES
    if source.is_dir() and vocabulary.is_file() and merges.is_file():
        Tokenizer.clip(vocabulary, merges).save(target / "tokenizer.json")
        say(f"{VOCABULARY}, {MERGES} -> tokenizer.json")


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index}: is no index of sharded weights; get the file again") from None


def _write_json(path: Path, values: object) -> None:
    disk.write_text(path, json.dumps(values, indent=1) + "\n")
