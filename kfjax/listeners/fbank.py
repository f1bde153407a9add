"""What ImageBind hears: log-mels of three clips of two seconds, after Kaldi's filter bank ("fbank").

    spectrograms = clip_log_mels(waves)        # f32 [b t] at 16 kHz -> [b 3 128 204]

Kaldi's features differ from the usual log-mel in all the small things: frames of 25 ms that must fit wholly, each freed
of its mean, pre-emphasised and under a symmetric Hann window; triangles that are straight on the mel scale. Values
follow `torchaudio.compliance.kaldi.fbank` as it is called in
github.com/facebookresearch/ImageBind, `imagebind/data.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from kfjax import dsp

SAMPLE_RATE_HZ = 16000
CLIP_SECONDS, CLIPS = 2, 3
#: Frames of a clip; two seconds have 198, and the weights were trained with zeros after them.
FRAMES, BANDS = 204, 128
WINDOW, HOP, N_FFT = 400, 160, 512
LOW_HZ, PREEMPHASIS, POWER_FLOOR = 20.0, 0.97, float(np.finfo(np.float32).eps)


def clip_log_mels(waves: Float[np.ndarray, "b t"]) -> Float[np.ndarray, "b clips bands frames"]:
    """Log-mels of `CLIPS` clips that are spread evenly over each sound, each clip freed of its mean.

    Shorter sounds than a clip give the same clip three times; what is missing of its frames is 0, not silence.

    Args:
      waves: mono at 16 kHz, full scale 1, at least 400 samples.

    Raises:
      ValueError: a shorter sound.
    """
    size = CLIP_SECONDS * SAMPLE_RATE_HZ
    starts = [i * max(0, waves.shape[1] - size) // (CLIPS - 1) for i in range(CLIPS)]
    clips = np.stack([waves[:, start : start + size] for start in starts], axis=1).astype(np.float64)
    log = log_fbank(clips - clips.mean(axis=-1, keepdims=True))[:, :, :FRAMES]
    padded = np.pad(log, ((0, 0), (0, 0), (0, FRAMES - log.shape[2]), (0, 0)))
    return np.ascontiguousarray(padded.swapaxes(2, 3))


def log_fbank(waves: Float[np.ndarray, "*b t"]) -> Float[np.ndarray, "*b frames bands"]:
    """Natural logarithm of Kaldi's mel powers, float32; (t - 400) // 160 + 1 frames.

    Raises:
      ValueError: fewer samples than a window.
    """
    if waves.shape[-1] < WINDOW:
        raise ValueError(
            f"filter bank: got a wave of {waves.shape[-1]} samples, expected at least {WINDOW} at {SAMPLE_RATE_HZ} Hz; "
            "pad a short sound with silence"
        )
    framed = np.lib.stride_tricks.sliding_window_view(waves.astype(np.float64), WINDOW, axis=-1)[..., ::HOP, :]
    framed = framed - framed.mean(axis=-1, keepdims=True)
    before = np.concatenate([framed[..., :1], framed[..., :-1]], axis=-1)
    spectrum = np.fft.rfft((framed - PREEMPHASIS * before) * np.hanning(WINDOW), N_FFT)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return np.log(np.maximum(power @ mel_filters(), POWER_FLOOR)).astype(np.float32)


def mel_filters() -> np.ndarray:
    """Triangles of height 1 that are straight on the mel scale, from 20 Hz to half the rate: float64 [k bands]."""
    how = {"scale": "htk", "unit": "height", "straight": "mel", "dtype": np.float64}
    return dsp.mel_filters(BANDS, N_FFT, SAMPLE_RATE_HZ, LOW_HZ, **how)
