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
from kfjax.evals.networks.base import AudioClassifier, SyncJudge, TextAudioSpace, Unavailable, VideoAudioSpace
from kfjax.evals.networks.synchrony import desync_seconds
from kfjax.metrics import distributions, levels, reconstruction
from kfjax.metrics.onsets import detect_onsets, onset_f1

#: Everything that needs no network is measured at this rate.
SAMPLE_RATE_HZ = 44100
_BATCH = 8

Pair = tuple[BenchmarkExample, Path]
Figures = dict[str, float]


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
    "width_db": Column("level difference of the ears, dB"),
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


def clip_figures(pairs: Sequence[Pair], groups: Sequence[str]) -> Iterator[tuple[str, Figures | str]]:
    """Each clip's name with its figures, or with the reason for which it can't be read; in order, several at once."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(partial(_figures, groups=groups), pairs)
        named = zip((example.name for example, _ in pairs), made, strict=True)
        yield from tqdm(named, "measured", len(pairs), unit="clip", mininterval=5.0, leave=False, disable=None)


def _figures(pair: Pair, groups: Sequence[str]) -> Figures | str:
    example, path = pair
    try:
        true, made = example.sound(SAMPLE_RATE_HZ), media.read_audio(path, SAMPLE_RATE_HZ)
        if not (len(made) and len(true)):
            raise media.MediaError(f"{example.name}: a sound is empty; make it again")
    except media.MediaError as error:
        return str(error)
    figures: Figures = {}
    for group in groups:  # a generated sound may go on beyond the benchmark's seconds
        figures |= OWN[group](made[: len(true)], true, example)
    return figures


def panns(network: AudioClassifier, pairs: Sequence[Pair]) -> dict[str, Score]:
    """FD, KL and inception score. FD and KL are of these pairs alone, however many clips a benchmark has."""
    made, true = ([], []), ([], [])
    for batch in _batches(pairs):
        for kept, waves in ((made, _made(batch, network)), (true, _true(batch, network))):
            for rows, part in zip(kept, network.tags(waves), strict=True):
                rows.extend(np.asarray(part, np.float64))
    (embeddings, logits), (true_embeddings, true_logits) = ([np.stack(rows) for rows in side] for side in (made, true))
    score = distributions.inception_score(logits)
    scores = {
        "kl_panns": mean_score(distributions.kl_divergence(logits, true_logits)),
        "kl_panns_sigmoid": mean_score(distributions.kl_divergence(logits, true_logits, "sigmoid")),
        "is_panns": Score(score.mean, score.deviation, len(pairs)),
    }
    if len(pairs) > 1:
        sides = (distributions.gaussian(x) for x in (embeddings, true_embeddings))
        scores = {"fd_panns": Score(distributions.frechet_distance(*sides), float("nan"), len(pairs)), **scores}
    return scores


def imagebind(network: VideoAudioSpace, pairs: Sequence[Pair]) -> dict[str, Score]:
    """IB-score: cosine of picture and generated sound, over the clips that have a picture."""
    cosines = []
    for batch in _batches([pair for pair in pairs if pair[0].has_video]):
        seen = network.embed_video(np.stack([example.frames([network.frame_spec])[0] for example, _ in batch]))
        cosines.extend(distributions.cosine_similarity(network.embed_audio(_made(batch, network)), seen))
    return {"ib": mean_score(cosines)}


def clap(network: TextAudioSpace, pairs: Sequence[Pair]) -> dict[str, Score]:
    """CLAP score: cosine of caption and generated sound, over the clips that have a caption."""
    cosines = []
    for batch in _batches([pair for pair in pairs if pair[0].caption.strip()]):
        said = network.embed_text([example.caption for example, _ in batch])
        cosines.extend(distributions.cosine_similarity(network.embed_audio(_made(batch, network)), said))
    return {"clap": mean_score(cosines)}


def desync(network: SyncJudge, pairs: Sequence[Pair]) -> dict[str, Score]:
    """DeSync over the clips that have a picture and are long enough for a window."""
    offsets = []
    for example, path in pairs:
        if example.has_video and example.seconds >= network.seconds:
            frames, wave = example.frames([network.frame_spec])[0], _made([(example, path)], network)[0]
            offsets.append(desync_seconds(network, frames, wave))
    return {"desync_seconds": mean_score(offsets)}


#: Group -> its figures of all pairs, by a network.
NETWORKS: dict[str, Callable[..., dict[str, Score]]] = {
    "panns": panns, "imagebind": imagebind, "desync": desync, "clap": clap,
}  # fmt: skip


def load_network(group: str, folder: Path):
    """The network of a group, with its weights from a folder.

    Raises:
      Unavailable: they are not there.
    """
    from kfjax.evals.networks import clap, desync, embedders

    loaders = {"panns": embedders.load_panns, "imagebind": embedders.load_imagebind, "desync": desync.load,
               "clap": clap.load}  # fmt: skip
    return loaders[group](folder)


def check_packages(groups: Iterable[str]) -> dict[str, str]:
    """Group -> what has to be installed for it, where it is not."""
    missing = "pesq" in groups and importlib.util.find_spec("pesq") is None
    return {"pesq": f"pesq is not installed; {install('eval')}"} if missing else {}


def network_scores(group: str, folder: Path, pairs: Sequence[Pair]) -> tuple[str, dict[str, Score]] | str:
    """A network's name and its figures, or the reason why there are none."""
    try:
        network = load_network(group, folder)
        return network.name, NETWORKS[group](network, pairs)
    except (Unavailable, media.MediaError) as problem:  # one damaged video must not discard hours of work
        return str(problem)


def mean_score(values: Iterable[float]) -> Score:
    """Mean and standard error of the finite values; NaN where there are none."""
    finite = np.array([value for value in values if np.isfinite(value)], np.float64)
    if not len(finite):
        return Score(float("nan"), float("nan"), 0)
    error = finite.std(ddof=1) / np.sqrt(len(finite)) if len(finite) > 1 else float("nan")
    return Score(float(finite.mean()), float(error), len(finite))


def _batches(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """Clips of one length together."""
    by_length: dict[float, list[Pair]] = {}
    for pair in pairs:
        by_length.setdefault(pair[0].seconds, []).append(pair)
    for group in by_length.values():
        yield from (group[first : first + _BATCH] for first in range(0, len(group), _BATCH))


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
