"""README and docs: every block of code runs, or says why it can't and is parsed; links lead somewhere."""

import re
import shlex
import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import kfjax
from kfjax import cli, command, media, pipeline
from kfjax.scenes.__main__ import main as scenes
from kfjax.train import config as train_config
from tests.tiny import blocks as code
from tests.tiny import media_files as files
from tests.tiny.system import write_model

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages beside them whose commands are parsed and whose links must hold.
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "experiments").rglob("*.md"))]
LANGUAGES = {"python", "sh", "csv", "bibtex"}
#: Why a block is not run -> how many such blocks there are. A new one is a decision.
NOT_RUN = {
    "needs the network": 5,
    "needs a corpus": 3,
    "needs a bucket": 2,
    "needs a cluster": 1,
    "needs a pod": 11,
    "takes long": 18,
}
#: Programs of others that a page may call; what they are given is not looked at.
FOREIGN = {
    ".",
    "mkdocs",
    "jupytext",
    "apt-get",
    "sha256sum",
    "gcloud",
    "docker",
    ".venv/bin/pre-commit",
    ".venv/bin/mkdocs",
}
RATE_HZ = 44100


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    reason: str  # why it is not run, "" where it is
    text: str

    @property
    def id(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in re.finditer(r"^```(\w*)(?: title=\"([^\"]*)\")?[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text[: match.start()].count("\n") + 1
        found.append(Block(page, line, match[1], match[2] or "", match[3]))
    return found


def commands(text: str) -> list[list[str]]:
    """The words of every command of a shell block, comments left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            found.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1 :]
        found += [words] if words else []
    return found


class Parsed(Exception):
    """What a parser found; nothing after it is run."""


@pytest.fixture
def parse(monkeypatch):
    """Parses the words of one command and runs nothing."""
    parse_args = command.Parser.parse_args

    def stop(self, args=None, namespace=None):
        raise Parsed(parse_args(self, args, namespace))

    def call(words: list[str]) -> None:
        monkeypatch.setattr(command.Parser, "parse_args", stop)
        run = scenes if words[:3] == ["python", "-m", "kfjax.scenes"] else cli._dispatch
        try:
            run(words[3:] if run is scenes else words[1:])
        except Parsed as found:
            if words[1] == "train":
                check_settings(found.args[0])
        except SystemExit as end:
            assert not end.code, words
        finally:
            monkeypatch.setattr(command.Parser, "parse_args", parse_args)

    return call


def check_settings(args) -> None:
    """The config of `kfjax train` exists, and has what is set."""
    config = train_config.load_config(args.config)
    train_config.complete(config)
    for assignment in args.set:
        train_config.apply(config, assignment)


def check_command(words: list[str], parse) -> None:
    """A command of kfjax is parsed, also one that is started on other machines; of a script here it is known that there
    is one."""
    if words[0] == "srun":
        words = words[1:]
    if words[:2] == ["bash", "-c"]:
        words = shlex.split(words[2])
    for inner in words[1:] if words[0] == "gcloud" else ():
        if inner.startswith("kfjax "):
            check_command(shlex.split(inner), parse)
    ours = words[0] == "kfjax" or words[:3] == ["python", "-m", "kfjax.scenes"]
    python = Path(words[0]).name in ("python", "python3")
    if ours:
        parse(words)
    elif Path(words[0]).name == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = {extra for word in words for named in re.findall(r"^\.\[(.*)\]$", word) for extra in named.split(",")}
        assert asked <= extras.keys(), words
    elif python and words[1:3] == ["-m", "experiments"]:
        from experiments.__main__ import script

        assert not words[3:] or script(words[3]), words
    elif python and words[1] == "-m":
        assert words[2] in ("venv", "pytest", "pip"), words
    elif python or ("/" in words[0] and not words[0].startswith(".")):
        assert (ROOT / words[python]).is_file(), words
    else:
        assert words[0] in FOREIGN, words


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(tmp_path, model, monkeypatch):
    """Where a page's blocks run: the files that pages name, and a tiny model in the built-in one's place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "BUILT_IN", model)
    tone = lambda seconds: 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)
    for parent in ("clips", "sounds"):
        (tmp_path / parent).mkdir()
    for clip, seconds in (("clip.mp4", 0.8), ("clips/a.mp4", 0.6), ("clips/b.mp4", 0.6)):
        frames = (files.numbered(i) for i in range(round(30 * seconds)))
        media.write_video(tmp_path / clip, frames, 30, tone(seconds), RATE_HZ)
    for sound in ("speech.wav", "sounds/a.wav", "sounds/b.wav"):
        media.write_wav(tmp_path / sound, tone(0.6 if "/" in sound else 1.2), RATE_HZ)
    (tmp_path / "clips.csv").write_text("video,prompt\nclips/a.mp4,a bell rings\n,rain on a roof\n")
    return tmp_path


RUN = [page for page in DOCS if any(block.language in ("python", "sh") and not block.reason for block in blocks(page))]


#: Pages that take long. What they call is on other pages or in `tests/test_cli.py`; fast, it is looked up.
LONG = {"docs/walk.md", "docs/controls.md", "docs/generate.md"}
PAGES = [pytest.param(page, id=name(page), marks=[pytest.mark.slow] * (name(page) in LONG)) for page in RUN]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run_one_after_the_other(page, folder, parse):
    names = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, block.id, "exec"), names)
        elif block.language == "sh" and not block.reason:
            for words in commands(block.text):
                check_command(words, parse)
                assert cli.main(words[1:]) == 0, f"{block.id}: {words}"


def test_what_python_blocks_call_is_there():
    for page in RUN:
        names = {}
        for block in blocks(page):
            if block.language == "python":
                code.check(block.text, names)


def test_what_is_not_there_is_noticed():
    names = {}
    code.check("from kfjax import rates\nimport kfjax\nmodel = kfjax.load()\nmodel.generate(prompt='a')", names)
    for wrong, error in {
        "from kfjax import nothing": ImportError, "rates.nothing": ImportError, "rates.lengths(1.0)": TypeError,
        "model.generate('clip.mp4', sed=1)": TypeError, "kfjax.load(nothing=1)": TypeError,
    }.items():  # fmt: skip
        with pytest.raises(error):
            code.check(wrong, dict(names))


@pytest.mark.parametrize("page", [pytest.param(page, id=name(page)) for page in (*DOCS, *OTHERS)])
def test_commands_are_those_of_the_parsers(page, parse):
    for block in blocks(page):
        if block.language in ("sh", ""):
            for words in commands(block.text):
                check_command(words, parse)


def test_blocks_say_what_they_are_and_why_they_do_not_run():
    found = [block for page in DOCS for block in blocks(page)]
    bare = [block.id for block in found if block.language not in LANGUAGES]
    assert [id.partition(":")[0] for id in bare] == ["README.md"] * 2  # which are to be copied as they stand
    assert Counter(block.reason for block in found if block.reason) == NOT_RUN
    assert not [block.id for block in found if block.reason and block.language == "python"]


@pytest.mark.parametrize("page", [pytest.param(page, id=name(page)) for page in (*DOCS, *OTHERS)])
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    broken = [link for link in links if not re.match(r"[a-z]+:|#", link)
              and not (page.parent / link.partition("#")[0]).exists()]  # fmt: skip
    assert not broken


def test_every_page_is_in_the_contents():
    contents = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in DOCS[1:] if not re.match(r"\d{4}-", page.name)]
    assert not [page for page in pages if page not in contents]
    listed = (ROOT / "docs/decisions/index.md").read_text()
    for page in (ROOT / "docs/decisions").glob("0*.md"):
        title = page.read_text().partition("\n")[0].partition(". ")[2]
        assert f"({page.name}) | {title} |" in listed


def test_the_public_surface_is_in_the_api():
    api = (ROOT / "docs/api.md").read_text()
    assert not [public for public in kfjax.__all__ if f"heading: kfjax.{public}" not in api and "__" not in public]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_container_file_names_what_is_there():
    text = (ROOT / "docs/Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"EXTRAS=(\S+)", text)
    assert len(asked) == 3 and {extra for some in asked for extra in some.split(",")} <= extras.keys()
