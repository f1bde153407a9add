"""The page: the form on the left, the results on the right; on a phone one below the other.

Gradio draws it and transports the requests; the studio decides everything. No other host is contacted.
"""

from __future__ import annotations

import html
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.themes import Default as DefaultTheme
from starlette.middleware import Middleware

from kfjax.command import reason
from kfjax.demo import form as forms
from kfjax.demo import player as players
from kfjax.demo.form import MAKE, MAKING, Form
from kfjax.demo.gate import Gate
from kfjax.demo.player import Change, Player
from kfjax.demo.studio import Studio
from kfjax.demo.take import Take
from kfjax.demo.wish import MEGABYTE, Wish

CSS = (Path(__file__).parent / "page.css").read_text()
#: Fonts of the visitor's own system: Gradio's default ones come from another host.
THEME = DefaultTheme(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
#: On a phone the result moves above the form once something was asked for (page.css), and there the view goes.
SHOW_RESULT = """() => {
    document.querySelector("#columns").classList.add("asked");
    if (window.innerWidth < 768) document.querySelector("#result").scrollIntoView({behavior: "smooth"});
}"""
CANCEL, UNDO = "Cancel", "Undo: delete the newest take"
MESSAGE_SECONDS = 20
#: Six digits are read and typed with ease.
RANDOM_SEEDS = 1_000_000
#: How long a server may take to start on a busy machine, and to end while pages are open.
START_SECONDS, END_SECONDS = 120, 1
#: Of every event: no interface for programs, and none waits for another.
PRIVATE = {"api_visibility": "private", "concurrency_limit": None}
#: Of events with marks: another take's may still be on their way, which the framework would refuse.
OWN_CHECKS: dict[str, Any] = {"preprocess": False}
PROGRESS = gr.Progress()
#: Room for the form around an uploaded file.
FORM_BYTES = 10_000


def build(studio: Studio, *, title: str, knows: str, card: str, examples: list[tuple[Path | None, str]]) -> gr.Blocks:
    """The page of a studio.

    Args:
      knows: what its model knows, one sentence; `card`: all about it, Markdown, or nothing.
      examples: clips and prompts to start from.
    """
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=False) as page:
        gr.Markdown(f"# {title}\n{knows}\n\n{_rules(studio)}", elem_id="head")
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="wish", min_width=300):
                form = forms.draw(studio)
                _examples(studio, examples, form)
            with gr.Column(elem_id="result", min_width=300):
                cancel = gr.Button(CANCEL, visible=False, elem_id="cancel", size="sm")
                undo = gr.Button(UNDO, visible=False, size="sm", elem_id="undo", render=False)
                player = players.draw(gr.Radio([], label="Takes", visible=False, elem_id="takes", render=False), undo)
                change = players.draw_change()
        box, pair = players.draw_pair()
        if card:
            with gr.Accordion("About the model", open=False, elem_id="card"):
                gr.Markdown(card)
        _wire_form(studio, form)
        made = _wire_making(studio, form, cancel, player, change, undo)
        _wire_takes(studio, form, made, player, change, undo, box, pair)

        def leave(request: gr.Request) -> None:
            studio.leave(_visitor(request))

        page.unload(leave)
    return page.queue(default_concurrency_limit=None, api_open=False)  # it is the studio that lets visitors wait


@contextmanager
def serving(page: gr.Blocks, studio: Studio, listener: socket.socket) -> Iterator[None]:
    """The page can be reached at a bound socket, behind the gate, until the end of the block.

    Whatever the framework could do besides is switched off: sharing, reports home, other servers and interfaces. Its
    own `launch` would give up on a machine so busy that five seconds do not suffice.

    Raises:
      ValueError: the server did not start.
    """
    most_bytes = int(studio.limits.megabytes * MEGABYTE)
    gate = Middleware(Gate, folder=studio.folder, max_upload_bytes=most_bytes + FORM_BYTES, has_room=studio.has_room)
    off: dict[str, Any] = {"docs_url": None, "redoc_url": None}
    app = gr.mount_gradio_app(
        FastAPI(middleware=[gate], openapi_url=None, **off), page, "/", theme=THEME, css=CSS, footer_links=[],
        show_error=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, run_history=False,
        allowed_paths=[], max_file_size=most_bytes, app_kwargs=off,
    )  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        until = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise ValueError(f"the page's server did not start in {START_SECONDS} s; try again")
            time.sleep(0.01)
        yield
    finally:
        page.close(verbose=False)
        server.should_exit = True
        thread.join(END_SECONDS)


def _rules(studio: Studio) -> str:
    limits = studio.limits
    return (
        f"Clips of up to {limits.seconds:g} seconds and {limits.megabytes:g} MB. "
        "Uploads and results are deleted when you close the page."
    )


def _examples(studio: Studio, examples: list[tuple[Path | None, str]], form: Form) -> None:
    """A row of buttons that fill in a clip and a prompt."""
    ready = [[None if file is None else str(studio.lend(file)), words] for file, words in examples]
    names = [[f"{words} ({'clip' if file else 'prompt alone'})"] for file, words in examples]
    shown = gr.Dataset(components=["textbox"], samples=names, type="index", label="Examples", elem_id="examples")
    shown.click(lambda index: ready[index], shown, [form.clip, form.prompt], **PRIVATE)


def _wire_form(studio: Studio, form: Form) -> None:
    """Events before a request."""

    @_said
    def admit(file: str | None, request: gr.Request) -> None:
        if file is not None:
            studio.admit(_visitor(request), Path(file))

    @_said
    def admit_reference(file: str | None, request: gr.Request) -> None:
        if file is not None:
            studio.admit(_visitor(request), Path(file), reference=True)

    @_said
    def unread(*prompts: str | None) -> Any:
        return players.note(studio.unread(*(prompt or "" for prompt in prompts)))

    for came, take_in, slot in (
        (form.clip.change, admit, form.clip),  # the end of a recording comes before its file
        (form.reference.upload, admit_reference, form.reference),
    ):
        came(take_in, slot, None, **PRIVATE).failure(lambda: None, None, slot, **PRIVATE)
    texts = [form.prompt, form.avoided, form.music]
    gr.on(
        [box.change for box in texts], unread, texts, form.unread, trigger_mode="always_last",
        show_progress="hidden", **PRIVATE,
    )  # fmt: skip
    form.random.click(_random_seed, None, form.seed, show_progress="hidden", **PRIVATE)


def _random_seed() -> int:
    return secrets.randbelow(RANDOM_SEEDS)


def _wishes(studio: Studio, others: int) -> tuple[Callable, Callable, Callable]:
    """What makes a wish of the form, of marked seconds and of a strength; `others`: buttons besides make and cancel."""

    def checked(request: gr.Request, asked: Wish) -> list[Any]:
        """The wish, and the buttons while it is being fulfilled."""
        studio.check(_visitor(request), asked)
        off = gr.update(interactive=False)
        return [asked, gr.update(interactive=False, value=MAKING), gr.update(visible=True), *[off] * others]

    @_said
    def check(request: gr.Request, *values) -> list[Any]:
        return checked(request, forms.wish_of(values))

    @_said
    def redo(request: gr.Request, number: int, prompt: str, start: float, end: float) -> list[Any]:
        how = {"prompt": prompt or "", "seed": _random_seed(), "redo": (start, end)}
        return checked(request, studio.changed(_visitor(request), number, **how))

    @_said
    def vary(request: gr.Request, number: int, prompt: str, strength: float) -> list[Any]:
        how = {"prompt": prompt or "", "seed": _random_seed(), "strength": strength}
        return checked(request, studio.changed(_visitor(request), number, **how))

    return check, redo, vary


def _wire_making(
    studio: Studio, form: Form, cancel: gr.Button, player: Player, change: Change, undo: gr.Button
) -> list[Any]:
    """From pressing a button to the take; whatever goes wrong, the buttons come back and the takes stay.

    Returns:
      The events that a sound was made, or was not.
    """
    wish, both, changing = gr.State(), [form.button, cancel], [change.redo, change.vary, undo]

    def buttons(request: gr.Request) -> list[Any]:
        busy = studio.is_busy(_visitor(request))
        make = gr.update(interactive=not busy, value=MAKING if busy else MAKE)
        others = [gr.update(interactive=not busy)] * len(changing)
        return [make, gr.update(visible=busy, interactive=True, value=CANCEL), *others]

    @_warned
    def make(asked: Wish, request: gr.Request, progress: gr.Progress = PROGRESS) -> list[Any]:
        visitor = _visitor(request)

        def told(what: str, share: float) -> None:
            progress(share, desc=what)

        made = studio.make(visitor, asked, told)
        return _chosen(studio.takes(visitor), made[0])

    @_said
    def end(request: gr.Request) -> Any:
        studio.cancel(_visitor(request))
        return gr.update(interactive=False, value="Cancelling …")

    check, redo, vary = _wishes(studio, len(changing))
    quiet: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
    ways = [form.button.click, form.prompt.submit, form.avoided.submit, form.music.submit]
    shown = [player.choice, change.prompt]
    pressed = [
        gr.on(ways, check, form.inputs, [wish, *both, *changing], **quiet),
        change.redo.click(redo, [*shown, change.start, change.end], [wish, *both, *changing], **OWN_CHECKS, **quiet),
        change.vary.click(vary, [*shown, change.strength], [wish, *both, *changing], **quiet),
    ]
    finished = []
    for press in pressed:
        press.success(None, None, None, js=SHOW_RESULT)
        places = [player.choice, undo, *player.parts, *change.parts]
        made = press.success(make, wish, places, show_progress_on=player.parts[0], **PRIVATE)
        # `.then` would not run after a failure, of which the framework has its own.
        made.success(buttons, None, [*both, *changing], **quiet)
        made.failure(buttons, None, [*both, *changing], **quiet)
        finished.append(made)
    cancel.click(end, None, cancel, **quiet)
    return finished


def _wire_takes(
    studio: Studio,
    form: Form,
    made: list[Any],
    player: Player,
    change: Change,
    undo: gr.Button,
    box: gr.Accordion,
    pair: list[Player],
) -> None:
    """Takes that are chosen, uploaded or left by an undo are shown; side by side the newest and what it was made of."""

    @_said
    def show(number: int, request: gr.Request) -> list[Any]:
        return players.shown(studio.take(_visitor(request), number))

    @_said
    def choose(number: int, request: gr.Request) -> list[Any]:
        take = studio.take(_visitor(request), number)
        return [*players.shown(take), *players.marked(take)]

    @_warned
    def record(file: str, request: gr.Request, *values) -> list[Any]:
        visitor = _visitor(request)
        take = studio.record(visitor, forms.wish_of(values), Path(file))
        return _chosen(studio.takes(visitor), take)

    @_warned
    def back(request: gr.Request) -> list[Any]:
        kept = studio.undo(_visitor(request))
        return _chosen(kept, kept[-1])

    def mark(number: int, start: float, end: float, request: gr.Request) -> Any:
        with suppress(ValueError):  # the take has gone
            return players.outline(studio.take(_visitor(request), number), start or 0, end or 0)
        return gr.skip()

    def beside(request: gr.Request) -> list[Any]:
        return _beside(studio.takes(_visitor(request)), len(places))

    quiet: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
    main = [player.choice, undo, *player.parts, *change.parts]
    player.choice.input(choose, player.choice, [*player.parts, *change.parts], **PRIVATE)
    for choice, parts in pair:
        choice.input(show, choice, parts, **PRIVATE)
    marks = [change.start, change.end]
    gr.on(
        [slider.change for slider in marks], mark, [player.choice, *marks], change.wave,
        trigger_mode="always_last", **OWN_CHECKS, **quiet,
    )  # fmt: skip
    uploaded = form.recording.upload(record, [form.recording, *form.inputs], main, **PRIVATE)
    uploaded.success(None, None, None, js=SHOW_RESULT)
    undone = undo.click(back, None, main, **PRIVATE)
    places = [box, *(part for choice, parts in pair for part in (choice, *parts))]
    for event in (*made, uploaded, undone):
        event.success(beside, None, places, **quiet)


def _beside(kept: list[Take], places: int) -> list[Any]:
    """Updates of two takes side by side: the newest, and the one that it changes or the one before."""
    if len(kept) < 2:
        return [gr.update(visible=False), *[gr.skip()] * (places - 1)]
    new = kept[-1]
    old = next((take for take in kept if take.number == new.wish.take), kept[-2])
    opened = gr.update(visible=True) if new.wish.take is None else gr.update(visible=True, open=True)
    pair = [(players.choices(kept, take.number), *players.shown(take)) for take in (old, new)]
    return [opened, *pair[0], *pair[1]]


def _chosen(kept: list[Take], take: Take) -> list[Any]:
    """Updates of the result: the list, undo, the player of one of the takes, and its marks."""
    several = gr.update(visible=len(kept) > 1)
    return [players.choices(kept, take.number), several, *players.shown(take), *players.marked(take)]


def _visitor(request: gr.Request) -> str:
    """Who asks: the session of an open page."""
    assert request.session_hash is not None  # every event of a page has it
    return request.session_hash


def _line(error: Exception) -> str:
    """The message for the visitor; the traceback of a defect goes to the log."""
    if isinstance(error, ValueError):
        with suppress(ValueError):  # a library's own, which is a defect too
            return reason(error)
    traceback.print_exception(error, file=sys.stderr)
    return "Something went wrong on the server, and nothing was made. Its log says what; it goes on working."


def _said(function: Callable) -> Callable:
    """`function`, with errors shown as a line in the page."""

    @wraps(function)
    def saying(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            line = _line(error)
        raise gr.Error(html.escape(line), duration=MESSAGE_SECONDS, print_exception=False)

    return saying


def _warned(function: Callable) -> Callable:
    """`function`, whose errors are a line and change nothing: as the framework's own they would cover the takes."""

    @wraps(function)
    def warning(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            gr.Warning(html.escape(_line(error)), duration=MESSAGE_SECONDS)
            return gr.skip()

    return warning
