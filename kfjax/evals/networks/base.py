"""Networks that measures listen with: what each of them is asked, and what it says where it can't be had.

Their weights are public but not ours to ship. `load(folder)` of each looks for its file in one folder
(`kfjax evaluate --weights FOLDER`) and raises `Unavailable` where it is not there; the measures that need none go on.

    embedders.load_panns(folder)      -> AudioClassifier     FD, KL, inception score
    embedders.load_imagebind(folder)  -> VideoAudioSpace     IB-score
    desync.load(folder)               -> SyncJudge           DeSync
    clap.load(folder)                 -> TextAudioSpace      CLAP score

Sounds are mono, float32 within ±1, at the network's own `sample_rate_hz`; frames are uint8 RGB as its `frame_spec`
says. All examples of a batch have one length; every example is judged as if it were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, UInt8

from kfjax.media import FrameSpec


class Unavailable(ValueError):
    """A network that can't be had: one line that names the missing file (or package) and where it is published."""


class Tags(NamedTuple):
    """What a classifier makes of sounds. The logits are of independent classes: a sigmoid gives probabilities."""

    embedding: Float32[np.ndarray, "b d"]
    logits: Float32[np.ndarray, "b classes"]


class AudioClassifier(Protocol):
    """Names what is heard (PANNs' Cnn14: 2048-d embedding, the 527 classes of AudioSet).

    The public benchmark of video-to-audio models, av-benchmark, uses the one for 16 kHz (Cnn14_16k_mAP=0.438).
    """

    name: str
    sample_rate_hz: int
    labels: Sequence[str]

    def tags(self, waves: Float32[np.ndarray, "b t"]) -> Tags: ...


class VideoAudioSpace(Protocol):
    """Puts pictures and sounds into one space, in which those that belong together are near (ImageBind)."""

    name: str
    sample_rate_hz: int
    frame_spec: FrameSpec

    def embed_audio(self, waves: Float32[np.ndarray, "b t"]) -> Float32[np.ndarray, "b d"]: ...

    def embed_video(self, frames: UInt8[np.ndarray, "b v size size 3"]) -> Float32[np.ndarray, "b d"]: ...


class TextAudioSpace(Protocol):
    """Puts captions and sounds into one space (CLAP)."""

    name: str
    sample_rate_hz: int

    def embed_audio(self, waves: Float32[np.ndarray, "b t"]) -> Float32[np.ndarray, "b d"]: ...

    def embed_text(self, captions: Sequence[str]) -> Float32[np.ndarray, "b d"]: ...


class SyncJudge(Protocol):
    """Says how much earlier than its picture a sound comes, from excerpts of exactly `seconds` of both (Synchformer).

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
    ) -> Float32[np.ndarray, " b"]: ...
