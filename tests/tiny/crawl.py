"""Recordings and pictures without a fault, for tests that plant one."""

import numpy as np

RATE_HZ = 44100


def recording(seed: int, seconds: float = 2.0) -> np.ndarray:
    """f32 [t, 2] at 44.1 kHz: events of broad spectrum that swell and decay, over a floor, each at a place of its own.

    Rounded to 16 bits, peaks at about -13 to -2 dB of full scale.
    """
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE_HZ)
    time = np.arange(count) / RATE_HZ
    wave = np.zeros((count, 2))
    for _ in range(rng.integers(6, 14)):
        start, decay = rng.uniform(0, seconds), rng.uniform(0.1, 1.0)
        shape = np.where(time >= start, np.exp(-np.maximum(time - start, 0) / decay), 0)
        tone = sum(np.sin(2 * np.pi * f * time + rng.uniform(0, 6)) / f**0.5 for f in rng.uniform(80, 6000, 5)) * 20
        event = shape * (tone + rng.uniform(0.05, 0.5) * rng.standard_normal(count))
        pan = rng.uniform(0.1, 0.9)
        wave += event[:, None] * np.sqrt([pan, 1 - pan])
    wave = 10 ** (rng.uniform(-13, -2) / 20) * (wave / np.abs(wave).max() + 1e-2 * rng.standard_normal((count, 2)))
    return (np.round(wave * 32767) / 32768).astype(np.float32)


def pictures(seed: int, count: int = 8, height: int = 96, width: int = 128) -> np.ndarray:
    """u8 [count, height, width, 3]: a textured ground with two things that move over it."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 200, (height // 16, width // 16, 3))
    ground = np.kron(coarse, np.ones((16, 16, 1))) + rng.normal(0, 4, (height, width, 3))
    frames = np.repeat(ground[None], count, axis=0)
    for _ in range(2):
        size = rng.integers(8, 24)
        place, speed = rng.uniform(0, [height - size, width - size]), rng.uniform(3, 9, 2) * rng.choice([-1, 1], 2)
        colour = rng.uniform(0, 255, 3)
        for i in range(count):
            top, left = (place + i * speed).astype(int) % [height - size, width - size]
            frames[i, top : top + size, left : left + size] = colour
    return frames.clip(0, 255).astype(np.uint8)


def luma(frames: np.ndarray) -> np.ndarray:
    """u8 [..., 3] RGB -> its luma of ITU-R BT.601, u8 [...]."""
    return (frames @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
