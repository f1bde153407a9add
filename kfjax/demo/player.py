"""Places of the page where a take is seen and heard, and where it is changed."""

from __future__ import annotations

import html
import math
from typing import Any, NamedTuple

import gradio as gr

from kfjax.demo.form import line
from kfjax.demo.take import OUTLINE_POINTS, Take
from kfjax.demo.wish import LEAST_STRENGTH

#: Seconds between two places of the sliders that mark a span.
MARK_STEP = 0.05


class Player(NamedTuple):
    """A place for a take: which one it is, and the parts that `shown` fills."""

    choice: gr.Radio | gr.Dropdown
    parts: list[Any]


def draw(choice: gr.Radio | gr.Dropdown, below: gr.Button | None = None) -> Player:
    """A player, in the place where this is called; `below`: what stands below the choice."""
    film = gr.Video(label="Result", interactive=False, buttons=["download"], elem_classes="film", height=320)
    sound = gr.Audio(label="Result", interactive=False, visible=False, buttons=["download"], elem_classes="sound")
    unread = gr.HTML(visible=False, elem_classes="unread")
    choice.render()
    if below is not None:
        below.render()
    wav = gr.DownloadButton("Download the sound alone (.wav)", visible=False, size="sm", elem_classes="wav")
    stems = [
        gr.DownloadButton(f"Download {part} (.wav)", visible=False, size="sm", elem_classes=name)
        for name, part in (("effects", "the sound without music"), ("music", "the music alone"))
    ]
    picture = gr.Image(
        label="Picture of the sound", show_label=False, interactive=False, visible=False, elem_classes="picture",
        buttons=["fullscreen"],
    )  # fmt: skip
    return Player(choice, [film, sound, unread, wav, *stems, picture])


def draw_pair() -> tuple[gr.Accordion, list[Player]]:
    """Two takes side by side; on a phone one below the other."""
    players = []
    with gr.Accordion("Two takes side by side", open=False, visible=False, elem_id="pair") as box, gr.Row():
        for side in ("left", "right"):
            with gr.Column(elem_id=side, min_width=300):
                players.append(draw(gr.Dropdown([], label="Take", interactive=True, render=False)))
    return box, players


class Change(NamedTuple):
    """Where the take that is shown is changed; `parts` are what `marked` fills."""

    prompt: gr.Textbox
    start: gr.Slider
    end: gr.Slider
    strength: gr.Slider
    redo: gr.Button
    vary: gr.Button
    wave: gr.HTML
    parts: list[Any]


def draw_change() -> Change:
    """Marks and buttons, in the place where this is called; hidden until there is a take."""
    with gr.Accordion("Change this take", open=False, visible=False, elem_id="change") as box:
        wave = gr.HTML(elem_id="wave")
        mark = lambda label, name: gr.Slider(0, 1, 0, step=MARK_STEP, label=label, elem_id=name, min_width=140)
        with gr.Row():
            start, end = mark("From (s)", "from"), mark("To (s)", "to")
        prompt = line(label="Prompt of the change", placeholder="empty: as before", elem_id="instead")
        redo = gr.Button("Redo the marked seconds", variant="primary", elem_id="redo")
        strength = gr.Slider(
            LEAST_STRENGTH, 1, 0.5, step=0.05, label="Strength", elem_id="strength",
            info="How far all of it may go from this take.",
        )  # fmt: skip
        vary = gr.Button("Vary the whole take", elem_id="vary")
    return Change(prompt, start, end, strength, redo, vary, wave, [box, start, end, wave])


def shown(take: Take) -> list[Any]:
    """Updates of a player: film, or sound where there is none, what was not read, downloads, picture."""
    film, sound = take.film, None if take.film else take.sound
    there = lambda file: gr.update(value=file and str(file), visible=file is not None, label=take.words)
    stems = take.stems or (None, None)
    return [
        there(film),
        there(sound),
        note(take.unread),
        gr.update(value=str(take.sound), visible=True),
        *(gr.update(value=stem and str(stem), visible=stem is not None) for stem in stems),
        gr.update(value=str(take.picture), visible=True),
    ]


def marked(take: Take) -> list[Any]:
    """Updates of the place for changes: the seconds that were redone, else the middle of the take."""
    third = take.seconds / 3
    start, end = take.wish.redo or (round(third, 1), round(2 * third, 1))
    most = math.floor(100 * take.seconds) / 100
    slider = lambda value: gr.update(maximum=most, value=min(round(value, 2), most))
    return [gr.update(visible=True), slider(start), slider(end), outline(take, start, end)]


def choices(takes: list[Take], number: int) -> Any:
    """The list of takes, the newest first, with one of them chosen."""
    return gr.update(choices=[(take.words, take.number) for take in reversed(takes)], value=number, visible=True)


def note(text: str) -> Any:
    """A line with text of the visitor, escaped; takes no space if empty."""
    return gr.update(value=html.escape(text), visible=bool(text))


def outline(take: Take, start: float, end: float) -> str:
    """An SVG of a take's outline with a span marked, and its seconds below."""
    scale = OUTLINE_POINTS / take.seconds
    heights = [49 * peak + 1 for peak in take.outline]
    above = [f"{x},{50 - height:.1f}" for x, height in enumerate(heights)]
    below = [f"{x},{50 + height:.1f}" for x, height in reversed([*enumerate(heights)])]
    below_it = "".join(f"<span>{text} s</span>" for text in ("0", f"{start:.2f} to {end:.2f}", f"{take.seconds:.2f}"))
    return (
        f'<svg viewBox="0 0 {OUTLINE_POINTS} 100" preserveAspectRatio="none" role="img" aria-label="the take">'
        f'<polygon points="{" ".join(above + below)}"/>'
        f'<rect x="{start * scale:.2f}" width="{max(end - start, 0) * scale:.2f}" height="100"/></svg>'
        f'<div class="seconds">{below_it}</div>'
    )
