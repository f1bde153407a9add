"""Programs and shapes that are kept for the next process: the same bits, made anew where a file does not fit."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import system
from kfjax.nn import module
from kfjax.xla import programs
from kfjax.xla.programs import Program, kept
from tests.tiny.system import CONFIG, write_model
from tests.trees import assert_equal

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """Where programs are kept while a test runs."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "programs"))
    (tmp_path / "programs").mkdir()
    yield tmp_path / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


def noisy(x, gains, seed, *, cfg):
    """Arrays of several kinds, a tree, a branch that is not there, random numbers and a loop."""
    noise = jax.random.normal(jax.random.key(seed), x.shape)
    weight = gains["a"][0] if cfg.get(1) is None else gains["a"][1]
    return jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ weight + noise), x), noise


class Frozen(dict):
    def __hash__(self):
        return hash(tuple(self.items()))


ARGUMENTS = (
    np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    {"a": {i: np.full((4, 4), 0.1 + i, np.float32) for i in range(2)}, "b": None},
    np.uint32(7),
)


def test_what_is_kept_gives_the_same_bits(folder):
    cfg = Frozen({0: 1})
    want = jax.jit(noisy, static_argnames="cfg")(*ARGUMENTS, cfg=cfg)
    assert_equal(Program(noisy)(*ARGUMENTS, cfg=cfg), want)
    (file,) = folder.glob("*.kept")
    written = file.read_bytes()
    assert_equal(Program(noisy)(*ARGUMENTS, cfg=cfg), want)  # a new process knows nothing but the file
    assert file.read_bytes() == written
    other = Program(noisy)(*ARGUMENTS, cfg=Frozen({1: 1}))
    assert not np.array_equal(other[0], want[0])
    assert len(list(folder.glob("*.kept"))) == 2


def test_a_kept_program_is_not_traced(folder):
    traced = []

    def double(x, *, times):
        traced.append(times)
        return x * times

    for _ in range(2):
        program = Program(double)
        for shape, times in (((3,), 2), ((3,), 2), ((4,), 2), ((3,), 3)):
            np.testing.assert_array_equal(program(np.ones(shape, np.float32), times=times), np.full(shape, times))
    assert traced == [2, 2, 3]
    with jax.enable_x64(True):  # another setting, another program
        assert Program(double)(np.ones(3), times=2).dtype == np.float64
    assert len(traced) == 4


def test_a_program_is_begun_before_its_inputs_are_there(folder):
    program = Program(noisy)
    begun = program.begin(*jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), ARGUMENTS), cfg=Frozen())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), begun.outputs) == (((3, 4), np.float32),) * 2
    assert_equal(program(*ARGUMENTS, cfg=Frozen()), begun.compiled.result()(*jax.tree.leaves(ARGUMENTS)))
    assert program.begin(*ARGUMENTS, cfg=Frozen()) is begun


def test_beside_jax_s_own_cache_it_is_kept_whole(folder):
    """Stored again, what jax has read from its cache would lack its code."""
    cfg = Frozen({0: 1})
    want = Program(noisy)(*ARGUMENTS, cfg=cfg)
    for _ in range(2):
        (file,) = folder.glob("*.kept")
        file.unlink()
        assert_equal(Program(noisy)(*ARGUMENTS, cfg=cfg), want)
        assert_equal(Program(noisy)(*ARGUMENTS, cfg=cfg), want)


def test_code_that_xla_does_not_take_is_compiled_anew(folder):
    cfg = Frozen({0: 1})
    want = Program(noisy)(*ARGUMENTS, cfg=cfg)
    (file,) = folder.glob("*.kept")
    written = programs._read(file)
    programs._write(file, written.partition(b"\n")[0] + b"\nof another build")
    assert_equal(Program(noisy)(*ARGUMENTS, cfg=cfg), want)
    assert len(programs._read(file)) > len(written) // 2


@pytest.mark.parametrize("change", [
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(path.read_bytes()[:20]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes() + b"x"),
    lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR." * 9),
    lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    lambda path: (path.unlink(), path.mkdir()),
])  # fmt: skip
def test_a_damaged_or_foreign_file_is_made_anew(folder, change, capfd):
    makes = []
    make = lambda: makes.append(1) or b"what was made"
    assert [kept("x", "facts", make) for _ in range(3)] == [b"what was made"] * 3
    (path,) = folder.iterdir()
    change(path)
    assert [kept("x", "facts", make) for _ in range(2)] == [b"what was made"] * 2
    assert len(makes) == 2 or path.is_dir()  # a folder in its place stays, and costs time
    assert list(folder.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


def test_another_number_of_cores_is_another_program(folder, monkeypatch):
    """XLA splits work by it."""
    for cores in ({0}, {0, 1}, {1}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores, raising=False)
        Program(noisy)(*ARGUMENTS, cfg=Frozen({0: 1}))
    assert len(list(folder.glob("*.kept"))) == 2


def test_other_versions_replace_what_is_kept(folder, monkeypatch):
    kept("x", "facts", lambda: b"old")
    monkeypatch.setattr(programs, "_versions", lambda: b"of the next release")
    assert kept("x", "facts", lambda: b"new") == b"new"
    assert kept("x", "facts", lambda: b"newer") == b"new"
    assert kept("x", "other facts", lambda: b"other") == b"other"
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("where", ["", "file/programs", "nowhere/at/all", "gs://bucket/programs"])
def test_without_a_folder_to_write_to_it_is_made_each_time(tmp_path, monkeypatch, folder, where):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_compilation_cache_dir", where)
    assert [kept("x", "facts", lambda made=made: made) for made in (b"one", b"two")] == [b"one", b"two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "programs"]


def test_kept_shapes_need_no_network(folder, monkeypatch):
    flat = lambda shapes: {name: (leaf.shape, leaf.dtype) for name, leaf in module.flatten(shapes).items()}
    want = flat(system.part_shapes(CONFIG))
    assert flat(system.stored_shapes(CONFIG)) == want
    clip = {name: x for name, x in want.items() if name.startswith("clip/")}
    assert flat(system.stored_shapes(CONFIG, "clip")) == clip
    monkeypatch.setattr(module, "shapes", None)
    assert flat(system.stored_shapes(CONFIG)) == want
    assert flat(system.stored_shapes(CONFIG, "clip")) == clip


SECOND = """
import hashlib, sys
import kfjax
made = kfjax.load(sys.argv[1]).generate(prompt="rain", duration=1.0, seed=3)
print(hashlib.sha256(made.waveforms.tobytes()).hexdigest(), "flax" in sys.modules)
"""


@pytest.mark.slow
def test_the_next_process_builds_no_network(tmp_path):
    """The same sound, in a second process that never imports flax; and where nothing can be kept."""
    model = write_model(tmp_path / "model")
    (tmp_path / "file").write_text("not a folder")
    environment = {name: x for name, x in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    said = []
    for cache in ("cache", "cache", "file"):
        run = subprocess.run(
            [sys.executable, "-c", SECOND, str(model)], capture_output=True, text=True, check=True,
            env=environment | {"KFJAX_CACHE": str(tmp_path / cache), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert run.stderr == ""
        said.append(run.stdout.split())
    assert [flax for _, flax in said] == ["True", "False", "True"]
    assert len({sound for sound, _ in said}) == 1
