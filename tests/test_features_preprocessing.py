"""From a file's frames to what the public encoders were trained on: times, resize, crop, range of values.

MMAudio's recipe: for CLIP 8 frames a second, brought to 384 × 384 whatever their shape, then CLIP's mean and deviation;
for Synchformer 25 frames a second, the shorter side brought to 224, the middle 224 × 224 kept, then (x - 0.5) / 0.5.
Both bicubic and antialiased; frame k is the first one shown at or after k / rate.
"""

import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from kfjax import media
from kfjax.convert.systems import SYSTEMS
from kfjax.encoders.stem import signed
from kfjax.features import frame_specs
from kfjax.rates import Rates, lengths
from tests.tiny import media_files as files

CLIP, SYNC = frame_specs(SYSTEMS["large_44k_v2"])
#: Frames of a 2:1 picture with a number in its middle.
HEIGHT, WIDTH = files.SIDE, 2 * files.SIDE
RATES = [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), 30, 50, 60]


@pytest.mark.parametrize("name", SYSTEMS)
def test_rates_and_sizes_are_the_published_ones(name):
    assert frame_specs(SYSTEMS[name]) == (media.FrameSpec(8.0, 384, "stretch"), media.FrameSpec(25.0, 224, "crop"))


def numbered(index):
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    picture[:, WIDTH // 4 : -WIDTH // 4] = files.numbered(index)
    return picture


def shown(frames, columns):
    """The numbers in u8 [n, size, size, 3] frames, which fill the height and a range of the columns."""
    first, last = columns
    rows = (np.arange(4) + 0.5) / 4 * frames.shape[1]
    across = first + (np.arange(4) + 0.5) / 4 * (last - first)
    bits = frames[:, rows.astype(int)][:, :, across.astype(int)].mean(-1) > 125
    return [int(sum(1 << (15 - place) for place in np.flatnonzero(row))) for row in bits.reshape(len(bits), 16)]


def expected(times, rate_hz, count):
    """The rule at constant rates. A frame counts as on time up to a millisecond early, since containers round."""
    first = lambda wanted: next((i for i, time in enumerate(times) if time >= wanted), len(times) - 1)
    return [first(Fraction(k) / Fraction(rate_hz) - Fraction(1, 1000)) for k in range(count)]


def played(times, rate_hz, count):
    """What a player shows: the last frame up to each time, up to a millisecond early."""
    last = lambda wanted: max(i for i, time in enumerate(times) if time <= wanted)
    return [last(Fraction(k) / Fraction(rate_hz) + Fraction(1, 1000)) for k in range(count)]


def check_times(path, times, seconds, rule=expected):
    size = lengths(seconds, Rates())
    (clip_frames, sync_frames), _ = media.read_frames(path, [CLIP, SYNC], counts=[size.clip, size.sync_frames])
    assert clip_frames.shape == (size.clip, 384, 384, 3) and sync_frames.shape == (size.sync_frames, 224, 224, 3)
    assert shown(clip_frames, (96, 288)) == rule(times, 8, size.clip)
    assert shown(sync_frames, (0, 224)) == rule(times, 25, size.sync_frames)


@pytest.mark.parametrize("fps", RATES, ids=lambda fps: f"{float(fps):.2f}")
def test_times_at_constant_rates(tmp_path, fps):
    times = files.steady(math.ceil(fps * Fraction(6, 5)), fps)
    pictures = [numbered(i) for i in range(len(times))]
    path = files.write_pictures(tmp_path / "a.mp4", pictures, times, rate=fps, tick=1 / Fraction(fps))
    check_times(path, times, 1.2)


def test_times_at_a_variable_rate(tmp_path):
    gaps = [Fraction(gap, 1000) for gap in (40, 20, 300, 10, 33, 33, 34, 120, 5, 15, 50, 40, 100, 40, 200, 60)]
    times = [sum(gaps[:i], Fraction(0)) for i in range(len(gaps))]
    path = files.write_pictures(tmp_path / "a.mp4", [numbered(i) for i in range(len(times))], times)
    check_times(path, times, 1.1, played)


def bicubic(picture, height, width):
    """Keys' cubic with a = -0.5, widened by the reduction, pixel centres at halves: f32 [height, width, 3]."""

    def weights(source, target):
        scale = max(source / target, 1)
        centre = (np.arange(target)[:, None] + 0.5) * source / target - 0.5
        x = np.abs(np.arange(source)[None] - centre) / scale
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        w = np.where(x < 1, near, np.where(x < 2, far, 0))
        return w / w.sum(1, keepdims=True)

    rows, columns = weights(picture.shape[0], height), weights(picture.shape[1], width)
    return np.einsum("hy,yxc,wx->hwc", rows, picture.astype(float), columns, optimize=True).clip(0, 255)


def scene(height, width):
    """Waves, an edge and a colour ramp; nothing is symmetric."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    waves = 127 + 90 * np.sin(12 * x + 5 * y)[..., None] * np.array([1.0, 0.6, -0.8])
    waves[y > 0.3 + x] = (220, 40, 90)
    return (waves + 30 * x[..., None] / x.max()).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("height, width", [(180, 320), (200, 480), (450, 338), (480, 848)])
def test_resize_and_crop(tmp_path, height, width):
    """Within what two bicubic kernels differ by; a shift of one pixel or another kernel differs by far more."""
    picture = scene(height, width)
    path = files.write_pictures(
        tmp_path / "a.mkv", [picture] * 3, files.steady(3, 25), codec="ffv1", pix_fmt="bgr0", rate=25
    )
    (stretched, cropped), _ = media.read_frames(path, [CLIP, SYNC], counts=[1, 1])
    assert difference(stretched[0], bicubic(picture, 384, 384)) < 0.6
    short = min(height, width)
    whole = bicubic(picture, 224 * height // short, 224 * width // short)
    top, left = (round((side - 224) / 2) for side in whole.shape[:2])
    assert difference(cropped[0], whole[top : top + 224, left : left + 224]) < 0.6


@pytest.mark.parametrize("height, width", [(180, 320), (450, 338)])
def test_three_squares_from_end_to_end(tmp_path, height, width):
    picture = scene(height, width)
    path = files.write_pictures(
        tmp_path / "a.mkv", [picture] * 3, files.steady(3, 25), codec="ffv1", pix_fmt="bgr0", rate=25
    )
    (got, middle), _ = media.read_frames(path, [media.FrameSpec(25, 64, how) for how in ("crops", "crop")])
    assert got.shape == (3, 64, 192, 3)
    first, second, last = np.split(got[0], 3, axis=1)
    np.testing.assert_array_equal(second, middle[0])
    short = min(height, width)
    whole = bicubic(picture, 64 * height // short, 64 * width // short)
    assert difference(first, whole[:64, :64]) < 0.6 and difference(last, whole[-64:, -64:]) < 0.6


def difference(got, want):
    """Mean absolute difference, in steps of 1/255."""
    return np.abs(got.astype(float) - want).mean()


def test_range_of_values():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(signed(levels, jnp.float32), (levels / 255 - 0.5) / 0.5, atol=1e-6)
