"""Runs a notebook's script cell by cell, as Colab would: with its forms filled in and Colab's own modules stood in for.

    python tests/notebook_run.py NOTEBOOK.py ORDER.json REPORT.json

ORDER: {"fields": {"SECONDS": 1.0}, "upload": "clip.mp4" or "" or null (no Colab)}. REPORT: what was shown, what pip was
asked for, the seconds of processor time of each cell.
"""
import json
import re
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import jax  # noqa: F401  (before the stand-ins: in Colab it asks for more of it than these have; devices stay untouched)

shown: list[dict] = []
installs: list[list[str]] = []


class Shown:
    """Stands in for IPython's Audio, Image and Video: what they are given must be there, and is noted."""

    def __init__(self, data=None, **options):
        entry = {"kind": type(self).__name__}
        if isinstance(data, str):
            entry |= {"file": Path(data).name, "bytes": len(Path(data).read_bytes())}
        else:
            entry |= {"shape": list(data.shape), "peak": float(abs(data).max()), "rate": options["rate"]}
            assert not options["normalize"] and entry["peak"] <= 1, "sounds are heard as loud as they are"
        self.entry = entry


def stand_in(upload: str | None) -> None:
    """The modules of Colab and IPython; without an upload there is no Colab.

    Their packages are left out: matplotlib and flax look for a loaded IPython, and would ask more of it than this.
    """
    display = types.ModuleType("IPython.display")
    for name in ("Audio", "Image", "Video"):
        setattr(display, name, type(name, (Shown,), {}))
    display.display = lambda *things: shown.extend(thing.entry for thing in things)
    sys.modules["IPython.display"] = display
    if upload is None:
        return

    def files_upload() -> dict[str, bytes]:
        """As Colab's: the file is in the working folder, the answer has its name and bytes; none when cancelled."""
        if not upload:
            return {}
        shutil.copy(upload, Path(upload).name)
        return {Path(upload).name: Path(upload).read_bytes()}

    colab = types.ModuleType("google.colab")
    download = lambda path: shown.append({"kind": "download", "file": Path(path).name})
    colab.files = types.SimpleNamespace(upload=files_upload, download=download)
    sys.modules["google.colab"] = colab


def code_cells(script: str) -> list[str]:
    """The code cells of a script in the percent format."""
    cells = re.split(r"^# %%", script, flags=re.MULTILINE)[1:]
    return [cell.partition("\n")[2] for cell in cells if "[markdown]" not in cell.partition("\n")[0]]


def filled_in(code: str, fields: dict) -> str:
    """A cell after its form was filled in: Colab rewrites the line NAME = value  # @param."""
    for name, value in fields.items():
        code = re.sub(rf"^{name} = .*?(?=  # @param|$)", f"{name} = {value!r}", code, flags=re.MULTILINE)
    return code


def main(notebook: str, order: str, report: str) -> None:
    wishes = json.loads(Path(order).read_text())
    stand_in(wishes["upload"])
    subprocess.check_call = lambda command, **_: installs.append(command)
    names, seconds = {"__name__": "__main__"}, []
    for number, cell in enumerate(code_cells(Path(notebook).read_text())):
        start = time.process_time()
        exec(compile(filled_in(cell, wishes["fields"]), f"{Path(notebook).name}, cell {number}", "exec"), names)
        seconds.append(round(time.process_time() - start, 2))
    Path(report).write_text(json.dumps({"shown": shown, "installs": installs, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
