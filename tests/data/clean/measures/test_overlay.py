"""Subtitles and logos planted in made films, and films without them: textures, moving cameras, moving things."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from kfjax.data.clean.measures import overlay
from tests.tiny.crawl import luma

SIZE, FRAMES, CASES = 512, 6, range(24)
TEXT = "I never thought that we would have to go back there again before the summer is over"


def subtitle_share(frames: np.ndarray) -> float:
    return overlay.subtitle_share(luma(frames))


def logo_share(frames: np.ndarray) -> float | None:
    return overlay.logo_share(luma(frames))


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """f32 [size, size, 3]: noise whose power falls with frequency, like that of scenes, at its own contrast."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / np.maximum(frequency, 1 / size) ** rng.uniform(
        0.8, 1.4
    )
    gray = np.fft.irfft2(spectrum, (size, size))
    gray = 120 + rng.uniform(25, 55) * gray / gray.std()
    return (gray[..., None] + rng.uniform(-40, 40, 3)).astype(np.float32)


def film(seed: int, moving: bool) -> np.ndarray:
    """u8 [n, h, w, 3]: a camera that moves over a texture, or stands still before three things that move."""
    rng = np.random.default_rng(seed)
    ground, frames, noise = texture(rng, SIZE + 200), [], rng.normal(0, 2, (SIZE, SIZE, 3)).astype(np.float32)
    step = rng.uniform(6, 20, 2)
    place, speed, sizes = rng.uniform(0, 350, (3, 2)), rng.uniform(-25, 25, (3, 2)), rng.integers(30, 150, (3, 2))
    for i in range(FRAMES):
        top, left = (step * i).astype(int) if moving else (0, 0)
        frame = ground[top : top + SIZE, left : left + SIZE].copy()
        for (y, x), (high, wide) in zip(place + i * speed, sizes, strict=True):
            y, x = max(0, int(y)), max(0, int(x))
            frame[y : y + high, x : x + wide] = rng.uniform(0, 255) if i == 0 else 90 + 20 * (x % 5)
        frames.append(frame + np.roll(noise, 37 * i, axis=(0, 1)))  # what a codec adds
    return np.clip(frames, 0, 255).astype(np.uint8)


def subtitled(frames: np.ndarray, seed: int) -> np.ndarray:
    """With one or two lines in white or yellow, outlined or on a dark box, in half of the frames at least."""
    rng, frames = np.random.default_rng(seed), frames.copy()
    font = ImageFont.load_default(size=int(rng.integers(18, 30)))
    first = rng.integers(0, len(TEXT) - 40)
    text = TEXT[first : first + rng.integers(15, 35)]
    lines = 1 + seed % 2
    start = rng.integers(0, FRAMES // 2 + 1)
    for i in range(start, start + FRAMES // 2):
        picture = Image.fromarray(frames[i])
        draw = ImageDraw.Draw(picture)
        for line in range(lines):
            at, fill = (SIZE // 2, SIZE - 30 - 40 * line), (255, 255, 255) if seed % 3 else (255, 230, 60)
            if seed % 4 == 0:
                draw.rectangle(draw.textbbox(at, text, font=font, anchor="mm"), fill=(20, 20, 20))
            draw.text(at, text, fill, font, anchor="mm", stroke_width=2 * (seed % 4 != 0), stroke_fill=(0, 0, 0))
        frames[i] = np.asarray(picture)
    return frames


def marked(frames: np.ndarray, seed: int) -> np.ndarray:
    """With a ring and letters in a corner, at an opacity of 0.4 to 1."""
    rng = np.random.default_rng(seed)
    layer = Image.new("L", (SIZE, SIZE))
    draw, font = ImageDraw.Draw(layer), ImageFont.load_default(size=int(rng.integers(20, 36)))
    x, y = (20 + 360 * (seed % 2), 20 + 420 * (seed // 2 % 2))
    draw.ellipse((x, y, x + 36, y + 36), outline=255, width=4)
    draw.text((x + 44, y + 4), "TV24", 255, font)
    alpha = rng.uniform(0.4, 1) * np.asarray(layer)[..., None] / 255
    return (frames * (1 - alpha) + 255 * alpha).astype(np.uint8)


@pytest.fixture(scope="module")
def films():
    """Half of them from a camera that stands still."""
    return [film(seed, seed % 2 == 0) for seed in CASES]


def test_subtitles_are_told_from_pictures(films):
    """24 films with and 24 without, above 0.003: precision 1, recall 23 of 24 (the last is on hard noise)."""
    clean = [subtitle_share(frames) for frames in films]
    found = [subtitle_share(subtitled(frames, seed)) for seed, frames in enumerate(films)]
    assert max(clean) < 0.003, sorted(clean)[-3:]
    assert sum(share > 0.003 for share in found) >= 23, sorted(found)[:3]


def test_the_area_is_that_of_the_lines():
    frames = np.full((FRAMES, SIZE, SIZE, 3), 100, np.uint8)
    frames[:, 400:430, 100:400:6] = frames[:, 400:430, 103:400:6] = 255
    assert subtitle_share(frames) == pytest.approx(30 * 300 / SIZE**2, rel=0.35)
    assert subtitle_share(frames[:1]) == 0
    frames[::2] = 100  # text does not come and go within half a second
    assert subtitle_share(frames) == 0


def test_logos_are_told_from_pictures_that_move(films):
    """12 films with and 12 without: above 0.003, all and none."""
    clean = [logo_share(frames) or 0.0 for frames in films[::2]]
    found = [logo_share(marked(frames, seed)) for seed, frames in enumerate(films[::2])]
    assert max(clean) < 0.003 < min(share for share in found if share is not None)
    assert found.count(None) <= 1  # too little changes


def test_nothing_is_known_of_a_camera_that_stands_still(films):
    assert logo_share(films[1]) is None
    assert logo_share(films[2][:3]) is None


@pytest.mark.parametrize("high, wide", [(40, 0), (100, 100)])
def test_black_bars_are_no_logo(films, high, wide):
    """The picture's brightest row beside them, as a codec may leave it."""
    frames = films[2].copy()
    frames[:, high : high + 8] += (255 - frames[:, high : high + 8]) // 2
    frames[:, :high] = frames[:, SIZE - high :] = frames[:, :, :wide] = frames[:, :, SIZE - wide :] = 0
    assert logo_share(frames) == 0


def test_nothing_is_known_of_pictures_that_stand_still_one_after_the_other():
    pictures = np.repeat(np.array([80, 140], np.uint8), 4)[:, None, None, None]
    assert logo_share(drawn(np.broadcast_to(pictures, (8, SIZE, SIZE, 3)), 100)) is None


def drawn(frames, left):
    """A frame of 40 x 24 lines on all pictures."""
    frames = frames.copy()
    frames[:, 20:60, left : left + 4] = frames[:, 20:60, left + 20 : left + 24] = 255
    frames[:, 20:24, left : left + 24] = 255
    return frames


def test_what_stands_in_what_does_not_move_is_no_logo():
    """A still camera before a wall and a floor, and something large that moves and hides where they meet."""
    frames, rng = np.full((FRAMES, SIZE, SIZE, 3), 150, np.uint8), np.random.default_rng(0)
    frames[:, 440:] = 90
    for frame in frames:
        frame[:, 110:400] = rng.integers(0, 255)
        frame[:, 110:400:9] = rng.integers(0, 255)
    assert logo_share(frames) == logo_share(drawn(frames, 20)) == 0
    assert logo_share(drawn(frames, 200)) > 0.003


def test_a_logo_may_be_wide_and_a_line_in_pieces_is_none(films):
    """Letters over eight tenths of the picture; a road under clouds, of which something hides the middle."""
    layer = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(layer).text((50, 440), "myclips.example", 255, ImageFont.load_default(size=54))
    wide = np.maximum(films[2], np.asarray(layer)[..., None])
    assert np.ptp(np.nonzero(layer)[1]) > 0.75 * SIZE and logo_share(wide) > 0.003
    road = films[2].copy()
    road[:, 300:] = 150
    road[:, 350:358, :220] = road[:, 350:358, 280:] = 90
    assert logo_share(road) == 0


def test_nothing_is_known_of_a_still_camera_in_rain():
    """Rain changes all of the picture, each place a few times."""
    rng, frames = np.random.default_rng(0), drawn(np.full((20, SIZE, SIZE, 3), 150, np.uint8), 200)
    for frame in frames:
        for x in rng.integers(0, SIZE - 4, 30):
            frame[:, x : x + 4] = 60
    assert (frames.std(0) > 5).mean() > 0.9 and logo_share(frames) is None


@pytest.mark.parametrize("letters", ["", "HD ONE\nTHE WORLD"])
def test_a_logo_before_a_plain_wall_past_which_the_camera_moves(letters):
    """A few windows pass; most of the wall, and all around the logo, is as bright as before.

    A large logo has more edges than the windows.
    """
    layer = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(layer).text((130, 130), letters, 255, ImageFont.load_default(size=44))
    rng, wall = np.random.default_rng(0), np.full((SIZE, 2 * SIZE, 3), 110, np.uint8)
    for x, y in zip(rng.integers(0, 2 * SIZE - 100, 30), rng.integers(90, SIZE - 70, 30), strict=True):
        wall[y : y + 60, x : x + 90] = rng.integers(0, 256, 3)
    noisy = lambda frames: np.clip(frames + rng.normal(0, 1, frames.shape), 0, 255).astype(np.uint8)
    passing = noisy(np.stack([wall[:, 14 * i : 14 * i + SIZE] for i in range(20)]))
    standing = noisy(np.repeat(wall[None, :, :SIZE], 20, axis=0))
    marked = np.maximum(passing, np.asarray(layer)[..., None]) if letters else drawn(passing, 200)
    assert logo_share(marked) > 0.003 > logo_share(passing)
    assert logo_share(drawn(standing, 200)) is None
    for i, frame in enumerate(standing):  # one thing moves before it
        frame[200:320, 20 * i : 20 * i + 120] = 240
    assert logo_share(drawn(standing, 200)) in (None, 0.0)
