"""Does `kfjax clean` find faults that were planted, and those alone?

    python -m experiments 0019 FOLDER [--clips 2000]

Makes a corpus of small clips with known faults in FOLDER/crawl, cleans it, and prints precision and recall of every
filter on its own fault, the share of clips without a fault that is refused, and the same of scene cuts. The settings
are those of configs/clean.py, but for the sizes of pictures and of excerpts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np

from experiments import harness
from kfjax import media
from kfjax.data.clean import run, thresholds
from kfjax.train.config import load_config

RATE_HZ, FPS, SECONDS = 44100, 8, 2.0
#: Pictures are made once for so many clips; sounds are each their own.
BASES = 24
Wave = np.ndarray


def clipped(wave: Wave, rng: np.random.Generator) -> Wave:
    return 0.9 * np.clip(rng.uniform(20, 60) * wave, -1, 1)


def narrow(wave: Wave, rng: np.random.Generator) -> Wave:
    """What was sampled at 8 to 16 kHz once."""
    from scipy.signal import resample_poly

    parts = int(rng.integers(3, 6))
    up = resample_poly(resample_poly(wave, 1, parts, axis=0), parts, 1, axis=0)[: len(wave)]
    return up.astype(np.float32)


def silent(wave: Wave, rng: np.random.Generator) -> Wave:
    return wave * (np.arange(len(wave)) > rng.uniform(0.4, 0.8) * len(wave))[:, None]


#: Fault, which is the filter that should find it -> what it does to a sound.
SOUND: dict[str, Callable[[Wave, np.random.Generator], Wave]] = {
    "clipped_share": clipped,
    "bandwidth_hz": narrow,
    "silence_share": silent,
    "side_db": lambda wave, rng: wave[:, [0, 0]],
    "channel_correlation": lambda wave, rng: wave.mean(1, keepdims=True) * np.float32([1, -rng.uniform(0.8, 1)]),
    "loudness_lufs": lambda wave, rng: wave * np.float32(0.9e-3 / np.abs(wave).max()) + _hiss(wave, rng),
}
#: Faults of pictures, of files, and of the corpus.
PICTURE, FILE = ("still_share", "border_share", "shorter_side"), ("audio_rate_hz", "duplicate", "unusable")
FAULTS = (*SOUND, *PICTURE, *FILE)


def _hiss(wave: Wave, rng: np.random.Generator) -> Wave:
    return 1.5e-3 * rng.standard_normal(wave.shape, np.float32)


@cache
def base(folder: Path, kind: str, number: int) -> Path:
    """A film of one kind of picture, made once."""
    from tests.tiny.crawl import pictures

    path = folder / f"{kind}-{number}.mp4"
    if not path.exists():
        small = kind == "shorter_side"
        frames = pictures(number, round(FPS * SECONDS), *((48, 64) if small else (96, 128)))
        if kind == "still_share":
            frames = np.repeat(frames[:1], len(frames), axis=0)
        if kind == "border_share":
            frames = np.pad(frames, ((0, 0), (16, 16), (0, 0), (0, 0)))
        if kind == "cut":
            other, at = pictures(number + 1000, len(frames)), 5 + number % 6
            frames[at:] = other[at:]
        media.write_video(path, frames, FPS)
    return path


def make(crawl: Path, number: int, kind: str) -> None:
    """One clip, `kind` its fault, "" or "cut"."""
    from tests.tiny.crawl import recording

    path, rng = crawl / f"{number:05}.mp4", np.random.default_rng(number)
    if path.exists():
        return
    if kind == "unusable":
        path.write_bytes(rng.bytes(int(rng.integers(0, 3)) * 500))
        return
    source = number - 1 if kind == "duplicate" else number
    wave = recording(source, SECONDS)
    if kind in SOUND:
        wave = SOUND[kind](wave, rng).astype(np.float32)
    if kind == "duplicate":
        wave = wave * np.float32(rng.uniform(0.5, 0.95))
    film = base(crawl.parent / "bases", kind if kind in (*PICTURE, "cut") else "good", source % BASES)
    if kind == "audio_rate_hz":
        from scipy.signal import resample_poly

        media.mux(film, path, resample_poly(wave, 320, 441, axis=0).astype(np.float32), 32000)
    else:
        media.mux(film, path, wave, RATE_HZ)


def kinds(count: int) -> list[str]:
    """What each clip is: 100 in 2000 of each fault, and of films with a cut; the rest are clean. A duplicate follows a
    clean clip."""
    each = count // 20
    rest = ["" for _ in range(count - each * (len(FAULTS) + 1))]
    order = [kind for kind in (*FAULTS, "cut") if kind != "duplicate" for _ in range(each)] + rest[each:]
    order = [order[i] for i in np.random.default_rng(0).permutation(len(order))]
    pairs = np.sort(np.random.default_rng(1).permutation(len(order))[:each])
    for i in pairs[::-1]:
        order[i:i] = ["", "duplicate"]
    return order


def scores(planted: dict[str, str], rows: list[dict]) -> dict:
    """Of every filter; and of scene cuts."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    pieces: Counter[str] = Counter()
    known = {*thresholds.parse(settings()).thresholds}
    for row in rows:
        name = Path(row["path"]).name
        pieces[name] += 1
        for reason in (row["reasons"] or "").split("; "):
            word = reason.partition(" ")[0]
            kind = word if word in known else "duplicate" if word == "near" else "unusable" if word else ""
            if kind:
                found[kind].add(name)
    made = {}
    for kind in FAULTS:
        own = {name for name, fault in planted.items() if fault == kind}
        made[kind] = {
            "precision": len(own & found[kind]) / max(1, len(found[kind])),
            "recall": len(own & found[kind]) / len(own),
        }
    cut, films = ({name for name, fault in planted.items() if (fault == "cut") == is_cut} for is_cut in (True, False))
    hits = sum(pieces[name] > 1 for name in cut)
    made["scene cut"] = {
        "precision": hits / max(1, hits + sum(pieces[name] > 1 for name in films)),
        "recall": hits / len(cut),
    }
    clean = {name for name, fault in planted.items() if not fault}
    made["clean refused"] = len(clean & set().union(*found.values())) / len(clean)
    return made


def settings() -> dict:
    config = load_config("configs/clean.py").to_dict()
    config["thresholds"]["shorter_side"]["least"] = 96.0
    return config | {"shortest_seconds": 0.4}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments 0019", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=2000)
    args = parser.parse_args(argv)
    crawl = args.folder / "crawl"
    for path in (crawl, args.folder / "bases"):
        path.mkdir(parents=True, exist_ok=True)
    planted = kinds(args.clips)
    for kind in ("good", "cut", *PICTURE):
        for number in range(BASES):
            base(args.folder / "bases", kind, number)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(make, crawl), range(len(planted)), planted, chunksize=50))
    start = time.perf_counter()
    run.clean(crawl, args.folder / "clean", thresholds.parse(settings()))
    seconds = time.perf_counter() - start

    import pyarrow.parquet as pq

    rows = pq.read_table(args.folder / "clean/clips.parquet", columns=["path", "reasons"]).to_pylist()
    found = scores({f"{i:05}.mp4": kind for i, kind in enumerate(planted)}, rows)
    for name, score in found.items():
        print(f"{name:22}", score if isinstance(score, float) else "  ".join(f"{k} {v:.3f}" for k, v in score.items()))
    print(f"{seconds:.0f} s")
    if args.clips == 2000:
        harness.write_json(
            Path(__file__).parent / "planted.json", {"made": harness.made(), "scores": harness.plain(found)}
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
