"""Runs a notebook in a Jupyter kernel, as Colab does: its forms filled in, Colab's own module stood in for.

python tests/notebook_run.py colab/*.ipynb      runs them as they stand, and keeps what they show
"""

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import av
import nbformat
import numpy as np
import PIL.Image
from nbclient import NotebookClient
from scipy.io import wavfile

#: Runs before the notebook. Warnings that a kernel raises of itself (PendingDeprecationWarning) pass.
_WARNINGS = """
import warnings

for kind in (DeprecationWarning, FutureWarning, RuntimeWarning, UserWarning):
    warnings.simplefilter("error", kind)
"""
#: After that, where there is a Colab. jax comes first: in Colab it asks for more than this has. `upload` does what
#: Colab's does: the file is in the working folder and its bytes in the answer, or none when cancelled.
_COLAB = """
import shutil, sys, types
from pathlib import Path
import jax

def upload():
    if not UPLOAD:
        return {}
    shutil.copy(UPLOAD, Path(UPLOAD).name)
    return {Path(UPLOAD).name: Path(UPLOAD).read_bytes()}

colab = types.ModuleType("google.colab")
colab.files = types.SimpleNamespace(upload=upload, download=lambda path: print("downloaded", Path(path).name))
sys.modules["google.colab"] = colab
"""
#: tqdm's, where a Jupyter has no widgets for its bars.
_NO_WIDGETS = "ignore:IProgress not found"


class Shown(NamedTuple):
    """A sound, a film or a picture of a cell's output."""

    kind: str  # as MIME has it
    content: bytes

    def sound(self) -> tuple[int, np.ndarray]:
        """Rate in Hz and numbers, from -1 to 1 [t, c]."""
        assert self.kind == "audio/wav"
        rate, wave = wavfile.read(io.BytesIO(self.content))
        return rate, wave / 2**15


class Report(NamedTuple):
    """What a notebook showed and printed."""

    shown: list[Shown]
    said: str


def code_cells(script: str) -> list[str]:
    """The code cells of a script in the percent format."""
    cells = re.split(r"^# %%", script, flags=re.MULTILINE)[1:]
    return [cell.partition("\n")[2] for cell in cells if "[markdown]" not in cell.partition("\n")[0]]


def filled_in(code: str, fields: dict) -> str:
    """A cell after its form was filled in: Colab rewrites the line NAME = value  # @param."""
    for name, value in fields.items():
        code = re.sub(rf"^{name} = .*?(?=  # @param|$)", f"{name} = {value!r}", code, flags=re.MULTILINE)
    return code


def run(notebook: Path, folder: Path, fields: dict, upload: str | None, environment: dict) -> Report:
    """Runs every cell in `folder`; the first that fails is raised.

    Args:
      upload: the file that someone chooses, "" of someone who cancels, None where there is no Colab.
    """
    book = nbformat.read(notebook, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.source = filled_in(cell.source, fields)
    before = _WARNINGS if upload is None else f"{_WARNINGS}UPLOAD = {upload!r}\n{_COLAB}"
    book.cells[:0] = [nbformat.v4.new_code_cell(before)]
    outputs = _executed(book, folder, environment)
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    return Report([_shown(output.data) for output in outputs if output.output_type == "display_data"], said)


def store(notebook: Path) -> None:
    """Runs a notebook as it stands, and keeps what it shows in it: sounds as MP3, pictures with a palette."""
    book = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "XLA_FLAGS": "", "PYTHONWARNINGS": _NO_WIDGETS}
        outputs = _executed(book, Path(folder), environment)
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # when it ran
    book.metadata.pop("language_info", None)  # of this machine
    for output in outputs:
        if output.output_type == "display_data":
            output.data = _small(output.data)
    nbformat.write(book, notebook)


def _executed(book: nbformat.NotebookNode, folder: Path, environment: dict) -> list[nbformat.NotebookNode]:
    """All outputs, which then are in the book too."""
    client = NotebookClient(book, kernel_name="python3", timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute(env=os.environ | environment)
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def _small(data: dict) -> dict:
    """The same output in fewer bytes; films are small as they are."""
    encoded = lambda content: base64.b64encode(content).decode()
    if "image/png" in data:
        stored = io.BytesIO()
        with PIL.Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as picture:
            picture.convert("RGB").quantize(64).save(stored, "PNG", optimize=True)
        return {"image/png": encoded(stored.getvalue())}
    shown = _shown(data)
    if shown.kind != "audio/wav":
        return data
    rate, wave = shown.sound()
    address = f"data:audio/mpeg;base64,{encoded(_mp3(rate, wave))}"
    page = re.sub(r'src="data:audio/wav;base64,[^"]+"', f'src="{address}"', data["text/html"])
    return {"text/html": page.replace('type="audio/wav"', 'type="audio/mpeg"')}


def _mp3(rate: int, wave: np.ndarray) -> bytes:
    stored = io.BytesIO()
    with av.open(stored, "w", format="mp3") as target:
        stream = target.add_stream("mp3", rate=rate, layout="stereo", bit_rate=64_000)
        numbers = np.ascontiguousarray(wave.T, np.float32)
        frame = av.AudioFrame.from_ndarray(numbers, format="fltp", layout="stereo")
        frame.sample_rate = rate
        target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return stored.getvalue()


def _shown(data: dict) -> Shown:
    """Pictures come as they are, sounds and films inside a page's tag."""
    if "image/png" in data:
        return Shown("image/png", base64.b64decode(data["image/png"]))
    kind, content = re.search(r'src="data:([^;]+);base64,([^"]+)"', data["text/html"]).groups()
    return Shown(kind, base64.b64decode(content))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        store(Path(argument))
