"""What networks make of an excerpt of a crawl, for `kfjax clean`: each measure where its network's weights are there.

    networks = open_folder("metrics/")     # a `measure.Networks`; missing("metrics/") says what it lacks
    cells = networks.measure(excerpt)

One of each network is kept a process, on whatever accelerator it has. The measures travel to processes as a function
and a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from kfjax import media
from kfjax.data.clean.measure import NO_NETWORKS, Networks, Value
from kfjax.data.clean.measures import kinds
from kfjax.data.sources import Cut
from kfjax.evals.networks import loading
from kfjax.evals.networks.base import AudioClassifier, TextAudioSpace, Unavailable
from kfjax.evals.networks.synchrony import window_starts

#: Network -> the measures that it makes.
MEASURES = {"desync": ("sync_offset_seconds", "sync_confidence"), "clap": ("text_agreement",), "panns": ("kind",)}


def open_folder(folder: str | Path) -> Networks:
    """The networks whose weights a folder has; without any, none is imported."""
    names = tuple(name for network in MEASURES if network in _there(str(folder))[0] for name in MEASURES[network])
    return Networks(names, partial(_measure, str(folder))) if names else NO_NETWORKS


def missing(folder: str | Path) -> list[str]:
    """What the folder's networks can't measure, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for network, reason in _there(str(folder))[1].items():
        reasons.setdefault(reason, []).extend(MEASURES[network] if network != "panns" else ["kind (but by a rule)"])
    return [f"{', '.join(names)}; {reason}" for reason, names in reasons.items()]


def _measure(folder: str, excerpt: Cut) -> Mapping[str, Value]:
    found: dict[str, Value] = {}
    for network, loaded in _there(folder)[0].items():
        found |= _MAKE[network](loaded, excerpt)
    return found


@cache
def _there(folder: str) -> tuple[dict[str, Any], dict[str, str]]:
    """(network -> it, network -> why it is not there)."""
    if not Path(folder).is_dir():
        return {}, dict.fromkeys(MEASURES, f"{folder}: no such folder of weights")
    loaded, reasons = {}, {}
    for network in MEASURES:
        try:
            loaded[network] = loading.load_network(network, Path(folder))
        except Unavailable as error:
            reasons[network] = str(error)
    return loaded, reasons


def synchrony(judge: Any, excerpt: Cut) -> dict[str, Value]:
    """How much earlier than its picture the sound comes, seconds, and the network's confidence in it, 0 to 1: of the
    excerpt's first and last 4.8 s what it is surer of. Nothing of sound alone and of less.

    V. Iashin et al., "Synchformer: efficient synchronization from sparse cues", ICASSP 2024. Sound that is not of the
    picture has an offset that is large, or a low confidence.
    """
    if excerpt.row.video is None or excerpt.seconds < judge.seconds:
        return {}
    (frames,), _ = media.read_frames(
        excerpt.row.video, [judge.frame_spec], start_seconds=excerpt.start_seconds, duration_seconds=excerpt.seconds
    )
    wave = _mono(excerpt, judge.sample_rate_hz)
    pictures_hz, samples_hz = judge.frame_spec.rate_hz, judge.sample_rate_hz
    seconds = min(len(frames) / pictures_hz, len(wave) / samples_hz)
    if seconds < judge.seconds:
        return {}
    starts = window_starts(seconds, judge.seconds, judge.step_seconds)
    cut = lambda x, hz: np.stack([x[round(s * hz) : round(s * hz) + round(judge.seconds * hz)] for s in starts])
    offsets, confidences = judge.judge(cut(frames, pictures_hz), cut(wave, samples_hz))
    surest = int(np.argmax(confidences))
    return {"sync_offset_seconds": float(offsets[surest]), "sync_confidence": float(confidences[surest])}


def agreement(space: TextAudioSpace, excerpt: Cut) -> dict[str, Value]:
    """Cosine of caption and sound by CLAP, -1 to 1; nothing without a caption. (Y. Wu et al., ICASSP 2023.)"""
    if not excerpt.row.caption.strip():
        return {}
    heard, said = space.embed_audio(_mono(excerpt, space.sample_rate_hz)[None]), space.embed_text([excerpt.row.caption])
    return {"text_agreement": float((heard * said).sum() / (np.linalg.norm(heard) * np.linalg.norm(said)))}


def kind(classifier: AudioClassifier, excerpt: Cut) -> dict[str, Value]:
    """The class of sound by PANNs (`kinds.of_tags`); sounds of less than a third of a second are repeated to it."""
    wave = _mono(excerpt, classifier.sample_rate_hz)
    least = classifier.sample_rate_hz // 3
    wave = np.tile(wave, -(-least // max(1, len(wave)))) if len(wave) < least else wave
    return {"kind": kinds.of_tags(expit(classifier.tags(wave[None]).logits[0]))}


_MAKE = {"desync": synchrony, "clap": agreement, "panns": kind}


def _mono(excerpt: Cut, sample_rate_hz: int) -> np.ndarray:
    wave = media.read_audio(excerpt.row.sound, sample_rate_hz, 1, excerpt.seconds, excerpt.start_seconds)
    return wave[:, 0].clip(-1, 1)
