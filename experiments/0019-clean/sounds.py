"""Made recordings of ten seconds in stereo, and faults of recordings. Waves are f32 [t, 2], full scale 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

SECONDS = 10.0
Rng = np.random.Generator
Wave = np.ndarray


def recording(rng: Rng, rate_hz: int) -> Wave:
    """Any recording without a fault: peaks at -14 to -1 dB of full scale, every tenth 15 to 30 dB below that."""
    kind = rng.choice(["scene", "scene", "events", "rain", "wind", "engine", "music", "sparse"])
    wave = _KINDS[kind](rng, rate_hz)
    wave = wave / np.abs(wave).max() * 10 ** (rng.uniform(-14, -1) / 20)
    if rng.uniform() < 0.1:  # quiet, and not silent
        lowest = _levels_db(wave, rate_hz).min()
        wave = wave * 10 ** (-min(rng.uniform(15, 30), max(0.0, lowest + 55)) / 20)
    floor = 10 ** (rng.uniform(-56, -50) / 20) * _air(rng, rate_hz)  # of a room
    return np.clip(wave + floor, -0.98, 0.98).astype(np.float32)


def _levels_db(wave: Wave, rate_hz: int) -> np.ndarray:
    step = rate_hz // 20
    squares = np.square(wave[: len(wave) // step * step]).reshape(-1, step, 2).mean(1).max(1)
    return 10 * np.log10(squares + 1e-12)


def _time(rate_hz: int) -> np.ndarray:
    return np.arange(round(SECONDS * rate_hz)) / rate_hz


@cache
def _bank(rate_hz: int, slope: float) -> Wave:
    """A minute of noise whose power falls with frequency to this exponent; mean square 1."""
    count = 60 * rate_hz
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(count, np.float32))
    wave = np.fft.irfft(spectrum * np.maximum(np.fft.rfftfreq(count, 1 / rate_hz), 30.0) ** (-slope / 2), count)
    return (wave / wave.std()).astype(np.float32)


def _noise(rng: Rng, rate_hz: int, slopes: tuple[float, ...]) -> Wave:
    """Noise of both ears, partly the same; mean square 1."""
    bank, count = _bank(rate_hz, float(rng.choice(slopes))), round(SECONDS * rate_hz)
    one, other, both = (bank[start : start + count] for start in rng.integers(0, len(bank) - count, 3))
    share = rng.uniform(0.2, 0.9)
    return np.stack([one, other], 1) * (1 - share) ** 0.5 + both[:, None] * share**0.5


def _air(rng: Rng, rate_hz: int) -> Wave:
    return _noise(rng, rate_hz, (0.0, 0.5))


def _scene(rng: Rng, rate_hz: int) -> Wave:
    from kfjax.scenes import make_scene

    while True:
        scene = make_scene(int(rng.integers(1 << 30)), duration_seconds=SECONDS)
        if scene.sources:
            return scene.sound(rate_hz) + 1e-5 * _air(rng, rate_hz)


def _events(rng: Rng, rate_hz: int, count: int = 0) -> Wave:
    """Events of broad spectrum that swell and decay, each at a place of its own."""
    time = _time(rate_hz)
    wave = np.zeros((len(time), 2))
    for _ in range(count or int(rng.integers(10, 30))):
        start, decay = int(rng.integers(0, len(time))), rng.uniform(0.03, 0.6)
        own = time[: min(len(time) - start, round(5 * decay * rate_hz))]
        tone = sum(np.sin(2 * np.pi * f * own + rng.uniform(0, 6)) / f**0.5 for f in rng.uniform(80, 6000, 3)) * 20
        pan = rng.uniform(0.1, 0.9)
        event = np.exp(-own / decay) * (tone + rng.uniform(0.1, 1.0) * rng.standard_normal(len(own)))
        wave[start : start + len(own)] += event[:, None] * np.sqrt([pan, 1 - pan])
    return wave


def _sparse(rng: Rng, rate_hz: int) -> Wave:
    return _events(rng, rate_hz, int(rng.integers(2, 6)))


def _rain(rng: Rng, rate_hz: int) -> Wave:
    return _noise(rng, rate_hz, (0.0, 0.5, 1.0)) + 0.2 * _events(rng, rate_hz, 12)


def _wind(rng: Rng, rate_hz: int) -> Wave:
    gusts = 1 + 0.7 * np.sin(2 * np.pi * _time(rate_hz) / rng.uniform(2, 6) + rng.uniform(0, 6))
    return _noise(rng, rate_hz, (1.0, 1.8)) * gusts[:, None]


def _engine(rng: Rng, rate_hz: int) -> Wave:
    time = _time(rate_hz)
    speed = 1 + 0.2 * np.sin(2 * np.pi * time / rng.uniform(3, 9))
    phase = 2 * np.pi * rng.uniform(25, 80) * np.cumsum(speed) / rate_hz
    turn = np.exp(1j * phase)  # its powers are the harmonics
    hum = np.polynomial.polynomial.polyval(turn, np.exp(1j * rng.uniform(0, 6, 25)) / np.arange(1, 26)).imag
    pan = rng.uniform(0.3, 0.7)
    return hum[:, None] * np.sqrt([pan, 1 - pan]) + rng.uniform(0.1, 0.5) * _noise(rng, rate_hz, (0.5, 1.0))


def _music(rng: Rng, rate_hz: int) -> Wave:
    """Struck strings on a scale, and a shaker."""
    time, beat = _time(rate_hz), rng.uniform(0.2, 0.5)
    wave, notes = np.zeros((len(time), 2)), 220 * 2 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16]) / 12)
    for k in range(int(SECONDS / beat)):
        start = round(k * beat * rate_hz)
        own, pan = time[: min(len(time) - start, 2 * rate_hz)], rng.uniform(0.2, 0.8)
        note = rng.choice(notes) * rng.choice([0.5, 1, 2])
        tone = sum(np.sin(2 * np.pi * n * note * own) * np.exp(-own * (1.5 + n)) / n for n in range(1, 6))
        shaker = 0.3 * np.exp(-own * 40) * rng.standard_normal(len(own))
        wave[start : start + len(own)] += tone[:, None] * np.sqrt([pan, 1 - pan]) + shaker[:, None] * [0.8, 0.5]
    return wave


_KINDS: dict[str, Callable[[Rng, int], Wave]] = {
    "scene": _scene, "events": _events, "rain": _rain, "wind": _wind, "engine": _engine, "music": _music,
    "sparse": _sparse,
}  # fmt: skip


# --- faults ---


def clipped(wave: Wave, rng: Rng, rate_hz: int) -> Wave:
    """Amplified until a share of 0.01 to 0.2 of the samples is beyond full scale."""
    share = 10 ** rng.uniform(-2, -0.7)
    return np.clip(wave / np.quantile(np.abs(wave).max(1), 1 - share), -1, 1)


def narrow(wave: Wave, rng: Rng, rate_hz: int) -> Wave:
    """What was sampled at 6 to 16 kHz once."""
    from scipy.signal import resample_poly

    low = int(rng.choice([6000, 8000, 11025, 12000, 16000]))
    common = np.gcd(low, rate_hz)
    less = resample_poly(wave, low // common, rate_hz // common, axis=0)
    return resample_poly(less, rate_hz // common, low // common, axis=0)[: len(wave)]


def silent(wave: Wave, rng: Rng, rate_hz: int) -> Wave:
    """Nothing, or noise below -70 dB, for a share of 0.25 to 0.95, in one piece or three."""
    parts = int(rng.choice([1, 3]))
    share, place = rng.uniform(0.25, 0.95), (np.arange(len(wave)) / len(wave) * parts + rng.uniform()) % 1
    faint = 10 ** (-75 / 20) * rng.standard_normal(wave.shape) if rng.uniform() < 0.5 else 0.0
    return np.where((place < share)[:, None], faint, wave)


def copied(wave: Wave, rng: Rng, rate_hz: int) -> Wave:
    """One channel, or the mean of both, in both."""
    one = wave[:, :1] if rng.uniform() < 0.5 else wave.mean(1, keepdims=True)
    return np.repeat(one, 2, axis=1)


def inverted(wave: Wave, rng: Rng, rate_hz: int) -> Wave:
    """One channel is the other with its sign changed, at 0.6 to 1 of its level, and a little noise of its own."""
    return wave.mean(1, keepdims=True) * [1, -rng.uniform(0.6, 1)] + 1e-4 * rng.standard_normal(wave.shape)


def faint(wave: Wave, rng: Rng, rate_hz: int) -> Wave:
    """A recording 35 to 60 dB below its level, with a loudness of -52 to -65 LUFS."""
    from kfjax.metrics import levels

    return wave * 10 ** ((rng.uniform(-65, -52) - levels.loudness_lufs(wave, rate_hz)) / 20)


#: Fault, which is the filter that should find it -> what it does to a recording.
FAULTS: dict[str, Callable[[Wave, Rng, int], Wave]] = {
    "clipped_share": clipped, "bandwidth_hz": narrow, "silence_share": silent, "side_db": copied,
    "channel_correlation": inverted, "loudness_lufs": faint,
}  # fmt: skip
