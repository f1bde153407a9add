"""A long sound decoded in pieces: in the memory of one piece, each as soon as its latents are there.

    pieces = Pieces(decode_window, cfg, total)
    for latents in ...:                             # in order, any number at a time
        for wave in pieces.feed(latents, seen):     # float32 [b t 2], in order: joined they are the whole sound
            ...

A piece is a window of latents of which the inner part is kept, because samples depend on latents on either side
(`halo`). All windows have one length, so that one program decodes them. The first begins and the last ends where the
sound does, so that both ends are those of the whole decode; the last therefore overlaps its neighbour by more.

Where two windows meet they are cross-faded over one latent. With convolutions alone both are equal there. The light
vocoder finds phases, which depend on rounding; it is given what is there already (`Overlap`), and goes on from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from kfjax import dsp
from kfjax.codec.configs import BigVGANConfig, CodecConfig, VAEConfig, VocoderConfig
from kfjax.structs import Array

#: Of a window.
SECONDS = 8.0
#: Latents at a border of what is encoded that also hear what lies beyond it, 0.28 s at 44.1 kHz.
BORDER_LATENTS = 12


class Overlap(NamedTuple):
    """What is known of a window's sound, with what weight it replaces what is decoded.

    Attributes:
      wave: as long as the window, of any value where the weight is 0.
      weight: 1 where the sound is final, then falling to 0 over one latent; 0 everywhere in the first window.
    """

    wave: Array  # [b t *channels]
    weight: Array  # [t]

    def into(self, wave: Array) -> Any:
        """`wave` with the known sound in its place."""
        weight = self.weight.reshape(1, -1, *(1,) * (wave.ndim - 2))
        return weight * self.wave + (1 - weight) * wave


def latents_of(cfg: CodecConfig, seconds: float) -> int:
    """Latents of `seconds`, rounded up."""
    return math.ceil(seconds * cfg.mel.sample_rate_hz / (2 * cfg.mel.hop))


def halo(cfg: CodecConfig) -> int:
    """Latents on either side that the samples of a latent depend on.

    It is the receptive field of all convolutions and spectra, 0.58 s for the built-in model and 0.74 s for the public
    44 kHz ones. Without iterations and attention pieces are therefore equal to the whole. The light vocoder's
    iterations and the edm2 VAE's attention see all of a window.
    """
    frames = _vocoder_reach(cfg.vocoder)
    if cfg.stereo is not None:
        heard = -(-dsp.padding(cfg.mel.n_fft, cfg.mel.hop) // cfg.mel.hop)
        # `stereo.pan` takes the wave's spectrum and makes a wave of it; every block of Mono2Stereo convolves twice.
        frames = max(frames + 2 * heard, 2 * cfg.stereo.depth + heard)
    latents, fine = _vae_reach(cfg.vae)
    return latents + math.ceil((fine + frames) / 2)


def vae_halo(cfg: VAEConfig) -> int:
    """Latents on either side of a window of latents that its mel depends on, but for the edm2 VAE's attention."""
    latents, fine = _vae_reach(cfg)
    return latents + -(-fine // 2)


def _vae_reach(cfg: VAEConfig) -> tuple[int, int]:
    """Latents and, at the mel rate, frames on either side that a mel frame depends on. A block convolves twice."""
    if cfg.variant == "edm2":
        return 1 + 2 * (2 + 3 + 3), 1 + 2 * 3 + 1
    return 2 * cfg.latent_blocks, 2 * cfg.mel_blocks + 1


def _vocoder_reach(cfg: VocoderConfig | BigVGANConfig) -> int:
    """Mel frames on either side that the samples of a frame depend on; of the light vocoder without its iterations."""
    if isinstance(cfg, VocoderConfig):
        # One convolution, the blocks, the slope between frames, and the frames that a sample lies in.
        return 3 + 3 * cfg.depth + 1 - (-dsp.padding(cfg.n_fft, cfg.hop) // cfg.hop)
    snake = 5  # samples, of its two resamplings
    block = max(sum(2 * snake + (d + 1) * (k // 2) for d in cfg.dilations) for k in cfg.block_kernels)
    reach = 3 + snake
    for rate in reversed(cfg.rates):  # from samples to frames: a step reads the frame itself and its neighbours
        reach = (reach + block + rate // 2 - 1) // rate + 1
    return reach + 3


class Pieces:
    """The decoding of one sound.

    Args:
      decode_window: (latents [b w d], seen [b 2w i] or None, overlap or None) -> wave [b t 2], which may go beyond ±1:
        `Codec.decode`. All its arguments have one shape for every piece of every sound that is longer than a window.
      cfg: of the codec.
      total: latents of the sound. One no longer than a window is decoded whole, without an overlap.
      window: latents of a window; default: 8 s.

    Raises:
      ValueError: a window that its halos fill.
    """

    def __init__(self, decode_window: Callable, cfg: CodecConfig, total: int, window: int | None = None):
        window = latents_of(cfg, SECONDS) if window is None else window
        self._decode, self._total, self._window, self._halo = decode_window, total, min(window, total), halo(cfg)
        if total > window and window < 2 * self._halo + 2:
            least = 2 * self._halo + 2
            raise ValueError(f"window: got {window} latents, expected at least {least}; take a longer one")
        self._samples = 2 * cfg.mel.hop  # of a latent
        self._hands_on = total > window and isinstance(cfg.vocoder, VocoderConfig)
        self._fed = self._first = self._final = 0  # latents: fed, before the next window, whose sound is final
        self._latents: np.ndarray | None = None
        self._seen: np.ndarray | None = None
        self._known: np.ndarray | None = None  # the sound from the next window's beginning to the fade's end

    def feed(
        self, latents: Float[np.ndarray, "b n d"], seen: Float[np.ndarray, "b rows i"] | None = None
    ) -> Iterator[Float[np.ndarray, "b t 2"]]:
        """The sound that becomes final by the next `latents`, piece by piece.

        Args:
          latents: those that follow, normalised; any number.
          seen: what Mono2Stereo sees, a row for each of their mel frames (`stereo.at_mel_times` with `first`); None
            for codecs without one.

        Raises:
          ValueError: more latents than the sound has, or not two rows of `seen` for each.
        """
        self._fed += latents.shape[1]
        if self._fed > self._total:
            raise ValueError(f"latents: got {self._fed}, expected {self._total} in all; state the sound's length")
        if seen is not None and seen.shape[1] != 2 * latents.shape[1]:
            rows = 2 * latents.shape[1]
            raise ValueError(f"seen: got {seen.shape[1]} rows, expected {rows}; read it with stereo.at_mel_times")
        self._latents, self._seen = _joined(self._latents, latents), _joined(self._seen, seen)
        return self._pieces()

    def _pieces(self) -> Iterator[np.ndarray]:
        while self._final < self._total and self._fed >= self._first + self._window:
            yield self._piece()

    def _piece(self) -> np.ndarray:
        """Decodes the next window, and moves on to the one after it."""
        assert self._latents is not None
        width, unit = self._window, self._samples
        overlap = self._overlap(len(self._latents))
        seen = None if self._seen is None else self._seen[:, : 2 * width]
        wave = np.asarray(self._decode(self._latents[:, :width], seen, overlap if self._hands_on else None))
        wave = np.asarray(overlap.into(wave))
        last = self._first + width == self._total
        final = self._total if last else self._first + width - self._halo - 1
        made = wave[:, (self._final - self._first) * unit : (final - self._first) * unit]
        if not last:
            first = min(final - self._halo, self._total - width)
            skipped = first - self._first
            self._known = wave[:, skipped * unit : (final + 1 - self._first) * unit]
            self._latents = self._latents[:, skipped:]
            self._seen = None if self._seen is None else self._seen[:, 2 * skipped :]
            self._first = first
        self._final = final
        return made

    def _overlap(self, batch: int) -> Overlap:
        size, unit = self._window * self._samples, self._samples
        wave, weight = np.zeros((batch, size, 2), np.float32), np.zeros(size, np.float32)
        if self._known is not None:
            known = self._known.shape[1]
            wave[:, :known], weight[: known - unit] = self._known, 1
            weight[known - unit : known] = 1 - (np.arange(unit) + 0.5) / unit
        return Overlap(wave, weight)


def _joined(before: np.ndarray | None, after: np.ndarray | None) -> np.ndarray | None:
    return after if before is None or after is None else np.concatenate([before, after], 1)
