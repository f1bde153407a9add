"""The page: what is asked for on the left, what was made on the right; on a phone one below the other.

Gradio draws it and carries the requests; every decision is the studio's. Nothing here asks another host for anything.
"""
from __future__ import annotations

import html
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from kfjax.command import reason
from kfjax.demo.gate import Gate
from kfjax.demo.studio import LEAST_SECONDS, MAX_SCALE, MAX_SEED, MEGABYTE, Studio, Take, Wish

CSS = (Path(__file__).parent / "page.css").read_text()
#: Fonts of the visitor's own system: Gradio's default ones come from another host.
THEME = gr.themes.Default(
    primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
)
#: On a phone the result moves above the form once something was asked for (page.css), and there the view goes.
SHOW_RESULT = """() => {
    document.querySelector("#columns").classList.add("asked");
    if (window.innerWidth < 768) document.querySelector("#result").scrollIntoView({behavior: "smooth"});
}"""
MESSAGE_SECONDS = 20
PROGRESS = gr.Progress()
#: Room for the form around an uploaded file.
FORM_BYTES = 10_000


def build(
    studio: Studio, *, title: str, knows: str, card: str, examples: list[tuple[Path | None, str]]
) -> gr.Blocks:
    """The page of a studio.

    Args:
      knows: what its model knows, one sentence; `card`: all about it, Markdown, or nothing.
      examples: clips and prompts to start from.
    """
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=False) as page:
        gr.Markdown(f"# {title}\n{knows}\n\n{_rules(studio)}", elem_id="head")
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="wish", min_width=300):
                clip, inputs, button = _form(studio)
                _examples(studio, examples, clip, inputs[1])
            with gr.Column(elem_id="result", min_width=300):
                outputs = _result()
        if card:
            with gr.Accordion("About the model", open=False, elem_id="card"):
                gr.Markdown(card)
        _wire(page, studio, clip, inputs, button, outputs)
    return page.queue(max_size=studio.limits.waiting, default_concurrency_limit=1, api_open=False)


def serve(page: gr.Blocks, studio: Studio, host: str, port: int) -> None:
    """Opens the page to visitors, behind the gate; returns when it can be reached. `page.close()` ends it.

    Whatever the framework could do besides is switched off: sharing, reports home, other servers and interfaces.
    """
    most_bytes = int(studio.limits.megabytes * MEGABYTE)
    most = {"max_upload_bytes": most_bytes + FORM_BYTES, "has_room": studio.has_room}
    gate = Middleware(Gate, folder=studio.folder, **most)
    page.launch(
        server_name=host, server_port=port, theme=THEME, css=CSS, footer_links=[], quiet=True, prevent_thread_lock=True,
        share=False, inbrowser=False, inline=False, show_error=False, ssr_mode=False, pwa=False, mcp_server=False,
        enable_monitoring=False, run_history=False, num_workers=0, allowed_paths=[], max_file_size=most_bytes,
        app_kwargs={"middleware": [gate], "docs_url": None, "redoc_url": None},
    )  # fmt: skip


def _rules(studio: Studio) -> str:
    limits = studio.limits
    return (
        f"Clips of up to {limits.seconds:g} seconds and {limits.megabytes:g} MB. "
        "Uploads and results are deleted when you close the page."
    )


def _form(studio: Studio) -> tuple[gr.Video, list[Any], gr.Button]:
    """The left side: the clip, all inputs in the order of `Wish`, the button."""
    limits, defaults = studio.limits, studio.model.cfg.defaults
    line = lambda **named: gr.Textbox(lines=1, max_lines=1, **named)
    clip = gr.Video(
        label="Clip", sources=["upload", "webcam"], webcam_options=gr.WebcamOptions(mirror=False), height=280,
        elem_id="clip",
    )  # fmt: skip
    prompt = line(label="Prompt", placeholder="what is heard, e.g. a ball bounces", elem_id="prompt")
    avoided = line(label="Negative prompt", placeholder="what must not be heard, e.g. wind", elem_id="negative")
    button = gr.Button("Make sound", variant="primary", elem_id="make")
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        scale = lambda label, value: gr.Slider(0, MAX_SCALE, value, step=0.1, label=label)
        scales = [
            scale("Video guidance", defaults.guidance),
            scale("Prompt guidance", defaults.guidance),
            scale("Negative guidance", defaults.negative),
        ]
        with gr.Row():
            steps = gr.Slider(1, limits.steps, min(defaults.steps, limits.steps), step=1, label="Steps")
            samples = gr.Slider(1, limits.samples, 1, step=1, label="Versions", elem_id="samples")
        with gr.Row():
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
            seconds = gr.Slider(
                LEAST_SECONDS, limits.seconds, min(8.0, limits.seconds), step=0.5, label="Seconds without a clip"
            )
    return clip, [clip, prompt, avoided, *scales, steps, seed, samples, seconds], button


def _examples(studio: Studio, examples: list[tuple[Path | None, str]], clip: gr.Video, prompt: gr.Textbox) -> None:
    """A row of buttons that fill in a clip and a prompt."""
    ready = [[None if file is None else str(studio.lend(file)), words] for file, words in examples]
    names = [[f"{words} ({'clip' if file else 'prompt alone'})"] for file, words in examples]
    shown = gr.Dataset(components=["textbox"], samples=names, type="index", label="Examples", elem_id="examples")
    shown.click(lambda index: ready[index], shown, [clip, prompt], api_visibility="private", concurrency_limit=None)


def _result() -> list[Any]:
    """The right side: film, sound alone, picture, and the list of takes."""
    film = gr.Video(label="Result", interactive=False, buttons=["download"], elem_id="film", height=320)
    sound = gr.Audio(label="Result", interactive=False, visible=False, buttons=["download"], elem_id="sound")
    takes = gr.Radio([], label="Takes", visible=False, elem_id="takes")
    picture = gr.Image(
        label="Picture of the sound", show_label=False, interactive=False, visible=False, elem_id="picture",
        buttons=["fullscreen"],
    )  # fmt: skip
    return [film, sound, picture, takes]


def _wire(page: gr.Blocks, studio: Studio, clip: gr.Video, inputs: list, button: gr.Button, outputs: list) -> None:
    """What happens when: every function answers on the server, with the studio's words where it refuses."""
    film, _, _, takes = outputs
    waiting = lambda: gr.update(interactive=False, value="Making sound …")
    ready = lambda: gr.update(interactive=True, value="Make sound")

    @_said
    def admit(file: str | None, request: gr.Request) -> None:
        if file is not None:
            studio.admit(request.session_hash, Path(file))

    @_said
    def check(*values) -> Any:
        studio.check(_wish(values))
        return waiting()

    @_said
    def make(request: gr.Request, progress: gr.Progress = PROGRESS, *values) -> list[Any]:
        visitor = request.session_hash
        made = studio.make(visitor, _wish(values), lambda what, share: progress(share, desc=what))
        kept = studio.takes(visitor)
        choices = [(take.words, take.number) for take in reversed(kept)]
        return [*_shown(made[0]), gr.update(choices=choices, value=made[0].number, visible=True)]

    @_said
    def show(number: int, request: gr.Request) -> list[Any]:
        chosen = [take for take in studio.takes(request.session_hash) if take.number == number]
        if not chosen:
            raise ValueError("This take is no longer here: make it again.")
        return _shown(chosen[0])

    def leave(request: gr.Request) -> None:
        studio.leave(request.session_hash)

    private = {"api_visibility": "private", "concurrency_limit": None}
    for came in (clip.upload, clip.stop_recording):
        came(admit, clip, None, **private).failure(lambda: None, None, clip, **private)
    pressed = gr.on([button.click, *(box.submit for box in inputs[1:3])], check, inputs, button, **private)
    pressed.success(None, None, None, js=SHOW_RESULT)
    pressed.success(
        make, inputs, outputs, show_progress_on=film, concurrency_limit=1, api_visibility="private"
    ).then(ready, None, button, **private)  # fmt: skip
    takes.input(show, takes, outputs[:3], **private)
    page.unload(leave)


def _wish(values: tuple) -> Wish:
    clip, prompt, avoided, video, text, negative, steps, seed, samples, seconds = values
    return Wish(
        None if clip is None else Path(clip), prompt or "", avoided or "", video, text, negative, steps, seed, samples,
        seconds,
    )  # fmt: skip


def _shown(take: Take) -> list[Any]:
    """Film, sound and picture of a take; of the first two the one there is."""
    return [
        gr.update(value=str(take.file) if take.has_film else None, visible=take.has_film, label=take.words),
        gr.update(value=None if take.has_film else str(take.file), visible=not take.has_film, label=take.words),
        gr.update(value=str(take.picture), visible=True),
    ]


def _said(function: Callable) -> Callable:
    """`function`, but what it refuses appears as a line in the page; what is our own defect goes to the log."""

    @wraps(function)
    def saying(*args, **kwargs):
        try:
            try:
                return function(*args, **kwargs)
            except ValueError as error:
                line = reason(error)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            line = "Something went wrong on the server, and nothing was made. Its log says what; it goes on working."
        raise gr.Error(html.escape(line), duration=MESSAGE_SECONDS, print_exception=False)

    return saying

