"""Pictures of sound beside what is seen: a strip of frames, the waveform, the mel spectrogram on one time axis.

    plot.overview("clip.png", waveform, 44100, frames=plot.read_strip("clip.mp4", 5.0), marks=[0.8, 2.1])

matplotlib is imported when something is drawn, and draws into files only.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kfjax import media
from kfjax.media import FrameSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRIP_FRAMES = 12
MARK = {"color": "tab:red", "linewidth": 0.8, "alpha": 0.8}


def overview(
    path: str | Path,
    waveform: np.ndarray,
    sample_rate_hz: int,
    *,
    frames: np.ndarray | None = None,
    marks: Sequence[float] = (),
    title: str = "",
) -> None:
    """Frames, waveform of both ears and mel over time, as a png.

    Args:
      waveform: f32 [t] or [t, 2] (left, right).
      frames: u8 [k, height, width, 3], evenly spaced over the sound's length.
      marks: times of events, seconds: red lines.
    """
    from kfjax.codec.mel import MelConfig, log_mel

    wave = np.asarray(waveform, np.float32).reshape(len(waveform), -1)
    seconds = len(wave) / sample_rate_hz
    mel_config = MelConfig(sample_rate_hz=sample_rate_hz, fmax_hz=sample_rate_hz / 2)
    mel = np.asarray(log_mel(wave.mean(1)[None], mel_config)[0])
    rows = ([] if frames is None else [1.0]) + [1.0] * wave.shape[1] + [1.6]
    figure, axes = _panels(rows)
    rest = iter(axes)
    if frames is not None:
        draw_frames(next(rest), frames, seconds)
    for channel, name in zip(wave.T, ("left", "right") if wave.shape[1] == 2 else ("mono",), strict=True):
        draw_waveform(next(rest), channel, sample_rate_hz, marks, name)
    draw_mel(next(rest), mel, seconds, marks)
    axes[0].set_title(title, fontsize=9, loc="left")
    save(figure, path)


def compare(path: str | Path, mels: Mapping[str, np.ndarray], seconds: float, *, marks: Sequence[float] = ()) -> None:
    """Log-mels [f, m] of the same moment under one another, e.g. {"true": ..., "generated": ...}, as a png."""
    figure, axes = _panels([1.0] * len(mels))
    for ax, (name, mel) in zip(axes, mels.items(), strict=True):
        draw_mel(ax, mel, seconds, marks, name)
    save(figure, path)


def draw_frames(ax: Axes, frames: np.ndarray, seconds: float) -> None:
    """Frames side by side, each at the start of its share of the time axis."""
    share = seconds / len(frames)
    for k, frame in enumerate(frames):
        ax.imshow(frame, extent=(k * share, (k + 1) * share, 0, 1), aspect="auto")
    ax.set(xlim=(0, seconds), ylim=(0, 1), yticks=[])


def draw_waveform(ax: Axes, wave: np.ndarray, sample_rate_hz: int, marks: Sequence[float] = (), name: str = "") -> None:
    """The envelope: what lies between the smallest and the largest sample of each of 1500 columns."""
    columns = np.array_split(wave, min(1500, len(wave)))
    times = np.arange(len(columns)) * len(wave) / len(columns) / sample_rate_hz
    ax.fill_between(times, [c.min() for c in columns], [c.max() for c in columns], color="tab:blue", linewidth=0.4)
    ax.vlines(marks, -1, 1, **MARK)
    peak = max(0.05, float(np.abs(wave).max()))
    ax.set(xlim=(0, len(wave) / sample_rate_hz), ylim=(-peak, peak), ylabel=name)


def draw_mel(ax: Axes, mel: np.ndarray, seconds: float, marks: Sequence[float] = (), name: str = "mel band") -> None:
    """Log-mel [f, m], natural logarithm; 70 dB down from the loudest is black."""
    top = float(mel.max())
    ax.imshow(
        mel.T, origin="lower", aspect="auto", extent=(0, seconds, 0, mel.shape[1]), cmap="magma",
        vmin=top - 70 * np.log(10) / 20, vmax=top,
    )  # fmt: skip
    ax.vlines(marks, 0, mel.shape[1], **MARK)
    ax.set(ylabel=name)


def read_strip(video: str | Path, seconds: float, count: int = STRIP_FRAMES) -> np.ndarray:
    """u8 [count, 160, 160, 3]: frames evenly spaced over the video's first `seconds`."""
    return media.read_frames(video, [FrameSpec(count / seconds, 160, "crop")], counts=[count])[0][0]


def save(figure: Figure, path: str | Path) -> None:
    """Write a png; it appears only when complete."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=110)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _panels(heights: list[float]) -> tuple[Figure, list[Axes]]:
    """Panels under one another that share the time axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.6 + 1.15 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for ax in axes:
        ax.tick_params(labelsize=7)
        ax.yaxis.label.set_size(8)
    axes[-1].set_xlabel("seconds", fontsize=8)
    return figure, list(axes)
