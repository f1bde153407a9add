"""Configuration below the command line: frozen dataclasses, filled strictly."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from kfjax.command import quoted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

#: Of JSON that is read whole: the index of the largest public models takes half. In memory it grows up to thirtyfold.
MAX_JSON_BYTES = 16 * 2**20


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      ValueError: larger than `MAX_JSON_BYTES`, no JSON, or nested too deeply; the message does not name the file.
      OSError: it can't be read.
    """
    with path.open("rb") as file:
        return parse_json(file.read(MAX_JSON_BYTES + 1))


def parse_json(text: bytes) -> Any:
    """The same of JSON in memory."""
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES >> 20} MiB of JSON")
    try:
        return json.loads(text)
    except RecursionError:  # the parser counts its own depth
        raise ValueError("JSON nested too deeply") from None
    except ValueError as error:  # syntax, encoding, numbers of too many digits
        raise ValueError(f"no valid JSON ({quoted(str(error))})") from None


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "config") -> T:
    """Build the dataclass `cls` from a mapping, nested dataclasses included.

    Where one of several dataclasses may stand, the mapping's `kind` says which (each has a field of that name, of its
    own `Literal`). Without a `kind`, as in older files, it is the one that knows all the keys.

    Raises:
      ValueError: an unknown key (with the nearest known one), a missing one, a value of the wrong type, a mapping that
        fits several dataclasses.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: got {_shown(values)}, expected a mapping with the keys of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = [quoted(str(key)) for key in values if key not in fields]
    if unknown:
        near = difflib.get_close_matches(unknown[0], fields, n=1)
        advice = f"did you mean {where}.{near[0]}?" if near else f"known keys: {', '.join(sorted(fields))}"
        raise ValueError(f"unknown key {where}.{unknown[0]}; {advice}")
    missing = [name for name, f in fields.items() if name not in values and _required(f)]
    if missing:
        raise ValueError(f"missing key {', '.join(f'{where}.{name}' for name in missing)}; {cls.__name__} needs it")
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def to_dict(cfg: Any) -> dict[str, Any]:
    """The inverse of `from_dict`: plain dicts, lists and scalars, ready for JSON."""
    return dataclasses.asdict(cfg)


def settings(cls: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b": its default} of every setting of a dataclass and of those within it; None where there is no default.

    Where one of several dataclasses may stand, the settings of all of them; where none may stand too, its own name.
    """
    hints, found = typing.get_type_hints(cls), {}
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        inner = [option for option in options if _is_dataclass(option)]
        for option in reversed(inner):
            found |= settings(option, f"{prefix}{f.name}.")
        if not inner:
            found[f"{prefix}{f.name}"] = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            if found[f"{prefix}{f.name}"] is dataclasses.MISSING:
                found[f"{prefix}{f.name}"] = None
        elif type(None) in options:
            found[f"{prefix}{f.name}"] = None
    return found


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        if value is None and type(None) in typing.get_args(hint):
            return None
        hint = _option(options, value, where)
    if _is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, typing.cast(Any, value), where=where)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ValueError(f"{where}: got {_shown(value)}, expected one of {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        return _tuple(typing.get_args(hint), value, where)
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where}: got a whole number of {value.bit_length()} bits, expected 64 at most")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ValueError(f"{where}: got {_shown(value)} ({type(value).__name__}), expected {hint.__name__}")
    return value


def _shown(value: Any) -> str:
    return quoted(repr(value[:80]) if isinstance(value, str) else value)


def _option(options: list[Any], value: Any, where: str) -> Any:
    """The member of a union that `value` is meant for."""
    if not isinstance(value, Mapping) or not any(map(_is_dataclass, options)):
        return next((option for option in options if isinstance(option, type) and type(value) is option), options[0])
    options = [option for option in options if _is_dataclass(option)]
    kinds = {option: typing.get_args(typing.get_type_hints(option).get("kind")) for option in options}
    if len(options) > 1 and "kind" in value:
        named = [option for option in options if value["kind"] in kinds[option]]
        if not named:
            known = ", ".join(str(kind) for several in kinds.values() for kind in several)
            raise ValueError(f"{where}.kind: got {_shown(value['kind'])}, expected one of {known}")
        return named[0]
    known = {option: sum(f.name in value for f in dataclasses.fields(option)) for option in options}
    nearest = [option for option in options if known[option] == max(known.values())]
    if len(nearest) > 1:
        choices = ", ".join(f"{where}.kind={kind!r}" for option in nearest for kind in kinds[option])
        raise ValueError(f"{where}: its keys fit {' and '.join(o.__name__ for o in nearest)}; add one of {choices}")
    return nearest[0]


def _is_dataclass(hint: Any) -> TypeGuard[type[DataclassInstance]]:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """JSON has lists where we have tuples; `tuple[int, ...]` is of any length."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: got {_shown(value)} ({type(value).__name__}), expected a list")
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(hints) != len(value):
        raise ValueError(f"{where}: got {len(value)} values, expected {len(hints)}")
    return tuple(_value(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))
