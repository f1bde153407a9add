"""Made films of ten seconds: cameras that move over textures, things that move, drawn scenes; and faults of pictures.

A film is an iterator of u8 [height, width, 3] RGB frames. All follow from a generator's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SECONDS = 10.0
#: (width, height); the shorter side is 360.
SIZES = ((640, 360), (640, 360), (480, 360), (360, 640))
RATES = (8, 8, 10, 10, 12, 24)
_MARGIN = 160
_TEXT = "I never thought that we would have to go back there again before the summer is over and nobody told him what \
happened at the station until the rain had stopped"
_NAMES = ("TV24", "NEWS", "CHANNEL 5", "myclips.example", "HD ONE", "WORLD")
Rng = np.random.Generator
Film = Iterator[np.ndarray]


def film(rng: Rng, size: tuple[int, int], fps: int, *, moving: bool = False) -> Film:
    """Any film without a fault; `moving`: of a camera that moves."""
    kind = rng.choice(["pan", "zoom", "shake"] if moving else ["scene", "scene", "pan", "zoom", "shake", "things"])
    return _scene(rng, size, fps) if kind == "scene" else _camera(rng, size, fps, kind)


def _scene(rng: Rng, size: tuple[int, int], fps: int) -> Film:
    """One of the drawn world in which something moves for a fifth of the time at least."""
    from kfjax.scenes import make_scene

    while True:
        scene = make_scene(int(rng.integers(1 << 30)), duration_seconds=SECONDS)
        frames = scene.frames(size)
        steps = np.diff(frames[::6, ::4, ::4].astype(np.int16), axis=0)
        if (np.abs(steps).max((1, 2, 3)) > 8).mean() > 0.2:
            break
    yield from frames[(np.arange(round(SECONDS * fps)) * scene.fps / fps).astype(int)]


def _camera(rng: Rng, size: tuple[int, int], fps: int, kind: str) -> Film:
    """A camera over a texture, and up to three things that move before it."""
    width, height = size
    ground = Image.fromarray(texture(rng, height + 2 * _MARGIN, width + 2 * _MARGIN))
    sway, period, phase = rng.uniform(25, 130, 2), rng.uniform(5, 14, 2), rng.uniform(0, 6, 2)
    far, sounds = rng.uniform(0.05, 0.25), rng.uniform(3, 10)
    things = [_thing(rng, size) for _ in range(rng.integers(2 if kind == "things" else 0, 4))]
    noise = rng.normal(0, rng.uniform(0.5, 3), (height, width, 1)).astype(np.float32)
    for i in range(round(SECONDS * fps)):
        t = i / fps
        x, y = sway * np.sin(2 * np.pi * t / period + phase) if kind != "things" else (0.0, 0.0)
        if kind == "shake":
            x, y = np.array([x, y]) * 0.5 + rng.uniform(-4, 4, 2)
        k = 1 - far * (0.5 + 0.5 * np.sin(2 * np.pi * t / sounds)) if kind == "zoom" else 1.0
        left, top = _MARGIN + x + width * (1 - k) / 2, _MARGIN + y + height * (1 - k) / 2
        picture = ground.resize(size, Image.Resampling.BILINEAR, (left, top, left + k * width, top + k * height))
        draw = ImageDraw.Draw(picture)
        for thing in things:
            thing(draw, t)
        frame = np.asarray(picture) + np.roll(noise, 37 * i, axis=(0, 1))
        yield frame.clip(0, 255).astype(np.uint8)


def _thing(rng: Rng, size: tuple[int, int]) -> Callable[[ImageDraw.ImageDraw, float], None]:
    width, height = size
    centre, reach = rng.uniform(0.2, 0.8, 2) * size, rng.uniform(0.1, 0.4, 2) * size
    period, phase, half = rng.uniform(2, 8, 2), rng.uniform(0, 6, 2), rng.uniform(0.03, 0.12, 2) * min(width, height)
    colour, is_round = tuple(int(x) for x in rng.integers(0, 256, 3)), rng.uniform() < 0.5

    def draw(on: ImageDraw.ImageDraw, t: float) -> None:
        place = centre + reach * np.sin(2 * np.pi * t / period + phase)
        (on.ellipse if is_round else on.rectangle)((*(place - half), *(place + half)), fill=colour)

    return draw


def texture(rng: Rng, height: int, width: int) -> np.ndarray:
    """u8 [height, width, 3]: noise whose power falls with frequency, walls with windows, or tiles."""
    kind = rng.choice(["noise", "noise", "walls", "tiles"])
    if kind == "walls":
        picture = Image.new("RGB", (width, height), tuple(int(x) for x in rng.integers(40, 220, 3)))
        draw = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(30, 150))):
            x, y = rng.integers(0, width), rng.integers(0, height)
            wide, high = rng.integers(8, 120, 2)
            draw.rectangle((x, y, x + wide, y + high), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
        return _graded(np.asarray(picture, np.float32) + rng.normal(0, 3, (height, width, 1)), rng)
    if kind == "tiles":
        side = int(rng.integers(12, 60))
        coarse = rng.uniform(40, 210, (height // side + 1, width // side + 1, 3))
        ground = np.kron(coarse, np.ones((side, side, 1)))[:height, :width]
        return _graded(ground + rng.normal(0, 4, (height, width, 1)), rng)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    gray = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / width) ** rng.uniform(0.8, 1.5), (height, width))
    gray = 120 + rng.uniform(20, 55) * gray / gray.std()
    return _graded(gray[..., None] + rng.uniform(-40, 40, 3), rng)


def _graded(picture: np.ndarray, rng: Rng) -> np.ndarray:
    """Some are dark, as at night."""
    gain = rng.uniform(0.25, 0.6) if rng.uniform() < 0.15 else 1.0
    return (gain * picture).clip(0, 255).astype(np.uint8)


# --- faults ---


def still(frames: Film, rng: Rng, fps: int) -> Film:
    """One picture all the time, as with music, or two or three."""
    kept = list(frames)
    ends = np.sort(rng.uniform(2, SECONDS - 2, rng.choice([0, 0, 1, 2]))) * fps
    noise = rng.uniform(0, 1.5)
    grain = rng.normal(0, noise, kept[0].shape).astype(np.float32)
    for i in range(len(kept)):
        frame = kept[(len(kept) // 3) * int((ends <= i).sum())]
        yield (frame + np.roll(grain, 37 * i, (0, 1))).clip(0, 255).astype(np.uint8) if noise > 0.5 else frame


def barred(frames: Film, rng: Rng, fps: int) -> Film:
    """Black bars over a share of 0.12 to 0.5 of the picture: above and below, at the sides, or all around."""
    share, black = rng.uniform(0.12, 0.5), int(rng.integers(0, 12))
    kind = rng.choice(["letterbox", "pillarbox", "windowbox"])
    for frame in frames:
        height, width = frame.shape[:2]
        down, right = (1 - share, 1.0) if kind == "letterbox" else (1.0, 1 - share) if kind == "pillarbox" else (
            (1 - share) ** 0.5,) * 2  # fmt: skip
        high, wide = round(height * down), round(width * right)
        top, left = (height - high) // 2, (width - wide) // 2
        made = np.full_like(frame, black)
        made[top : top + high, left : left + wide] = np.asarray(
            Image.fromarray(frame).resize((wide, high), Image.Resampling.BILINEAR)
        )
        yield made


def subtitled(frames: Film, rng: Rng, fps: int) -> Film:
    """One or two lines of 20 to 38 letters that change every 2 to 4 s, in 0.6 of the time at least."""
    lines, words, colour, boxed = (
        [],
        _TEXT.split(),
        [(255, 255, 255), (255, 235, 60)][int(rng.integers(2))],
        rng.uniform() < 0.25,
    )
    high, count, gap, length = rng.uniform(0.045, 0.07), int(rng.integers(1, 3)), rng.uniform(0, 0.4), rng.uniform(2, 4)
    while len(lines) * length <= SECONDS:
        start, wanted, text = rng.integers(len(words) - 18), rng.integers(20, 33), []
        for _ in range(count):
            line = words[start]
            while len(line) < wanted:
                start = (start + 1) % len(words)
                line += f" {words[start]}"
            text.append(line)
        lines.append(text)
    for i, frame in enumerate(frames):
        number, inside = divmod(i / fps, length)
        yield frame if inside < gap * length else _lettered(frame, lines[int(number)], high, colour, boxed)


def _lettered(frame: np.ndarray, lines: list[str], high: float, colour: tuple, boxed: bool) -> np.ndarray:
    height, width = frame.shape[:2]
    picture = Image.fromarray(frame)
    draw = ImageDraw.Draw(picture)
    size = high * min(height, 0.9 * width)
    while max(draw.textlength(line, ImageFont.load_default(size)) for line in lines) > 0.94 * width:
        size *= 0.95
    font = ImageFont.load_default(size)
    for k, line in enumerate(reversed(lines)):
        at = width / 2, height * 0.93 - k * 1.35 * size
        if boxed:
            draw.rectangle(draw.textbbox(at, line, font, anchor="mm"), fill=(15, 15, 15))
        draw.text(
            at, line, colour, font, "mm", stroke_width=0 if boxed else max(1, round(size / 14)), stroke_fill=(0, 0, 0)
        )
    return np.asarray(picture)


def marked(frames: Film, rng: Rng, fps: int) -> Film:
    """A ring, a box or letters in a corner, or letters across the middle, at an opacity of 0.4 to 1."""
    opacity, light, box = rng.uniform(0.4, 1), 255 if rng.uniform() < 0.85 else 20, None
    for frame in frames:
        if box is None:
            layer = opacity * _emblem(rng, *frame.shape[:2])
            box = tuple(slice(used.min(), used.max() + 1) for used in np.nonzero(layer)[:2])
            layer = layer[box]
        frame = frame.copy()
        frame[box] = frame[box] * (1 - layer) + light * layer
        yield frame


def _emblem(rng: Rng, height: int, width: int) -> np.ndarray:
    """f32 [height, width, 1], 0 to 1."""
    mask = Image.new("L", (width, height))
    draw, name, side = ImageDraw.Draw(mask), str(rng.choice(_NAMES)), rng.uniform(0.05, 0.09) * min(width, height)
    font, gap = ImageFont.load_default(side), 0.05 * min(width, height)
    across, kind = draw.textlength(name, font), rng.choice(["ring", "box", "name", "middle"])
    x = gap if rng.uniform() < 0.5 else width - gap - across - 1.6 * side
    y = gap if rng.uniform() < 0.6 else height - gap - 1.6 * side
    if kind == "middle":
        font = ImageFont.load_default(1.5 * side)
        draw.text((width / 2, height / 2), name, 255, font, "mm")
    if kind == "ring":
        draw.ellipse((x, y, x + 1.3 * side, y + 1.3 * side), outline=255, width=max(2, round(side / 8)))
    if kind == "box":
        draw.rectangle((x, y, x + 1.3 * side, y + 1.3 * side), outline=255, width=max(2, round(side / 8)))
        draw.rectangle((x + 0.45 * side, y + 0.45 * side, x + 0.85 * side, y + 0.85 * side), fill=255)
    if kind != "middle":
        draw.text((x + 1.6 * side if kind != "name" else x, y), name, 255, font)
    return np.asarray(mask, np.float32)[..., None] / 255


#: Fault, which is the filter that should find it -> what it does to a film.
FAULTS: dict[str, Callable[[Film, Rng, int], Film]] = {
    "still_share": still,
    "border_share": barred,
    "subtitle_share": subtitled,
    "logo_share": marked,
}
