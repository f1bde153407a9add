"""Synchformer as a `networks.SyncJudge`: the offset between sound and video of 4.8 seconds.

Pictures are 25 a second, their middle square at 224 pixels; sound is mono at 16 kHz. `synchrony.desync_seconds` asks
about a clip's first and last 4.8 seconds, as the public benchmark does (github.com/hkchengrex/av-benchmark).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from kfjax.convert.tables import synchformer_whole
from kfjax.evals.networks import weights
from kfjax.evals.networks.embedders import compiled
from kfjax.listeners import sync_scorer
from kfjax.listeners.sync_scorer import SyncScorer, SyncScorerConfig
from kfjax.media import FrameSpec
from kfjax.nn.module import Params, bind

FRAMES_HZ = 25.0
_SEGMENTS_AT_ONCE = 8


def load(folder: str | Path) -> SynchformerJudge:
    """The whole Synchformer with the weights in a folder.

    Raises:
      Unavailable: they are not there.
    """
    variant, parts = weights.find(folder, "synchformer-whole", tuple(synchformer_whole.CONFIGS))
    return SynchformerJudge(synchformer_whole.CONFIGS[variant], synchformer_whole.judge(parts))


class SynchformerJudge:
    """A `networks.SyncJudge`.

    Attributes:
      name: of the network.
      sample_rate_hz, frame_spec: of what it judges.
      seconds: length of an excerpt: 4.8 with the public weights.
      step_seconds: from one of its segments to the next: 0.32.
    """

    def __init__(self, cfg: SyncScorerConfig, params: Params):
        visual = cfg.visual
        self.name, self.sample_rate_hz = "Synchformer", cfg.audio.sample_rate_hz
        self.frame_spec = FrameSpec(FRAMES_HZ, visual.size, "crop")
        self.seconds = (visual.frames + (cfg.segments - 1) * visual.segment_step) / FRAMES_HZ
        self.step_seconds = visual.segment_step / FRAMES_HZ
        self._params = jax.device_put(params)
        cfg = replace(cfg, visual=replace(visual, segments_at_once=_SEGMENTS_AT_ONCE))
        self._judge = compiled(lambda params, *excerpt: bind(SyncScorer, cfg, params)(*excerpt))

    def offset_seconds(
        self, frames: UInt8[np.ndarray, "b v size size 3"], waves: Float32[np.ndarray, "b t"]
    ) -> Float32[np.ndarray, " b"]:
        """How much earlier than its picture each sound comes, seconds: the centre of the likeliest class.

        Raises:
          ValueError: another number of frames or samples than `seconds` have.
        """
        return self.judge(frames, waves)[0]

    def judge(
        self, frames: UInt8[np.ndarray, "b v size size 3"], waves: Float32[np.ndarray, "b t"]
    ) -> tuple[Float32[np.ndarray, " b"], Float32[np.ndarray, " b"]]:
        """`offset_seconds`, and the probability that the network gives to each, 0 to 1."""
        logits = self._judge(self._params, frames, waves)
        return np.asarray(sync_scorer.offset_seconds(logits)), np.asarray(jax.nn.softmax(logits).max(-1))
