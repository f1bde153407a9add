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
from typing import Any, NamedTuple

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.themes import Default as DefaultTheme
from starlette.middleware import Middleware

from kfjax.command import reason
from kfjax.demo.gate import Gate
from kfjax.demo.studio import MAX_SCALE, MEGABYTE, Studio, Take, Wish
from kfjax.limits import MAX_SEED
from kfjax.pipeline import TEXT_ONLY_SECONDS

CSS = (Path(__file__).parent / "page.css").read_text()
#: Fonts of the visitor's own system: Gradio's default ones come from another host.
THEME = DefaultTheme(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
#: On a phone the result moves above the form once something was asked for (page.css), and there the view goes.
SHOW_RESULT = """() => {
    document.querySelector("#columns").classList.add("asked");
    if (window.innerWidth < 768) document.querySelector("#result").scrollIntoView({behavior: "smooth"});
}"""
MAKE, MAKING, CANCEL = "Make sound", "Making sound …", "Cancel"
MESSAGE_SECONDS = 20
#: Six digits are read and typed with ease.
RANDOM_SEEDS = 1_000_000
#: How long a server may take to start on a busy machine, and to end while pages are open.
START_SECONDS, END_SECONDS = 120, 5
#: Of every event: no interface for programs, and none waits for another.
PRIVATE = {"api_visibility": "private", "concurrency_limit": None}
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
                form = _form(studio)
                _examples(studio, examples, form)
            with gr.Column(elem_id="result", min_width=300):
                cancel = gr.Button(CANCEL, visible=False, elem_id="cancel", size="sm")
                player = _player(gr.Radio([], label="Takes", visible=False, elem_id="takes", render=False))
        box, pair = _pair()
        if card:
            with gr.Accordion("About the model", open=False, elem_id="card"):
                gr.Markdown(card)
        _wire_form(studio, form)
        made = _wire_making(studio, form, cancel, player)
        _wire_takes(studio, made, player, box, pair)

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


class _Form(NamedTuple):
    """The left side. `inputs`: in the order of `Wish`, the clip first."""

    clip: gr.Video
    prompt: gr.Textbox
    avoided: gr.Textbox
    seed: gr.Number
    inputs: list[Any]
    button: gr.Button
    unread: gr.HTML
    random: gr.Button


def _form(studio: Studio) -> _Form:
    limits, defaults = studio.limits, studio.model.cfg.defaults
    line = lambda **named: gr.Textbox(lines=1, max_lines=1, **named)
    clip = gr.Video(
        label="Clip", sources=["upload", "webcam"], webcam_options=gr.WebcamOptions(mirror=False), height=280,
        elem_id="clip",
    )  # fmt: skip
    prompt = line(label="Prompt", placeholder="what is heard, e.g. a ball bounces", elem_id="prompt")
    avoided = line(label="Negative prompt", placeholder="what must not be heard, e.g. wind", elem_id="negative")
    button = gr.Button(MAKE, variant="primary", elem_id="make")
    unread = gr.HTML(visible=False, elem_id="unread", elem_classes="unread")  # below the button, which must not move
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        with gr.Row(equal_height=True):
            seed = gr.Number(
                0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed", scale=2, min_width=120
            )
            random = gr.Button("Random seed", elem_id="random", scale=1, min_width=120)
        alone = f"{min(TEXT_ONLY_SECONDS, limits.seconds):g}"
        seconds = gr.Slider(
            0, limits.seconds, 0, step=0.5, label="Length in seconds", elem_id="seconds",
            info=f"0: all of the clip, {alone} s without one. Of a longer clip the rest stays silent.",
        )  # fmt: skip
        samples = gr.Slider(1, limits.samples, 1, step=1, label="Versions", elem_id="samples")
        steps = gr.Slider(1, limits.steps, min(defaults.steps, limits.steps), step=1, label="Steps")
        scale = lambda label, value: gr.Slider(0, MAX_SCALE, value, step=0.1, label=label)
        scales = [
            scale("Video guidance", defaults.guidance),
            scale("Prompt guidance", defaults.guidance),
            scale("Negative guidance", defaults.negative),
        ]
    inputs = [clip, prompt, avoided, *scales, steps, seed, samples, seconds]
    return _Form(clip, prompt, avoided, seed, inputs, button, unread, random)


def _examples(studio: Studio, examples: list[tuple[Path | None, str]], form: _Form) -> None:
    """A row of buttons that fill in a clip and a prompt."""
    ready = [[None if file is None else str(studio.lend(file)), words] for file, words in examples]
    names = [[f"{words} ({'clip' if file else 'prompt alone'})"] for file, words in examples]
    shown = gr.Dataset(components=["textbox"], samples=names, type="index", label="Examples", elem_id="examples")
    shown.click(lambda index: ready[index], shown, [form.clip, form.prompt], **PRIVATE)


class _Player(NamedTuple):
    """A place for a take: which one it is, and the parts that `_shown` fills."""

    choice: gr.Radio | gr.Dropdown
    parts: list[Any]


def _player(choice: gr.Radio | gr.Dropdown) -> _Player:
    film = gr.Video(label="Result", interactive=False, buttons=["download"], elem_classes="film", height=320)
    sound = gr.Audio(label="Result", interactive=False, visible=False, buttons=["download"], elem_classes="sound")
    unread = gr.HTML(visible=False, elem_classes="unread")
    choice.render()
    wav = gr.DownloadButton("Download the sound alone (.wav)", visible=False, size="sm", elem_classes="wav")
    picture = gr.Image(
        label="Picture of the sound", show_label=False, interactive=False, visible=False, elem_classes="picture",
        buttons=["fullscreen"],
    )  # fmt: skip
    return _Player(choice, [film, sound, unread, wav, picture])


def _pair() -> tuple[gr.Accordion, list[_Player]]:
    """Two takes side by side; on a phone one below the other."""
    players = []
    with gr.Accordion("Two takes side by side", open=False, visible=False, elem_id="pair") as box, gr.Row():
        for side in ("left", "right"):
            with gr.Column(elem_id=side, min_width=300):
                players.append(_player(gr.Dropdown([], label="Take", interactive=True, render=False)))
    return box, players


def _wire_form(studio: Studio, form: _Form) -> None:
    """Events before a request."""

    @_said
    def admit(file: str | None, request: gr.Request) -> None:
        if file is not None:
            studio.admit(_visitor(request), Path(file))

    @_said
    def unread(prompt: str | None, avoided: str | None) -> Any:
        return _note(studio.unread(prompt or "", avoided or ""))

    for came in (form.clip.upload, form.clip.stop_recording):
        came(admit, form.clip, None, **PRIVATE).failure(lambda: None, None, form.clip, **PRIVATE)
    texts = [form.prompt, form.avoided]
    gr.on(
        [box.change for box in texts], unread, texts, form.unread, trigger_mode="always_last",
        show_progress="hidden", **PRIVATE,
    )  # fmt: skip
    form.random.click(lambda: secrets.randbelow(RANDOM_SEEDS), None, form.seed, show_progress="hidden", **PRIVATE)


def _wire_making(studio: Studio, form: _Form, cancel: gr.Button, player: _Player) -> Any:
    """From pressing the button to the take; whatever goes wrong, the button comes back and the takes stay.

    Returns:
      The event that a sound was made, or was not.
    """

    def buttons(request: gr.Request) -> list[Any]:
        busy = studio.is_busy(_visitor(request))
        make = gr.update(interactive=not busy, value=MAKING if busy else MAKE)
        return [make, gr.update(visible=busy, interactive=True, value=CANCEL)]

    @_said
    def check(request: gr.Request, *values) -> list[Any]:
        studio.check(_visitor(request), _wish(values))
        return [gr.update(interactive=False, value=MAKING), gr.update(visible=True)]

    def make(request: gr.Request, progress: gr.Progress = PROGRESS, *values) -> Any:
        """A failure is reported and changes nothing: an exception in the framework would cover the takes."""
        visitor = _visitor(request)

        def told(what: str, share: float) -> None:
            progress(share, desc=what)

        try:
            made = studio.make(visitor, _wish(values), told)
        except Exception as error:
            gr.Warning(html.escape(_line(error)), duration=MESSAGE_SECONDS)
            return gr.skip()
        return [_choices(studio.takes(visitor), made[0].number), *_shown(made[0])]

    @_said
    def end(request: gr.Request) -> Any:
        studio.cancel(_visitor(request))
        return gr.update(interactive=False, value="Cancelling …")

    both, quiet = [form.button, cancel], {"show_progress": "hidden", **PRIVATE}
    ways = [form.button.click, form.prompt.submit, form.avoided.submit]
    pressed = gr.on(ways, check, form.inputs, both, **quiet)
    pressed.success(None, None, None, js=SHOW_RESULT)
    made = pressed.success(
        make, form.inputs, [player.choice, *player.parts], show_progress_on=player.parts[0], **PRIVATE
    )
    # `.then` would not run after a failure, of which the framework has its own.
    made.success(buttons, None, both, **quiet)
    made.failure(buttons, None, both, **quiet)
    cancel.click(end, None, cancel, **quiet)
    return made


def _wire_takes(studio: Studio, made: Any, player: _Player, box: gr.Accordion, pair: list[_Player]) -> None:
    """Takes that are chosen are shown; side by side the newest two, after each that was made."""

    @_said
    def show(number: int, request: gr.Request) -> list[Any]:
        chosen = [take for take in studio.takes(_visitor(request)) if take.number == number]
        if not chosen:
            raise ValueError("This take is no longer here: make it again.")
        return _shown(chosen[0])

    def beside(request: gr.Request) -> Any:
        kept = studio.takes(_visitor(request))
        if len(kept) < 2:
            return gr.skip()
        shown = [update for take in kept[-2:] for update in (_choices(kept, take.number), *_shown(take))]
        return [gr.update(visible=True), *shown]

    for choice, parts in (player, *pair):
        choice.input(show, choice, parts, **PRIVATE)
    places = [box, *(part for choice, parts in pair for part in (choice, *parts))]
    made.success(beside, None, places, show_progress="hidden", **PRIVATE)


def _visitor(request: gr.Request) -> str:
    """Who asks: the session of an open page."""
    assert request.session_hash is not None  # every event of a page has it
    return request.session_hash


def _wish(values: tuple) -> Wish:
    clip, prompt, avoided, video, text, negative, steps, seed, samples, seconds = values
    return Wish(
        None if clip is None else Path(clip), prompt or "", avoided or "", video, text, negative, steps, seed, samples,
        seconds or None,  # an empty field arrives as 0 too
    )  # fmt: skip


def _shown(take: Take) -> list[Any]:
    """Updates of a player: film, or sound where there is none, what was not read, download, picture."""
    film, sound = take.film, None if take.film else take.sound
    there = lambda file: gr.update(value=file and str(file), visible=file is not None, label=take.words)
    return [
        there(film),
        there(sound),
        _note(take.unread),
        gr.update(value=str(take.sound), visible=True),
        gr.update(value=str(take.picture), visible=True),
    ]


def _choices(takes: list[Take], number: int) -> Any:
    """The list of takes, the newest first, with one of them chosen."""
    return gr.update(choices=[(take.words, take.number) for take in reversed(takes)], value=number, visible=True)


def _note(line: str) -> Any:
    """A line with text of the visitor, escaped; takes no space if empty."""
    return gr.update(value=html.escape(line), visible=bool(line))


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
