"""The model directory that a run ends in: the parts that it trained, beside those that are there already.

write(product, "run/model", step=4000)                        # the others from what the config names
write(product, "mine", base="mmaudio-large-44k-v2")           # or from a model

A task says what its runs give in a `Product`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kfjax import config, pipeline, system
from kfjax.codec.mel import MelConfig
from kfjax.command import say
from kfjax.convert import directory, hub
from kfjax.data.encode import encoders_fingerprint
from kfjax.data.extract import plan_of
from kfjax.data.shards import records
from kfjax.data.shards.marks import PARTS
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.nn.module import Params, flatten
from kfjax.storage import cache, disk
from kfjax.storage.checkpoint import save_params, unflatten
from kfjax.system import CARD, CONFIG, TOKENIZER, UNUSED, WEIGHTS, SystemConfig
from kfjax.train.engine.loop import LoopConfig
from kfjax.train.engine.optim import OptimConfig
from kfjax.train.tasks import weights

#: Part -> makes its weights.
Made = dict[str, Callable[[], Params]]
NOT_STATED = "not stated"
#: What a vocoder is trained on without recordings, for a card.
MADE = "sounds made from nothing"
#: safetensors' names of what weights are stored in.
_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": records.BFLOAT16}


class Product(NamedTuple):
    """What a run gives to a model.

    Attributes:
      made: the parts that the run's weights hold.
      trained: those that it trained; of the others a copy in `places` or in the parent comes first.
      system: configuration of the parent, or None -> of the whole model, or None: these parts alone are no model.
      card: rows of the card, by name.
      start: what the run started from; the parent, if it is a model directory.
      places: part -> model directory or weights file that the run's config names.
      features: folders of `kfjax extract` that it was trained on.
      codec: model whose codec stands in the slot of the system that made them; "" where none was named.
      tokenizer: -> the run's own, or None: the parent's.
      first_word: words of the tokenizer from this one on are new.
      as_parent: the weights take the dtypes of the parent's.
    """

    made: Made
    trained: Sequence[str]
    system: Callable[[SystemConfig | None], SystemConfig | None]
    card: Mapping[str, object]
    start: str = ""
    places: Mapping[str, str] = {}
    features: Sequence[str] = ()
    codec: str = ""
    tokenizer: Callable[[], Tokenizer | None] = lambda: None
    first_word: int | None = None
    as_parent: bool = False


class IncompleteModel(ValueError):
    """Parts that neither the run nor what its config names has."""


def write(
    product: Product, target: str | Path, *, base: str | Path = "", step: int | None = None, raw: bool = False
) -> None:
    """Write the model directory `target`. One part is in memory at a time, but for a parent in a single file.

    A part comes from the run, else from the paths in its config, else from the parent: `base`, the model that the run
    started from, or the one whose encoders made its features, if that is on this disk or in its bucket. Where the
    features are of another codec in the parent's slot, VAE and vocoder are that one's. Weights files are shared by hard
    links where the disk has them. What a converted part's file holds besides is kept, so that `kfjax convert
    TARGET --to torch` writes the public files. Where Mono2Stereo alone is missing, the model is mono.

    Args:
      product: its parts are asked for once, when they are written.
      base: a model directory or the name of a model, for the parts that the run does not know.
      step, raw: for the card: of the weights; `raw`: they are the parameters, not their average.

    Raises:
      IncompleteModel: a part that nothing gives.
      ValueError: parts of other shapes; no such base, or one whose encoders did not make the features; `target` holds
        something else.
      CheckpointError: a file is not as it was written.
    """
    codec = _codec(product)
    parent = _parent(product, base, codec)
    before = system.load_config(parent / CONFIG) if parent else None
    if before and codec:
        before = system.with_codec(before, system.load_config(codec / CONFIG))
    if (cfg := product.system(before)) is None:
        raise IncompleteModel(f"{', '.join(product.made)} alone is no model; {_advice(product)}")
    places, words = _places(product, cfg, parent, codec), _tokenizer(product, parent)
    made = {name: make for name, make in product.made.items() if name in product.trained or name not in places}
    missing = [name for name in cfg.names if name not in made and name not in places]
    if needed := [name for name in missing if name != "stereo"] + ([TOKENIZER] if words is None else []):
        raise IncompleteModel(f"missing {', '.join(needed)}; {_advice(product)}")
    assert words is not None
    if missing:
        cfg = replace(cfg, codec=replace(cfg.codec, stereo=None))
        say("there is no Mono2Stereo: the model is mono; task=stereo trains one for it")
    made = {name: partial(_made, cfg, make, parent, name, product.as_parent) for name, make in made.items()}
    with system.replacing(target) as folder:
        disk.write_text(folder / CONFIG, json.dumps(config.to_dict(cfg), indent=1) + "\n")
        _save_parts(cfg, made, places, parent, folder)
        words.save(folder / TOKENIZER)
        if parent and (sources := _sources(parent, cfg)):
            for part in sources.keys() - set(cfg.names):  # converted weights that generation does not use
                _share(parent / f"{part}.safetensors", folder / f"{part}.safetensors")
            disk.write_text(folder / directory.SOURCES, json.dumps(sources, indent=1) + "\n")
        rows = {**product.card, "step": NOT_STATED if step is None else step, "weights": "raw" if raw else _AVERAGE}
        if product.first_word is not None:
            rows["words added"] = ", ".join(words.words(product.first_word)) or "none"
        (folder / CARD).write_text(_card(cfg, rows, {**places, **dict.fromkeys(made)}, parent, product))


_AVERAGE = "average (EMA)"


def in_codec(before: SystemConfig | None, mel: MelConfig, **parts: Any) -> SystemConfig | None:
    """A model with these parts in its codec; None without a model.

    Raises:
      ValueError: its codec reads other mels than `mel`, those of the parts.
    """
    if before is None:
        return None
    if before.codec.mel != mel:
        raise ValueError(f"{before.name}: got a codec of {before.codec.mel}, expected the run's {mel}; give another")
    return replace(before, codec=replace(before.codec, **parts))


def _advice(product: Product) -> str:
    advice = "kfjax export WORKDIR OUTPUT --base MODEL takes the other parts from MODEL"
    return advice + (f"; the features are those of {model}" if (model := _noted(product, "model")) else "")


def _noted(product: Product, key: str) -> str:
    """What the extraction of the features says of itself; "" where that is not known."""
    plans = (plan_of(disk.path(folder)) for folder in product.features)
    return next((str(plan[key]) for plan in plans if plan.get(key)), "")


def is_model(path: str) -> bool:
    """Whether it names a model directory."""
    return weights.is_name(path) or (weights.is_folder(path) and Path(path, CONFIG).is_file())


def folder_of(model: str | Path) -> Path | None:
    """Of a model, by the names that `pipeline.load` takes; None for "".

    Raises:
      ValueError: no such model.
    """
    if str(model) == "":
        return None
    folder = cache.local(pipeline.folder_of(model))
    if not (folder / CONFIG).is_file():
        raise ValueError(f"base: got {model}, expected a model directory (with {CONFIG}) or a model's name")
    return folder


def _here(model: str) -> Path | None:
    """The folder of a model that was named once, as `folder_of`; None where it is gone. Nothing is fetched by name."""
    if model in hub.MODELS and not Path(model).exists():
        model = str(pipeline.cache_folder() / "models" / model)
    there = model == "built-in" or (model and (disk.path(model) / CONFIG).is_file())
    return folder_of(model) if there else None


def _codec(product: Product) -> Path | None:
    """The model whose codec stands in the slot, as the run's config or the extraction of its features names it."""
    return folder_of(product.codec) or _here(_noted(product, "codec"))


def _parent(product: Product, base: str | Path, codec: Path | None) -> Path | None:
    """See `write`."""
    marks = [records.read_json(path)["fingerprint"] for folder in product.features
             if (path := disk.path(folder) / records.INDEX).is_file()]  # fmt: skip
    mark_of = lambda model: encoders_fingerprint(pipeline.load_system(model, PARTS, codec or ""))
    if given := folder_of(base):
        if marks and (mark := mark_of(given)) != marks[0]:
            raise ValueError(f"base: got {base} with encoders {mark}, expected those of {marks[0]}, which made the "
                             f"features in {product.features[0]}; give that model")  # fmt: skip
        return given
    if is_model(product.start):
        return folder_of(product.start)
    near = _here(_noted(product, "model")) if marks else None
    return near if near and mark_of(near) == marks[0] else None


def _places(product: Product, cfg: SystemConfig, parent: Path | None, codec: Path | None) -> dict[str, Path]:
    """Part -> the model directory or weights file that has it: what the config names comes before the parent."""
    own = {name: weights.folder_of(path) for name, path in product.places.items() if path}
    inherited = {name: parent for name in cfg.names if parent and _has(parent, name)}
    slot = {name: codec for name in ("vae", "vocoder") if codec}
    return inherited | slot | {name: place for name, place in own.items() if _has(place, name)}


def _has(path: Path, name: str) -> bool:
    """Whether a model directory has the part; of a weights file it is found out on reading."""
    if not path.is_dir():
        return path.is_file()
    if (path / f"{name}.safetensors").is_file():
        return True
    return (path / WEIGHTS).is_file() and name in system.load_config(path / CONFIG).names


def _tokenizer(product: Product, parent: Path | None) -> Tokenizer | None:
    if own := product.tokenizer():
        return own
    if parent is None or not (parent / TOKENIZER).is_file():
        return None
    return Tokenizer.load(parent / TOKENIZER, system.load_config(parent / CONFIG).text_tokens)


def _made(cfg: SystemConfig, make: Callable[[], Params], parent: Path | None, name: str, as_parent: bool) -> Params:
    """A part of the run, checked; with what its parent's file holds besides."""
    params = dict(jax.tree.map(np.asarray, make()))
    _check(cfg, name, {path: leaf.shape for path, leaf in flatten(params).items()}, "the run")
    if parent is None or not _has(parent, name):
        return params
    with _opened(parent, name) as (file, names):
        if as_parent:
            dtypes = {path: _DTYPES[file.get_slice(stored).get_dtype()] for path, stored in names.items()}
            params = unflatten({path: leaf.astype(dtypes[path]) for path, leaf in flatten(params).items()})
        kept = {path: file.get_tensor(stored) for path, stored in names.items() if path.startswith(f"{UNUSED}/")}
    return params | unflatten(kept)


@contextmanager
def _opened(place: Path, name: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """The file that has a part, whether alone or among others, and the tensors' paths in the part -> their names."""
    from safetensors import safe_open

    own = place / f"{name}.safetensors"
    path = place if not place.is_dir() else own if own.is_file() else place / WEIGHTS
    with disk.checked(disk.digests(path)), safe_open(path, "numpy") as file:
        names = list(file.keys())
        among = {x.removeprefix(f"{name}/"): x for x in names if x.startswith(f"{name}/")}
        yield file, among or {x: x for x in names}


def _read(place: Path, name: str) -> Params:
    """A part in its own dtypes."""
    with _opened(place, name) as (file, names):
        return unflatten({path: file.get_tensor(stored) for path, stored in names.items()})


def _check_place(cfg: SystemConfig, name: str, place: Path) -> None:
    with _opened(place, name) as (file, names):
        _check(cfg, name, {path: tuple(file.get_slice(x).get_shape()) for path, x in names.items()}, place)


def _check(cfg: SystemConfig, name: str, got: Mapping[str, tuple[int, ...]], where: object) -> None:
    """Raises ValueError if a part has other shapes than the configuration says."""
    expected = {path: leaf.shape for path, leaf in flatten(system.stored_shapes(cfg, name)[name]).items()}
    got = {path: shape for path, shape in got.items() if not path.startswith(f"{UNUSED}/")}
    wrong = sorted(path for path in got.keys() | expected.keys() if got.get(path) != expected.get(path))
    if wrong:
        raise ValueError(f"{where}: {name} does not fit the run's system: they differ in {', '.join(wrong[:4])}; give "
                         "a model of that system")  # fmt: skip


def _save_parts(cfg: SystemConfig, made: Made, places: Mapping[str, Path], parent: Path | None, folder: Path) -> None:
    """One file where the parent has one, else a file a part."""
    for name in cfg.names:
        if name not in made:
            _check_place(cfg, name, places[name])
    get = lambda name: made[name]() if name in made else _read(places[name], name)
    if parent and (parent / WEIGHTS).is_file():
        save_params(folder / WEIGHTS, {name: get(name) for name in cfg.names})
        return
    for name in cfg.names:
        file = folder / f"{name}.safetensors"
        if name not in made and (before := places[name] / file.name).is_file():
            _share(before, file)
        else:
            save_params(file, get(name))


def _share(file: Path, copy: Path) -> None:
    """A second name for a large file that nobody edits, or a copy of it."""
    temporary = copy.with_name(f"{copy.name}.tmp")
    with suppress(OSError):  # another disk, or one without links
        os.link(file.resolve(), temporary)
    if not temporary.exists():
        shutil.copyfile(file, temporary)
    disk.commit(temporary, copy)


def _sources(parent: Path, cfg: SystemConfig) -> dict[str, Any]:
    """What of the parent's `sources.json` still holds: of public files none of whose parts has changed its sizes."""
    path = parent / directory.SOURCES
    if not path.is_file():
        return {}
    found, before, now = config.read_json(path), system.load_config(parent / CONFIG).parts(), cfg.parts()
    whole = lambda part: (found[part]["family"], found[part]["variant"])
    changed = {whole(part) for part in found if before.get(part) != now.get(part)}
    return {part: source for part, source in found.items() if whole(part) not in changed}


def licence(folder: Path) -> str:
    """Of a model's weights, as far as it is known."""
    name = system.load_config(folder / CONFIG).name
    if folder.resolve() == pipeline.BUILT_IN.resolve():
        return "Apache-2.0"
    return ", ".join(sorted({source.licence for source in hub.MODELS[name]})) if name in hub.MODELS else NOT_STATED


def _licence_of(place: Path, part: str) -> str:
    """Of the public file that a part comes from, as far as it is known; else that of its whole model."""
    if not is_model(str(place)):
        return NOT_STATED
    cfg = system.load_config(place / CONFIG)
    if source := _sources(place, cfg).get(part):
        files = {source.name: source.licence for sources in hub.MODELS.values() for source in sources}
        return files.get(source["file"], NOT_STATED)
    return licence(place)


def _card(
    cfg: SystemConfig, rows: Mapping[str, object], places: Mapping[str, Path | None], parent: Path | None,
    product: Product,
) -> str:  # fmt: skip
    """What the model directory says of itself; its parent's card follows."""
    before = system.load_config(parent / CONFIG).name if parent else ""
    start = parent if parent and is_model(product.start) else None
    tuned = before == cfg.name and (start or "mmdit" not in product.trained)
    lines = [_row(name, value) for name, value in rows.items()]
    whence = lambda place: "this run" if place is None else before if place == parent else place.name
    terms = {name: _licence_of(place, name) if (place := places[name] or start) else NOT_STATED for name in cfg.names}
    parts = [_row(name, whence(places[name]), terms[name]) for name in cfg.names]
    of_weights = f"that of the weights of {before} ({licence(parent)}) holds for these too" if parent else NOT_STATED
    text = [
        f"# {cfg.name}{', fine-tuned' if tuned else ''}\n", "Made by `kfjax train`.\n", "| | |", "|---|---|",
        *lines, "", "| part | from | licence |", "|---|---|---|", *parts, "",
        f"Licence: {of_weights}.", f"Licence of the data: {NOT_STATED}.", "",
    ]  # fmt: skip
    follows = f"\n---\n\n{(parent / CARD).read_text()}" if parent and (parent / CARD).is_file() else ""
    return "\n".join(text) + follows


def _row(*cells: object) -> str:
    return " ".join(["|", *(f"{str(cell).replace('|', chr(92) + '|')} |" for cell in cells)])


def names(corpora: Sequence[tuple[str, float]]) -> str:
    """Of folders of features, for a card."""
    return ", ".join(Path(folder).name for folder, _ in corpora)


def rows(trained_on: str, loop: LoopConfig, optim: OptimConfig, **more: object) -> dict[str, object]:
    """Of a card: what all tasks say. Of paths the names alone."""
    return {"trained on": trained_on, "loop.steps": loop.steps, "optim.learning_rate": optim.learning_rate, **more}
