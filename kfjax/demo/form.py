"""The left side of the page: what a visitor fills in, and the wish that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from kfjax.demo.studio import Studio
from kfjax.demo.wish import MAX_MUSIC_GAIN, MAX_SCALE, Wish
from kfjax.making.limits import MAX_SEED
from kfjax.pipeline import TEXT_ONLY_SECONDS

MAKE, MAKING = "Make sound", "Making sound …"
#: Labels and LUFS; 0 stands for none.
LOUDNESS = [("Off", 0), ("-23 LUFS", -23), ("-16 LUFS", -16), ("-14 LUFS", -14)]
#: What a reference or a recording may be.
SOUNDS: list[str] = ["audio", "video"]


class Form(NamedTuple):
    """The parts. `inputs`: the values that `wish_of` takes, in its order."""

    clip: gr.Video
    prompt: gr.Textbox
    avoided: gr.Textbox
    music: gr.Textbox
    reference: gr.File
    recording: gr.UploadButton
    seed: gr.Number
    inputs: list[Any]
    button: gr.Button
    unread: gr.HTML
    random: gr.Button


def line(**named: Any) -> gr.Textbox:
    """A text of one line."""
    return gr.Textbox(lines=1, max_lines=1, **named)


def _path_alone(upload: Any) -> Any:
    """An upload arrives as its path; the framework's own way also leaves an empty file behind each time."""
    upload.preprocess = lambda file: None if file is None else file.path
    return upload


def draw(studio: Studio) -> Form:
    """The form, in the place where this is called."""
    clip = gr.Video(
        label="Clip", sources=["upload", "webcam"], webcam_options=gr.WebcamOptions(mirror=False), height=280,
        elem_id="clip",
    )  # fmt: skip
    prompt = line(label="Prompt", placeholder="what is heard, e.g. a ball bounces", elem_id="prompt")
    avoided = line(label="Negative prompt", placeholder="what must not be heard, e.g. wind", elem_id="negative")
    button = gr.Button(MAKE, variant="primary", elem_id="make")
    unread = gr.HTML(visible=False, elem_id="unread", elem_classes="unread")  # below the button, which must not move
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        seed, random, *settings = _settings(studio)
    with gr.Accordion("More", open=False, elem_id="more"):
        recording, *more = _more()
    seconds, samples, steps, *scales = settings
    inputs = [clip, prompt, avoided, *scales, steps, seed, samples, seconds, *more]
    reference, music, *_ = more
    return Form(clip, prompt, avoided, music, reference, recording, seed, inputs, button, unread, random)


def _settings(studio: Studio) -> list[Any]:
    limits, defaults = studio.limits, studio.model.cfg.defaults
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
    return [seed, random, seconds, samples, steps, *scales]


def _more() -> list[Any]:
    reference = gr.File(
        label="Reference: what it shall sound like", file_types=SOUNDS, type="filepath", height=150,
        elem_id="reference",
    )  # fmt: skip
    music = line(label="Music", placeholder="what plays beside the sound, e.g. a slow piano", elem_id="music")
    gain = gr.Slider(0, MAX_MUSIC_GAIN, 1, step=0.1, label="Gain of the music", elem_id="gain")
    loudness = gr.Radio(LOUDNESS, value=0, label="Loudness", elem_id="loudness")
    recording = gr.UploadButton(
        "Upload a recording to change", file_types=SOUNDS, type="filepath", size="sm", elem_id="recording"
    )
    return [_path_alone(recording), _path_alone(reference), music, gain, loudness]


def wish_of(values: tuple) -> Wish:
    """The wish of the form's values."""
    clip, prompt, avoided, video, text, negative, steps, seed, samples, seconds, *more = values
    reference, music, gain, loudness = more
    return Wish(
        None if clip is None else Path(clip), prompt or "", avoided or "", video, text, negative, steps, seed, samples,
        seconds or None,  # an empty field arrives as 0 too
        None if reference is None else Path(reference), music or "", gain, loudness or None,
    )  # fmt: skip
