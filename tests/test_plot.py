"""What the pictures show: read from the axes of the figures that would be written."""

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba

from kfjax import plot
from kfjax.plot import Onsets

RATE_HZ = 44100
SECONDS = 2.0
CLICKS = (0.5, 1.25)


@pytest.fixture
def figures(monkeypatch):
    """Every figure on its way to a file."""
    drawn = []
    monkeypatch.setattr(plot, "save", lambda figure, path: drawn.append(figure))
    return drawn


def beep(right_gain: float = 1.0, hz: float = 1000.0, seconds: float = SECONDS) -> np.ndarray:
    """f32 [t, 2]: a sine from 0.5 s on, the right ear `right_gain` times the left, silence before."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    mono = np.where(time < 0.5, 0, 0.4 * np.sin(2 * np.pi * hz * time))
    return np.stack([mono, right_gain * mono], 1).astype(np.float32)


def named(figure, label: str):
    """The panel whose vertical label begins with these words."""
    found = [ax for ax in figure.axes if ax.get_ylabel().startswith(label)]
    assert len(found) == 1, [ax.get_ylabel() for ax in figure.axes]
    return found[0]


def lines_at(ax, colour: str) -> list[float]:
    """Where the vertical lines of a colour stand."""
    sets = [c for c in ax.collections if hasattr(c, "get_segments") and to_hex(c.get_color()[0]) == to_hex(colour)]
    return sorted(float(segment[0][0]) for lines in sets for segment in lines.get_segments())


def test_overview(figures):
    frames = np.zeros((5, 20, 30, 3), np.uint8)
    frames[:, ..., 0] = 40 * np.arange(5)[:, None, None]
    plot.overview("a.png", beep(), RATE_HZ, frames=frames, marks=CLICKS, title="a beep")
    figure = figures[0]
    assert figure.get_suptitle() == "a beep"
    panels = [named(figure, label) for label in ("video", "left\namplitude", "right\namplitude", "kHz", "position")]
    assert {ax.get_xlim() for ax in panels} == {(0.0, SECONDS)}
    assert panels[-1].get_xlabel() == "time, seconds"
    assert panels[-1].get_legend() is None, "one line needs no name"
    pictures = panels[0].get_images()
    assert [image.get_extent()[:2] for image in pictures] == [pytest.approx((k * 0.4, k * 0.4 + 0.4)) for k in range(5)]
    assert [int(image.get_array()[0, 0, 0]) for image in pictures] == [0, 40, 80, 120, 160]
    for ax in panels[1:3]:
        assert lines_at(ax, plot.MARK) == pytest.approx(CLICKS)
    assert lines_at(panels[3], plot.SKY) == pytest.approx(CLICKS)


def test_mono_has_one_waveform_and_no_position(figures):
    plot.overview("a.png", beep()[:, 0], RATE_HZ)
    assert [ax.get_ylabel() for ax in figures[0].axes] == ["mono\namplitude", "kHz"]


def test_waveform(figures):
    """The envelope reaches the sound's peak where the sound is, and both ears share a scale."""
    plot.overview("a.png", beep(0.25), RATE_HZ)
    left, right = (named(figures[0], name) for name in ("left", "right"))
    assert left.get_ylim() == right.get_ylim() == pytest.approx((-0.4, 0.4), abs=1e-3)
    for ax, peak in ((left, 0.4), (right, 0.1)):
        x, y = ax.collections[0].get_paths()[0].vertices.T
        assert y.max() == pytest.approx(peak, abs=1e-3)
        assert x[np.abs(y) > 0.01].min() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("rate_hz, hz", [(RATE_HZ, 1000.0), (RATE_HZ, 4000.0), (16000, 4000.0)])
def test_mel_axis_tells_the_frequency(figures, rate_hz, hz):
    """The loudest band of a sine lies at the height at which the axis has its frequency, 0 dB, after its beginning."""
    time = np.arange(rate_hz) / rate_hz
    plot.overview("a.png", np.where(time < 0.5, 0, 0.4 * np.sin(2 * np.pi * hz * time)), rate_hz)
    ax = named(figures[0], "kHz")
    heights = dict(zip([tick.get_text() for tick in ax.get_yticklabels()], ax.get_yticks(), strict=True))
    mel = ax.get_images()[0]
    levels = np.asarray(mel.get_array())
    assert levels.shape[0] == ax.get_ylim()[1] == 128
    assert abs(levels.max(1).argmax() + 0.5 - heights[f"{hz / 1000:g}"]) <= 1.0
    assert levels.max() == pytest.approx(0, abs=1e-4)
    assert mel.get_clim() == (-plot.MEL_RANGE_DB, 0)
    half = levels.shape[1] // 2
    assert levels[:, : half - 4].max() < -60 < -4 < levels[:, half + 4 :].max(0).min()


def test_comparison_shares_its_scales(figures):
    """The generated sound is half as loud and shorter: seen as such beneath the true one."""
    rows = [Onsets("generated", CLICKS, (0.51,), ((0, 0),))]
    plot.comparison("a.png", 0.5 * beep(seconds=1.5), RATE_HZ, true=beep(), onsets=rows)
    figure = figures[0]
    mels = {name: named(figure, f"{name}\nkHz") for name in ("true", "generated")}
    assert {ax.get_xlim() for ax in figure.axes if ax.get_label() != "<colorbar>"} >= {(0.0, SECONDS)}
    assert {ax.get_xlim() for ax in mels.values()} == {(0.0, SECONDS)}
    assert [ax.get_images()[0].get_extent()[1] for ax in mels.values()] == [SECONDS, 1.5]
    true, generated = (np.asarray(ax.get_images()[0].get_array()) for ax in mels.values())
    assert true.max() - generated.max() == pytest.approx(6.02, abs=0.1)
    waves = [named(figure, f"{name}\namplitude") for name in ("true", "generated")]
    assert waves[0].get_ylim() == waves[1].get_ylim()
    assert [to_hex(ax.collections[0].get_facecolor()[0]) for ax in waves] == [plot.TRUE.lower(), plot.GENERATED.lower()]


def test_onset_raster(figures):
    """One row found one of two events late and made one up; the other heard nothing at all."""
    rows = [Onsets("one", (0.5, 1.25), (0.52, 1.8), ((0, 0),)), Onsets("two", (0.7,), (), ())]
    plot.raster("a.png", rows, SECONDS, title="onsets")
    ax = figures[0].axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["one", "two"]
    assert ax.get_xlim() == (0, SECONDS) and ax.get_ylim() == (1.5, -0.5)
    assert lines_at(ax, plot.MATCHED) == [0.5]
    assert lines_at(ax, plot.MISSED) == [0.7, 1.25]
    points = {}
    for dots in (c for c in ax.collections if not hasattr(c, "get_segments")):
        points.setdefault(to_hex(dots.get_facecolor()[0] if len(dots.get_facecolor()) else "k"), []).extend(
            dots.get_offsets().tolist()
        )
    assert points[plot.MATCHED.lower()] == [[0.52, 0]] and points[plot.EXTRA.lower()] == [[1.8, 0]]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["event heard", "event missed", "onset matched", "onset extra"]


@pytest.mark.parametrize("gain, pan", [(1.0, 0.0), (0.0, -1.0), (2.0, 0.4097), (0.5, -0.4097)])
def test_position(gain, pan):
    """From silence nothing; twice the amplitude on the right, 6 dB, is where the axis has +6 dB."""
    times, position = plot.pan_over_time(beep(gain), RATE_HZ)
    assert np.isnan(position[times < 0.46]).all()
    np.testing.assert_allclose(position[times > 0.54], pan, atol=1e-3)
    if gain:
        assert plot.pan_of_db(20 * np.log10(gain)) == pytest.approx(pan, abs=1e-3)


def test_positions_are_drawn(figures):
    """A struck source is a point, a moving one a path; the levels' axis names the same heights in dB."""
    sources = [[(0.5, -0.4)], [(0.0, 0.2), (1.0, 0.4), (2.0, 0.6)]]
    plot.comparison("a.png", beep(2.0), RATE_HZ, true=beep(), positions=sources)
    ax = named(figures[0], "position")
    lines = ax.get_lines()
    assert lines[0].get_xydata().tolist() == [[0.5, -0.4]] and lines[0].get_marker() == "D"
    assert lines[1].get_xydata().tolist() == [list(pair) for pair in sources[1]]
    measured = {line.get_label(): np.nanmedian(line.get_ydata()) for line in lines[-3:-1]}
    assert measured == {"true": pytest.approx(0, abs=1e-3), "generated": pytest.approx(0.4097, abs=1e-3)}
    levels = ax.child_axes[0]
    ticks = dict(zip([tick.get_text() for tick in levels.get_yticklabels()], levels.get_yticks(), strict=True))
    assert ticks["+6"] == pytest.approx(0.41, abs=0.01) and ticks["0"] == 0


def test_silence_and_the_shortest_sound(figures):
    plot.overview("a.png", np.zeros((4410, 2), np.float32), RATE_HZ, marks=())
    assert named(figures[0], "left").get_ylim() == (-0.05, 0.05)


def test_strip_is_spread_evenly():
    assert plot.strip(np.arange(64), 8).tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert plot.strip(np.arange(5), 12).tolist() == [0, 1, 2, 3, 4]


def test_words_of_any_kind(tmp_path):
    """Captions and file names are text: no formulas, any length, any script."""
    rows = [Onsets("clip_$_with_a_very_long_name_000123.mp4", (0.5,), (0.5,), ((0, 0),)), Onsets("$x", (), (), ())]
    plot.raster(tmp_path / "a.png", rows, SECONDS, title="鼓声 costs $5 and $ is no formula " * 40)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_file(tmp_path):
    """A png of 1200 pixels, nothing beside it; where it can't be written, nothing is left."""
    from matplotlib.image import imread

    plot.raster(tmp_path / "a.png", [Onsets("one", (0.5,), (), ())], SECONDS)
    picture = imread(tmp_path / "a.png")
    assert picture.shape[1] == 1200
    missed = np.array(to_rgba(plot.MISSED))
    assert (np.abs(picture - missed).max(-1) < 0.02).sum() > 20
    with pytest.raises(OSError):
        plot.raster(tmp_path / "absent" / "a.png", [Onsets("one", (), (), ())], SECONDS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
