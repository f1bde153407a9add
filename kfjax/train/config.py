"""Configs of runs: read from a file, changed from the command line, kept with the run and compared with it."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
import os
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfjax import command
from kfjax import config as strict
from kfjax.storage import disk

if TYPE_CHECKING:
    from ml_collections import ConfigDict

#: Settings that a later run in the same folder may change, besides the loop's own, of which only the seed is bound:
#: the curriculum of durations.
FREE = {"data.buckets", "optim.decay_steps"}
#: 0 means the devices at hand, of which a later run may have others: the number is noted with the run.
MULTIPLE = "data.batch_multiple"
#: Settings that earlier versions lacked, at what their runs did.
ADDED = {"step.known": 0.0, "system.known_as": "renoised", "system.mmdit.sync_align": "uniform"}
#: Settings that may name what is in a bucket: features, tables of their sources, model directories and weights files.
IN_BUCKETS = {f"data.{key}" for key in (
    "corpora", "validation", "sources", "start", "encoders", "vae", "vocoder", "system", "codec",
)}  # fmt: skip
#: What every config has, whatever its task.
SECTIONS = ("loop", "data")
#: The configs: inside an installed package, beside the package in a clone.
SHIPPED = next((p / "configs" for p in Path(__file__).parents[1:3] if (p / "configs").is_dir()), Path("configs"))


def load_config(spec: str) -> ConfigDict:
    """The locked config of "path/file.py" or "path/file.py:variant"; "configs/file.py" may be one of kfjax's own.

    Raises:
      ValueError: no such file or variant, or no config.
    """
    from ml_collections import ConfigDict

    name, _, variant = spec.partition(":")
    path = Path(name)
    if not path.is_file() and path.parent in (Path(), Path("configs")):
        path = SHIPPED / path.name
    if not path.is_file():
        own = ", ".join(f"configs/{path.name}" for path in sorted(SHIPPED.glob("*.py")))
        raise ValueError(f"config: no file {name}; give the path of a Python file with get_config, or one of {own}")
    module_spec = importlib.util.spec_from_file_location("config", path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"config: got {name}, expected a Python file that ends in .py")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config: {name} defines no get_config(variant); see configs/ for examples")
    try:
        made = module.get_config(variant)
    except KeyError as error:
        if error.args != (variant,):
            raise
        raise ValueError(f"config: {name} has no variant {variant!r}; its docstring names them") from None
    if not isinstance(made, Mapping | ConfigDict):
        raise ValueError(f"config: get_config of {name} gave {type(made).__name__}; expected a ConfigDict or a dict")
    return (made if isinstance(made, ConfigDict) else ConfigDict(dict(made))).lock()


def complete(config: ConfigDict) -> None:
    """Settings of the loop that the config leaves out, at their defaults: all of them can be set.

    Raises:
      ValueError: a config without the sections that every task has.
    """
    from kfjax.train.engine.loop import LoopConfig

    for section in SECTIONS:
        if not isinstance(got := config.to_dict().get(section), dict):
            found = "none" if got is None else repr(got)
            raise ValueError(f"config.{section}: got {found}, expected a section (a dict); see configs/ for examples")
    given = config.to_dict()["loop"]
    with config.unlocked():
        config.loop = asdict(LoopConfig()) | given


def apply(config: ConfigDict, assignment: str) -> None:
    """Set one `key=value`; the value is a Python literal, or else a string, of the type that the config has there."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ValueError(f"--set: got {assignment!r}, expected KEY=VALUE, e.g. loop.steps=500")
    assign(config, key, text)


def assign(config: ConfigDict, key: str, value: Any) -> None:
    """Set one key. A text is read as `apply` reads it; paths become texts, NumPy's numbers and arrays Python's.

    Raises:
      ValueError: an unknown key, a value of another type than the config has there.
    """
    known = dict(flat(config.to_dict()))
    if key not in known:
        known = defaults(config) | known
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"--set: unknown key {key}; {advice}")
    _put(config, key.split("."), _typed(key, _plain(key, value), known[key]))


def _put(config: ConfigDict, path: list[str], value: Any) -> None:
    """Set a leaf; the sections on the way to it come into being."""
    from ml_collections import ConfigDict

    with config.unlocked():
        for name in path[:-1]:
            if config.get(name) is None:
                config[name] = ConfigDict()
            section: Any = config[name]  # whatever it holds, it is a section: its keys were looked up
            config = section
        config[path[-1]] = value


def defaults(config: ConfigDict) -> dict[str, Any]:
    """{"a.b": its default} of all settings of the config's task, those too that the config leaves out."""
    from kfjax.train.tasks.make import TASKS  # imports jax

    task: Any = config.get("task")
    if (kind := TASKS.get(task)) is None:
        return {}
    run = next(iter(typing.get_type_hints(kind.make).values()))  # the dataclass that the task is made of
    return strict.settings(run)


def check_addresses(config: ConfigDict) -> None:
    """Raises ValueError for an address in the settings that name files, but for what may be in a bucket."""
    for key, value in flat(config.to_dict()["data"], "data."):
        try:
            for text in _texts(value):
                (command.local_or_bucket if key in IN_BUCKETS else command.local)(text)
        except command.AddressError as error:
            raise ValueError(f"{key}: {error}") from None


def _texts(value: Any) -> Iterator[str]:
    """The texts in a setting: folders of several corpora stand in tuples."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _plain(key: str, value: Any) -> Any:
    """The value as config.json can hold it."""
    if isinstance(value, PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy's and jax's
        return value.tolist()
    if isinstance(value, list | tuple):
        return type(value)([_plain(key, part) for part in value])
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"--set: {key} got a {type(value).__name__}, expected a number, text, path, or a list of these")


def _typed(key: str, value: Any, current: Any) -> Any:
    if isinstance(current, str):
        return str(value)
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if isinstance(current, float) and type(value) is int:
        return float(value)
    expected = (list, tuple) if isinstance(current, list | tuple) else (type(current),)
    if current is not None and type(value) not in expected:
        got = f"{value!r} ({type(value).__name__})"
        raise ValueError(f"--set: {key} got {got}, expected {type(current).__name__}; its value now is {current!r}")
    return value


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b", value) of all leaves of nested dicts."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def settings_of(config: ConfigDict) -> dict[str, Any]:
    """{"a.b": value} of all settings, as JSON gives them back."""
    return dict(flat(json.loads(_json(config))))


def stored(workdir: Path) -> dict[str, Any]:
    """The settings of the run that the folder holds; empty for none. Raises ValueError if they can't be read."""
    path = workdir / "config.json"
    try:
        return dict(flat(json.loads(path.read_text()))) if path.exists() else {}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); give another --workdir") from None


def fix_multiple(config: ConfigDict, number: int) -> None:
    """Put the number in place of a `data.batch_multiple` of 0."""
    if dict(flat(config.to_dict())).get(MULTIPLE) == 0:
        config.update_from_flattened_dict({MULTIPLE: number})


def check_workdir(workdir: Path, config: ConfigDict, own: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the keys, if the folder holds a run of another config (how long it runs may differ).

    Args:
      own: the config's settings before any was changed. A run of a version that did not know a setting of `data` did as
        the config says of itself; settings of the other sections have defaults of their own where a config is silent.
    """
    if not (before := stored(workdir)):
        return
    now = settings_of(config)
    before = {key: value for key, value in own.items() if key.startswith("data.")} | before
    before = {key: value for key, value in ADDED.items() if key in now} | before
    if before.get(MULTIPLE) == 0:  # an earlier version's run, which did not note its devices: any number may be it
        before[MULTIPLE] = now.get(MULTIPLE)
    bound = [key for key in before.keys() | now.keys() if key not in FREE and _binds(key)]
    differing = sorted(key for key in bound if before.get(key, ...) != now.get(key, ...))
    if any(key not in before or key not in now for key in differing):
        # What one of them leaves out is at its default. Of `system` that is what the named system says.
        left_out = {key: json.loads(json.dumps(value)) for key, value in defaults(config).items()
                    if key in differing and not key.startswith("system.")}  # fmt: skip
        before, now = left_out | before, left_out | now
        differing = [key for key in differing if before.get(key, ...) != now.get(key, ...)]
    if differing:
        shown = [f"{key} was {before.get(key, 'not set')}, is {now.get(key, 'not set')}" for key in differing[:6]]
        advice = "give another --workdir, or the same settings"
        raise ValueError(f"{workdir} holds a run of another config: {'; '.join(shown)}; {advice}")


def _binds(key: str) -> bool:
    return key == "loop.seed" or not key.startswith("loop.")


def write_config(workdir: Path, config: ConfigDict) -> None:
    """The effective config as config.json."""
    workdir.mkdir(parents=True, exist_ok=True)
    disk.write_text(workdir / "config.json", _json(config) + "\n", noted=False)


def _json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=1)
