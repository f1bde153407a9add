"""The demo's page without a browser: what happens after what, and its server."""

import asyncio
import json
import os
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from kfjax.cli import main
from kfjax.demo.__main__ import _about, _listener
from kfjax.demo.studio import Studio
from tests.tiny.studio import good, silent_studio


@pytest.fixture
def studio(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    return silent_studio(tmp_path / "served", monkeypatch)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The module of the page, without a browser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("served")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield pytest.importorskip("kfjax.demo.page", exc_type=ModuleNotFoundError)


def in_a_loop(function):
    """`function()`; where no event loop runs, the framework makes one and never closes it."""

    async def call():
        return function()

    return asyncio.run(call())


def build(pages, studio: Studio, examples=((None, "heavy rain"),)):
    return in_a_loop(lambda: pages.build(studio, title="kfjax", knows="", card="", examples=examples))


@pytest.fixture(scope="module")
def page(pages, tmp_path_factory):
    """One page for several tests, each with a visitor of its own; `told`: what it says when nothing was made."""
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages.gr, "Warning", lambda line, **how: told.append(line))
        studio = silent_studio(tmp_path_factory.mktemp("folder"), patch)
        yield SimpleNamespace(studio=studio, told=told, skip=pages.gr.skip(), fns=build(pages, studio).fns.values())


FORM = (None, "a bell", "", 3.0, 3.0, 2.0, 2, 0, 1, 0, None, "", 1.0, 0)


def visitor(name: str):
    return SimpleNamespace(session_hash=name)


def functions(page, name: str) -> list:
    return [one for one in page.fns if one.fn is not None and one.fn.__name__ == name]


def function(page, name: str):
    """One that may hang on several events."""
    first, *others = functions(page, name)
    assert all(one.fn is first.fn for one in others)
    return first


def fulfilled(page, name: str, wish):
    return function(page, "make").fn(wish, visitor(name), lambda *_, **__: None)


def make(page, name: str, *values):
    from kfjax.demo.form import wish_of

    return fulfilled(page, name, wish_of(values))


def test_whatever_happens_the_button_comes_back(page):
    """As the browser does it: what is bound to success runs after one, what is bound to failure after one, no other."""
    ways = functions(page, "make")
    assert len(ways) == 3, "made from the form, redone, varied"
    for after in ([one for one in page.fns if one.trigger_after == way._id] for way in ways):
        assert all(one.trigger_only_on_success != one.trigger_only_on_failure for one in after)
        for success in (True, False):
            runs = [one for one in after if one.trigger_only_on_success == success]
            [buttons] = [one for one in runs if one.fn.__name__ == "buttons"]
            assert [block.elem_id for block in buttons.outputs] == ["make", "cancel", "redo", "vary", "undo"]
            make_sound, cancel, *changing = buttons.fn(visitor("anyone"))
            assert make_sound["interactive"] and make_sound["value"] == "Make sound" and not cancel["visible"]
            assert all(button["interactive"] for button in changing)


def test_an_example_fills_in_the_form(pages, studio, tmp_path):
    clip = good(tmp_path / "example.mp4")
    events = build(pages, studio, [(clip, "a ball"), (None, "rain")]).fns.values()
    [chosen] = [one for one in events if [block.elem_id for block in one.outputs] == ["clip", "prompt"]]
    (lent, words), alone = chosen.fn(0), chosen.fn(1)
    assert words == "a ball" and alone == [None, "rain"]
    assert Path(lent).read_bytes() == clip.read_bytes() and Path(lent).is_relative_to(studio.folder)


def test_the_page_says_what_its_model_knows(tmp_path):
    knows, card = _about("small", SimpleNamespace(built_in=True))
    assert "small world" in knows and "real footage is beyond it" in knows and card
    (tmp_path / "mine").mkdir()
    assert _about(str(tmp_path / "mine"), SimpleNamespace(built_in=False)) == ("The model is mine.", "")
    (tmp_path / "mine" / "MODEL_CARD.md").write_text("of numbers")
    assert _about(str(tmp_path / "mine"), SimpleNamespace(built_in=False))[1] == "of numbers"


def test_a_defect_is_told_in_a_line_and_logged(page, monkeypatch, capsys):
    """It changes nothing in the page: no failure in the framework's eyes, which would cover the takes."""
    make(page, "defect", *FORM)
    for error in (ValueError("no"), RuntimeError("no"), MemoryError(), KeyError("no")):
        monkeypatch.setattr(page.studio.model, "generate", lambda *_, e=error, **__: (_ for _ in ()).throw(e))
        assert make(page, "defect", *FORM) == page.skip
        assert page.told[-1].startswith("Something went wrong on the server, and nothing was made.")
        assert "Traceback" in capsys.readouterr().err
    assert len(page.studio.takes("defect")) == 1 and not page.studio.is_busy("defect")


def test_a_refusal_is_told_in_the_studios_words(pages, page, monkeypatch, capsys):
    cancelled = lambda *_, progress, **__: (page.studio.cancel("refused"), progress("sampling", 0.1))
    monkeypatch.setattr(page.studio.model, "generate", cancelled)
    for values, words in [(FORM, "Cancelled: nothing was made."), ((*FORM[:6], 0, *FORM[7:]), "steps is 0")]:
        assert make(page, "refused", *values) == page.skip and words in page.told[-1]
    with pytest.raises(pages.gr.Error, match="nothing to go by"):
        function(page, "check").fn(visitor("refused"), None, "", *FORM[2:])
    assert capsys.readouterr().err == ""


def test_the_page_shows_takes_and_unread_words(page):
    takes, undo, film, sound, unread, wav, effects, music, picture, box, start, end, wave = make(
        page, "shown", None, "<b>a tiger", *FORM[2:]
    )
    assert box["visible"] and not undo["visible"] and not effects["visible"] and not music["visible"]
    assert (start["value"], end["value"], end["maximum"]) == (0.7, 1.3, 2.0) and "0.70 to 1.30 s" in wave
    assert not film["visible"] and sound["visible"] and sound["value"] == wav["value"] and picture["visible"]
    assert unread["value"] == "prompt, not read: &lt;b&gt;a tiger" and takes["value"] == 1
    assert function(page, "unread").fn("<b>tiger", None, "")["value"] == "prompt, not read: &lt;b&gt;tiger"
    beside = function(page, "beside").fn
    assert not beside(visitor("shown"))[0]["visible"]
    make(page, "shown", *FORM[:7], 5, 1, 1.5, *FORM[10:])
    asked = page.studio.model.asked[-1]
    assert (asked.prompt, asked.steps, asked.seed, asked.samples, asked.duration) == ("a bell", 2, 5, 1, 1.5)
    box, left, *_, right, film, sound, unread, wav, effects, music, picture = beside(visitor("shown"))
    assert "open" not in box
    assert box["visible"] and (left["value"], right["value"], unread["visible"]) == (1, 2, False)


def test_a_changed_take_stands_beside_the_old_one(page):
    """What redo and vary ask for: as the take was made, but for what is given; undo shows the take before."""
    for seed in (3, 4):
        make(page, "changing", *FORM[:7], seed, *FORM[8:])
    wish, *buttons = function(page, "redo").fn(visitor("changing"), 1, "", 0.5, 1.95)
    assert (wish.prompt, wish.take, wish.redo, wish.strength) == ("a bell", 1, (0.5, 2.0), None)
    assert not any(button.get("interactive") for button in buttons)
    takes, undo, *_, start, end, _ = fulfilled(page, "changing", wish)
    assert takes["value"] == 3 and undo["visible"] and (start["value"], end["value"]) == (0.5, 2.0)
    box, left, *shown = function(page, "beside").fn(visitor("changing"))
    assert box["open"] and (left["value"], shown[len(shown) // 2]["value"]) == (1, 3)
    wish, *_ = function(page, "vary").fn(visitor("changing"), 3, "rain", 0.4)
    assert (wish.prompt, wish.take, wish.redo, wish.strength) == ("rain", 3, None, 0.4)
    takes, *_ = function(page, "back").fn(visitor("changing"))
    assert takes["value"] == 2 and [number for _, number in takes["choices"]] == [2, 1]


def test_marks_that_can_not_be_redone_are_one_line(pages, page):
    make(page, "marking", *FORM)
    for number, marks, words in [
        (1, (1.5, 1.5), "Marked are 1.5 to 1.5 s: the end has to be after the beginning"),
        (1, (0.5, 9.0), "last marked second is 9.0: a number from 0 to 2"),
        (1, (0.2, 1.0), r"0\.20 s before the marked seconds are too few to keep"),
        (1, (None, 1.0), "first marked second is empty"),
        (2, (0.5, 1.0), "take is no longer here"),
    ]:
        with pytest.raises(pages.gr.Error, match=words):
            function(page, "redo").fn(visitor("marking"), number, "", *marks)
    with pytest.raises(pages.gr.Error, match=r"strength is 0\.0: a number from 0\.1 to 1"):
        function(page, "vary").fn(visitor("marking"), 1, "", 0.0)
    mark = function(page, "mark").fn
    assert "0.00 to 1.00 s" in mark(1, None, 1.0, visitor("marking"))
    assert mark(2, 0.5, 1.0, visitor("marking")) == page.skip


def listening(port: int = 0):
    return _listener("127.0.0.1", port)


def test_the_port_is_ours_before_the_model_is_loaded(capsys):
    with listening() as listener:
        port = listener.getsockname()[1]
        assert main(["demo", "--port", str(port), "--model", "no such model"]) == 2
        said = capsys.readouterr().err
        assert f"port {port}, which can't be listened on" in said and said.count("\n") == 1
    listening(port).close()


@contextmanager
def served(pages, studio: Studio):
    """The address of a studio's page, and the page."""
    with listening() as listener:
        page = pages.build(studio, title="kfjax", knows="", card="", examples=[])
        with pages.serving(page, studio, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", page


def answers(pages, studio: Studio) -> None:
    """The page is served, and no more when the block ends."""
    with served(pages, studio) as (address, _):
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b"kfjax" in answer.read() and "default-src 'self'" in answer.headers["content-security-policy"]
        with pytest.raises(urllib.error.HTTPError, match="404") as closed:
            urllib.request.urlopen(f"{address}/docs", timeout=60)
        closed.value.close()
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(address, timeout=60)


def sent(address: str, body: bytes, kind: str):
    """The JSON that is answered to a request with a body."""
    with urllib.request.urlopen(urllib.request.Request(address, body, {"content-type": kind}), timeout=60) as answer:
        return json.loads(answer.read())


def closes_early(pages, studio: Studio, clip: bytes) -> None:
    """Opens a page, uploads a clip, closes the page, and has the server come to the clip only then."""
    left, came = threading.Event(), threading.Event()
    studio.leave = lambda page, real=studio.leave: (real(page), left.set())
    studio.admit = lambda *given, real=studio.admit: (came.set(), real(*given))
    with served(pages, studio) as (address, page):
        [admit] = [one for one in page.fns.values() if one.fn is not None and one.fn.__name__ == "admit"]
        with urllib.request.urlopen(f"{address}/gradio_api/heartbeat/abc", timeout=60) as heartbeat:
            assert heartbeat.readline()
            part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="clip.mp4"\r\n\r\n'
            form = part + clip + b"\r\n--x--\r\n"
            [path] = sent(f"{address}/gradio_api/upload", form, "multipart/form-data; boundary=x")
            assert Path(path).read_bytes() == clip and Path(path).is_relative_to(studio.folder)
        assert left.wait(60)
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"fn_index": admit._id, "session_hash": "abc", "data": [file]}
        sent(f"{address}/gradio_api/queue/join", json.dumps(body).encode(), "application/json")
        assert came.wait(60)
        until = time.monotonic() + 60
        while Path(path).exists():
            assert time.monotonic() < until, "the upload stays"
            time.sleep(0.01)


def test_an_upload_goes_with_its_page(pages, monkeypatch, tmp_path):
    studio = silent_studio(Path(os.environ["GRADIO_TEMP_DIR"]), monkeypatch)
    clip = good(tmp_path / "clip.mp4").read_bytes()
    in_a_loop(lambda: closes_early(pages, studio, clip))


def slow_to_start(monkeypatch, seconds: float) -> None:
    import uvicorn

    async def startup(self, sockets=None, real=uvicorn.Server.startup):
        await asyncio.sleep(seconds)
        await real(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "startup", startup)


def test_the_server_begins_and_ends(pages, studio):
    in_a_loop(lambda: answers(pages, studio))


def test_a_server_that_does_not_start_is_one_line(pages, studio, monkeypatch):
    slow_to_start(monkeypatch, 0.5)
    monkeypatch.setattr(pages, "START_SECONDS", 0.1)
    with pytest.raises(ValueError, match=r"the page's server did not start in 0\.1 s; try again"):
        in_a_loop(lambda: answers(pages, studio))


@pytest.mark.slow
def test_a_busy_machine_may_take_its_time(pages, studio, monkeypatch):
    """Gradio's own server gives up after five seconds, and says that there is no empty port."""
    slow_to_start(monkeypatch, 6.0)
    in_a_loop(lambda: answers(pages, studio))
