"""A made crawl with planted faults: which clip has which, and its file. A clip that is there is not made again."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

pictures = import_module("experiments.0019-clean.pictures")
sounds = import_module("experiments.0019-clean.sounds")

#: Faults of pictures, of sounds, of files, and of the corpus; each is the filter that should find it.
FAULTS = (*pictures.FAULTS, *sounds.FAULTS, "shorter_side", "audio_rate_hz", "duplicate", "unusable")
#: Fault -> what it brings with it, which is no mistake to find. What is faint is silent in parts, and its treble below
#: what codecs leave; without treble, or at a lower level, a room between two sounds is silent; silence has no loudness,
#: treble or sides; a logo may be text.
BROUGHT = {
    "loudness_lufs": {"silence_share", "bandwidth_hz"},
    "bandwidth_hz": {"silence_share"},
    "duplicate": {"silence_share"},
    "silence_share": {"loudness_lufs", "bandwidth_hz", "side_db", "channel_correlation"},
    "audio_rate_hz": {"bandwidth_hz"},
    "logo_share": {"subtitle_share"},
    "subtitle_share": {"logo_share"},
}
_QUALITY = {"flags": "+qscale", "global_quality": "590"}
#: Ending, codec of the picture, its options.
VIDEO = (
    (".mp4", "libx264", {"preset": "superfast", "crf": "20"}),
    (".mp4", "libx264", {"preset": "ultrafast", "crf": "26"}),
    (".mkv", "libx264", {"preset": "superfast", "crf": "32", "bf": "0"}),
    (".mp4", "mpeg4", _QUALITY),
    (".webm", "libvpx", {"cpu-used": "16", "deadline": "realtime", "b": "900k"}),
    (".mov", "mjpeg", _QUALITY),
    (".mp4", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"}),
)
_WEIGHTS = (0.25, 0.3, 0.1, 0.12, 0.1, 0.1, 0.03)
#: Container -> codecs of sound that it may have, with their bits a second.
AUDIO = {
    ".mp4": (("aac", 192_000), ("aac", 128_000)),
    ".mkv": (("flac", 0), ("libmp3lame", 160_000), ("libopus", 128_000)),
    ".webm": (("libopus", 112_000),),
    ".mov": (("pcm_s16le", 0), ("aac", 160_000)),
    ".mp3": (("libmp3lame", 192_000),),
    ".flac": (("flac", 0),),
    ".wav": (("pcm_s16le", 0),),
}
#: Sound alone: of so many clean clips, and of those with a fault of the sound.
ALONE = 0.05
#: Films without a fault that clean clips and those with a fault of the sound share.
_POOL = 0.14
_OPUS_HZ = 48000


class Film(NamedTuple):
    path: Path
    fps: int


def plan(count: int, seed: int) -> list[str]:
    """The fault of each clip; 1 in 20 has each, "cut" in half as many; "" for the rest. A duplicate follows a clean
    clip."""
    each, rng = count // 20, np.random.default_rng(seed)
    others = [fault for fault in FAULTS if fault != "duplicate" for _ in range(each)] + ["cut"] * (each // 2)
    order = [*others, *([""] * (count - len(others) - 2 * each))]
    order = [order[i] for i in rng.permutation(len(order))]
    for place in np.sort(rng.integers(0, len(order) + 1, each))[::-1]:
        order[place:place] = ["", "duplicate"]
    return order


def _pool(count: int) -> int:
    return max(4, round(_POOL * count))


def find(folder: Path, number: int) -> Path | None:
    """The file of a clip, if it is there."""
    return next((path for path in (folder / "crawl").glob(f"{number:05}.*") if path.stem == f"{number:05}"), None)


def make(folder: Path, seed: int, count: int, number: int, fault: str) -> Path:
    """One clip in FOLDER/crawl."""
    if (found := find(folder, number)) is not None:
        return found
    rng = np.random.default_rng([seed, number])
    crawl, pool = folder / "crawl", _pool(count)
    if fault == "unusable":
        return _unusable(folder, seed, number, rng, pool)
    if fault == "duplicate":
        return _again(make(folder, seed, count, number - 1, ""), crawl / f"{number:05}", rng)
    alone = fault in (*sounds.FAULTS, "") and rng.uniform() < ALONE
    film = None if alone else _film(folder, seed, number, fault, pool)
    ending = str(rng.choice([".mp3", ".flac", ".wav"])) if film is None else film.path.suffix
    codec, bits = AUDIO[ending][rng.integers(len(AUDIO[ending]))]
    rate_hz = _OPUS_HZ if codec == "libopus" else int(rng.choice([44100, 48000]))
    wave = sounds.recording(rng, rate_hz)
    if fault in sounds.FAULTS:
        wave = sounds.FAULTS[fault](wave, rng, rate_hz).astype(np.float32)
    if fault == "clipped_share" and codec in ("flac", "pcm_s16le"):  # and lowered, where nothing bends the plateaus
        wave = wave * np.float32(10 ** (-rng.uniform(0, 6) / 20))
    if fault == "side_db" and rng.uniform() < 0.3 and codec != "libopus":
        wave = wave[:, :1]
    if fault == "audio_rate_hz":
        from scipy.signal import resample_poly

        ending, codec, bits = (ending, codec, bits) if ending != ".webm" else (".mkv", "flac", 0)
        low = int(rng.choice([32000, 22050, 16000]))
        codec, bits = ("flac", 0) if codec == "libopus" else (codec, bits and bits // 2)
        wave = resample_poly(wave, low // (common := np.gcd(low, rate_hz)), rate_hz // common, axis=0)
        rate_hz = low
    return write(crawl / f"{number:05}{ending}", wave.astype(np.float32), rate_hz, codec, bits, copied=film)


def _film(folder: Path, seed: int, number: int, fault: str, pool: int) -> Film:
    """The picture of a clip: one of the pool, or one of its own with a fault."""
    own = fault in pictures.FAULTS or fault in ("cut", "shorter_side")
    name = f"{number:05}" if own else f"pool-{number % pool:04}"
    rng = np.random.default_rng([seed, number, 1] if own else [seed, number % pool, 2])
    fps, size = int(rng.choice(pictures.RATES)), pictures.SIZES[rng.integers(len(pictures.SIZES))]
    ending, codec, options = VIDEO[rng.choice(len(VIDEO), p=_WEIGHTS)]
    path = folder / "films" / f"{name}{ending}"
    if path.exists():
        return Film(path, fps)
    if fault == "shorter_side":
        less = int(rng.choice([144, 180, 240, 288, 320])) / 360
        size = tuple(int(side * less) // 2 * 2 for side in size)
    frames = pictures.film(rng, size, fps, moving=fault == "logo_share")
    if fault in pictures.FAULTS:
        frames = pictures.FAULTS[fault](frames, rng, fps)
    if fault == "cut":
        other, at = pictures.film(rng, size, fps), round(rng.uniform(2, 8) * fps)
        frames = (two if i >= at else one for i, (one, two) in enumerate(zip(frames, other, strict=True)))
        path = path.with_name(f"{name}-{at / fps:.3f}s{ending}")
        if path.exists():
            return Film(path, fps)
    write(path, None, 0, frames=frames, fps=fps, video=(codec, options))
    return Film(path, fps)


def cut_seconds(folder: Path, number: int) -> float:
    """Where the scene cut of such a clip was planted."""
    (path,) = (folder / "films").glob(f"{number:05}-*s.*")
    return float(path.name.rpartition("s.")[0].partition("-")[2])


def _again(original: Path, target: Path, rng: np.random.Generator) -> Path:
    """A clip in other codecs, at another level, in another size."""
    from kfjax import media

    info = media.probe(original)
    wave = media.read_audio(original, rate_hz := int(rng.choice([44100, 48000]))) * np.float32(rng.uniform(0.4, 0.95))
    if not info.has_video:
        ending = str(rng.choice([".mp3", ".flac"]))
        return write(target.with_suffix(ending), wave, rate_hz, *AUDIO[ending][0])
    ending, codec, options = VIDEO[rng.integers(3)]
    larger = rng.choice([1.0, 1.0, 1.25, 1.5])
    size = tuple(int(side * larger) // 2 * 2 for side in (info.width, info.height))
    frames = _frames(original, size)
    audio, bits = AUDIO[ending][rng.integers(2)]
    return write(
        target.with_suffix(ending),
        wave,
        rate_hz,
        audio,
        bits,
        frames=frames,
        fps=round(info.fps),
        video=(codec, options),
    )


def _frames(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            yield frame.reformat(*size, "rgb24").to_ndarray()


def _unusable(folder: Path, seed: int, number: int, rng: np.random.Generator, pool: int) -> Path:
    """Noise, nothing, a text, the header of a sound alone, a film without sound, a film that is cut off."""
    path, kind = folder / "crawl" / f"{number:05}.mp4", rng.integers(6)
    if kind == 0:
        path.write_bytes(rng.bytes(int(rng.integers(1, 100_000))))
    elif kind == 1:
        path.touch()
    elif kind == 2:
        path.write_text("<html><body>404 Not Found</body></html>\n" * int(rng.integers(1, 50)))
    elif kind == 3:
        path.with_suffix(".wav").write_bytes(b"RIFF" + bytes(4) + b"WAVEfmt ")
    else:
        film = _film(folder, seed, number, "", pool).path
        data = film.read_bytes()
        if kind == 5:  # an mp4 loses its index, any other nearly all that its header promises
            data = data[: len(data) // 3 if film.suffix in (".mp4", ".mov") else 700]
        path.with_suffix(film.suffix).write_bytes(data)
    return path


def write(
    path: Path,
    wave: np.ndarray | None,
    rate_hz: int,
    audio: str = "",
    bits: int = 0,
    *,
    frames: Iterable[np.ndarray] = (),
    fps: int = 0,
    video: tuple[str, dict[str, str]] | None = None,
    copied: Film | None = None,
) -> Path:
    """A file by PyAV: pictures encoded, or those of a film as they are, and sound; there when it is whole."""
    import av

    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(av.open(str(temporary), "w"))
            heard = None
            film: Any = None
            if copied is not None:
                source = stack.enter_context(av.open(str(copied.path)))
                film = target.add_stream_from_template(source.streams.video[0])
            if wave is not None:
                heard = target.add_stream(audio, rate=rate_hz, layout="stereo" if wave.shape[1] == 2 else "mono")
                heard.options = {"b": str(bits), "aac_coder": "fast"} if bits else {}
            if copied is not None:
                for packet in source.demux(source.streams.video[0]):
                    if packet.dts is not None:
                        packet.stream = film
                        target.mux(packet)
            if video is not None:
                _encode(target, frames, fps, *video)
            if wave is not None:
                whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T), "fltp", heard.layout.name)
                whole.sample_rate, whole.pts, whole.time_base = rate_hz, 0, Fraction(1, rate_hz)
                packets = [*heard.encode(whole), *heard.encode(None)]
                target.mux([packet for packet in packets if packet.dts is not None])  # FLAC's last has a header alone
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _encode(target: Any, frames: Iterable[np.ndarray], fps: int, codec: str, options: dict[str, str]) -> None:
    import av

    stream = None
    for i, image in enumerate(frames):
        if stream is None:
            stream = target.add_stream(codec, rate=fps, options=options)
            stream.height, stream.width = image.shape[:2]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.thread_count = 1
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = i, Fraction(1, fps)
        target.mux(stream.encode(frame))
    target.mux(stream.encode(None))


def made(folder: Path, seed: int, count: int, workers: int) -> list[str]:
    """The whole crawl in FOLDER/crawl, by processes; returns `plan`. Goes on where it was stopped.

    Raises:
      ValueError: the folder holds another crawl.
    """
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    from tqdm import tqdm

    for name in ("crawl", "films"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings, note = {"seed": seed, "clips": count}, folder / "crawl.json"
    if note.exists() and json.loads(note.read_text()) != settings:
        raise ValueError(f"{folder}: holds a crawl of {note.read_text()}, expected {settings}; give another folder")
    note.write_text(json.dumps(settings))
    faults = plan(count, seed)
    there = {path.stem for path in (folder / "crawl").iterdir()}
    todo = [i for i in range(count) if f"{i:05}" not in there]
    shared = range(_pool(count) if todo else 0)
    # Not by fork: the encoders' threads would not be there in the processes, which wait for them for ever.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as processes:
        films = [processes.submit(_film, folder, seed, i, "", _pool(count)) for i in shared]
        list(tqdm(as_completed(films), total=len(films), desc="films", mininterval=10))
        waiting = [processes.submit(make, folder, seed, count, i, faults[i]) for i in todo]
        for done in tqdm(as_completed(waiting), total=len(todo), desc="clips", mininterval=10):
            done.result()
    return faults
