"""What every command keeps to: a user's mistake ends in one line and exit code 2, an interruption in 130."""
from __future__ import annotations

import argparse
import dis
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent
#: Modules that the core installation does without -> the extra that brings them.
EXTRAS = {
    "array_record": "data", "cv2": "data", "gradio": "demo", "grain": "data", "pymunk": "data",
    "tensorflow_datasets": "builders",
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str):
        self.exit(2, f"kfjax: error: {message}; `{self.prog} --help` lists what there is\n")


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
        say(f"error: {error.name} is not installed; pip install 'kfjax[{EXTRAS[error.name]}]'")
        return 2
    except (ValueError, OSError) as error:
        say(f"error: {reason(error)}")
        return 2


def say(message: str) -> None:
    """One line on stderr, whatever line breaks the message has."""
    print("kfjax:", " ".join(message.split()), file=sys.stderr, flush=True)


def reason(error: ValueError | OSError) -> str:
    """What to tell the user. Raises the error again if it is no mistake of theirs."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the name, its folder and the permissions"
    if isinstance(error, ValueError) and _foreseen(error):
        return str(error)
    raise error


def _foreseen(error: ValueError) -> bool:
    """Whether a `raise` of kfjax's own made the error, in words meant for the user; not a library that it called."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return Path(code.co_filename).is_relative_to(PACKAGE) and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
