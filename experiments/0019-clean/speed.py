"""How fast ten-second 720p clips are cleaned, and what each part of it takes.

    python -m experiments 0019/speed FOLDER FILM [FILM ...]

Cuts the films into clips of 10 s and 1280 x 720 in FOLDER (by ffmpeg), measures one of them part by part, in
milliseconds of processor time on one core, and cleans a fifth of them and all, in one process and in two: the
difference has the rate of a corpus, where the start does not count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from kfjax import media
from kfjax.data import sources
from kfjax.data.clean import excerpts, measure, run, thresholds
from kfjax.data.clean.measures import fingerprints, kinds, overlay, picture, sound, speech, wada
from kfjax.metrics import levels
from kfjax.train.config import load_config


def cut(films: list[Path], folder: Path) -> list[Path]:
    """Clips of 10 s of each film."""
    folder.mkdir(parents=True, exist_ok=True)
    for film in films:
        seconds = media.probe(film).seconds
        for start in range(0, int(seconds - 9.9) + 1, 10):
            target = folder / f"{film.stem}-{start:04}.mp4"
            if not target.exists():
                words = [
                    "ffmpeg",
                    "-v",
                    "error",
                    "-ss",
                    str(start),
                    "-i",
                    str(film),
                    "-t",
                    "10",
                    "-vf",
                    "scale=1280:720",
                ]
                subprocess.run(
                    [*words, "-c:v", "libx264", "-preset", "fast", "-ac", "2", "-ar", "44100", target], check=True
                )
    return sorted(folder.glob("*.mp4"))


def parts(path: Path) -> dict[str, float]:
    """Milliseconds of processor time, the best of three."""
    row = sources.Row(path.name, path, None, "")
    (piece, *_) = excerpts.pieces(row, 10.0, 1.0, measure.SPECS, span_cuts=True)
    (frames, fine), rate_hz = piece.frames, media.probe(path).audio_rate_hz
    wave = np.asfortranarray(media.read_audio(path, rate_hz, 2, 10.0, 0.0))
    low, low_hz = sound.undrawn(wave, rate_hz)
    work = {
        "pictures alone": lambda: media.read_frames(path, measure.SPECS),
        "pictures and scene cuts": lambda: list(excerpts.pieces(row, 10.0, 1.0, measure.SPECS)),
        "sound": lambda: media.read_audio(path, rate_hz, 2, 10.0, 0.0),
        "clipped_share": lambda: sound.clipped_share(wave),
        "bandwidth_hz": lambda: sound.bandwidth_hz(wave, rate_hz),
        "snr_db": lambda: wada.snr_db(wave),
        "loudness_lufs": lambda: levels.loudness_lufs(wave, rate_hz),
        "true_peak_db": lambda: levels.true_peak_db(wave),
        "silence_share": lambda: levels.silence_share(wave, rate_hz),
        "below 3.5 kHz": lambda: sound.undrawn(wave, rate_hz),
        "side_db": lambda: sound.side_db(low),
        "channel_correlation": lambda: sound.channel_correlation(low),
        "sound_fingerprint": lambda: fingerprints.sound_fingerprint(low, low_hz),
        "still_share": lambda: picture.still_share(frames),
        "border_share": lambda: picture.border_share(frames),
        "picture_fingerprint": lambda: fingerprints.picture_fingerprint(frames),
        "logo_share": lambda: overlay.logo_share(fine),
        "subtitle_share": lambda: overlay.subtitle_share(fine),
        "kind": lambda: kinds.by_rule(wave, rate_hz, None),
    }
    work |= {name: lambda name=name: getattr(speech, name)(wave, rate_hz) for name in sorted(speech.available())}
    found = {}
    for name, once in work.items():
        times = []
        for _ in range(3):
            start = time.process_time()
            once()
            times.append(1000 * (time.process_time() - start))
        found[name] = min(times)
    return found


def seconds_of(clips: list[Path], folder: Path, workers: int) -> float:
    """How long the clips take to be cleaned, from the start on."""
    source, output = folder / "source", folder / "clean"
    for old in (source, output):
        shutil.rmtree(old, ignore_errors=True)
    source.mkdir()
    for clip in clips:
        os.link(clip, source / clip.name)
    cfg = thresholds.parse(load_config("configs/clean.py").to_dict())
    start = time.perf_counter()
    run.clean(source, output, cfg, workers=workers)
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments 0019/speed")
    parser.add_argument("folder", type=Path)
    parser.add_argument("films", type=Path, nargs="+")
    args = parser.parse_args(argv)
    clips = cut(args.films, args.folder / "clips")
    if len(clips) < 2:
        parser.error(f"films: got {len(clips)} clips of 10 seconds, expected at least 2; give a longer film, or more")
    for name, milliseconds in parts(clips[0]).items():
        print(f"{name:26}{milliseconds:8.1f} ms")
    few = clips[::5]
    for workers in (1, 2):
        start, whole = (seconds_of(some, args.folder, workers) for some in (few, clips))
        rate = (len(clips) - len(few)) / (whole - start)
        print(
            f"{workers} processes: {rate:.2f} clips a second; {len(clips) / whole:.2f} with the start of {len(clips)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
