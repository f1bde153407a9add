"""What every command keeps to: a user's mistake ends in one line and exit code 2, an interruption in 130."""

from __future__ import annotations

import argparse
import atexit
import difflib
import dis
import errno
import gc
import os
import re
import reprlib
import sys
import threading
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
#: Characters of a message at most; the longest, all differences of a public weights file, takes a third.
LONGEST = 100_000
#: Modules that the core installation does without -> the extra that brings them.
EXTRAS = {
    "apache_beam": "beam", "array_record": "data", "cv2": "data", "gcsfs": "gcs", "gradio": "demo", "grain": "data",
    "pyarrow": "data", "pymunk": "data", "s3fs": "s3", "tensorflow_datasets": "builders", "threadpoolctl": "data",
}  # fmt: skip
#: `gs://bucket/a`, also as `Path` shortens it, to `gs:/bucket/a`. A single letter is a drive.
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_BUCKET = re.compile("(gs|s3):/", re.IGNORECASE)


class AddressError(argparse.ArgumentTypeError, ValueError):
    """An address where a path belongs."""


def local_path(text: str | PathLike) -> Path:
    """A path on this machine; the `type` of every argument that is one.

    Raises:
      AddressError: as `local`.
    """
    return Path(local(os.fspath(text)))


def in_bucket(text: str) -> bool:
    """Whether the text is an address in a bucket (`gs://…`, `s3://…`), which `kfjax.storage.disk.path` reads."""
    return _BUCKET.match(text) is not None


def local_or_bucket(text: str) -> str:
    """As `local`, but what is in a bucket may be named too."""
    return text if in_bucket(text) else local(text)


def local(text: str) -> str:
    """The text, if it can be a path or a name; the `type` of an argument that may be either.

    Raises:
      AddressError: an address (`https://…`, `gs://…`, `file://…`).
    """
    if ADDRESS.match(text):
        raise AddressError(f"got {text}, which is an address; give a file or folder; downloading is not done here")
    return text


def install(extra: str) -> str:
    """The command that installs an extra; kfjax is on no package index, so it starts from a clone."""
    return f"pip install '.[{extra}]' in a clone of kfjax"


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line, options are written out, and a wrong one is told the nearest.

    Attributes:
      surplus: what to do about words that no argument takes.
    """

    surplus = "leave it out, or put a text of several words in quotes"

    def __init__(self, **options: Any):
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str):
        self.exit(2, f"kfjax: error: {message}; `{self.prog} --help` lists what there is\n")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse, but nothing may be left over: a subcommand's parser knows best what was meant."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(self._surplus(left))
        return found, left

    def _surplus(self, words: Sequence[str]) -> str:
        option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
        if option is None:
            return f"got {' '.join(words)!r} too, which no argument takes; {self.surplus}"
        known = [name for name in self._option_string_actions if name.startswith("--")]
        near = [name for name in known if name.startswith(option)] or difflib.get_close_matches(option, known, n=1)
        return f"unknown option {option}" + (f"; did you mean {near[0]}?" if near else "")


def add_model(add: Callable[..., Any]) -> None:
    """The argument `--model`, by a parser's or a group's `add_argument`."""
    add(
        "--model",
        type=local_or_bucket,
        default="built-in",
        metavar="NAME|FOLDER",
        help="a published model's name "
        "(`kfjax models` lists them) or a model directory; default: the small built-in model",
    )


def add_dtype(add: Callable[..., Any]) -> None:
    """The argument `--dtype`, as `add_model`."""
    add("--dtype", choices=("float32", "bfloat16"), help="of encoders and generator; default: bfloat16 on accelerators")


def run(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Exit code of `command(argv)`: its own, 2 for a user's mistake (one line on stderr), 130 when interrupted.

    Everything else that goes wrong is a defect of ours and keeps its traceback.
    """
    try:
        return command(argv)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except SystemExit as end:  # argparse's --help and errors
        return int(end.code or 0)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        say(f"error: {error.name} is not installed; {install(EXTRAS[error.name])}")
        return 2
    except (ValueError, OSError) as error:
        say(f"error: {reason(error)}")
        return 2


def collect_rarely() -> None:
    """For a command that ends soon: imports make objects that stay, and the garbage collector looks at them again and
    again, for a tenth of a second."""
    gc.set_threshold(100_000)


def end_at_once(code: int) -> None:
    """Let this process end with `code` as soon as its threads have: taking the interpreter apart, with jax in it, takes
    a fifth of a second more, and changes nothing."""

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(end)


def end_without_threads(code: int) -> None:
    """End this process now if threads are left: those of a save that failed wait minutes for what never comes."""
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def say(message: str) -> None:
    """One line on stderr, whatever line breaks and control characters the message has."""
    print("kfjax:", quoted(" ".join(message.split()), LONGEST), file=sys.stderr, flush=True)


def quoted(found: object, most: int = 80) -> str:
    """What a file holds, as a message may show it: one line, control characters escaped, at most `most` characters.

    A text stands as it is; everything else as its `repr`, cut in depth and length before it is made.
    """
    text = found[: most + 1] if isinstance(found, str) else _SHORT.repr(found)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


class _ShortRepr(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel = 2

    def repr_bytes(self, found: bytes, level: int) -> str:
        return repr(found[: self.maxstring])

    def repr_instance(self, found: object, level: int) -> str:
        return repr(found) if isinstance(found, bool | float | None) else f"a {type(found).__name__}"


_SHORT = _ShortRepr()


def reason(error: ValueError | OSError) -> str:
    """What to tell the user. Raises the error again if it is no mistake of theirs."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'writing'}: {error.strerror}; make room and run again"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the name, its folder and the permissions"
    if isinstance(error, ValueError) and _foreseen(error):
        return str(error)
    raise error


def _foreseen(error: ValueError) -> bool:
    """Whether a `raise` of kfjax's own made the error, in words meant for the user; not a library that it called."""
    trace = error.__traceback__
    assert trace is not None  # it was raised
    while trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return Path(code.co_filename).is_relative_to(PACKAGE) and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
