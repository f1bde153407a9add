"""DeSync: the mean absolute offset between sound and video, by a synchronisation network.

The public benchmark (github.com/hkchengrex/av-benchmark) asks Synchformer about the first and the last 4.8 s of each
clip, takes the likeliest of 21 offsets (-2 to 2 s by 0.2) and averages their absolute values. Windows begin on the
network's grid of segments (0.32 s): of 8 s these are 0 to 4.8 and 3.2 to 8 s, of 10 s 0 to 4.8 and 5.12 to 9.92 s.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from kfjax.evals.networks.base import SyncJudge


def window_starts(seconds: float, window_seconds: float, step_seconds: float) -> tuple[float, float]:
    """Where the first and the last window of a clip begin, seconds.

    Raises:
      ValueError: the clip is shorter than a window.
    """
    if seconds < window_seconds - 1e-6:
        raise ValueError(f"DeSync: got {seconds:.2f} s, expected at least {window_seconds:g} s; give longer clips")
    return 0.0, int((seconds - window_seconds) / step_seconds + 1e-6) * step_seconds


def desync_seconds(
    judge: SyncJudge, frames: UInt8[np.ndarray, "v size size 3"], wave: Float32[np.ndarray, " t"]
) -> float:
    """Mean absolute offset of a clip's first and last window, seconds; 0 is in time.

    Args:
      frames: of the whole clip, at the judge's rate and size.
      wave: mono, at the judge's sample rate.

    Raises:
      ValueError: less than a window of either.
    """
    frame_hz, sample_hz = judge.frame_spec.rate_hz, judge.sample_rate_hz
    seconds = min(len(frames) / frame_hz, len(wave) / sample_hz)
    starts = window_starts(seconds, judge.seconds, judge.step_seconds)
    cut = lambda x, hz: np.stack([x[round(s * hz) : round(s * hz) + round(judge.seconds * hz)] for s in starts])
    return float(np.mean(np.abs(judge.offset_seconds(cut(frames, frame_hz), cut(wave, sample_hz)))))
