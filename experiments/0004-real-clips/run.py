"""Real recordings through the built-in model: what must always hold is checked, what comes out is drawn.

    python -m experiments 0004 pen_on_coin.mov blacksmith.mp4 ...

For every clip: sound of exactly the picture's length, two different ears, picture packets as in the source, the same
seed gives the same bytes, another seed another sound. Writes a Markdown table, and NAME.png with frames, waveform and
mel; red lines are the onsets of the clip's own sound, where it has one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import kfjax
from experiments import harness
from kfjax import media, plot
from kfjax.metrics.onsets import detect_onsets, onset_f1

HERE = Path(__file__).parent


def picture_packets(path: Path) -> list[bytes]:
    """The coded picture, packet by packet."""
    import av

    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def report(model, path: Path) -> list:
    """One clip: checks, picture, and a row of the table."""
    sound, again, other = (model.generate(path, seed=seed) for seed in (0, 0, 1))
    rate, wave = sound.sample_rate_hz, sound.waveform
    with tempfile.TemporaryDirectory() as folder:
        copy = sound.save(Path(folder) / f"sound{path.suffix}")[0]
        same_picture = picture_packets(copy) == picture_packets(path)
    checks = {
        "length": len(wave) == round(media.probe(path).seconds * rate),
        "stereo": wave.shape[1] == 2 and not np.array_equal(wave[:, 0], wave[:, 1]),
        "packets": same_picture,
        "same seed": np.array_equal(wave, again.waveform),
        "other seed": not np.array_equal(wave, other.waveform),
    }
    own = detect_onsets(media.read_audio(path, rate)[: len(wave)], rate) if media.probe(path).has_audio else []
    made = detect_onsets(wave, rate)
    strip = plot.read_strip(path, sound.seconds)
    title = f"{path.name}, built-in model"
    plot.overview(HERE / f"{path.stem}.png", wave, rate, frames=strip, marks=list(own), title=title)
    failed = [name for name, passed in checks.items() if not passed]
    level = 20 * np.log10(np.sqrt(np.mean(wave**2)) + 1e-9)
    f1 = f"{onset_f1(made, own).f1:.2f}" if len(own) else "none"
    verdict = "all hold" if not failed else "FAILED: " + ", ".join(failed)
    return [path.name, f"{sound.seconds:.3f} s", verdict, len(made), len(own), f1, f"{level:.0f} dB"]


def main() -> None:
    model = kfjax.load()
    lines = [report(model, Path(name)) for name in sys.argv[1:]]
    header = ["clip", "length", "checks", "onsets made", "onsets of its own sound", "F1", "level"]
    print("\n".join(harness.markdown(header, lines)))
    if any("FAILED" in line[2] for line in lines):
        raise SystemExit(1)
