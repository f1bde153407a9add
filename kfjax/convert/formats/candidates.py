"""Choice of a state dict in a file: training checkpoints hold several, with an optimizer and under prefixes.

    choose(found, holding={"audio_input_proj.0.weight"})    # {"ema": {"module.audio_input_proj.0.weight": ...}, ...}

A candidate is a dict of tensors, or those of its tensors whose keys begin alike, as DistributedDataParallel
(`module.`), torch.compile (`_orig_mod.`) and wrappers (`model.`, `ema_model.`) have it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from kfjax.command import quoted

State = dict[str, np.ndarray]

#: Words of a candidate's name that do not say what it is.
WRAPPERS = {"module", "_orig_mod", "model", "state_dict"}
#: Depth to which dicts are searched: weights lie no deeper, and hostile files may be endless.
MAX_DEPTH, MAX_NAME_CHARACTERS, MAX_DICTS = 6, 256, 100_000


def choose(found: Any, inside: str | None, holding: Collection[str], say: Callable[[str], None]) -> State:
    """The state dict among a file's contents, without its prefix.

    The only candidate is taken, of several the only one that is an exponential moving average, both with a word.

    Args:
      inside: its name or the beginning of its name: keys and prefixes joined by dots. Left out, it is chosen.
      holding: keys of which the wanted one has at least one; empty: any dict of nothing but tensors will do.
      say: called with what was chosen, where there was a choice.

    Raises:
      ValueError: none of that name, or none, or several to choose from; the message does not name the file.
    """
    named = _candidates(found, holding) or _candidates(found, ())
    if inside is not None:
        chosen = {name: state for name, state in named.items() if f"{name}.".startswith(f"{inside}.")}
        if not chosen:
            raise ValueError(_no_part(inside, found, named))
        named = chosen
    averages = [name for name in named if is_average(name)]
    if len(named) == 1:
        (name,) = named
    elif inside is None and len(averages) == 1:
        (name,) = averages
    elif named:
        raise ValueError(f"it holds several state dicts: {listed(named)}; name one with --inside")
    else:
        raise ValueError(f"it holds {outline(found)}, not only tensors; expected a state dict, take another file")
    others = [other for other in named if other != name]
    if others:
        say(f"taken is {listed([name])}, the moving average; others in it (--inside): {listed(others)}")
    elif inside is None and name:
        say(f"taken is {listed([name])}, the only state dict in it")
    return named[name]


def is_average(name: str) -> bool:
    """Whether a candidate's name calls it a moving average: `ema`, `model_ema`, `ema.ema_model.module`."""
    words = [word for word in name.split(".") if word not in WRAPPERS]
    return bool(words) and "ema" in words[-1].lower().replace("-", "_").split("_")


def outline(found: Any, most: int = 8) -> str:
    """What something is, for messages: a dict by its keys, those of tensors left out when there are others."""
    if not isinstance(found, dict):
        return f"a {type(found).__name__}"
    keys = [key for key, value in found.items() if not isinstance(value, np.ndarray)]
    tensors = len(found) - len(keys)
    shown = listed(keys, most)
    return f"{tensors} tensors" + (f" and {shown}" if keys else "") if tensors else f"a dict of {shown or 'nothing'}"


def listed(names: Collection[Any], most: int = 8) -> str:
    """Names out of a file, for messages: the first few and how many there are besides."""
    shown = ", ".join(quoted(name) or "''" for name in list(names)[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _no_part(inside: str, found: Any, named: Collection[str]) -> str:
    if isinstance(found, dict) and inside in found:
        return f"its {quoted(inside)} is {outline(found[inside])}, expected tensors; name another part"
    return f"it has no part {quoted(inside)}; expected one of {listed(named) or outline(found)}"


def _candidates(found: Any, holding: Collection[str]) -> dict[str, State]:
    made = {}
    for path, node in _dicts(found):
        tensors = {key: x for key, x in node.items() if isinstance(key, str) and isinstance(x, np.ndarray)}
        if not holding and tensors and len(tensors) == len(node):
            made[path] = tensors
        prefixes = {
            key.removesuffix(wanted)
            for wanted in holding
            for key in tensors
            if key == wanted or key.endswith(f".{wanted}")
        }
        for prefix in sorted(prefixes):
            inner = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
            state = {
                key.removeprefix(prefix): x for key, x in tensors.items()
                if key.startswith(prefix) and not (inner and key.startswith(inner))
            }  # fmt: skip
            made[f"{path}.{prefix}".strip(".")] = state
    return made


def _dicts(found: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every dict in nested ones with string keys, with its path; a state dict has none inside."""
    level = [("", found)] if isinstance(found, dict) else []
    count = 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_DICTS:
            raise ValueError(f"it holds more than {MAX_DICTS} dicts in dicts, expected a state dict")
        yield from level
        level = [
            (name, value)
            for path, node in level
            for key, value in node.items()
            if isinstance(value, dict) and isinstance(key, str)
            and len(name := f"{path}.{key}".removeprefix(".")) <= MAX_NAME_CHARACTERS
        ]  # fmt: skip
