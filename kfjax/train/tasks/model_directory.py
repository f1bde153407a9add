"""The model directory that a run ends in: the parts that it trained, beside those that are there already.

write(run, state.ema, "run/model", step=4000)                        # the others from what the config names
write(run, StoredState(...), "mine", base="mmaudio-large-44k-v2")    # or from a model
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from kfjax import config, pipeline, system
from kfjax.convert import directory, hub
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.nn.module import Params, flatten
from kfjax.scenes import Corpus
from kfjax.scenes.batches import captions
from kfjax.storage import disk
from kfjax.storage.checkpoint import save_params, unflatten
from kfjax.system import CARD, CONFIG, ENCODERS, TOKENIZER, UNUSED, WEIGHTS, SystemConfig
from kfjax.train.tasks import codec_step
from kfjax.train.tasks.flow import step as flow_step
from kfjax.train.tasks.lora import merge, with_words
from kfjax.train.tasks.lora_task import free_rows, known_tokenizer
from kfjax.train.tasks.weights import is_folder

#: Part -> makes its weights.
Made = dict[str, Callable[[], Params]]
NOT_STATED = "not stated"


class IncompleteModel(ValueError):
    """Parts that neither the run nor what its config names has."""


def write(
    run: Any,
    weights: Mapping[str, Params],
    target: str | Path,
    *,
    base: str | Path = "",
    step: int | None = None,
    raw: bool = False,
) -> None:
    """Write the model directory `target`. One part is in memory at a time, but for a base in a single file.

    A part comes from the run, else from the paths in its config, else from `base`. Weights files of a base are shared
    by hard links where the disk has them. What a converted part's file holds besides is kept, so that
    `kfjax convert TARGET --to torch` writes the public files. LoRA keeps the dtypes of the model that it started from.

    Args:
      run: the config of the run, of any task.
      weights: its branches, of the parameters or of their average; each is asked for once, when it is written.
      base: a model directory or the name of a model, for the parts that the run does not know.
      step, raw: for the card: of `weights`; `raw`: they are the parameters, not their average.

    Raises:
      IncompleteModel: a part that nothing gives.
      ValueError: parts of other shapes; no such base; `target` holds something else.
      CheckpointError: a file is not as it was written.
    """
    start = getattr(run.data, "start", "")
    parent = folder_of(base or (start if is_model(start) else ""))
    made = _made(run, weights)
    if parent is None and not hasattr(run, "system"):
        raise IncompleteModel(f"{', '.join(made)} alone is no model; {_ADVICE}")
    cfg = _system(run, parent)
    places, words = _places(run, cfg, parent), _tokenizer(run, parent)
    made = {name: make for name, make in made.items() if name in _trained(run) or name not in places}
    missing = [name for name in cfg.names if name not in made and name not in places]
    if missing or words is None:
        raise IncompleteModel(f"missing {', '.join(missing + ([TOKENIZER] if words is None else []))}; {_ADVICE}")
    get = partial(_part, cfg, made, places, parent, cast=_lora_rank(run) > 0)
    with system.replacing(target, mark=CONFIG) as folder:
        disk.write_text(folder / CONFIG, json.dumps(config.to_dict(cfg), indent=1) + "\n")
        _save_parts(cfg, made, places, parent, folder, get)
        words.save(folder / TOKENIZER)
        if parent and (sources := _sources(parent, cfg)):
            for part in sources.keys() - set(cfg.names):  # converted weights that generation does not use
                _share(parent / f"{part}.safetensors", folder / f"{part}.safetensors")
            disk.write_text(folder / directory.SOURCES, json.dumps(sources, indent=1) + "\n")
        (folder / CARD).write_text(_card(run, cfg, {**places, **dict.fromkeys(made)}, parent, step, raw, words))


_ADVICE = "kfjax export WORKDIR OUTPUT --base MODEL takes the other parts from MODEL"


def is_model(path: str) -> bool:
    """Whether it names a model directory."""
    return is_folder(path) and Path(path, CONFIG).is_file()


def folder_of(model: str | Path) -> Path | None:
    """Of a model, by the names that `pipeline.load` takes; None for ""."""
    if str(model) == "built-in":
        return pipeline.BUILT_IN
    if str(model) == "":
        return None
    if Path(model).exists() and not is_model(str(model)):
        raise ValueError(f"base: got {model}, expected a model directory (with {CONFIG}) or a model's name")
    return Path(model) if Path(model).exists() else hub.fetch(str(model), pipeline.cache_folder() / "models")


def _lora_rank(run: Any) -> int:
    return run.step.lora.rank if run.task == "flow" else 0


def _trained(run: Any) -> tuple[str, ...]:
    """The parts that a run trains."""
    alone = {"codec": "vae", "vocoder": "vocoder", "bigvgan": "vocoder", "stereo": "stereo"}
    if run.task in alone:
        return (alone[run.task],)
    return ("text", "mmdit") if _lora_rank(run) else flow_step.trained_parts(run.step)


def _made(run: Any, weights: Mapping[str, Params]) -> Made:
    """The parts that the weights of a run hold: those that it trained, and those that were with them."""
    if run.task == "codec":
        return {"vae": lambda: codec_step.with_statistics(run, weights["gen"])}
    if run.task == "bigvgan":
        return {"vocoder": lambda: weights["gen"]}
    if run.task == "vocoder":
        return {"vocoder": lambda: weights["vocoder"]}
    made: Made = {name: partial(weights.__getitem__, name) for name in run.system.names if name in weights}
    if _lora_rank(run):
        made["mmdit"] = lambda: merge(weights["mmdit"], weights["lora"], run.step.lora)
        if "words" in weights:
            made["text"] = lambda: with_words(weights["text"], cast(Any, weights["words"]))
        elif is_model(run.data.start):
            made.pop("text", None)
    return made


def _system(run: Any, parent: Path | None) -> SystemConfig:
    """Of the whole model: the run's own; of a codec's part trained alone, its parent's with that part in place."""
    before = system.load_config(parent / CONFIG) if parent else None
    if hasattr(run, "system"):
        like = before.mmdit if before else None
        switches = {name: getattr(like, name, False) for name in ("remat", "unroll")}  # of training alone
        return replace(run.system, mmdit=replace(run.system.mmdit, **switches))
    assert before is not None
    training = run.training
    if before.codec.mel != training.mel:
        raise ValueError(
            f"{parent}: got a codec of {before.codec.mel}, expected the run's {training.mel}; give another"
        )
    part = {"vae": training.vae} if run.task == "codec" else {"vocoder": training.vocoder}
    return replace(before, codec=replace(before.codec, **part))


def _places(run: Any, cfg: SystemConfig, parent: Path | None) -> dict[str, Path]:
    """Part -> the model directory or weights file that has it: what the config names comes before the parent."""
    named: dict[str, str | None] = {}
    if hasattr(run, "system") and not run.data.extracted:
        data = run.data
        named = dict.fromkeys(ENCODERS, data.encoders) | {"vae": data.vae, "vocoder": data.vocoder}
    elif run.task in ("vocoder", "bigvgan"):
        named = {"vae": run.data.vae}
    own = {name: Path(path) for name, path in named.items() if path and _has(Path(path), name)}
    inherited = {name: parent for name in cfg.names if parent and _has(parent, name)}
    return inherited | own


def _has(path: Path, name: str) -> bool:
    """Whether a model directory has the part; of a weights file it is found out on reading."""
    if not path.is_dir():
        return path.is_file()
    if (path / f"{name}.safetensors").is_file():
        return True
    return (path / WEIGHTS).is_file() and name in system.load_config(path / CONFIG).names


def _tokenizer(run: Any, parent: Path | None) -> Tokenizer | None:
    """Of the captions: with the words that LoRA learnt; None where there is none."""
    if hasattr(run, "system"):
        length, own = run.system.text_tokens, run.data.tokenizer
        if free_rows(run):
            return known_tokenizer(run).extended(captions(Corpus(run.data.folder)), free_rows(run))
        if own and not run.data.extracted and Path(own).is_file():
            return Tokenizer.load(own, length)
    if parent is None or not (parent / TOKENIZER).is_file():
        return None
    return Tokenizer.load(parent / TOKENIZER, system.load_config(parent / CONFIG).text_tokens)


def _part(
    cfg: SystemConfig, made: Made, places: Mapping[str, Path], parent: Path | None, name: str, *, cast: bool
) -> Params:
    """A part's weights, checked; with what its parent's file holds besides."""
    if name not in made:
        return _fitting(_stored(places[name], name), cfg, name, places[name])
    params = _fitting(jax.tree.map(np.asarray, dict(made[name]())), cfg, name, "the run")
    if parent is None or not _has(parent, name):
        return params
    if cast:
        before = _stored(parent, name)
        as_before = lambda new, old: new.astype(old.dtype)
        params = jax.tree.map(as_before, params, {branch: before[branch] for branch in params})
    return params | _unused(parent / f"{name}.safetensors")


def _stored(path: Path, name: str) -> Params:
    """A part in its own dtypes, from a model directory, from a file of its own or from one that holds several."""
    own = path / f"{name}.safetensors"
    file = path if not path.is_dir() else own if own.is_file() else path / WEIGHTS
    found = directory.read_part(file)
    return found.get(name, found)


def _unused(file: Path) -> Params:
    """What a converted part's file holds besides the part."""
    from safetensors import safe_open

    if not file.is_file():
        return {}
    with safe_open(file, "numpy") as opened:
        names = [name for name in opened.keys() if name.startswith(f"{UNUSED}/")]  # noqa: SIM118
        return unflatten({name: opened.get_tensor(name) for name in names})


def _fitting(params: Params, cfg: SystemConfig, name: str, where: object) -> Params:
    expected = flatten(system.stored_shapes(cfg, name)[name])
    got = flatten({branch: leaf for branch, leaf in params.items() if branch != UNUSED})
    shape = lambda leaves, path: leaves[path].shape if path in leaves else None
    wrong = sorted(path for path in got.keys() | expected.keys() if shape(got, path) != shape(expected, path))
    if wrong:
        raise ValueError(f"{where}: {name} does not fit the run's system: they differ in {', '.join(wrong[:4])}; give "
                         "a model of that system")  # fmt: skip
    return params


def _save_parts(
    cfg: SystemConfig, made: Made, places: Mapping[str, Path], parent: Path | None, folder: Path,
    get: Callable[[str], Params],
) -> None:  # fmt: skip
    """One file where the parent has one, else a file a part."""
    if parent and (parent / WEIGHTS).is_file():
        save_params(folder / WEIGHTS, {name: get(name) for name in cfg.names})
        return
    for name in cfg.names:
        file, place = folder / f"{name}.safetensors", places.get(name)
        params = get(name)
        if name in made or place is None or not (before := place / file.name).is_file():
            save_params(file, params)
        else:
            _share(before, file)


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


def _card(
    run: Any, cfg: SystemConfig, places: Mapping[str, Path | None], parent: Path | None, step: int | None, raw: bool,
    words: Tokenizer,
) -> str:  # fmt: skip
    """What the model directory says of itself; its parent's card follows."""
    rows = settings(run) | {"step": NOT_STATED if step is None else step, "weights": "raw" if raw else "average (EMA)"}
    if free_rows(run) if hasattr(run, "system") else 0:
        rows["words added"] = ", ".join(words.words(run.system.text.vocab - free_rows(run))) or "none"
    before = system.load_config(parent / CONFIG).name if parent else ""
    title = f"{before}, fine-tuned" if before else cfg.name
    lines = [_row(name, value) for name, value in rows.items()]
    whence = lambda place: "this run" if place is None else before if place == parent else place.name
    parts = [_row(name, whence(places[name])) for name in cfg.names]
    of_weights = f"that of the weights of {before} ({licence(parent)}) holds for these too" if parent else NOT_STATED
    text = [
        f"# {title}\n", "Made by `kfjax train`.\n", "| | |", "|---|---|", *lines, "", "| part | from |", "|---|---|",
        *parts, "", f"Licence: {of_weights}.", f"Licence of the data: {NOT_STATED}.", "",
    ]  # fmt: skip
    follows = f"\n---\n\n{(parent / CARD).read_text()}" if parent and (parent / CARD).is_file() else ""
    return "\n".join(text) + follows


def _row(name: str, value: object) -> str:
    return f"| {name} | {str(value).replace('|', chr(92) + '|')} |"


def settings(run: Any) -> dict[str, object]:
    """Those that a card names; of paths the names alone."""
    optim = run.optim if hasattr(run, "optim") else run.training.optim
    rows = {"trained on": _trained_on(run), "loop.steps": run.loop.steps, "optim.learning_rate": optim.learning_rate}
    if _lora_rank(run):
        lora = run.step.lora
        targets = ", ".join(lora.targets)
        rows |= {"step.lora.rank": lora.rank, "step.lora.alpha": lora.alpha, "step.lora.targets": targets}
    return rows


def _trained_on(run: Any) -> str:
    """Names of its corpora."""
    data = run.data
    if getattr(data, "synthetic", False):
        return "random features"
    if corpora := getattr(data, "corpora", ()):
        return ", ".join(Path(folder).name for folder, _ in corpora)
    if run.task in ("vocoder", "bigvgan"):  # `folder` is where sounds are kept
        folder = data.scenes if run.task == "vocoder" else data.sounds
        return Path(folder).name or "sounds made from nothing"
    return Path(data.folder).name
