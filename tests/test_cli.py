"""The command line on a tiny system: what it writes, what it says, how it ends."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import kfjax
from kfjax import media, pipeline
from kfjax.cli import main
from kfjax.making import maker
from tests.tiny import media_files as files
from tests.tiny.system import write_model

ROOT = str(Path(__file__).parents[1])

RATE_HZ = 44100
HINT = "pip install '.[{}]' in a clone of kfjax"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with two clips and, between them by name, one that is broken."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("a.mp4", "c.mov"):
        media.write_video(folder / name, (files.numbered(i) for i in range(15)), 25)
    (folder / "b.mp4").write_bytes(b"not a video")
    (folder / "notes.txt").write_text("not to be looked at")
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The working folder of a test is its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_clip(here, clips, model, capsys):
    assert main(["generate", str(clips / "a.mp4"), "--prompt", "a bell", "--model", model]) == 0
    assert names(here) == {"a.sound.mp4"}
    assert capsys.readouterr().out == "a.sound.mp4\n"
    assert files.picture_packets(here / "a.sound.mp4")[0] == files.picture_packets(clips / "a.mp4")[0]
    assert media.read_audio(here / "a.sound.mp4", RATE_HZ).shape == (round(0.6 * RATE_HZ), 2)


def test_options_arrive(here, clips, model):
    common = ["generate", str(clips / "a.mp4"), "--model", model, "--output", "a.wav"]
    options = [
        [], ["--prompt", "rain"], ["--seed", "5"], ["--steps", "3"], ["--guidance", "2"], ["--video-guidance", "2"],
        ["--text-guidance", "2", "--prompt", "rain"], ["--negative-prompt", "wind"],
        ["--negative-prompt", "wind", "--negative-guidance", "2"],
    ]  # fmt: skip
    sounds = set()
    for extra in options:
        assert main(common + extra) == 0
        sounds.add((here / "a.wav").read_bytes())
    assert len(sounds) == len(options)


def test_options_of_given_and_long_sound_arrive(here, clips, model):
    rng = np.random.default_rng(0)
    for name in ("take.wav", "other.wav"):
        media.write_wav(name, rng.uniform(-0.3, 0.3, (RATE_HZ, 2)).astype(np.float32), RATE_HZ)
    common = ["generate", str(clips / "a.mp4"), "--model", model, "--output", "a.wav"]
    options = [
        [], ["--schedule", "uniform"], ["--guidance-interval", "0.2-1"], ["--music-prompt", "rain"],
        ["--music-prompt", "rain", "--music-gain", "0.5"], ["--music-prompt", "rain", "--music-seed", "1"],
        ["--loudness", "-40"], ["--reference", "other.wav"],
        ["--audio", "take.wav", "--strength", "0.5"],
    ]  # fmt: skip
    sounds = set()
    for extra in options:
        assert main(common + extra) == 0
        sounds.add((here / "a.wav").read_bytes())
    assert len(sounds) == len(options)
    words = ["generate", "--prompt", "rain", "--duration", "4.2", "--model", model, "--output", "a.wav"]
    for extra in ([], ["--window", "3"], ["--window", "3", "--overlap", "1"]):
        assert main([*words, *extra]) == 0
        sounds.add((here / "a.wav").read_bytes())
    assert len(sounds) == len(options) + 3
    redo = ["--audio", "take.wav", "--redo", "2.2-4.2"]
    assert main([*words[:4], "1.0", *words[5:], "--audio", "take.wav", "--keep", "0-0.7"]) == 0
    taken, made = (media.read_audio(name, RATE_HZ)[: round(0.67 * RATE_HZ)] for name in ("take.wav", "a.wav"))
    np.testing.assert_array_equal(taken, made)
    assert main([*words, *redo]) == 2


def test_stems(here, model, capsys):
    arguments = ["--prompt", "a bell", "--music-prompt", "rain", "--stems", "--duration", "0.3", "--model", model]
    assert main(["generate", *arguments]) == 0
    assert names(here) == {"sound.wav", "sound.effects.wav", "sound.music.wav"}
    assert capsys.readouterr().out.splitlines() == ["sound.wav", "sound.effects.wav", "sound.music.wav"]


@pytest.mark.parametrize("name", ["b.wav", "b.mp4", "b.mkv"])
def test_a_stream_has_the_sound_of_a_file(here, clips, model, name):
    common = ["generate", str(clips / "a.mp4"), "--model", model]
    whole = f"whole{Path(name).suffix}"
    assert main([*common, "--output", whole]) == 0
    assert main([*common, "--stream", "--output", name]) == 0
    streamed, written = (media.read_audio(path, RATE_HZ) for path in (name, whole))
    np.testing.assert_allclose(streamed[: len(written)], written, atol=1e-4)


def test_a_stream_to_standard_output(here, clips, model):
    arguments = ["--stream", "--output", "-", "--model", model]
    command = [sys.executable, "-m", "kfjax", "generate", str(clips / "a.mp4"), *arguments]
    made = subprocess.run(command, capture_output=True, check=True)
    (here / "piped.mp4").write_bytes(made.stdout)
    assert names(here) == {"piped.mp4"}
    assert media.read_audio("piped.mp4", RATE_HZ).shape[0] >= round(0.6 * RATE_HZ)


def test_a_player_that_ends_before_the_stream(here, model):
    arguments = ["--prompt", "a bell", "--duration", "0.3", "--stream", "--output", "-", "--model", model]
    command = [sys.executable, "-m", "kfjax", "generate", *arguments]
    source, sink = os.pipe()
    os.close(source)
    with open(sink, "wb") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("kfjax: error: the output: can't be written further (Broken pipe)")
    assert "Traceback" not in ended.stderr and "ignored" not in ended.stderr


def test_a_table_of_given_sound(here, clips, model):
    media.write_wav("take.wav", np.random.default_rng(0).uniform(-0.3, 0.3, (RATE_HZ, 2)).astype(np.float32), RATE_HZ)
    rows = [
        "video,prompt,audio,strength,reference,music_prompt,music_seed",
        f"{clips / 'a.mp4'},a bell,take.wav,0.5,,,",
        f"{clips / 'c.mov'},a bell,,,take.wav,rain,3.0",
        f"{clips / 'a.mp4'},a bell,absent.wav,0.5,,,",
        f"{clips / 'a.mp4'},a bell,take.wav,half,,,",
        f"{clips / 'a.mp4'},a bell,,,,rain,1.5",
    ]
    Path("t.csv").write_text("\n".join(rows) + "\n")
    assert main(["generate", "t.csv", "--output", "out", "--audio-only", "--model", model]) == 2
    assert names(here / "out") == {"a.wav", "c.wav"}


def test_audio_only_samples_and_duration(here, clips, model):
    arguments = ["--audio-only", "--samples", "2", "--duration", "0.3", "--model", model]
    assert main(["generate", str(clips / "a.mp4"), *arguments]) == 0
    assert names(here) == {"a.sound-1.wav", "a.sound-2.wav"}
    assert media.read_audio("a.sound-1.wav", RATE_HZ).shape == (round(0.3 * RATE_HZ), 2)


def test_text_only(here, model):
    assert main(["generate", "--prompt", "rain", "--duration", "0.5", "--model", model]) == 0
    assert names(here) == {"sound.wav"}


def test_plot(here, clips, model):
    from matplotlib.image import imread

    assert main(["generate", str(clips / "a.mp4"), "--model", model, "--plot"]) == 0
    assert names(here) == {"a.sound.mp4", "a.sound.png"}
    one = imread("a.sound.png")
    assert one.std() > 0.1
    several = ["--samples", "2", "--method", "heun", "--plot"]
    assert main(["generate", str(clips / "a.mp4"), "--model", model, "--output", "b.mp4", *several]) == 0
    assert names(here) == {"a.sound.mp4", "a.sound.png", "b-1.mp4", "b-2.mp4", "b.png"}
    assert len(imread("b.png")) > len(one)  # rows for both versions


def test_folder(here, clips, model, capsys):
    """Everything that can be done is done, the rest is named; run again, only the rest is tried."""
    arguments = ["generate", str(clips), "--output", "sounds", "--model", model]
    assert main(arguments) == 2
    assert names(here / "sounds") == {"a.mp4", "c.mov"}
    said = capsys.readouterr().err
    assert "skipped: " in said
    assert said.strip().splitlines()[-1].startswith("kfjax: error: 1 of 3 clips failed: ")
    stamp = os.stat("sounds/a.mp4").st_mtime_ns
    (here / "sounds" / "c.mov").unlink()
    assert main(arguments) == 2
    assert names(here / "sounds") == {"a.mp4", "c.mov"}
    assert os.stat("sounds/a.mp4").st_mtime_ns == stamp, "done already, yet made again"


def test_table(here, clips, model, capsys):
    rows = [
        "video,prompt,negative_prompt,duration,seed",
        f"{clips / 'a.mp4'},a bell rings,wind,0.5,3",
        f"{clips / 'a.mp4'},rain,,,",
        ",rain on a roof,,0.4,",
        f"{clips / 'c.mov'},rain,,half,",
    ]
    Path("list.csv").write_text("\n".join(rows) + "\n")
    assert main(["generate", "list.csv", "--output", "out", "--model", model]) == 2
    assert names(here / "out") == {"a.mp4", "a.2.mp4", "sound.wav"}
    assert media.read_audio("out/a.mp4", RATE_HZ).shape == (round(0.5 * RATE_HZ), 2)
    assert media.read_audio("out/sound.wav", RATE_HZ).shape == (round(0.4 * RATE_HZ), 2)
    assert "duration: got 'half', expected a number" in capsys.readouterr().err
    direct = ["--prompt", "a bell rings", "--negative-prompt", "wind", "--duration", "0.5", "--seed", "3"]
    assert main(["generate", str(clips / "a.mp4"), *direct, "--model", model, "--output", "direct.mp4"]) == 0
    assert Path("direct.mp4").read_bytes() == Path("out/a.mp4").read_bytes()


def test_an_interruption_leaves_nothing(here, clips, model, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(maker, "within_range", interrupted)
    assert main(["generate", str(clips / "a.mp4"), "--model", model]) == 130
    assert names(here) == set()
    assert capsys.readouterr().err.strip().splitlines() == ["kfjax: interrupted"]


def test_defects_keep_their_traceback(clips, model, monkeypatch):
    """Only what kfjax itself refuses becomes one line; a ValueError from a library is a defect of ours."""
    monkeypatch.setattr(maker, "within_range", lambda *_, **__: np.zeros(3).reshape(2, 2))
    with pytest.raises(ValueError, match="reshape"):
        main(["generate", str(clips / "a.mp4"), "--model", model])
    with pytest.raises(ValueError, match="reshape"):
        main(["generate", str(clips), "--output", "out", "--model", model])


def test_a_missing_extra_is_named(here, model):
    """Scenes need libraries that making sound does not."""
    program = "import sys; sys.modules['cv2'] = None; from kfjax.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "evaluate", model, "--benchmark", "scenes", "--output", "out"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": ROOT})
    assert (ended.returncode, ended.stderr) == (2, f"kfjax: error: cv2 is not installed; {HINT.format('data')}\n")


def test_words_that_are_not_read_are_said(here, clips, model, capsys):
    """For one clip, and for each row of a table, before the sound is made; equal prompts once."""
    assert main(["generate", str(clips / "a.mp4"), "--prompt", "a tiger growls", "--negative-prompt", "hail",
                 "--model", model]) == 0  # fmt: skip
    assert capsys.readouterr().err.splitlines() == [
        """kfjax: prompt: not in this model's vocabulary: tiger, growls; read: "a\"""",
        """kfjax: negative prompt: not in this model's vocabulary: hail; read: nothing""",
    ]
    Path("list.csv").write_text("prompt;duration\na frog;0.3\nrain;0.3\na frog;0.3\na bell, a cat;0.3\n")
    assert main(["generate", "list.csv", "--output", "out", "--model", model]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "vocabulary" in line]
    assert said == [
        """kfjax: sound.wav: prompt: not in this model's vocabulary: frog; read: "a\"""",
        """kfjax: sound.4.wav: prompt: not in this model's vocabulary: cat; read: "a bell a\"""",
    ]


def test_the_clips_own_folder_is_safe(here, clips, model, capsys):
    """What is there stays as it is, a broken clip is named, and a second run finds the first one's work."""
    for name in ("a.mp4", "c.mov"):
        (here / name).write_bytes((clips / name).read_bytes())
    before = {name: (here / name).read_bytes() for name in ("a.mp4", "c.mov")}
    arguments = ["generate", ".", "--output", ".", "--duration", "0.3", "--samples", "2", "--model", model]
    assert main(arguments) == 0
    made = {"a.sound-1.mp4", "a.sound-2.mp4", "c.sound-1.mov", "c.sound-2.mov"}
    assert names(here) == {*before, *made}
    assert main(arguments) == 0
    assert "2 of 2 are done already; delete their outputs" in capsys.readouterr().err
    assert {name: (here / name).read_bytes() for name in before} == before and names(here) == {*before, *made}


def test_the_small_world_is_said(here, clips, model, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "BUILT_IN", Path(model))
    assert main(["generate", str(clips / "a.mp4")]) == 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "small world" in said[0] and "--model" in said[0]


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert kfjax.__version__ in said and "devices: cpu" in said and "built-in model: " in said


@pytest.mark.parametrize("error, why", [
    (AssertionError(), "it is not installed"),  # jax says so of a GPU's plugin that is missing
    (RuntimeError("Unable to initialize backend 'tpu': no libtpu.so (set JAX_PLATFORMS='' to automatically choose)"),
     "Unable to initialize backend 'tpu': no libtpu.so"),
])  # fmt: skip
def test_a_backend_that_does_not_start(monkeypatch, capsys, model, clips, error, why):
    def fails():
        raise error

    monkeypatch.setattr(jax, "devices", fails)
    line = (
        f"JAX_PLATFORMS=cpu: got no device to compute on, expected a backend that starts ({why}); "
        "unset JAX_PLATFORMS, or install that backend"
    )
    for command in (
        ["generate", "--prompt", "rain", "--model", model],
        ["extract", str(clips), "--output", "x"],
        ["evaluate", "built-in", "--benchmark", "scenes"],
    ):
        assert main(command) == 2
        assert capsys.readouterr().err == f"kfjax: error: {line}\n"
    assert main(["doctor"]) == 2
    said = capsys.readouterr().out
    assert f"devices: {line}\n" in said and "built-in model: " in said and "example clip: " in said


@pytest.mark.slow
@pytest.mark.parametrize("platforms", ["cuda", "tpu", "nonsense"])
def test_a_backend_that_is_not_there(here, platforms):
    env = os.environ | {"PYTHONPATH": ROOT, "JAX_PLATFORMS": platforms}
    library_talks = platforms == "tpu" and importlib.util.find_spec("libtpu") is not None  # of the extra `plan`
    run = lambda *args: subprocess.run([sys.executable, "-m", "kfjax", *args], capture_output=True, text=True, env=env)
    for arguments in (["generate", "--prompt", "rain"], ["train", "configs/flow.py:runlocal", "--workdir", "x"]):
        ended = run(*arguments)
        assert ended.returncode == 2
        *before, said = ended.stderr.splitlines()
        assert said.startswith(f"kfjax: error: JAX_PLATFORMS={platforms}: got no device")
        assert not before or (library_talks and "Traceback" not in ended.stderr)
    ended = run("doctor")
    assert ended.returncode == 2 and f"devices: JAX_PLATFORMS={platforms}: got no" in ended.stdout
    assert not ended.stderr or library_talks


def test_doctor_names_a_jax_that_hangs_in_training(monkeypatch, capsys):
    monkeypatch.setattr(jax, "__version__", "0.11.2")
    assert main(["doctor"]) == 0
    assert "training: jax 0.11.2 on a CPU waits for ever in training" in capsys.readouterr().out


COMMANDS = ("generate", "convert", "clean", "extract", "train", "plan")


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS), ["--version"]])
def test_help(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out


def test_version_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert kfjax.__version__ == project["version"]


def test_as_a_process(here, clips):
    """Exit code and the one line, as a shell sees them."""
    command = [sys.executable, "-m", "kfjax", "generate", "absent.mp4"]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "kfjax: error: absent.mp4: no such file; give the path of a video file\n"
