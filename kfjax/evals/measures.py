"""Measures of generated sounds against true ones, in groups: `--metrics onsets,stereo,panns`.

Most groups need nothing but the sounds and give figures clip by clip. Those in `NETWORKS` use a pretrained network.
A figure that does not apply to a clip (onsets where nothing is struck, position of mono) is NaN and does not count.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.signal import resample_poly
from tqdm import tqdm

from kfjax import media
from kfjax.command import install
from kfjax.evals.benchmarks import BenchmarkExample
from kfjax.evals.networks.base import AudioClassifier, SyncJudge, TextAudioSpace, VideoAudioSpace
from kfjax.evals.networks.synchrony import desync_seconds
from kfjax.metrics import distributions, levels, reconstruction
from kfjax.metrics.onsets import detect_onsets, onset_f1

#: Everything that needs no network is measured at this rate.
SAMPLE_RATE_HZ = 44100
_BATCH = 8

Pair = tuple[BenchmarkExample, Path]
Figures = dict[str, float]
#: Name -> values of clips, the first axis in their order.
Observed = dict[str, np.ndarray]


class Column(NamedTuple):
    """A figure: a description, and whether higher (↑) or lower (↓) is better. `true_NAME` is the true sound's NAME."""

    title: str
    better: str = ""


class Score(NamedTuple):
    """Mean over the clips to which a figure applies, its standard error, and their number.

    For figures of whole sets `error` is NaN; for the inception score it is the deviation over its splits.
    """

    value: float
    error: float
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple's own is not needed


COLUMNS = {
    "onset_f1": Column("onsets within ±50 ms, F1", "↑"), "onsets": Column("onsets"),
    "position_correlation": Column("position over time, correlation with the true sound's", "↑"),
    "width_db": Column("level difference of the channels, dB"),
    "loudness_lufs": Column("loudness, LUFS"), "silence_share": Column("share of silence"),
    "missing_seconds": Column("seconds that are missing at the end", "↓"),
    "mel_l1": Column("mel L1, nepers", "↓"), "stft": Column("multi-resolution STFT distance", "↓"),
    "lsd_db": Column("LSD, dB", "↓"), "mcd_db": Column("MCD, dB", "↓"),
    "si_sdr_db": Column("SI-SDR, dB", "↑"), "sdr_db": Column("SDR, dB", "↑"), "pesq": Column("PESQ, wide band", "↑"),
    "fd_panns": Column("FD (PANNs)", "↓"), "kl_panns": Column("KL (PANNs, softmax)", "↓"),
    "kl_panns_sigmoid": Column("KL (PANNs, sigmoid)", "↓"), "is_panns": Column("inception score (PANNs)", "↑"),
    "ib": Column("IB-score", "↑"), "desync_seconds": Column("DeSync, seconds", "↓"), "clap": Column("CLAP score", "↑"),
}  # fmt: skip


def _onsets(made: np.ndarray, true: np.ndarray, example: BenchmarkExample) -> Figures:
    """Against the clip's own times where it has them, else against the onsets of its true sound."""
    heard = detect_onsets(made, SAMPLE_RATE_HZ)
    times = detect_onsets(true, SAMPLE_RATE_HZ) if example.times is None else example.times
    f1 = onset_f1(heard, times).f1 if len(times) else float("nan")
    return {"onset_f1": f1, "onsets": len(heard), "true_onsets": len(times)}


def _stereo(made: np.ndarray, true: np.ndarray, example: BenchmarkExample) -> Figures:
    width, true_width = (levels.width_db(wave, SAMPLE_RATE_HZ) for wave in (made, true))
    correlation = levels.position_correlation(made, true, SAMPLE_RATE_HZ)
    return {"position_correlation": correlation, "width_db": width, "true_width_db": true_width}


def _levels(made: np.ndarray, true: np.ndarray, example: BenchmarkExample) -> Figures:
    figures = {}
    for name, measure in (("loudness_lufs", levels.loudness_lufs), ("silence_share", levels.silence_share)):
        figures |= {name: measure(made, SAMPLE_RATE_HZ), f"true_{name}": measure(true, SAMPLE_RATE_HZ)}
    return figures | {"missing_seconds": (len(true) - len(made)) / SAMPLE_RATE_HZ}


def _codec(made: np.ndarray, true: np.ndarray, example: BenchmarkExample) -> Figures:
    return reconstruction.reconstruction(made, true, SAMPLE_RATE_HZ)._asdict()


def _pesq(made: np.ndarray, true: np.ndarray, example: BenchmarkExample) -> Figures:
    size, rate = min(len(made), len(true)), reconstruction.PESQ_RATE_HZ
    mono = lambda wave: resample_poly(wave[:size].mean(1), rate // 100, SAMPLE_RATE_HZ // 100)
    return {"pesq": reconstruction.pesq_score(mono(made), mono(true))}


#: Group -> its figures of one clip, from two waves [t, 2] at 44.1 kHz.
OWN: dict[str, Callable[[np.ndarray, np.ndarray, BenchmarkExample], Figures]] = {
    "onsets": _onsets, "stereo": _stereo, "levels": _levels, "codec": _codec, "pesq": _pesq,
}  # fmt: skip


def clip_figures(pairs: Sequence[Pair], groups: Sequence[str]) -> Iterator[tuple[str, dict[str, Figures] | str]]:
    """Each clip's name with its figures by group, or with the reason for which it can't be read; in order, several at
    once."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(partial(_figures, groups=groups), pairs)
        named = zip((example.name for example, _ in pairs), made, strict=True)
        yield from tqdm(named, "measured", len(pairs), unit="clip", mininterval=5.0, leave=False, disable=None)


def _figures(pair: Pair, groups: Sequence[str]) -> dict[str, Figures] | str:
    example, path = pair
    try:
        true, made = example.sound(SAMPLE_RATE_HZ), media.read_audio(path, SAMPLE_RATE_HZ)
        if not (len(made) and len(true)):
            raise media.MediaError(f"{example.name}: a sound is empty; make it again")
    except media.MediaError as error:
        return str(error)
    # A generated sound may go on beyond the benchmark's seconds.
    return {group: OWN[group](made[: len(true)], true, example) for group in groups}


def panns(network: AudioClassifier, pairs: Sequence[Pair]) -> Observed:
    """Embeddings and logits of both sounds."""

    def tags(batch: Sequence[Pair]) -> Observed:
        made, true = (network.tags(waves) for waves in (_made(batch, network), _true(batch, network)))
        return {**made._asdict(), **{f"true_{name}": part for name, part in true._asdict().items()}}

    return _in_order(pairs, tags)


def _panns_scores(rows: Observed) -> dict[str, Score]:
    """FD, KL and inception score. FD and KL are of these clips alone, however many a benchmark has."""
    rows = {name: part.astype(np.float64) for name, part in rows.items()}
    count, score = len(rows["logits"]), distributions.inception_score(rows["logits"])
    scores = {
        "kl_panns": mean_score(distributions.kl_divergence(rows["logits"], rows["true_logits"])),
        "kl_panns_sigmoid": mean_score(distributions.kl_divergence(rows["logits"], rows["true_logits"], "sigmoid")),
        "is_panns": Score(score.mean, score.deviation, count),
    }
    if count > 1:
        sides = (distributions.gaussian(rows[name]) for name in ("embedding", "true_embedding"))
        scores = {"fd_panns": Score(distributions.frechet_distance(*sides), float("nan"), count), **scores}
    return scores


def imagebind(network: VideoAudioSpace, pairs: Sequence[Pair]) -> Observed:
    """IB-score: cosine of picture and generated sound, of the clips that have a picture."""

    def cosines(batch: Sequence[Pair]) -> Observed:
        seen = network.embed_video(np.stack([example.frames([network.frame_spec])[0] for example, _ in batch]))
        return {"ib": distributions.cosine_similarity(network.embed_audio(_made(batch, network)), seen)}

    return _where(pairs, "ib", cosines, lambda example: example.has_video)


def clap(network: TextAudioSpace, pairs: Sequence[Pair]) -> Observed:
    """CLAP score: cosine of caption and generated sound, of the clips that have a caption."""

    def cosines(batch: Sequence[Pair]) -> Observed:
        said = network.embed_text([example.caption for example, _ in batch])
        return {"clap": distributions.cosine_similarity(network.embed_audio(_made(batch, network)), said)}

    return _where(pairs, "clap", cosines, lambda example: bool(example.caption.strip()))


def desync(network: SyncJudge, pairs: Sequence[Pair]) -> Observed:
    """DeSync of the clips that have a picture and are long enough for a window."""

    def offsets(batch: Sequence[Pair]) -> Observed:
        frames = (example.frames([network.frame_spec])[0] for example, _ in batch)
        both = zip(frames, _made(batch, network), strict=True)
        return {"desync_seconds": np.array([desync_seconds(network, seen, wave) for seen, wave in both])}

    fits = lambda example: example.has_video and example.seconds >= network.seconds
    return _where(pairs, "desync_seconds", offsets, fits)


def means(rows: Observed) -> dict[str, Score]:
    """Of each column."""
    return {name: mean_score(values) for name, values in rows.items()}


class Network(NamedTuple):
    """A group of measures by a network: what it says of each clip, and the scores of all clips' rows."""

    observe: Callable[..., Observed]
    scores: Callable[[Observed], dict[str, Score]] = means


NETWORKS = {
    "panns": Network(panns, _panns_scores), "imagebind": Network(imagebind), "desync": Network(desync),
    "clap": Network(clap),
}  # fmt: skip


def check_packages(groups: Iterable[str]) -> dict[str, str]:
    """Group -> what has to be installed for it, where it is not."""
    missing = "pesq" in groups and importlib.util.find_spec("pesq") is None
    return {"pesq": f"pesq is not installed; {install('eval')}"} if missing else {}


def mean_score(values: Iterable[float]) -> Score:
    """Mean and standard error of the finite values; NaN where there are none."""
    finite = np.array([value for value in values if np.isfinite(value)], np.float64)
    if not len(finite):
        return Score(float("nan"), float("nan"), 0)
    error = finite.std(ddof=1) / np.sqrt(len(finite)) if len(finite) > 1 else float("nan")
    return Score(float(finite.mean()), float(error), len(finite))


def _where(
    pairs: Sequence[Pair], name: str, of: Callable[[Sequence[Pair]], Observed],
    applies: Callable[[BenchmarkExample], bool],
) -> Observed:  # fmt: skip
    """The figure of the clips to which it applies, NaN of the others."""
    rows = [i for i, (example, _) in enumerate(pairs) if applies(example)]
    values = np.full(len(pairs), np.nan)
    if rows:
        values[rows] = _in_order([pairs[i] for i in rows], of)[name]
    return {name: values}


def _in_order(pairs: Sequence[Pair], of: Callable[[Sequence[Pair]], Observed]) -> Observed:
    """What `of` says of batches of clips of one length, in the order of the pairs."""
    by_length: dict[float, list[int]] = {}
    for i, (example, _) in enumerate(pairs):
        by_length.setdefault(example.seconds, []).append(i)
    rows = [group[first : first + _BATCH] for group in by_length.values() for first in range(0, len(group), _BATCH)]
    parts = [of([pairs[i] for i in batch]) for batch in rows]
    places = np.argsort(np.concatenate(rows))
    return {name: np.concatenate([np.asarray(part[name]) for part in parts])[places] for name in parts[0]}


def _made(batch: Sequence[Pair], network) -> np.ndarray:
    """Generated sounds as input of a network, f32 [b, t]: mono, cut or padded with silence to the clip's length."""
    rate = network.sample_rate_hz
    return np.stack([_fit(media.read_audio(path, rate, 1)[:, 0], example, rate) for example, path in batch])


def _true(batch: Sequence[Pair], network) -> np.ndarray:
    rate = network.sample_rate_hz
    return np.stack([_fit(example.sound(rate).mean(1), example, rate) for example, _ in batch])


def _fit(wave: np.ndarray, example: BenchmarkExample, rate: int) -> np.ndarray:
    size = round(example.seconds * rate)
    return np.pad(wave[:size], (0, max(0, size - len(wave)))).astype(np.float32)
