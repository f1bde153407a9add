"""Interfaces of the measuring networks, and the error when their weights are missing.

Their weights are public but not ours to ship. `load(folder)` of each looks for its file in one folder
(`kfjax evaluate --weights FOLDER`) and raises `Unavailable` if it is missing; measures without a network still run.

    embedders.load_panns(folder)      -> AudioClassifier     FD, KL, inception score
    embedders.load_imagebind(folder)  -> VideoAudioSpace     IB-score
    desync.load(folder)               -> SyncJudge           DeSync
    clap.load(folder)                 -> TextAudioSpace      CLAP score

Sounds are mono, float32 within ±1, at the network's own `sample_rate_hz`; frames are uint8 RGB as its `frame_spec`
says. All examples of a batch have one length; examples do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, UInt8

from kfjax.media import FrameSpec


class Unavailable(ValueError):
    """A network whose weights or package are missing: one line that names them and where they are published."""


class Tags(NamedTuple):
    """Output of an audio classifier. Classes are independent: a sigmoid of the logits gives probabilities."""

    embedding: Float32[np.ndarray, "b d"]
    logits: Float32[np.ndarray, "b classes"]


class AudioClassifier(Protocol):
    """Audio tagging (PANNs' Cnn14: 2048-d embedding, the 527 classes of AudioSet).

    The public benchmark of video-to-audio models, av-benchmark, uses the one for 16 kHz (Cnn14_16k_mAP=0.438).
    """

    name: str
    sample_rate_hz: int
    labels: Sequence[str]

    def tags(self, waves: Float32[np.ndarray, "b t"]) -> Tags:
        """Embedding and logits of sounds within ±1; ValueError for sounds that are too short for the network."""
        ...


class VideoAudioSpace(Protocol):
    """Joint embedding of frames and sounds (ImageBind); the cosine of two vectors is their similarity, -1 to 1."""

    name: str
    sample_rate_hz: int
    frame_spec: FrameSpec

    def embed_audio(self, waves: Float32[np.ndarray, "b t"]) -> Float32[np.ndarray, "b d"]:
        """Vectors of sounds within ±1; ValueError for sounds that are too short for the network."""
        ...

    def embed_video(self, frames: UInt8[np.ndarray, "b v size size 3"]) -> Float32[np.ndarray, "b d"]:
        """Vectors of videos, from v frames of `frame_spec`'s rate and size."""
        ...


class TextAudioSpace(Protocol):
    """Joint embedding of captions and sounds (CLAP); the cosine of two vectors is their similarity, -1 to 1."""

    name: str
    sample_rate_hz: int

    def embed_audio(self, waves: Float32[np.ndarray, "b t"]) -> Float32[np.ndarray, "b d"]:
        """Vectors of sounds within ±1; ValueError for sounds that are too short for the network."""
        ...

    def embed_text(self, captions: Sequence[str]) -> Float32[np.ndarray, "b d"]:
        """Vectors of captions, in the space of the sounds'."""
        ...


class SyncJudge(Protocol):
    """Offset of a sound before its video, from excerpts of exactly `seconds` of both (Synchformer).

    `step_seconds` is the grid on which excerpts may begin, the step of the network's segments. Offsets are the centre
    of the likeliest class, -2.0 to 2.0 s in steps of 0.2 for the public weights.
    """

    name: str
    sample_rate_hz: int
    frame_spec: FrameSpec
    seconds: float
    step_seconds: float

    def offset_seconds(
        self, frames: UInt8[np.ndarray, "b v size size 3"], waves: Float32[np.ndarray, "b t"]
    ) -> Float32[np.ndarray, " b"]:
        """Seconds by which each sound comes before its video; ValueError unless both last exactly `seconds`."""
        ...
