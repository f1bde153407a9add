"""Pictures of sound beside what is seen: frames, waveform, mel, onsets and position over one time axis, as png files.

    plot.overview("clip.png", waveform, 44100, frames=plot.read_strip("clip.mp4", 5.0), marks=[0.8, 2.1])
    plot.comparison("clip.png", generated, 44100, true=recorded, onsets=[plot.Onsets("generated", true, heard, pairs)])
    plot.versions("seeds.png", {"seed 0": first, "seed 1": second}, 44100)
    plot.raster("onsets.png", [plot.Onsets(...), ...], seconds=8.0)

Every panel is drawn by a function of its own (`draw_mel` and others), for figures of other make. Pictures are meant to
be legible at a width of 800 pixels, and colours to be told apart by the colour-blind (palette: Okabe and Ito 2008);
where a colour says something, a shape says it too. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kfjax import media
from kfjax.media import FrameSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRIP_FRAMES = 12
BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
GENERATED, TRUE, MARK, MATCHED, MISSED, EXTRA = BLUE, GREEN, "0.35", BLUE, VERMILION, ORANGE
MEL_RANGE_DB = 70.0
_WIDTH_INCHES, _DPI = 8.0, 150
_FREQUENCIES_KHZ = (0.25, 1, 4, 16)
_DECIBELS = (-20, -6, 0, 6, 20)

Row = tuple[float, Callable[["Axes"], None]]  # height in inches, what draws it


class Onsets(NamedTuple):
    """One row of a raster: what happens, what is heard, and which belong together.

    Attributes:
      name: beside the row.
      true: seconds of the true events; of those that count as one, the first.
      detected: seconds of the onsets heard.
      pairs: (index in detected, index in true) of those that match, as `metrics.onsets.onset_f1` gives them.
    """

    name: str
    true: Sequence[float] | np.ndarray
    detected: Sequence[float] | np.ndarray
    pairs: Sequence[tuple[int, int]]


def overview(
    path: str | Path,
    waveform: np.ndarray,
    sample_rate_hz: int,
    *,
    frames: np.ndarray | None = None,
    marks: Sequence[float] = (),
    positions: Sequence[Sequence[tuple[float, float]]] = (),
    title: str = "",
) -> None:
    """One sound: frames, waveform of both channels, mel and, in stereo, position over time.

    Args:
      waveform: f32 [t] or [t, 2] (left, right).
      frames: u8 [k, height, width, 3], evenly spaced over the sound's length.
      marks: times of events, seconds.
      positions: true positions, one sequence of (seconds, x) for each source, x from -1 (left) to 1; a single pair is
        an event, several are a path.
    """
    wave = _channels(waveform)
    seconds, peak = len(wave) / sample_rate_hz, _peak(wave)
    names = ("left", "right") if wave.shape[1] == 2 else ("mono",)
    rows = _frames_row(frames, seconds)
    rows += [
        (0.8, lambda ax, k=k, name=name: draw_waveform(ax, wave[:, k], sample_rate_hz, marks, name, peak=peak))
        for k, name in enumerate(names)
    ]
    mel = mel_db(wave, sample_rate_hz)
    rows.append((1.6, lambda ax: draw_mel(ax, mel, seconds, marks, top_db=mel.max(), nyquist_hz=sample_rate_hz / 2)))
    rows += _position_row({"sound": wave}, sample_rate_hz, positions)
    _draw(path, rows, seconds, title)


def comparison(
    path: str | Path,
    generated: np.ndarray,
    sample_rate_hz: int,
    *,
    true: np.ndarray,
    frames: np.ndarray | None = None,
    marks: Sequence[float] = (),
    onsets: Sequence[Onsets] = (),
    positions: Sequence[Sequence[tuple[float, float]]] = (),
    title: str = "",
) -> None:
    """A generated sound beneath the true one; see `versions`.

    Args:
      generated, true: f32 [t] or [t, 2].
      frames, marks, onsets, positions, title: as for `versions`.
    """
    sounds = {"true": true, "generated": generated}
    versions(path, sounds, sample_rate_hz, frames=frames, marks=marks, onsets=onsets, positions=positions, title=title)


def versions(
    path: str | Path,
    sounds: Mapping[str, np.ndarray],
    sample_rate_hz: int,
    *,
    frames: np.ndarray | None = None,
    marks: Sequence[float] = (),
    onsets: Sequence[Onsets] = (),
    positions: Sequence[Sequence[tuple[float, float]]] = (),
    title: str = "",
) -> None:
    """Sounds for one film under one another: frames, waveforms, mels on one scale, onset raster, position over time.

    Args:
      sounds: name -> f32 [t] or [t, 2]; the time axis is as long as the longest.
      frames: u8 [k, height, width, 3], evenly spaced over that length.
      marks: times of events, seconds.
      onsets: rows of the raster, from the top.
      positions: as for `overview`; measured where a sound has two channels.
    """
    waves = {name: _channels(sound) for name, sound in sounds.items()}
    lengths = {name: len(wave) / sample_rate_hz for name, wave in waves.items()}
    seconds, peak = max(lengths.values()), max(_peak(wave) for wave in waves.values())
    mels = {name: mel_db(wave, sample_rate_hz) for name, wave in waves.items()}
    top = max(mel.max() for mel in mels.values())
    rows = _frames_row(frames, seconds)
    for (name, wave), colour in zip(waves.items(), _colours(waves), strict=True):
        rows.append((0.7, lambda ax, wave=wave, name=name, colour=colour: draw_waveform(
            ax, wave.mean(1), sample_rate_hz, marks, name, peak=peak, colour=colour)))  # fmt: skip
    for name, mel in mels.items():
        rows.append((1.4, lambda ax, mel=mel, name=name: draw_mel(
            ax, mel, lengths[name], marks, name, top_db=top, nyquist_hz=sample_rate_hz / 2)))  # fmt: skip
    if onsets:
        rows.append((0.35 + 0.3 * len(onsets), lambda ax: draw_onsets(ax, onsets)))
    rows += _position_row(waves, sample_rate_hz, positions)
    _draw(path, rows, seconds, title)


def raster(path: str | Path, onsets: Sequence[Onsets], seconds: float, *, title: str = "") -> None:
    """Onsets of several sounds of the same length under one another."""
    _draw(path, [(0.4 + 0.3 * len(onsets), lambda ax: draw_onsets(ax, onsets))], seconds, title)


def draw_frames(ax: Axes, frames: np.ndarray, seconds: float) -> None:
    """Frames side by side, each from the start of its share of the time axis."""
    share = seconds / len(frames)
    for k, frame in enumerate(frames):
        ax.imshow(frame, extent=(k * share, (k + 1) * share, 0, 1), aspect="auto")
    ax.vlines(np.arange(1, len(frames)) * share, 0, 1, color="white", linewidth=1.0)
    ax.set(xlim=(0, seconds), ylim=(0, 1), yticks=[], ylabel="video")


def draw_waveform(
    ax: Axes,
    wave: np.ndarray,
    sample_rate_hz: int,
    marks: Sequence[float] = (),
    name: str = "",
    *,
    peak: float | None = None,
    colour: str = GENERATED,
) -> None:
    """The envelope of f32 [t]: what lies between the smallest and the largest sample of each of 1500 columns.

    `peak`, the largest amplitude on the axis, defaults to the wave's own; full scale is 1.
    """
    columns = np.array_split(wave, min(1500, len(wave)))
    times = np.arange(len(columns)) * len(wave) / len(columns) / sample_rate_hz
    ax.fill_between(times, [c.min() for c in columns], [c.max() for c in columns], color=colour, linewidth=0.4)
    peak = _peak(wave) if peak is None else peak
    ax.vlines(marks, -peak, peak, color=MARK, linewidth=0.8, linestyle=(0, (3, 2)))
    ax.set(xlim=(0, len(wave) / sample_rate_hz), ylim=(-peak, peak), ylabel=f"{name}\namplitude")


def draw_mel(
    ax: Axes,
    mel: np.ndarray,
    seconds: float,
    marks: Sequence[float] = (),
    name: str = "",
    *,
    top_db: float,
    nyquist_hz: float = 22050.0,
) -> None:
    """Mel levels [f, m] in dB (`mel_db`), from `top_db` down to 70 dB below it, with their scale."""
    from kfjax.dsp import mels  # jax is slow to import

    bands = mel.shape[1]
    image = ax.imshow(
        mel.T - top_db, origin="lower", aspect="auto", extent=(0, seconds, 0, bands), cmap="magma",
        vmin=-MEL_RANGE_DB, vmax=0.0,
    )  # fmt: skip
    # At the upper edge alone: a line across would hide the very onset that it marks.
    ax.vlines(marks, 0.92 * bands, bands, color=SKY, linewidth=1.2)
    shown = [f for f in _FREQUENCIES_KHZ if f * 1e3 < nyquist_hz]
    place = mels(np.array(shown) * 1e3) / mels(np.array(nyquist_hz)) * (bands + 1) - 0.5
    ax.set(xlim=(0, seconds), ylim=(0, bands), ylabel=f"{name}\nkHz".strip())
    ax.set_yticks(place, [f"{f:g}" for f in shown])
    scale = ax.figure.colorbar(image, cax=ax.inset_axes((1.01, 0, 0.012, 1)), ticks=(-60, -30, 0))
    scale.set_label("dB", fontsize=8, labelpad=1)
    scale.ax.tick_params(labelsize=7)


def draw_onsets(ax: Axes, rows: Sequence[Onsets]) -> None:
    """True events as bars, onsets heard as points, one row a sound.

    Events that are heard: solid blue bars with a point; missed: dashed bars in vermilion without one; what is heard
    and never happened: orange crosses.
    """
    for k, row in enumerate(rows):
        heard, missed = _parted(row.true, [true for _, true in row.pairs])
        matched, extra = _parted(row.detected, [detected for detected, _ in row.pairs])
        name = lambda label, first=k == 0: label if first else ""  # the legend names each kind once
        for label, times, colour, style in (
            ("event heard", heard, MATCHED, "-"), ("event missed", missed, MISSED, (0, (2, 1))),
        ):  # fmt: skip
            ax.vlines(times, k - 0.36, k + 0.36, color=colour, linestyle=style, linewidth=1.6, label=name(label))
        for label, times, colour, marker in (
            ("onset matched", matched, MATCHED, "o"), ("onset extra", extra, EXTRA, "x"),
        ):  # fmt: skip
            ax.scatter(times, np.full(len(times), k), s=22, color=colour, marker=marker, label=name(label), zorder=3)
    ax.set_yticks(range(len(rows)), [_short(row.name) for row in rows], parse_math=False)
    ax.set(ylim=(len(rows) - 0.5, -0.5))
    _legend(ax)


def draw_positions(
    ax: Axes, pans: dict[str, tuple[np.ndarray, np.ndarray]], positions: Sequence[Sequence[tuple[float, float]]] = ()
) -> None:
    """Where a sound stands between left and right over time, and where its sources are.

    Args:
      pans: name -> (seconds, position) of `pan_over_time`.
      positions: as for `overview`.
    """
    for k, source in enumerate(positions):
        times, x = np.asarray(source, float).T
        how: dict[str, Any] = {"linewidth": 3.0, "alpha": 0.6}
        if len(times) == 1:
            how = {"marker": "D", "linestyle": "none"}
        ax.plot(times, x, color=ORANGE, markersize=5, label="" if k else "true position", **how)
    for (name, (times, pan)), colour in zip(pans.items(), _colours(pans), strict=True):
        ax.plot(times, pan, color=colour, linewidth=1.2, label=name, linestyle="--" if name == "true" else "-")
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    ax.set(ylim=(-1.1, 1.1), ylabel="position")
    ax.set_yticks((-1, 0, 1), ("left", "centre", "right"))
    levels = ax.secondary_yaxis("right")
    levels.set_yticks([pan_of_db(db) for db in _DECIBELS], [f"{db:+d}" if db else "0" for db in _DECIBELS])
    levels.set_ylabel("right - left, dB", fontsize=8)
    levels.tick_params(labelsize=7)
    _legend(ax)


def mel_db(wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Mel magnitudes of a sound [t] or [t, c] as decibels [f, m], the mean of its channels."""
    from kfjax.codec.mel import MelConfig, log_mel

    config = MelConfig(sample_rate_hz=sample_rate_hz, fmax_hz=sample_rate_hz / 2)
    return np.asarray(log_mel(_channels(wave).mean(1)[None], config)[0]) * (20 / np.log(10))


def pan_over_time(wave: np.ndarray, sample_rate_hz: int, window_seconds: float = 0.04) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, position) of [t, 2], a value each window: -1 left channel only, 0 both alike, 1 right channel only.

    From the level difference by the law of constant power. NaN where it is quiet, 50 dB below the loudest window.
    """
    size = max(1, round(window_seconds * sample_rate_hz))
    windows = [wave[k : k + size] for k in range(0, len(wave), size)]
    power = np.array([np.square(window.astype(np.float64)).mean(0) for window in windows])
    loud = power.sum(1) > 1e-5 * max(power.sum(1).max(), 1e-12)
    pan = 4 / np.pi * np.arctan2(*np.sqrt(power[:, ::-1]).T) - 1
    return (np.arange(len(windows)) + 0.5) * size / sample_rate_hz, np.where(loud, pan, np.nan)


def pan_of_db(difference_db: float) -> float:
    """The position of a level difference, right over left, by the law of constant power."""
    return float(4 / np.pi * np.arctan(10 ** (difference_db / 20)) - 1)


def strip(frames: np.ndarray, count: int = STRIP_FRAMES) -> np.ndarray:
    """At most `count` of frames [k, ...], evenly spaced."""
    count = min(count, len(frames))
    return frames[np.arange(count) * len(frames) // count]


def read_strip(video: str | Path, seconds: float, count: int = STRIP_FRAMES) -> np.ndarray:
    """u8 [count, 160, 160, 3]: frames evenly spaced over the video's first `seconds`."""
    return media.read_frames(video, [FrameSpec(count / seconds, 160, "crop")], counts=[count])[0][0]


def save(figure: Figure, path: str | Path) -> None:
    """Write a png; it appears only when complete."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a box in a caption is better than no picture
            figure.savefig(temporary, format="png", dpi=_DPI)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw(path: str | Path, rows: Sequence[Row], seconds: float, title: str) -> None:
    """Panels under one another that share the time axis, as a png."""
    from matplotlib.figure import Figure

    heights = [height for height, _ in rows]
    figure = Figure(figsize=(_WIDTH_INCHES, 0.6 + 1.08 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (_, draw) in zip(axes, rows, strict=True):
        draw(ax)
        ax.tick_params(labelsize=8)
        ax.yaxis.label.set_size(9)
    axes[0].set_xlim(0, seconds)
    if title:
        lines = textwrap.fill(title, 95, max_lines=3, placeholder=" …")
        figure.suptitle(lines, x=0.01, ha="left", fontsize=10, parse_math=False)
    axes[-1].set_xlabel("time, seconds", fontsize=9)
    save(figure, path)


def _frames_row(frames: np.ndarray | None, seconds: float) -> list[Row]:
    return [] if frames is None else [(0.62, lambda ax: draw_frames(ax, strip(frames), seconds))]


def _position_row(sounds: dict[str, np.ndarray], sample_rate_hz: int, positions: Sequence) -> list[Row]:
    """None where every sound is mono."""
    pans = {name: pan_over_time(wave, sample_rate_hz) for name, wave in sounds.items() if wave.shape[1] == 2}
    return [(1.1, lambda ax: draw_positions(ax, pans, positions))] if pans else []


def _parted(times: Sequence[float] | np.ndarray, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The times whose indices are chosen, and the others."""
    seconds = np.asarray(times, float)
    inside = np.isin(np.arange(len(seconds)), chosen)
    return seconds[inside], seconds[~inside]


def _colours(names: Iterable[str]) -> list[str]:
    """One for each name: the true sound has its own, the first of the others that of what was generated."""
    others = cycle((GENERATED, PURPLE, SKY, "black"))
    return [TRUE if name == "true" else next(others) for name in names]


def _short(name: str) -> str:
    """At most 24 characters: file names differ at their ends."""
    return name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"


def _channels(wave: np.ndarray) -> np.ndarray:
    """f32 [t, c] of [t] or [t, c]."""
    return np.asarray(wave, np.float32).reshape(len(wave), -1)


def _peak(wave: np.ndarray) -> float:
    return max(0.05, float(np.abs(wave).max()))


def _legend(ax: Axes) -> None:
    """Above the panel; one line needs no name."""
    if len(ax.get_legend_handles_labels()[1]) > 1:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize=8, frameon=False, borderaxespad=0.1)
