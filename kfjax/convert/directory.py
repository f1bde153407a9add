"""Public weights into a kfjax model directory, and back.

    convert("downloads/", "mmaudio")              # every weights file in the folder that is known
    export("mmaudio", "again/", suffix=".pth")    # the public files, bit for bit

Converted parts lie side by side as `PART.safetensors`; `sources.json` says what each came from. A flow network brings
the `config.json` of its system, a vocabulary its `tokenizer.json`: with all parts there the directory can be loaded.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kfjax import command, config
from kfjax.command import quoted
from kfjax.convert import families, rules
from kfjax.convert.family import Family
from kfjax.convert.formats import files
from kfjax.convert.systems import SYSTEMS
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.nn.module import Params, flatten
from kfjax.storage import disk
from kfjax.storage.checkpoint import save_params, unflatten
from kfjax.system import CONFIG, TOKENIZER, UNUSED, WEIGHTS, WHENCE, SystemConfig, load_config

SOURCES = "sources.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
Say = Callable[[str], None]


class Found(NamedTuple):
    """A weights file, its family and variant."""

    path: Path
    family: Family
    variant: str


def convert(
    source: str | Path,
    target: str | Path,
    *,
    inside: str | None = None,
    system: SystemConfig | None = None,
    say: Say = print,
) -> list[Found]:
    """Convert a weights file, or all in a folder, into the model directory `target`, beside what it holds already.

    The target changes once everything has been converted; after an error it is unchanged.

    Args:
      inside: key or prefix of the state dict in a file that holds several things.
      system: that the parts are for, whose `config.json` is written. A flow network of another gives the codec the
        statistics of its latents, and is left out.
      say: called for every converted file, with what was chosen in it.

    Raises:
      ValueError: nothing to convert, an unknown kind, two files for one part, values that are not finite; missing,
        unused and misshapen keys, all named at once with the nearest known variant; a target that holds a generator of
        another system.
    """
    source, target = Path(source), Path(target)
    _check_target(target, system)
    weights, vocabulary = weight_files(source), _vocabulary(source)
    done: dict[str, Found] = {}
    named = lambda path: quoted(str(path.relative_to(source) if path != source else path.name), 300)
    with _staged(target) as stage:
        sources = _sources(target)
        for path in weights:
            found, parts = read_parts(path, inside=inside, say=say)
            if twice := [done[part] for part in parts if part in done]:
                both = " and ".join(f"{named(x.path)} ({x.family.name} {x.variant})" for x in (twice[0], found))
                raise ValueError(f"{source}: got {both}, expected one file for {', '.join(parts)}; take one away")
            done |= dict.fromkeys(parts, found)
            for part, params in parts.items():
                save_params(stage / f"{part}.safetensors", params)
                sources[part] = {"family": found.family.name, "variant": found.variant, "file": found.path.name}
            if found.family.name == "mmaudio" and system is None:
                _write_json(stage / CONFIG, config.to_dict(SYSTEMS[found.variant]))
            say(f"{named(path)}: {found.family.name} {found.variant} -> {', '.join(parts)}")
        _complete_codec(stage, target)
        if system is not None:
            _write_json(stage / CONFIG, config.to_dict(system))
            if "mmdit" in done and SYSTEMS[done["mmdit"].variant].mmdit != system.mmdit:
                (stage / "mmdit.safetensors").unlink()
                del sources["mmdit"]
        _write_json(stage / SOURCES, sources)
        reads = sources.get("text", {}).get("family")
        if reads == "t5" and (words := _beside(source, TOKENIZER)):
            Tokenizer.load(words).save(stage / TOKENIZER)
            say(f"{named(words)} -> {TOKENIZER}")
        elif vocabulary and reads != "t5":
            Tokenizer.clip(*vocabulary).save(stage / TOKENIZER)
            say(f"{VOCABULARY}, {MERGES} -> {TOKENIZER}")
    if reads in ("clip", "t5") and not (target / TOKENIZER).is_file():
        say(f"{target}: still missing {TOKENIZER}; {WHENCE[TOKENIZER]}")
    return list({found.path: found for found in done.values()}.values())


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder whose files are moved into `target` once the block has ended well."""
    # Beside it, or as near as there are folders: those between are made at the end too.
    near = next(folder for folder in target.absolute().parents if folder.is_dir())
    stage = Path(tempfile.mkdtemp(dir=near, prefix=f".{target.name}-"))
    try:
        yield stage
        target.mkdir(parents=True, exist_ok=True)
        # `sources.json` comes last.
        staged = [path for path in stage.iterdir() if path.name != disk.SUMS]
        for path in sorted(staged, key=lambda path: path.name == SOURCES):
            disk.commit(path, target / path.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def read_parts(path: Path, *, inside: str | None = None, say: Say = command.say) -> tuple[Found, dict[str, Params]]:
    """Family and variant of a weights file, and its parameters by part, dtypes kept.

    Raises:
      ValueError: as `convert`.
    """
    state = families.in_table_layout(files.read_state(path, inside, holding=families.TELLTALES, say=say))
    found = Found(path, *_recognised(path, state))
    try:
        parts = found.family.from_torch(state, found.family.configs[found.variant])
    except ValueError as error:
        raise ValueError(f"{path}: nearest to {found.family.name} {found.variant}, but {error}") from None
    # Only of what is converted: files also hold attention masks with -inf.
    if wrong := [name for name, value in flatten(parts).items() if not _finite(value)]:
        raise ValueError(f"{path}: got NaN or infinite values in {', '.join(wrong[:5])}; get the file again")
    return found, parts


def weight_files(source: Path) -> list[Path]:
    """The weights that `convert` reads: the file itself, or those of a folder and its sub-folders (sharded ones as
    their index); none of a folder that has a vocabulary alone.

    Raises:
      ValueError: no such file or folder, or a folder without any.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder; give public weights ({', '.join(files.TORCH)}, …)")
    inside = [path for folder in _folders(source) for path in sorted(folder.iterdir()) if path.is_file()]
    shards = {
        index.parent / shard
        for index in inside if index.name.endswith(files.INDEX) for shard in files.shards(index).values()
    }  # fmt: skip
    known = (*files.TORCH, files.SAFETENSORS, files.INDEX)
    found = [path for path in inside if path.name.endswith(known) and path not in shards and path.name[0] != "."]
    if not found and not _vocabulary(source):
        raise ValueError(
            f"{source}: got a folder without weights, expected files in {', '.join(files.TORCH)} or "
            f"{files.SAFETENSORS}; give another"
        )
    return found


def _folders(source: Path) -> list[Path]:
    """A folder and those in it; hidden ones, links and what `convert` has written are left out."""
    found = []
    for folder, inside, _ in os.walk(source):
        inside[:] = sorted(name for name in inside if name[0] != "." and not Path(folder, name, SOURCES).is_file())
        found.append(Path(folder))
    return found


def _vocabulary(source: Path) -> tuple[Path, Path] | None:
    """CLIP's vocabulary, where a folder has it."""
    both = ((folder / VOCABULARY, folder / MERGES) for folder in (_folders(source) if source.is_dir() else ()))
    return next((pair for pair in both if pair[0].is_file() and pair[1].is_file()), None)


def _beside(source: Path, name: str) -> Path | None:
    """The file of that name in a folder or its sub-folders."""
    found = (folder / name for folder in (_folders(source) if source.is_dir() else ()))
    return next((path for path in found if path.is_file()), None)


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
        state = family.to_torch(parts, family.configs[variant])
        path = target if one else target / Path(family.files(variant)).with_suffix(suffix)
        files.write_state(path, state, inside=family.inside)
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


def _check_target(target: Path, system: SystemConfig | None) -> None:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is a file, expected a folder to write the model to; give another name")
    if (target / WEIGHTS).is_file():
        raise ValueError(f"{target}: holds a model in one file, expected a new or a converted one; give another name")
    if system is not None and (target / "mmdit.safetensors").is_file():
        source = _sources(target).get("mmdit")
        there = SYSTEMS[source["variant"]] if source else load_config(target / CONFIG)
        if there.mmdit != system.mmdit:
            got = f"got a directory with the generator of {there.name}"
            raise ValueError(f"{target}: {got}, expected that of {system.name} or none; give another name")


def _complete_codec(stage: Path, target: Path) -> None:
    """The latents' statistics come with the flow network and belong to the codec."""
    flow, codec = (_newest(stage, target, f"{part}.safetensors") for part in ("mmdit", "vae"))
    if stage in (flow.parent, codec.parent) and flow.is_file() and codec.is_file():
        latent = read_part(flow)[UNUSED]["latent"]
        together = read_part(codec) | {f"latent_{name}": value for name, value in latent.items()}
        save_params(stage / codec.name, together)


def _newest(stage: Path, target: Path, name: str) -> Path:
    return stage / name if (stage / name).is_file() else target / name


def _sources(directory: Path) -> dict[str, dict[str, str]]:
    """Part -> what it came from: names of families, variants and parts that there are."""
    path = directory / SOURCES
    if not path.is_file():
        return {}
    with disk.checked(disk.digests(path)):
        try:
            found = config.read_json(path)
            for part, source in found.items():
                known = families.named(source["family"]).configs
                if source["variant"] not in known or Path(part).name != part or not isinstance(source["file"], str):
                    raise ValueError(f"{quoted(part)} is from {quoted(source)}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            wrong = quoted(str(error), 200)
            raise ValueError(f"{path} does not say where parts are from ({wrong}); convert the files again") from None
    return found


def _write_json(path: Path, values: object) -> None:
    disk.write_text(path, json.dumps(values, indent=1) + "\n")
