"""The notebooks: pairs in step, few set-up cells, every cell run with a stand-in for Colab, lengths that are right."""

import ast
import base64
import glob
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kfjax import media
from tests import notebook_run
from tests.notebook_run import Report, code_cells, filled_in
from tests.tiny import blocks
from tests.tiny.media_files import numbered
from tests.tiny.system import write_model

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.py"))
RATE_HZ = 44100
TINY = {"SECONDS": 0.7, "STEPS": 2, "TEXT_SECONDS": 0.5, "SEEDS": 2, "TRAIN_STEPS": 2, "LONG_SECONDS": 0.6}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def script(request) -> Path:
    return request.param


def notebook(script: Path) -> dict:
    return json.loads(script.with_suffix(".ipynb").read_text())


def cells(script: Path) -> list[tuple[str, str]]:
    """(kind, text) of every cell of a script in the percent format."""
    found = []
    for block in re.split(r"^# %%", script.read_text(), flags=re.MULTILINE)[1:]:
        head, _, text = block.partition("\n")
        kind = "markdown" if "[markdown]" in head else "code"
        if kind == "markdown":
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        found.append((kind, text.strip()))
    return found


def run(name: str, folder: Path, upload: str | None = None, flags: str = "", **fields) -> Report:
    """What the notebook shows; jax has not been started, as in Colab."""
    environment = {"PYTHONPATH": str(ROOT), "KFJAX_CACHE": str(folder / "cache"), "XLA_FLAGS": flags}
    return notebook_run.run(ROOT / "colab" / name, folder, TINY | fields, upload, environment)


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["demo", "tour"]


def test_pairs_are_in_step(script):
    """Same cells, in the same order. Write them anew with `jupytext --sync colab/*.py`."""
    paired = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook(script)["cells"]]
    assert paired == cells(script)


def test_notebooks_hold_results_and_open_in_colab(script):
    """Of one run, complete, small, without a trace of a machine. Anew: `python tests/notebook_run.py colab/*.ipynb`."""
    book, path = notebook(script), script.with_suffix(".ipynb")
    assert book["metadata"]["colab"]["name"] == f"kfjax {script.stem}"
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert book["nbformat"] == 4
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        says = re.search(r"^(?! )(print|display|show|table)\(", "".join(cell["source"]), re.MULTILINE)
        assert bool(cell["outputs"]) or not says, "a cell that shows something has shown it"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}, "no errors"
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}, "no warnings"
    said = "".join("".join(output.get("text", "")) for output in outputs)
    assert not re.search(r"(?<![\w<])/\w|[A-Z]:\\", said) and platform.node() not in said
    pictures = [output["data"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures and all(base64.b64decode(data["image/png"]).startswith(b"\x89PNG") for data in pictures)
    assert path.stat().st_size < 1_000_000


def test_two_cells_set_up(script):
    """Nothing is installed, and nothing but Colab's own upload imported, anywhere else."""
    tagged = [i for i, cell in enumerate(notebook(script)["cells"]) if "set-up" in cell["metadata"].get("tags", ())]
    assert len(tagged) <= 2
    for i, (kind, text) in enumerate(cells(script)):
        if kind == "code" and i not in tagged:
            imports = {
                name
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in [getattr(node, "module", None) or node.names[0].name]
            }
            assert imports <= {"google.colab"}
            assert "subprocess" not in text


def test_sounds_are_heard_as_loud_as_they_are(script):
    calls = [node for kind, text in cells(script) if kind == "code" for node in ast.walk(ast.parse(text))
             if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Audio"]  # fmt: skip
    normalized = [{k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg == "normalize"} for call in calls]
    assert normalized and all(options == {"normalize": False} for options in normalized)


def test_links_lead_somewhere(script):
    text = "\n".join(text for kind, text in cells(script) if kind == "markdown")
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    assert targets and not [target for target in targets if not (script.parent / target).exists()]


def installing(script: Path, monkeypatch, missing: set[str], code: int = 0, **fields) -> list[str]:
    """What the first cell asks pip for where these modules are missing."""
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else name)
    monkeypatch.setattr(subprocess, "call", lambda command: asked.append(command) or code)
    exec(filled_in(code_cells(script.read_text())[0], fields), {})
    assert all(command[1:-1] == ["-m", "pip", "install", "-q"] for command in asked)
    return [command[-1] for command in asked]


@pytest.mark.parametrize("machine, extra", [("cpu", ""), ("gpu", "cuda"), ("tpu", "tpu")])
def test_install(script, monkeypatch, machine, extra):
    """Where kfjax is missing, pip is asked for what notebook and machine need: of an address, a clone, or a release."""
    monkeypatch.setattr(shutil, "which", lambda name: name if machine == "gpu" else None)
    monkeypatch.setattr(glob, "glob", lambda pattern: ["/dev/accel0"] if machine == "tpu" else [])
    extras = ",".join(filter(None, (extra, "data" if script.stem == "tour" else "")))
    extras = extras and f"[{extras}]"
    monkeypatch.chdir(ROOT / "colab")
    address = {"REPOSITORY": "https://example.org/kfjax.git"}
    wanted = f"kfjax{extras} @ git+https://example.org/kfjax.git"
    assert installing(script, monkeypatch, {"kfjax"}, **address) == [wanted]
    assert installing(script, monkeypatch, {"kfjax"}) == [f"{ROOT}{extras}"]
    monkeypatch.chdir(ROOT.parent)
    assert installing(script, monkeypatch, {"kfjax"}) == [f"kfjax{extras}"], "left empty: the released version"
    with pytest.raises(RuntimeError, match=re.escape(f"could not install kfjax{extras} ")):
        installing(script, monkeypatch, {"kfjax"}, code=1)


def test_the_tour_gets_what_an_installation_lacks(monkeypatch):
    """Which leaves the rest of it as it is."""
    monkeypatch.chdir(ROOT / "colab")
    demo, tour = NOTEBOOKS
    for module in ("cv2", "pymunk"):
        assert installing(tour, monkeypatch, {module}) == ["kfjax[data]"]
        assert installing(demo, monkeypatch, {module}) == []


def test_what_is_installed_is_left_alone(script, monkeypatch):
    monkeypatch.setattr(subprocess, "call", lambda command: pytest.fail("pip was run"))
    exec(code_cells(script.read_text())[0], {})


def test_what_the_cells_call_is_there(script):
    names = {}
    for kind, text in cells(script):
        if kind == "code":
            blocks.check(text, names)


@pytest.mark.slow
def test_demo(tmp_path):
    """On a tiny model: the uploaded clip is the one that gets a sound, each result is as long as it should be."""
    clip = tmp_path / "up" / "mine.mp4"
    clip.parent.mkdir()
    media.write_video(clip, (numbered(k) for k in range(23)), 25)
    model = write_model(tmp_path / "model")
    quick = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])  # it compiles more
    report = run("demo.ipynb", tmp_path, str(clip), quick, MODEL=str(model), DOWNLOAD=True)
    check_demo(report, tmp_path / "kfjax_demo", "mine.mp4", 0.7)
    assert report.said.endswith("downloaded mine.mp4\n")


def check_demo(report: Report, folder: Path, name: str, seconds: float, spoken: float = TINY["TEXT_SECONDS"]) -> None:
    exact = round(seconds * RATE_HZ)
    kinds = [shown.kind for shown in report.shown]
    sounds = ["audio/wav"] * TINY["SEEDS"]
    more = ["audio/wav", "image/png", "audio/wav", "audio/wav"]  # redone, a reference, music
    assert kinds == ["video/mp4", "image/png", "audio/wav", "image/png", *sounds, "image/png", *more]
    drawn = ("sound.png", "text.png", "seeds.png", "redone.png")
    waves = ("reference.wav", "mix.wav", "mix.effects.wav", "mix.music.wav", "long.wav")
    assert {path.name for path in folder.iterdir()} == {name, *drawn, *waves}
    files = [shown.content for shown in report.shown if shown.kind != "audio/wav"]
    assert files == [(folder / file).read_bytes() for file in (name, *drawn)]
    heard = [shown.sound() for shown in report.shown if shown.kind == "audio/wav"]
    assert [wave.shape for _, wave in heard] == [(round(spoken * RATE_HZ), 2), *[(exact, 2)] * 5]
    assert all(rate == RATE_HZ and abs(wave).max() > 1e-4 for rate, wave in heard)
    assert f"differs from {seconds / 2 - 0.02:.2f} to {seconds:.2f} s" in report.said
    assert len(media.read_audio(folder / "long.wav", RATE_HZ)) == round(TINY["LONG_SECONDS"] * RATE_HZ)
    assert f"{exact} samples at {RATE_HZ} Hz: {seconds:.3f} s" in report.said
    assert abs(media.read_audio(folder / name, RATE_HZ)[:exact]).max() > 1e-4


@pytest.mark.slow
def test_demo_with_the_built_in_model(tmp_path):
    """Nothing uploaded: the example; the same without Colab. In 2 steps the model makes no hammer, and a silent
    reference is refused."""
    heard = {"TEXT_SECONDS": 2.0, "STEPS": 5}
    for name, upload in (("cancelled", ""), ("elsewhere", None)):
        (folder := tmp_path / name).mkdir()
        check_demo(run("demo.ipynb", folder, upload, **heard), folder / "kfjax_demo", "example.mp4", 0.7, 2.0)


@pytest.mark.slow
def test_tour(tmp_path):
    """With the built-in model, as it stands. The cells check their own claims; read here: what they say."""
    report = run("tour.ipynb", tmp_path, SECONDS=3.0, TRAIN_STEPS=20)
    said = report.said
    assert "8 CPU devices" in said
    assert "a fresh block returns its input: True" in said
    shapes = dict(re.findall(r"^(clip|sync|align) +float32 +(\[.*\])$", said, re.MULTILINE))
    assert shapes == {"clip": "[1, 24, 128]", "sync": "[1, 64, 128]", "align": "[1, 130, 128]"}
    aligned, unscaled = (float(x) for x in re.findall(r"the frame attended to is at most ([\d.]+) s away", said))
    assert aligned < 1 / 8 < 10 * aligned < unscaled
    heard = re.findall(r"(\d+) steps?: (\d+) of (\d+) events heard", said)
    assert [int(steps) for steps, _, _ in heard] == [1, 20] and int(heard[1][1]) >= 1
    first, last = (float(x) for x in re.search(r"loss: ([\d.]+) at the first step, ([\d.]+) at", said).groups())
    assert last < 0.9 * first
    one, eight = (float(x) for x in re.search(r"one device ([\d.]+), on eight ([\d.]+)", said).groups())
    assert eight == pytest.approx(one, rel=1e-4)
    assert re.search(r"all-gather +\d+ times", said)
    sounds = [shown.sound()[1].shape for shown in report.shown if shown.kind == "audio/wav"]
    assert sounds == [(3 * RATE_HZ, 2)] * 3
